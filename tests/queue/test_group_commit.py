"""What shares a commit, and what is turned away from it."""

from __future__ import annotations

import os
import threading
import time
from random import Random
from typing import Any, cast
from unittest import mock

import lmdb
import msgspec
from twisted.internet import task
from twisted.internet.defer import Deferred, execute, gatherResults

from tests.queue.case import REACTOR, LmdbCase
from tests.queue.samples import (
    CUSTOMER,
    DESTINATION,
    LANE,
    NOON,
    SETTINGS,
    claim,
    content_of,
    delivery,
    fill,
    new,
    send,
    settlement,
)
from twisted_mta.mail.events import Routed
from twisted_mta.queue import records, work
from twisted_mta.queue import thread_writer as writers
from twisted_mta.queue.environment import Environment
from twisted_mta.queue.incoming import MOST_MOVING
from twisted_mta.queue.interfaces import CHUNK, Commit, Limits, QueueFilter, StoreUnavailable
from twisted_mta.queue.memory import MemoryStore
from twisted_mta.queue.operations import Operation
from twisted_mta.queue.thread_writer import ThreadWriter

replace = msgspec.structs.replace


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

    async def shared(self, during: int, after: int) -> list[int]:
        """How many operations shared each commit, where ``during`` came while one was under way and ``after`` when it
        was over."""
        self.patch(writers, "SLICE", 60.0)
        self.patch(writers, "GATHER", 0.5)
        told: list[Commit] = []
        self.store.watch_commits(told.append)
        release, committing = threading.Event(), threading.Event()
        commit = Environment.commit

        def slow(environment: Environment, txn: Any) -> None:
            committing.set()
            release.wait(10)
            commit(environment, txn)

        with mock.patch.object(Environment, "commit", slow):
            rest: list[Deferred[Any]] = []
            first = self.commit_many(1)[0].addCallback(lambda _: rest.extend(self.commit_many(after)))
            await self.until(committing.is_set)
            rest += self.commit_many(during)
            await task.deferLater(REACTOR, 0.1, lambda: None)
            release.set()
            await first
            await gatherResults(rest)
        return [one.operations for one in told]

    async def test_what_comes_just_after_a_commit_is_in_the_next(self) -> None:
        self.assertEqual(await self.shared(3, 2), [1, 5])

    async def test_enough_wait_for_no_more(self) -> None:
        self.assertEqual(await self.shared(work.ENOUGH, 2), [1, work.ENOUGH, 2])

    async def test_those_that_make_it_enough_end_the_wait(self) -> None:
        self.patch(writers, "REST", 1000.0)
        self.assertEqual(await self.shared(3, work.ENOUGH), [1, 3 + work.ENOUGH])

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

    async def test_a_bounded_number_of_chunks_is_in_memory(self) -> None:
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
            self.assertLessEqual(incoming.size, (MOST_MOVING + 2) * CHUNK)
            await task.deferLater(REACTOR, 0.02, lambda: None)
            self.assertFalse(pause.called)
            release.set()
            await pause
        incoming.abort()

    async def test_a_long_settlement_is_one_commit_in_slices(self) -> None:
        await gatherResults(self.commit_many(200))
        claims = await claim(self.store, limit=1000)
        before = self.writer.commits
        with mock.patch("twisted_mta.queue.thread_writer.SLICE", 0.0):
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
        await self.until(lambda: not self.rows("spool"))
        self.assertEqual(self.rows("content"), [])

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
