"""What becomes of mail when the disk, the file or the clock fails: nothing acknowledged is lost, nothing is made up."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import lmdb
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.queue.filler import fired
from tests.queue.samples import LANE, NOON, SETTINGS, Sink, clock, new, settlement
from twisted_mta.config.settings import Queue, Size
from twisted_mta.mail.events import Service
from twisted_mta.queue.environment import Environment
from twisted_mta.queue.interfaces import CHUNK, QueueFilter, StoreUnavailable
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.writer import InlineWriter

SMALL = Queue(disk_reserve=Size(0), map_size=Size(1 << 20))


class FaultCase(SynchronousTestCase):
    """A store, and what it acknowledged."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.clock = clock()
        self.sink = Sink()
        self.accepted: set[str] = set()
        self.ended: set[str] = set()
        self.refused: list[StoreUnavailable] = []

    def open(self, settings: Queue = SETTINGS) -> LmdbStore:
        store = LmdbStore(self.path, self.clock, settings, InlineWriter(), self.sink)
        self.successResultOf(store.start())
        return store

    def send(self, store: LmdbStore, size: int) -> bool:
        """Whether a message was acknowledged."""
        try:
            incoming = store.incoming()
        except StoreUnavailable as refused:
            self.refused.append(refused)
            return False
        for at in range(0, size, CHUNK):
            pause = incoming.write(bytes(min(CHUNK, size - at)))
            if pause is not None and self.failed(pause):
                incoming.abort()
                return False
        if self.failed(incoming.commit(new(incoming.id, at=self.clock.seconds()))):
            return False
        self.accepted.add(incoming.id)
        return True

    def failed(self, waiting: Any) -> bool:
        results: list[Any] = []
        waiting.addBoth(results.append)
        if results[0] is None:
            return False
        results[0].trap(StoreUnavailable)
        self.refused.append(results[0].value)
        return True

    def deliver(self, store: LmdbStore, limit: int = 1) -> int:
        """How many deliveries were claimed and are settled."""
        outcome: list[Any] = []
        now = self.clock.seconds()
        store.claim(LANE, now, limit, lambda _: now + 60).addBoth(outcome.append)
        if not isinstance(outcome[0], list):
            outcome[0].trap(StoreUnavailable)
            return 0
        claims = outcome[0]
        if self.failed(store.settle([settlement(it.delivery) for it in claims])):
            return 0
        self.ended |= {it.delivery.id for it in claims}
        return len(claims)

    def assert_balanced(self, store: LmdbStore) -> None:
        """accepted = delivered + queued, message by message, and every counter agrees."""
        self.assertEqual(fired(store.verify(False)), [])
        queued = {message.id for message, _ in fired(store.page(QueueFilter(), limit=100_000)).found}
        self.assertEqual(queued, self.accepted - self.ended)
        self.assertEqual(store.stats().messages, len(queued))


class DiskFullTests(FaultCase):
    def test_disk_full_at_every_write(self) -> None:
        """The commit that fails is each one in turn: of a chunk, a message, a claim, a settlement."""
        commit = Environment.commit
        for broken in range(14):
            count = iter(range(1000))

            def sometimes(environment: Environment, txn: Any, count: Any = count, broken: int = broken) -> None:
                if next(count) == broken:
                    txn.abort()
                    raise lmdb.DiskError("mdb_txn_commit", errno.ENOSPC)
                commit(environment, txn)

            store = self.open()
            before = len(self.refused)
            with mock.patch.object(Environment, "commit", sometimes):
                for size in (100, 4300, 5 * CHUNK):
                    self.send(store, size)
                self.deliver(store, 2)
                self.send(store, 100)
            self.assertLessEqual(len(self.refused) - before, 3)
            self.assertEqual({it.reply.code for it in self.refused} | {452}, {452})
            self.assertEqual(store.problem(), "")
            self.assertTrue(self.send(store, 4300))
            self.clock.advance(60)  # what was claimed and could not be settled comes up again
            self.assert_balanced(store)
            fired(store.stop())
            store = self.open()
            self.assert_balanced(store)
            fired(store.stop())
        self.assertGreater(len(self.refused), 6)

    def test_a_file_system_that_fills_up(self) -> None:
        """A real one, of 3 MiB: full, then emptied, twice over."""
        with small_file_system(3 << 20) as folder:
            self.path = folder / "queue"
            store = self.open(SMALL)
            for _ in range(2):
                while self.send(store, 30_000):
                    self.assertLess(len(self.accepted), 1000)
                self.assertEqual(self.refused[-1].reply.code, 452)
                self.assertGreater(len(self.accepted - self.ended), 20)
                while self.deliver(store, 10):
                    pass
                self.assertEqual(self.accepted, self.ended)
                self.assertTrue(self.send(store, 4300))
            self.assertEqual(store.problem(), "")
            self.assert_balanced(store)
            fired(store.stop())
            store = self.open(SMALL)
            self.assert_balanced(store)
            fired(store.stop())

    def test_a_file_that_may_not_grow(self) -> None:
        """RLIMIT_FSIZE, in the middle of a write: what was written of it is torn."""
        store = self.open()
        random = Random(5)
        while (self.path / "data.mdb").stat().st_size < 1 << 20:
            self.assertTrue(self.send(store, random.randrange(4 * CHUNK)))
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((1 << 20) + 20_000, hard))
        try:
            while self.send(store, random.randrange(4 * CHUNK)):
                self.assertLess(len(self.accepted), 100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        self.assertEqual(self.refused[-1].reply.code // 10, 45)
        self.flushLoggedErrors(lmdb.Error)
        fired(store.stop())
        store = self.open()
        self.assert_balanced(store)
        self.assertTrue(self.send(store, 4300))
        fired(store.stop())


class SyncTests(FaultCase):
    def test_eio_on_sync(self) -> None:
        """Not acknowledged; nothing more is taken, and the store says why, until it is opened anew."""
        store = self.open()
        self.assertTrue(self.send(store, 4300))
        incoming = store.incoming()

        def commit(environment: Environment, txn: Any) -> None:
            txn.abort()
            raise lmdb.Error("mdb_txn_commit", errno.EIO)

        with mock.patch.object(Environment, "commit", commit):
            self.assertFalse(self.send(store, 4300))
        self.assertEqual(len(self.flushLoggedErrors(lmdb.Error)), 1)
        self.assertIn("restart the service", store.problem())
        for _ in range(2):
            self.assertFalse(self.send(store, 4300))
            self.assertEqual(self.refused[-1].reply.code, 451)
        self.assertRaises(StoreUnavailable, store.incoming)
        self.assertTrue(self.failed(incoming.commit(new(incoming.id))))
        self.assertEqual(self.deliver(store), 0)
        self.assertEqual([event.what for event in self.sink.named(Service)], ["store-failed"])
        fired(store.stop())
        store = self.open()
        self.assertEqual(store.problem(), "")
        self.assertTrue(self.send(store, 4300))
        self.assertEqual(self.deliver(store, 10), 2)
        self.assert_balanced(store)
        fired(store.stop())


class MapTests(FaultCase):
    def test_map_full(self) -> None:
        """It grows by itself while mail comes; where the disk has no room for that, mail is refused and kept."""
        store = self.open(SMALL)
        for _ in range(100):
            self.assertTrue(self.send(store, 30_000))
        self.assertGreater(store.stats().map_size, 2 << 20)
        statvfs = os.statvfs
        with mock.patch("twisted_mta.queue.environment.os.statvfs", lambda path: _Full(statvfs(path))):
            while self.send(store, 30_000):
                self.assertLess(len(self.accepted), 1000)
            self.assertEqual(self.refused[-1].reply.code, 452)
            self.assertEqual([self.deliver(store) for _ in range(20)], [1] * 20)
            self.assertTrue(self.send(store, 30_000))  # in the room that came free
        self.assertTrue(self.send(store, 3_000_000))
        self.assert_balanced(store)
        fired(store.stop())


class ClockTests(FaultCase):
    def test_a_day_forward_and_back(self) -> None:
        """Ids stay unique and in order, what is due stays due, counts of a time that is to come do no harm."""
        store = self.open()
        ids = []
        for jump in (0, 86400, -86400, -86400, 86400):
            self.clock.rightNow += jump
            for _ in range(5):
                ids.append(store.new_id())
                self.assertTrue(self.send(store, 100))
        self.assertEqual(ids, sorted(set(ids)))
        self.assertEqual(self.clock.seconds(), NOON)
        self.assertEqual(self.deliver(store, 100), 20)  # but for those of tomorrow
        self.assert_balanced(store)
        fired(store.stop())
        store = self.open()
        ids.append(store.new_id())
        self.assertEqual(len(set(ids)), 26)
        self.clock.advance(86400)
        self.assertEqual(self.deliver(store, 100), 5)
        self.assert_balanced(store)
        self.assertEqual(store.stats().messages, 0)
        fired(store.stop())


class DamageTests(FaultCase):
    def test_a_corrupted_file_is_refused_and_left_as_it_is(self) -> None:
        store = self.open()
        for _ in range(80):
            self.send(store, 30_000)
        fired(store.stop())
        data = self.path / "data.mdb"
        whole = data.read_bytes()
        for damage in (
            bytes(len(whole)),
            b"\0" * 8192 + whole[8192:],
            os.urandom(8192) + whole[8192:],
            whole[: len(whole) // 3],
        ):
            data.write_bytes(damage)
            refused = self.failureResultOf(LmdbStore(self.path, self.clock, SETTINGS, InlineWriter()).start())
            words = refused.value.reply.text
            self.assertIn(str(self.path), words)
            self.assertIn("restore it from a backup, or move it away", words)
            self.assertEqual(data.read_bytes(), damage)
        data.write_bytes(whole)
        store = self.open()
        self.assert_balanced(store)
        fired(store.stop())


class _Full:
    """What os.statvfs says of a disk that is full."""

    f_bavail = 0

    def __init__(self, real: os.statvfs_result) -> None:
        self.f_frsize = real.f_frsize


@contextlib.contextmanager
def small_file_system(size: int) -> Iterator[Path]:
    """A file system of its own, of so many octets."""
    if os.geteuid() != 0:
        raise SkipTest("mounting a file system needs root")
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "mta-test", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SkipTest(f"a file system can't be mounted here: {done.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
