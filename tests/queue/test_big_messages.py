"""Large messages beside small ones: neither memory nor anybody's 250 follows their size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.queue.samples import DESTINATION, NOON, clock, new
from twisted_mta.config.settings import Queue, Size
from twisted_mta.queue import pieces
from twisted_mta.queue.incoming import ALL_MOVING, MOST_MOVING, Incoming
from twisted_mta.queue.interfaces import CHUNK, StoreUnavailable
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.operations import SWEEP_PIECES, Operation, Sweep
from twisted_mta.queue.work import MAX_BULK, carry_out
from twisted_mta.queue.writer import InlineWriter, NoLoan

BIG = 50 << 20
PIECE = os.urandom(65536)
"""What a transport reads at once."""
SMALL = b"x" * 4096
WINDOW = (MOST_MOVING + 2) * CHUNK
"""Octets that a session may have in memory, where few bring large messages: see IIncoming."""


class Stepped(InlineWriter):
    """Commits when it is told to: what is submitted in between waits, as it does while a sync is under way."""

    stepping = False

    def submit(self, operation: Operation, *, lazily: bool = False) -> Deferred[Any]:
        return super().submit(operation, lazily=lazily or self.stepping)

    def step(self) -> int:
        """One commit; how many octets of bulk it had."""
        work = self._work()
        carry_out(work, self._environment, self._disk, NoLoan())
        self._tell(work)
        return work.bulk


class Session:
    """A client that sends as fast as it is let."""

    def __init__(self, store: LmdbStore, size: int) -> None:
        self.incoming: Any = store.incoming()
        self.left = size
        self.outcome: list[Any] = []
        self.most = 0
        self.send()

    def send(self, _: object = None) -> None:
        """Send until the transport is paused."""
        while self.left > 0:
            piece = PIECE[: min(len(PIECE), self.left)]
            self.left -= len(piece)
            pause = self.incoming.write(piece)
            self.look()
            if pause is not None:
                pause.addCallback(self.send)
                return
        self.incoming.commit(new(self.incoming.id, at=NOON)).addBoth(self.outcome.append)

    def look(self) -> None:
        """How much it has in memory: what is gathered, and what is on its way to the disk."""
        incoming: Incoming = self.incoming
        self.most = max(self.most, sum(map(len, incoming._held)) + incoming._moving * CHUNK)


class BigMessageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.writer = Stepped()
        settings = Queue(disk_reserve=Size(0), map_size=Size(1 << 30), sync="never")
        self.store = LmdbStore(Path(self.mktemp()), clock(), settings, self.writer)
        self.successResultOf(self.store.start())
        self.writer.stepping = True

    def tearDown(self) -> None:
        self.writer.stepping = False
        self.assertEqual(self.successResultOf(self.store.verify(False)), [])
        self.successResultOf(self.store.stop())

    def small(self) -> Deferred[None]:
        """A message of 4 KiB, all of which is there."""
        incoming = self.store.incoming()
        self.assertIsNone(incoming.write(SMALL))
        return incoming.commit(new(incoming.id))

    def come_in(self, sessions: int, size: int = BIG) -> list[Session]:
        """Have so many large messages come in at once, with a small one at each commit."""
        big = [Session(self.store, size) for _ in range(sessions)]
        steps = 0
        while not all(session.outcome for session in big):
            small = self.small()
            self.assertNoResult(small)
            # It is in the very next commit, whatever else waits, and that commit is not much larger for it.
            self.assertLessEqual(self.writer.step(), MAX_BULK + CHUNK)
            self.assertIsNone(self.successResultOf(small))
            steps += 1
            self.assertLess(steps, 10_000)
        self.assertEqual([session.outcome for session in big], [[None]] * sessions)
        self.assertGreater(steps, size / WINDOW)
        return big

    def test_a_small_one_waits_for_one_commit(self) -> None:
        self.come_in(1)
        self.assertEqual(self.store.stats().bytes // BIG, 1)

    def test_however_many_large_ones_there_are(self) -> None:
        """More than fit into one commit."""
        self.come_in(40, 3 << 20)

    def test_a_session_holds_its_window(self) -> None:
        """A MiB, so that a commit takes more than two chunks of a client that is alone."""
        for session in self.come_in(2):
            self.assertLessEqual(session.most, WINDOW)
            self.assertGreater(session.most, WINDOW // 2)

    def test_many_hold_little_each(self) -> None:
        """However many there are, and whoever came first."""
        big = [Session(self.store, 3 << 20) for _ in range(100)]
        held = sum(session.most for session in big)
        self.assertLessEqual(held, (4 * len(big) + ALL_MOVING) * CHUNK)
        self.assertGreaterEqual(min(session.most for session in big), 2 * CHUNK)
        for _ in range(10_000):
            if all(session.outcome for session in big):
                break
            self.writer.step()
        self.assertEqual([session.outcome for session in big], [[None]] * len(big))
        self.assertEqual(self.store._moving.chunks, 0)

    def test_what_is_given_up_holds_nothing(self) -> None:
        incoming = self.store.incoming()
        while (pause := incoming.write(PIECE)) is None:
            pass
        self.assertGreater(self.store._moving.chunks, 2)
        incoming.abort()
        self.failureResultOf(pause, StoreUnavailable)
        while self.writer._waiting:
            self.writer.step()
        self.assertEqual(self.store._moving.chunks, 0)

    def test_their_end_delays_nobody(self) -> None:
        """The content of what has left is removed in slices, a bounded number to a commit."""
        ids = [session.incoming.id for session in self.come_in(2)]
        swept = 0
        sweep = Sweep.apply

        def counted(operation: Sweep, batch: Any) -> bool:
            nonlocal swept
            swept += 1
            return sweep(operation, batch)

        acting = self.store.act("remove", [(mid, DESTINATION) for mid in ids], "root", NOON)
        with mock.patch.object(Sweep, "apply", counted):
            commits = 0
            while self.writer._waiting:
                small, swept = self.small(), 0
                self.writer.step()
                self.successResultOf(small)
                self.assertLessEqual(swept, len(ids))
                commits += 1
        self.assertEqual(self.successResultOf(acting), 2)
        self.assertGreaterEqual(commits, BIG / pieces.PIECE / SWEEP_PIECES)
