"""Faults of the disk below the LMDB engine, and what verify finds."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, cast
from unittest import mock

import lmdb
from twisted.internet.defer import DeferredList, gatherResults
from twisted.python.failure import Failure

from tests.queue.case import LmdbCase
from tests.queue.samples import (
    CUSTOMER,
    DESTINATION,
    LANE,
    NOON,
    claim,
    delivery,
    new,
    send,
    settlement,
)
from twisted_mta.config.settings import Queue, Size
from twisted_mta.mail.envelope import Lane
from twisted_mta.mail.events import Service
from twisted_mta.mail.ids import key_id
from twisted_mta.queue import records, work
from twisted_mta.queue.environment import Environment
from twisted_mta.queue.interfaces import CHUNK, StoreUnavailable


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
            await self.assertFailure(large.write(b"x" * 50 * CHUNK), StoreUnavailable)
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
            lost = (records.chunk_key(records.id_key(self.one), 1), records.id_key(self.two))
            with txn.cursor(self.environment.tables.content) as cursor:
                for key in [key for key, _ in cursor if key.startswith(lost)]:
                    txn.delete(key, db=self.environment.tables.content)
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
