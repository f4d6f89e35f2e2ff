"""What only the LMDB engine can do wrong: batches, growth, faults of the disk, other processes, what a crash leaves."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, cast
from unittest import mock

import lmdb
import msgspec
from twisted.internet import reactor, task
from twisted.internet.defer import Deferred, DeferredList, execute, gatherResults
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.queue.samples import (
    CUSTOMER,
    DESTINATION,
    LANE,
    NOON,
    SETTINGS,
    Sink,
    claim,
    clock,
    content_of,
    delivery,
    fill,
    new,
    send,
    settlement,
)
from twisted_mta.config.settings import Queue, Size
from twisted_mta.mail.envelope import Lane
from twisted_mta.mail.events import Routed, Service
from twisted_mta.mail.ids import key_id
from twisted_mta.queue import environment as environments
from twisted_mta.queue import records, work
from twisted_mta.queue import writer as writers
from twisted_mta.queue.environment import Environment
from twisted_mta.queue.interfaces import CHUNK, Commit, Limits, QueueFilter, QuotaExceeded, StoreUnavailable
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.memory import MemoryStore
from twisted_mta.queue.operations import Operation
from twisted_mta.queue.owners import Owners
from twisted_mta.queue.writer import InlineWriter, IWriter, ThreadWriter

REACTOR = cast(Any, reactor)
replace = msgspec.structs.replace


class LmdbCase(TestCase):
    """A store on the disk, with the writer of the case."""

    threaded = True

    async def setUp(self) -> None:
        self.clock = clock()
        self.path = Path(self.mktemp())
        self.sink = Sink()
        self.store = self.make()
        await self.store.start()

    def make(self, settings: Queue = SETTINGS) -> LmdbStore:
        self.writer: IWriter = ThreadWriter(REACTOR) if self.threaded else InlineWriter()
        return LmdbStore(self.path, self.clock, settings, self.writer, self.sink)

    async def restart(self, settings: Queue = SETTINGS) -> None:
        await self.store.stop()
        self.store = self.make(settings)
        await self.store.start()

    async def tearDown(self) -> None:
        try:
            if self.store._environment is not None:
                self.assertEqual(await self.store.verify(False), [])
        finally:
            await self.store.stop()

    @property
    def environment(self) -> Environment:
        assert self.store._environment is not None
        return self.store._environment

    def rows(self, table: str) -> list[tuple[bytes, bytes]]:
        with self.environment.read() as txn, txn.cursor(getattr(self.environment.tables, table)) as cursor:
            return list(cursor)

    def commit_many(self, count: int, content: bytes = b"text", **facts: Any) -> list[Deferred[None]]:
        waiting = []
        for _ in range(count):
            incoming = self.store.incoming()
            incoming.write(content)
            waiting.append(incoming.commit(new(incoming.id, **facts)))
        return waiting

    async def until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        """Turn the reactor until something is so."""
        for _ in range(int(seconds / 0.005)):
            if condition():
                return
            await task.deferLater(REACTOR, 0.005, lambda: None)
        self.fail("it never came to be")


class FilesTest(LmdbCase):
    threaded = False

    async def test_modes(self) -> None:
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o700)
        for name in ("data.mdb", "lock.mdb"):
            self.assertEqual(stat.S_IMODE((self.path / name).stat().st_mode), 0o600)

    async def test_a_new_queue_has_its_names_on_the_disk(self) -> None:
        """A file that is synced may be gone with its name after a loss of power (fsync(2))."""
        synced: list[tuple[int, int]] = []
        fsync = os.fsync

        def record(descriptor: int) -> None:
            synced.append((os.fstat(descriptor).st_dev, os.fstat(descriptor).st_ino))
            fsync(descriptor)

        await self.store.stop()
        shutil.rmtree(self.path)
        self.path = self.path / "state" / "queue"
        self.store = self.make()
        with mock.patch("os.fsync", record):
            await self.store.start()
        for folder in (self.path, self.path.parent, self.path.parent.parent):
            self.assertIn((folder.stat().st_dev, folder.stat().st_ino), synced, folder)

    async def test_what_is_not_a_queue_is_refused_and_left_alone(self) -> None:
        await send(self.store, content=bytes(3 << 20))
        await self.store.stop()
        whole = (self.path / "data.mdb").read_bytes()
        for damage in (b"This is not a database. " * 1000, whole[:5000], b"x", whole[: -(2 << 20)]):
            (self.path / "data.mdb").write_bytes(damage)
            refused = await self.assertFailure(self.store.start(), StoreUnavailable)
            self.assertIn(str(self.path), refused.reply.text)
            self.assertEqual((self.path / "data.mdb").read_bytes(), damage)

    async def test_a_file_without_its_last_pages_never_ends_the_process(self) -> None:
        await send(self.store, content=bytes(3 << 20))
        await self.store.stop()
        size = (self.path / "data.mdb").stat().st_size
        os.truncate(self.path / "data.mdb", size - 8 * 4096)
        try:
            await self.store.start()
            await self.store.verify(False)
            await send(self.store)
        except (StoreUnavailable, lmdb.Error):
            self.flushLoggedErrors(lmdb.Error)
        await self.store.stop()

    async def test_a_newer_schema_is_refused(self) -> None:
        await self.store.stop()
        with lmdb.open(str(self.path), max_dbs=20) as env, env.begin(write=True) as txn:
            txn.put(b"schema", b"99", db=env.open_db(b"meta", txn=txn))
        refused = await self.assertFailure(self.store.start(), StoreUnavailable)
        self.assertIn(f"its schema is 99, and this version of the program knows {records.SCHEMA}", refused.reply.text)

    async def test_someone_elses_database_is_refused(self) -> None:
        await self.store.stop()
        shutil.rmtree(self.path)
        with lmdb.open(str(self.path), max_dbs=20) as env, env.begin(write=True) as txn:
            txn.put(b"their", b"data", db=env.open_db(b"theirs", txn=txn))
        await self.assertFailure(self.store.start(), StoreUnavailable)

    async def test_a_folder_that_cannot_be(self) -> None:
        file = Path(self.mktemp())
        file.write_text("a file")
        store = LmdbStore(file / "queue", self.clock, SETTINGS, InlineWriter())
        await self.assertFailure(store.start(), StoreUnavailable)

    async def test_ids_are_not_given_twice(self) -> None:
        ids = set()
        for _ in range(5):
            ids |= {self.store.new_id() for _ in range(10)}
            await self.restart()
        self.assertEqual(len(ids), 50)


class BatchTest(LmdbCase):
    """Many operations in one commit."""

    async def test_a_turns_messages_are_one_commit(self) -> None:
        self.patch(writers, "SLICE", 60.0)  # however busy the machine is
        before = self.writer.commits
        await gatherResults(self.commit_many(50))
        self.assertEqual(self.writer.commits - before, 1)

    async def test_a_lone_message_is_one_commit(self) -> None:
        before = self.writer.commits
        await gatherResults(self.commit_many(1, limits=None))
        self.assertEqual(self.writer.commits - before, 1)

    async def test_what_comes_during_a_commit_is_in_the_next(self) -> None:
        self.patch(writers, "SLICE", 60.0)
        before = self.writer.commits
        release = threading.Event()
        commit = Environment.commit

        def slow(environment: Environment, txn: Any) -> None:
            release.wait(10)
            commit(environment, txn)

        with mock.patch.object(Environment, "commit", slow):
            first = self.commit_many(1)
            await self.until(lambda: cast(ThreadWriter, self.writer)._at_work)
            rest = self.commit_many(30)
            await task.deferLater(REACTOR, 0.02, lambda: None)
            self.assertFalse(first[0].called)
            release.set()
            await gatherResults(first + rest)
        self.assertEqual(self.writer.commits - before, 2)

    async def test_commits_are_told(self) -> None:
        """How many shared one, and what they waited for: the commit before, another process, the disk."""
        self.patch(writers, "SLICE", 60.0)
        told: list[Commit] = []
        self.store.watch_commits(told.append)
        release, committing = threading.Event(), threading.Event()
        begin, commit = Environment.begin, Environment.commit

        def late(environment: Environment) -> Any:
            time.sleep(0.05)
            return begin(environment)

        def slow(environment: Environment, txn: Any) -> None:
            committing.set()
            release.wait(10)
            commit(environment, txn)

        with mock.patch.object(Environment, "commit", slow), mock.patch.object(Environment, "begin", late):
            first = self.commit_many(1)
            await self.until(committing.is_set)
            rest = self.commit_many(30)
            await task.deferLater(REACTOR, 0.1, lambda: None)
            release.set()
            await gatherResults(first + rest)
        self.assertEqual([one.operations for one in told], [1, 30])
        self.assertGreaterEqual(told[0].took, 0.04)
        self.assertGreaterEqual(told[0].locked, 0.05)
        self.assertLess(told[0].queued, told[1].queued)
        self.assertGreaterEqual(told[1].queued, 0.09)

    async def test_what_failed_is_no_commit(self) -> None:
        told: list[Commit] = []
        self.store.watch_commits(told.append)
        with mock.patch.object(Environment, "commit", side_effect=lmdb.DiskError("full")):
            await self.assertFailure(self.commit_many(1)[0], StoreUnavailable)
        self.assertEqual(told, [])
        await gatherResults(self.commit_many(1))
        self.assertEqual(len(told), 1)

    async def test_counters_are_written_once_a_batch(self) -> None:
        self.patch(writers, "SLICE", 60.0)
        puts: list[bytes] = []
        flush = work.Batch.flush

        def counting(batch: Any) -> None:
            flush(batch)
            puts.append(batch.txn.get(records.usage_key(CUSTOMER), db=batch.tables.usage))

        with mock.patch.object(work.Batch, "flush", counting):
            await gatherResults(self.commit_many(40))
        self.assertEqual(len(puts), 1)
        self.assertEqual(records.decode_counters(puts[0]).queued_messages, 40)

    async def test_the_earliest_of_a_batch_wakes_the_lane(self) -> None:
        waiting = [one for at in (7.0, 3.0, 9.0, 1.0, 5.0) for one in self.commit_many(1, at=NOON + at)]
        await gatherResults(waiting)
        self.assertEqual(self.store.next_due(), NOON + 1)
        self.assertEqual(self.store.due(NOON + 1, 9), [LANE])

    async def test_a_batch_does_what_its_operations_do_one_by_one(self) -> None:
        # The same random turns for the store, each in one commit, and for its twin in memory.
        random = Random(8)
        self.patch(writers, "SLICE", 60.0)
        twin = MemoryStore(self.clock, SETTINGS)
        await twin.start()
        names, customers, limits = ("smtp:a", "smtp:b", "smtp:c"), ("acme", "other"), Limits(recipients_per_day=400)
        for _ in range(40):
            pages = [(await it.page(QueueFilter())).found for it in (self.store, twin)]
            self.assertEqual(*pages)
            before = self.writer.commits
            outcomes: list[list[Any]] = [[], []]
            waiting: list[Deferred[Any]] = []
            # A claim does not see what comes in with the same commit.
            for kind in sorted(random.choices(("0 claim", "act", "settle", "send"), k=random.randrange(1, 25))):
                queued = [it for _, it in pages[0]]
                wait = random.uniform(-5, 5)
                if kind == "send" or not queued:
                    incoming = self.store.incoming()
                    incoming.write(b"text")
                    parts = [delivery(name) for name in names if random.random() < 0.5]
                    whole = new(
                        incoming.id, *parts, at=NOON + wait, limits=limits, lane_customer=random.choice(customers)
                    )
                    results = [incoming.commit(whole), execute(twin.accept, whole, b"text")]
                elif kind == "act":
                    pairs = [(it.id, it.destination) for it in random.choices(queued, k=3)]
                    action = random.choice(["hold", "release", "retry", "remove"])
                    results = [store.act(action, pairs, "root", NOON + wait) for store in (self.store, twin)]
                elif kind == "0 claim":
                    lane = random.choice(queued).lane
                    results = [
                        store.claim(lane, NOON, 3, lambda it: NOON + 10 + it.attempts) for store in (self.store, twin)
                    ]
                else:
                    it = random.choice(queued)
                    later = replace(it, destination=random.choice(names), next_attempt=NOON + wait)
                    ended = settlement(it, *random.choice([(), (later,), (it, later)]))
                    results = [store.settle([ended]) for store in (self.store, twin)]
                for result, outcome in zip(results, outcomes, strict=True):
                    waiting.append(result.addErrback(lambda failure: str(failure.value)).addCallback(outcome.append))
            await gatherResults(waiting)
            self.assertEqual(*outcomes)
            self.assertEqual(self.writer.commits - before, 1)
            self.assertEqual(self.store.usage(CUSTOMER), twin.usage(CUSTOMER))
            first = twin.next_due()
            self.assertEqual(self.store.next_due(), first and records.key_time(records.time_key(first)))
            self.assertEqual(await self.store.verify(False), [])
        self.assertGreater(len(pages[0]), 5)

    async def test_a_fault_in_one_operation_does_not_take_others_along(self) -> None:
        class Faulty(Operation):
            def apply(self, batch: Any) -> None:
                batch.txn.put(b"x" * 10, b"half done", db=batch.tables.content)
                raise RuntimeError("a defect")

        class FaultyLater(Operation):
            def apply(self, batch: Any) -> Any:
                yield 1
                batch.txn.put(b"x" * 10, b"half done", db=batch.tables.content)
                raise RuntimeError("a defect")

        before = self.commit_many(3)
        faulty = [self.writer.submit(Faulty()), self.writer.submit(FaultyLater())]
        after = self.commit_many(3)
        for bad in faulty:
            await self.assertFailure(bad, RuntimeError)
        await gatherResults(before + after)
        self.assertEqual(self.store.stats().messages, 6)
        self.assertEqual(self.rows("content")[0][1], b"text")

    async def test_a_large_message_gives_way_to_small_ones(self) -> None:
        # While 20 MiB are on their way in, a small message waits for the commit that is under way and its own.
        large = self.store.incoming()
        content = os.urandom(1 << 20)

        async def pour() -> None:
            for _ in range(20):
                await fill(large, content)
            await large.commit(new(large.id))

        poured = Deferred.fromCoroutine(pour())
        waited = []
        while not poured.called:
            before = self.writer.commits
            await gatherResults(self.commit_many(1))
            waited.append(self.writer.commits - before)
        await poured
        self.assertGreater(len(waited), 2)
        self.assertLessEqual(max(waited), 2)
        self.assertEqual(await content_of(self.store, large.id), content * 20)

    async def test_at_most_four_chunks_are_in_memory(self) -> None:
        release = threading.Event()
        commit = Environment.commit

        def slow(environment: Environment, txn: Any) -> None:
            release.wait(10)
            commit(environment, txn)

        incoming = self.store.incoming()
        with mock.patch.object(Environment, "commit", slow):
            pause = None
            while pause is None:
                pause = incoming.write(b"x" * 65536)
            self.assertLessEqual(incoming.size, 4 * CHUNK)
            await task.deferLater(REACTOR, 0.02, lambda: None)
            self.assertFalse(pause.called)
            release.set()
            await pause
        incoming.abort()

    async def test_a_long_settlement_is_one_commit_in_slices(self) -> None:
        await gatherResults(self.commit_many(200))
        claims = await claim(self.store, limit=1000)
        before = self.writer.commits
        with mock.patch("twisted_mta.queue.writer.SLICE", 0.0):
            turns = 0

            def turn() -> None:
                nonlocal turns
                turns += 1

            loop = task.LoopingCall(turn)
            loop.start(0)
            await self.store.settle([settlement(it.delivery) for it in claims])
            loop.stop()
        self.assertGreater(turns, 50)
        self.assertEqual(self.writer.commits - before, 1)
        self.assertEqual(self.store.stats().messages, 0)

    async def test_a_slice_that_ends_with_an_operation_keeps_its_result(self) -> None:
        self.patch(writers, "SLICE", 0.0)
        mid = await send(self.store)
        await send(self.store)
        self.assertEqual(len(await claim(self.store)), 2)
        self.assertEqual(await claim(self.store), [])
        self.assertEqual(await self.store.act("retry", [(mid, DESTINATION)], "root", NOON), 1)
        self.assertEqual(await self.store.act("retry", [], "root", NOON), 0)

    async def test_content_of_large_messages_is_swept(self) -> None:
        mid = await send(self.store, content=os.urandom(100 * CHUNK))
        (it,) = await claim(self.store)
        await self.store.settle([settlement(it.delivery)])
        self.assertIsNone(self.store.message(mid))
        await self.until(lambda: not self.rows("spool"))
        self.assertEqual(self.rows("content"), [])

    async def test_a_sweep_that_was_cut_short_goes_on_at_the_next_start(self) -> None:
        await send(self.store, content=os.urandom(200 * CHUNK))
        (it,) = await claim(self.store)
        await self.store.settle([settlement(it.delivery)])
        await self.restart()
        self.assertEqual((self.rows("spool"), self.rows("content")), ([], []))

    async def test_told_events_are_written_without_another_commit(self) -> None:
        mid = await send(self.store)
        before = self.writer.commits
        self.store.tell([Routed(time=NOON, id=mid, destinations={})])
        self.assertEqual(len(self.store.history(mid)), 1)
        await self.until(lambda: self.writer.commits > before)
        self.assertEqual(len(self.store.history(mid)), 1)
        self.assertEqual(len(self.rows("history")), 1)

    async def test_told_events_are_written_at_the_end(self) -> None:
        mid = await send(self.store)
        self.store.tell([Routed(time=NOON, id=mid, destinations={})])
        await self.restart()
        self.assertEqual(len(self.store.history(mid)), 1)


class StopTest(LmdbCase):
    async def test_stop_in_the_middle_of_everything(self) -> None:
        for _ in range(10):
            large = self.store.incoming()
            waiting: list[Deferred[Any]] = self.commit_many(5)
            paused = large.write(b"x" * 5 * CHUNK)
            waiting.append(large.commit(new(large.id)))
            reads = [self.store.read(self.store.new_id(), 0), self.store.verify(False)]
            await task.deferLater(REACTOR, 0, lambda: None)
            stopped = self.store.stop()
            outcomes = await DeferredList([*waiting, *reads], consumeErrors=True)
            if paused is not None:
                paused.addErrback(lambda failure: failure.trap(StoreUnavailable))
            await stopped
            for succeeded, result in outcomes[:-2]:
                self.assertTrue(succeeded or result.check(StoreUnavailable), result)
            self.assertEqual([it for it in threading.enumerate() if it.name.startswith("queue-")], [])
            self.store = self.make()
            await self.store.start()
            self.assertEqual(await self.store.verify(False), [])
            self.assertEqual(self.rows("spool"), [])

    def test_a_process_that_never_stops_its_store_ends(self) -> None:
        code = (
            "import sys; from twisted.internet import reactor\n"
            "from twisted_mta.queue.lmdb_store import LmdbStore\n"
            "store = LmdbStore(sys.argv[1], reactor)\n"
            "store.start().addCallback(lambda _: store.verify(False)).addCallback(lambda _: reactor.stop())\n"
            "reactor.run()\n"
        )
        subprocess.run([sys.executable, "-c", code, self.mktemp()], check=True, timeout=30)

    async def test_start_fails_cleanly(self) -> None:
        with mock.patch.object(Environment, "commit", side_effect=lmdb.Error("mdb_txn_commit", errno.EIO)):
            path = Path(self.mktemp())
            store = LmdbStore(path, self.clock, SETTINGS, ThreadWriter(REACTOR))
            await self.assertFailure(store.start(), StoreUnavailable)
        self.flushLoggedErrors(lmdb.Error)
        await store.start()
        await store.stop()


class GrowthTest(LmdbCase):
    SMALL = Queue(disk_reserve=Size(0), map_size=Size(64 * 4096))

    def make(self, settings: Queue = SMALL) -> LmdbStore:
        return super().make(settings)

    async def test_the_map_grows(self) -> None:
        before = self.store.stats().map_size
        content = os.urandom(50_000)
        await gatherResults(self.commit_many(60, content))
        large = await send(self.store, content=content * 60)
        self.assertGreater(self.store.stats().map_size, before)
        self.assertEqual(self.store.stats().messages, 61)
        self.assertEqual(await content_of(self.store, large), content * 60)
        grown = self.sink.named(Service)
        self.assertEqual({event.what for event in grown}, {"map-grown"})
        self.assertEqual(grown[-1].detail, f"{self.store.stats().map_size} octets")

    async def test_it_grows_while_others_read(self) -> None:
        content = os.urandom(60_000)
        mid = await send(self.store, content=content)
        stop = False
        count = 0

        async def reading() -> None:
            nonlocal count
            while not stop:
                self.assertEqual(await self.store.read(mid, 0), content)
                self.assertEqual(len((await self.store.page(QueueFilter(id=mid))).found), 1)
                count += 1

        readers = [Deferred.fromCoroutine(reading()) for _ in range(4)]
        verifying = [self.store.verify(False) for _ in range(3)]
        for _ in range(20):
            await gatherResults(self.commit_many(5, content))
        stop = True
        await gatherResults(readers)
        self.assertEqual(await gatherResults(verifying), [[], [], []])
        self.assertGreater(count, 4)

    async def test_it_does_not_grow_beyond_the_disk(self) -> None:
        before = self.store.stats().map_size
        with mock.patch.object(environments.Disk, "sample", return_value=1000):
            outcomes = await DeferredList(self.commit_many(60, os.urandom(50_000)), consumeErrors=True)
        refused = [cast(Failure, outcome).value for done, outcome in outcomes if not done]
        self.assertEqual({(it.reply.code, it.reply.enhanced) for it in refused}, {(452, "4.3.1")})
        self.assertEqual(self.store.stats().map_size, before)
        self.assertEqual(self.store.stats().messages, 60 - len(refused))
        self.assertTrue(0 < len(refused) < 60, len(refused))  # as many are taken as there is room for
        self.assertEqual(await self.store.verify(False), [])
        await gatherResults(self.commit_many(60, os.urandom(50_000)))

    async def test_another_process_grew_it(self) -> None:
        fill_elsewhere(self.path, 100, 60_000)
        self.assertEqual(self.store.stats().messages, 100)
        await gatherResults(self.commit_many(3))
        fill_elsewhere(self.path, 200, 60_000)
        await gatherResults(self.commit_many(3))
        fill_elsewhere(self.path, 400, 60_000)
        message, _ = (await self.store.page(QueueFilter(), limit=1)).found[0]
        fill_elsewhere(self.path, 800, 60_000)
        self.assertEqual(len(await self.store.read(message.id, 0)), message.size)
        self.assertEqual(self.store.stats().messages, 1506)


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
        await fill(incoming, b"x" * 10 * CHUNK)
        self.assertEqual(len(self.rows("spool")), 1)
        incoming.abort()
        await self.until(lambda: not self.rows("spool") and not self.rows("content"))

    async def test_a_refused_message_is_removed(self) -> None:
        incoming = self.store.incoming()
        await fill(incoming, b"x" * 10 * CHUNK)
        await self.assertFailure(
            incoming.commit(new(incoming.id, limits=Limits(queued_messages=0))), QuotaExceeded
        )  # fmt: skip
        await self.until(lambda: not self.rows("spool") and not self.rows("content"))

    async def test_a_committed_message_leaves_the_spool(self) -> None:
        await send(self.store, content=b"x" * 10 * CHUNK)
        self.assertEqual(self.rows("spool"), [])
        self.assertEqual(len(self.rows("content")), 10)

    async def test_remains_of_the_dead_are_removed_at_start(self) -> None:
        incoming = self.store.incoming()
        await fill(incoming, b"x" * 100 * CHUNK)
        await self.store.stop()
        with lmdb.open(str(self.path), max_dbs=20) as env, env.begin() as txn:
            self.assertTrue(txn.stat(env.open_db(b"spool", txn=txn, create=False))["entries"])
        self.store = self.make()
        await self.store.start()
        self.assertEqual((self.rows("spool"), self.rows("content")), ([], []))
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


class DiskTest(LmdbCase):
    """The disk is full, or fails."""

    def free(self, octets: int) -> Any:
        result = os.statvfs_result((4096, 4096, 1 << 20, octets // 4096, octets // 4096, 1, 1, 1, 0, 255))
        return mock.patch("os.statvfs", return_value=result)

    async def test_the_reserve(self) -> None:
        await self.restart(Queue(disk_reserve=Size(1 << 30), map_size=Size(16 << 20)))
        self.sink.clear()
        mid = await send(self.store)
        with self.free((1 << 30) - 4096):
            self.store.incoming().abort()  # looked at no more than once a second
            self.clock.advance(1)
            for _ in range(3):
                refused = self.assertRaises(StoreUnavailable, self.store.incoming)
            self.assertEqual((refused.reply.code, refused.reply.enhanced), (452, "4.3.1"))
            (it,) = await claim(self.store)  # what is queued keeps moving
            await self.store.settle([settlement(it.delivery)])
            self.assertIsNone(self.store.message(mid))
        self.assertRaises(StoreUnavailable, self.store.incoming)
        with self.free(1 << 30):
            self.clock.advance(1)
            self.store.incoming().abort()
        self.assertEqual([event.what for event in self.sink.named(Service)], ["disk-low", "disk-ok"])

    def failing(self, code: int, kind: type[lmdb.Error] = lmdb.Error) -> Any:
        def commit(environment: Environment, txn: Any) -> None:
            txn.abort()
            raise kind("mdb_txn_commit", code)

        return mock.patch.object(Environment, "commit", commit)

    async def test_no_space_left_fails_the_batch_and_passes(self) -> None:
        (kept,) = self.commit_many(1)
        await kept
        with self.failing(errno.ENOSPC, lmdb.DiskError):
            for one in self.commit_many(5):
                refused = await self.assertFailure(one, StoreUnavailable)
                self.assertEqual((refused.reply.code, refused.reply.enhanced), (452, "4.3.1"))
            large = self.store.incoming()
            await self.assertFailure(large.write(b"x" * 5 * CHUNK), StoreUnavailable)
            await self.assertFailure(large.write(b"x"), StoreUnavailable)
            await self.assertFailure(large.commit(new(large.id)), StoreUnavailable)
        self.assertEqual(self.store.stats().messages, 1)
        await gatherResults(self.commit_many(5))
        self.assertEqual(self.store.stats().messages, 6)
        self.assertEqual(self.sink.named(Service), [])

    async def test_what_does_not_fit_fails_alone(self) -> None:
        """Small messages that are committed with a large one, for which there is no room."""
        await self.restart()
        commit, tried = Environment.commit, 0

        def full(environment: Environment, txn: Any) -> None:
            nonlocal tried
            tried += 1
            if txn.stat(environment.tables.content)["overflow_pages"] >= 32:
                txn.abort()
                raise lmdb.DiskError("mdb_txn_commit", errno.ENOSPC)
            commit(environment, txn)

        for place in (0, 3, 10):
            with mock.patch.object(Environment, "commit", full):
                before, tried = self.store.stats().messages, 0
                large = self.store.incoming()
                large.write(b"x" * 2 * CHUNK)
                small = self.commit_many(place)
                refused = self.assertFailure(large.commit(new(large.id)), StoreUnavailable)
                small += self.commit_many(10 - place)
                self.assertEqual((await refused).reply.code, 452)
                await gatherResults(small)
            self.assertEqual(self.store.stats().messages, before + 10)
            self.assertEqual(await self.store.verify(False), [])
            self.assertTrue(2 <= tried <= 12, tried)
        self.assertEqual(self.store.problem(), "")

    async def test_a_sync_that_fails_in_one_half_is_the_end_of_the_other(self) -> None:
        codes = iter([errno.ENOSPC, errno.EIO])

        def commit(environment: Environment, txn: Any) -> None:
            txn.abort()
            code = next(codes)
            raise (lmdb.DiskError if code == errno.ENOSPC else lmdb.Error)("mdb_txn_commit", code)

        with mock.patch.object(Environment, "commit", commit):
            for one in self.commit_many(4):
                refused = await self.assertFailure(one, StoreUnavailable)
                self.assertEqual(refused.reply.code, 451)
        self.assertEqual(len(self.flushLoggedErrors(lmdb.Error)), 1)
        self.assertIn("restart", self.store.problem())

    async def test_after_a_failed_sync_nothing_is_taken_until_it_is_opened_anew(self) -> None:
        mid = await send(self.store)
        (it,) = await claim(self.store)
        with self.failing(errno.EIO):
            for one in self.commit_many(3):
                refused = await self.assertFailure(one, StoreUnavailable)
                self.assertEqual((refused.reply.code, refused.reply.enhanced), (451, "4.3.0"))
        self.assertEqual(len(self.flushLoggedErrors(lmdb.Error)), 1)
        # The disk may be well again: but nobody knows what is on it.
        for _ in range(3):
            self.assertRaises(StoreUnavailable, self.store.incoming)
        await self.assertFailure(self.store.settle([settlement(it.delivery)]), StoreUnavailable)
        self.assertEqual([event.what for event in self.sink.named(Service)], ["store-failed"])
        self.assertIsNotNone(self.store.message(mid))
        await self.restart()
        await gatherResults(self.commit_many(3))
        self.assertEqual(self.store.stats().messages, 4)

    async def test_what_waits_behind_a_failed_sync_fails_too(self) -> None:
        with self.failing(errno.EIO), mock.patch.object(work, "MAX_BYTES", 1):
            for one in self.commit_many(5):
                await self.assertFailure(one, StoreUnavailable)
        self.flushLoggedErrors(lmdb.Error)

    async def test_a_failed_begin(self) -> None:
        with mock.patch.object(Environment, "begin", side_effect=lmdb.ReadersFullError("mdb_txn_begin")):
            (one,) = self.commit_many(1)
            (outcome,) = await DeferredList([one], consumeErrors=True)
            # Nothing was taken from those that wait, which now fail because the store is broken.
            self.assertIsInstance(cast(Failure, outcome[1]).value, StoreUnavailable)
        self.flushLoggedErrors(lmdb.Error)


class VerifyTest(LmdbCase):
    """Every kind of discrepancy is found and mended."""

    threaded = False

    async def setUp(self) -> None:
        await super().setUp()
        self.one = await send(self.store, delivery("smtp:a"), delivery("smtp:b"), content=b"x" * 3 * CHUNK)
        self.two = await send(self.store, delivery("smtp:a", "x@a", "y@a"), at=NOON + 5)
        self.held = await send(self.store, delivery("smtp:c"))
        await self.store.act("hold", [(self.held, "smtp:c")], "root", NOON)

    async def damaged(self, damage: Callable[[Any, Any], None]) -> list[str]:
        """What is found after the damage; it is mended afterwards."""
        self.assertEqual(await self.store.verify(True), [])
        with self.environment.begin() as txn:
            damage(txn, self.environment.tables)
        lines = await self.store.verify(False)
        self.assertEqual(await self.store.verify(True), lines)
        left = await self.store.verify(True)
        if left:  # some only show once others are mended
            lines += left
        self.assertEqual(await self.store.verify(False), [])
        return lines

    async def test_counters(self) -> None:
        def damage(txn: Any, tables: Any) -> None:
            totals = records.Totals(1, 2, 3, 4, 5, 6)
            txn.put(records.META_TOTALS, records.encode(totals), db=tables.meta)
            counters = records.decode_counters(txn.get(records.usage_key(CUSTOMER), db=tables.usage))
            counters.queued_messages = 77
            txn.put(records.usage_key(CUSTOMER), records.encode(counters), db=tables.usage)

        before = self.store.stats(), self.store.usage(CUSTOMER)
        lines = await self.damaged(damage)
        self.assertEqual((self.store.stats(), self.store.usage(CUSTOMER)), before)
        self.assertIn("the queue's messages are counted as 1, and are 3", lines)
        self.assertIn("the queue's destinations are counted as 6, and are 3", lines)
        self.assertIn("customer acme is charged for 77 messages of 196568 octets and has 3 of 196568", lines)

    async def test_a_customer_nobody_counted(self) -> None:
        lines = await self.damaged(lambda txn, tables: txn.delete(records.usage_key(CUSTOMER), db=tables.usage))
        self.assertEqual(self.store.usage(CUSTOMER).queued_messages, 3)
        self.assertEqual(len(lines), 1)

    async def test_lanes(self) -> None:
        def damage(txn: Any, tables: Any) -> None:
            for name in ("smtp:a", "smtp:c"):
                txn.delete(records.lane_key(name, CUSTOMER), db=tables.lanes)
            row = records.LaneRow("smtp:b", CUSTOMER, 9, 9, 9, b"\0" * 8)
            txn.put(records.lane_key("smtp:b", CUSTOMER), records.encode(row), db=tables.lanes)
            ghost = records.LaneRow("smtp:ghost", CUSTOMER)
            txn.put(records.lane_key("smtp:ghost", CUSTOMER), records.encode(ghost), db=tables.lanes)

        lines = await self.damaged(damage)
        self.assertIn("lane smtp:a of acme has deliveries 0 instead of 2, recipients 0 instead of 3", "\n".join(lines))
        self.assertIn("lane smtp:ghost of acme has no delivery at all", lines)
        self.assertCountEqual(self.store.due(NOON, 9), [Lane("smtp:a", CUSTOMER), Lane("smtp:b", CUSTOMER)])
        self.assertEqual(self.store.stats().destinations, 3)

    async def test_due_and_wake(self) -> None:
        def damage(txn: Any, tables: Any) -> None:
            lane, other = records.lane_key("smtp:a", CUSTOMER), records.lane_key("smtp:b", CUSTOMER)
            txn.delete(lane + records.time_key(NOON) + records.id_key(self.one), db=tables.lanes)
            txn.put(lane + records.time_key(NOON - 9) + records.id_key(self.two), b"", db=tables.lanes)
            txn.delete(records.time_key(NOON) + other, db=tables.wake)
            txn.put(records.time_key(NOON - 50) + lane, b"", db=tables.wake)

        lines = await self.damaged(damage)
        self.assertIn(f"delivery of {self.one} to smtp:a would never be due", lines)
        self.assertIn(f"{self.two} is listed as due where no such delivery is", lines)
        self.assertIn("lane smtp:b of acme would never wake", lines)
        self.assertIn("an entry wakes a lane at a wrong time", lines)
        self.assertEqual(self.store.next_due(), NOON)
        claims = await claim(self.store, Lane("smtp:a", CUSTOMER))
        self.assertEqual([it.message.id for it in claims], [self.one])

    async def test_what_is_in_memory(self) -> None:
        mid = await send(self.store, armed=True, at=NOON + 60)
        (it,) = self.store.deliveries(mid)
        key, stray = records.owned_key(it, records.id_key(mid)), b"\0\0\0\7" + records.HELD + b"i" * 10 + b"d" * 16

        def damage(txn: Any, tables: Any) -> None:
            txn.delete(key, db=tables.owned)
            txn.put(stray, b"", db=tables.owned)
            txn.put(records.due_key(it, records.id_key(mid)), b"", db=tables.lanes)

        lines = await self.damaged(damage)
        self.assertIn(f"delivery of {mid} to {DESTINATION} could not be reclaimed", lines)
        self.assertIn(f"{key_id(b'i' * 10)} is listed as in memory where no such delivery is", lines)
        self.assertIn(f"{mid} is listed as due where no such delivery is", lines)
        self.assertEqual(self.rows("owned"), [(key, b"")])

    async def test_content_and_messages(self) -> None:
        stray = records.id_key(self.store.new_id())

        def damage(txn: Any, tables: Any) -> None:
            txn.put(records.chunk_key(stray, 0), b"nobody's", db=tables.content)
            txn.delete(records.delivery_key(records.id_key(self.one), "smtp:a"), db=tables.delivery)
            txn.delete(records.delivery_key(records.id_key(self.one), "smtp:b"), db=tables.delivery)
            txn.delete(records.id_key(self.two), db=tables.message)

        lines = await self.damaged(damage)
        self.assertIn(f"message {self.one} has no delivery", lines)
        self.assertIn(f"delivery of {self.two} to smtp:a has no message", lines)
        self.assertIn(f"content of {key_id(stray)} has no message", lines)
        self.assertEqual(self.store.stats().messages, 1)
        self.assertEqual(len(self.rows("content")), 1)

    async def test_content_that_is_lost_is_told(self) -> None:
        with self.environment.begin() as txn:
            txn.delete(records.chunk_key(records.id_key(self.one), 1), db=self.environment.tables.content)
            txn.delete(records.chunk_key(records.id_key(self.two), 0), db=self.environment.tables.content)
        lines = await self.store.verify(True)
        self.assertEqual(
            sorted(lines),
            sorted(
                [
                    f"message {self.one} has 131040 octets in 2 chunks, and should have 196560 in 3; remove it",
                    f"message {self.two} has no content; remove it",
                ]
            ),
        )
        await self.store.act("remove", [(self.one, "smtp:a"), (self.one, "smtp:b"), (self.two, "smtp:a")], "root", NOON)

    async def test_a_dead_owners_content(self) -> None:
        stray = records.id_key(self.store.new_id())

        def damage(txn: Any, tables: Any) -> None:
            txn.put(records.chunk_key(stray, 0), b"nobody's", db=tables.content)
            txn.put(stray, records.encode(records.Spool(12345)), db=tables.spool)

        lines = await self.damaged(damage)
        self.assertEqual(lines, [f"content of {key_id(stray)} was left by a process that died"])
        self.assertEqual(self.rows("spool"), [])

    async def test_claims_pass_over_what_a_defect_left(self) -> None:
        lane = records.lane_key(DESTINATION, CUSTOMER)
        stray = records.id_key(self.store.new_id())
        with self.environment.begin() as txn:
            txn.put(lane + records.time_key(NOON - 9) + stray, b"", db=self.environment.tables.lanes)
        await send(self.store)
        claims = await claim(self.store)
        self.assertEqual(len(claims), 1)
        self.assertCountEqual(self.store.due(NOON, 10), [Lane("smtp:a", CUSTOMER), Lane("smtp:b", CUSTOMER)])
        self.assertEqual(self.store.deliveries(claims[0].message.id)[0].lane, LANE)
