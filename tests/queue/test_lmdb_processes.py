"""The LMDB engine among processes: others at work, those that died, what they left."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import lmdb
from twisted.internet import task
from twisted.internet.defer import gatherResults
from twisted.trial.unittest import SynchronousTestCase

from tests.queue.case import REACTOR, LmdbCase
from tests.queue.samples import (
    CUSTOMER,
    DESTINATION,
    claim,
    content_of,
    fill,
    new,
    send,
    settlement,
)
from twisted_mta.queue.interfaces import CHUNK, Limits, QuotaExceeded, StoreUnavailable
from twisted_mta.queue.owners import Owners
from twisted_mta.queue.pieces import PIECE


def fill_elsewhere(path: Path, count: int, size: int) -> None:
    """Have another process add messages."""
    subprocess.run([sys.executable, str(Path(__file__).with_name("filler.py")), str(path), str(count), str(size)],
                   check=True, timeout=60)  # fmt: skip


class ProcessesTest(LmdbCase):
    """Several processes on one environment."""

    async def test_two_write_at_once(self) -> None:
        script = str(Path(__file__).with_name("filler.py"))
        others = [subprocess.Popen([sys.executable, script, str(self.path), "150", "3000", "one"]) for _ in range(2)]
        count = 0
        while any(other.poll() is None for other in others):
            await gatherResults(self.commit_many(5))
            count += 5
            await task.deferLater(REACTOR, 0.002, lambda: None)
        for other in others:
            self.assertEqual(other.wait(), 0)
        self.assertGreater(count, 5)
        stats = self.store.stats()
        self.assertEqual(stats.messages, 300 + count)
        self.assertEqual(self.store.usage(CUSTOMER).queued_messages, 300 + count)

    async def test_a_held_lock_does_not_stop_the_reactor(self) -> None:
        script = str(Path(__file__).with_name("filler.py"))
        other = subprocess.Popen(
            [sys.executable, script, str(self.path), "hold"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert other.stdin is not None
        assert other.stdout is not None
        self.assertEqual(other.stdout.readline(), "held\n")
        waiting = self.commit_many(3)
        longest, last = 0.0, time.monotonic()
        for _ in range(50):
            await task.deferLater(REACTOR, 0.002, lambda: None)
            self.assertIsNone(self.store.next_due())
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        self.assertFalse(any(one.called for one in waiting))
        waiting += self.commit_many(3)
        other.communicate("go\n", timeout=20)
        await gatherResults(waiting)
        self.assertEqual(self.store.stats().messages, 6)
        self.assertLess(longest, 0.5)

    async def test_quotas_hold_across_processes(self) -> None:
        fill_elsewhere(self.path, 3, 10)
        (one,) = self.commit_many(1, limits=Limits(queued_messages=3))
        await self.assertFailure(one, QuotaExceeded)

    async def test_an_operators_process_is_noticed(self) -> None:
        mid = await send(self.store)
        before = self.store.changes()
        (it,) = await claim(self.store)
        subprocess.run(
            [sys.executable, str(Path(__file__).with_name("filler.py")), str(self.path), "remove", mid, DESTINATION],
            check=True,
            timeout=60,
        )
        self.assertGreater(self.store.changes(), before)
        self.assertIsNone(self.store.message(mid))
        await self.store.settle([settlement(it.delivery)])
        self.assertEqual(self.store.stats().messages, 0)

    async def test_what_a_living_process_receives_is_left_alone(self) -> None:
        incoming = self.store.incoming()
        await fill(incoming, b"x" * 10 * CHUNK)
        fill_elsewhere(self.path, 1, 10)
        await incoming.commit(new(incoming.id))
        self.assertEqual(await content_of(self.store, incoming.id), b"x" * 10 * CHUNK)


class SpoolTest(LmdbCase):
    """What is left of messages that never came in whole."""

    async def test_abort_removes_what_was_written(self) -> None:
        incoming = self.store.incoming()
        await fill(incoming, b"x" * 100 * CHUNK)
        self.assertEqual(len(self.rows("spool")), 1)
        incoming.abort()
        await self.until(lambda: not self.rows("spool") and not self.rows("content"))

    async def test_a_refused_message_is_removed(self) -> None:
        incoming = self.store.incoming()
        await fill(incoming, b"x" * 100 * CHUNK)
        await self.assertFailure(
            incoming.commit(new(incoming.id, limits=Limits(queued_messages=0))), QuotaExceeded
        )  # fmt: skip
        await self.until(lambda: not self.rows("spool") and not self.rows("content"))

    async def test_a_committed_message_leaves_the_spool(self) -> None:
        await send(self.store, content=b"x" * 10 * CHUNK)
        self.assertEqual(self.rows("spool"), [])
        self.assertEqual(len(self.rows("content")), 10 * -(-CHUNK // PIECE))

    async def test_remains_of_the_dead_are_removed_at_start(self) -> None:
        incoming = self.store.incoming()
        await fill(incoming, b"x" * 100 * CHUNK)
        await self.store.stop()
        with lmdb.open(str(self.path), max_dbs=20) as env, env.begin() as txn:
            self.assertTrue(txn.stat(env.open_db(b"spool", txn=txn, create=False))["entries"])
        self.store = self.make()
        await self.store.start()
        await self.until(lambda: not self.rows("spool"))
        self.assertEqual(self.rows("content"), [])
        self.assertEqual(await self.store.verify(False), [])
        await self.assertFailure(incoming.commit(new(incoming.id)), StoreUnavailable)


class OwnersTest(SynchronousTestCase):
    def test_alive_as_long_as_it_lives(self) -> None:
        directory = Path(self.mktemp())
        one, other = Owners(directory), Owners(directory)
        self.assertFalse(other.alive(7))
        one.enter(7)
        self.assertTrue(one.alive(7))
        self.assertTrue(other.alive(7))
        with other.dead() as dead:
            self.assertEqual(dead, frozenset())
        self.assertTrue(other.alive(7))
        one.leave()
        self.assertFalse(other.alive(7))

    def test_files_of_the_dead_are_removed(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "12").touch()
        (directory / "notes").touch()
        owners = Owners(directory)
        self.assertFalse(owners.alive(12))
        with self.assertRaises(KeyError), owners.dead() as dead:
            self.assertEqual(dead, {12})
            raise KeyError
        with owners.dead() as dead:
            self.assertEqual(dead, {12})
            with Owners(directory).dead() as others:
                self.assertEqual(others, frozenset(), "one of them sees to it")
        self.assertEqual([path.name for path in directory.iterdir()], ["notes"])
        with Owners(directory / "nowhere").dead() as dead:
            self.assertEqual(dead, frozenset())
