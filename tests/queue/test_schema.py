"""A queue of an earlier version becomes one of this version, or stays what it was."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import lmdb
import msgspec
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.queue.samples import DESTINATION, NOON, SETTINGS, claim, clock, delivery, send
from twisted_mta.mail.envelope import Handling
from twisted_mta.queue import records, schema
from twisted_mta.queue.environment import Environment
from twisted_mta.queue.interfaces import QueueFilter, Settlement, StoreUnavailable
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.owners import Owners
from twisted_mta.queue.writer import InlineWriter

replace = msgspec.structs.replace

NOW = schema.VERSION
LATER = b"%d" % (NOW + 2)


def rename_table(env: Any, txn: Any) -> None:
    """A made-up step: what was called ``log`` is called ``history``."""
    old, new = env.open_db(b"log", txn=txn, create=False), env.open_db(b"history", txn=txn)
    for key, value in txn.cursor(old):
        txn.put(key, value, db=new)
    txn.drop(old)


def count_steps(env: Any, txn: Any) -> None:
    """Another one."""
    txn.put(b"steps", b"2", db=env.open_db(b"meta", txn=txn, create=False))


class SchemaTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        store = self.open()
        self.mid = self.successResultOf(self.wait(send(store)))
        self.successResultOf(store.stop())
        self.age()

    def wait(self, coroutine: Any) -> Any:
        return Deferred.fromCoroutine(coroutine)

    def open(self) -> LmdbStore:
        store = LmdbStore(self.path, clock(), SETTINGS, InlineWriter())
        self.successResultOf(store.start())
        return store

    def age(self) -> None:
        """Make it what an earlier version would have left: without a table that there is now."""
        with lmdb.open(str(self.path), max_dbs=32, map_size=1 << 24) as env, env.begin(write=True) as txn:
            txn.drop(env.open_db(b"history", txn=txn))
            txn.put(b"key", b"value", db=env.open_db(b"log", txn=txn))

    def raised(self, **steps: Any) -> Any:
        migrations = {NOW: rename_table, NOW + 1: count_steps}
        return patch.multiple(schema, VERSION=NOW + 2, MIGRATIONS=steps.get("migrations", migrations))

    def meta(self, name: bytes) -> bytes | None:
        with lmdb.open(str(self.path), max_dbs=32) as env, env.begin() as txn:
            found: bytes | None = txn.get(name, db=env.open_db(b"meta", txn=txn))
            return found

    def test_all_steps_are_taken(self) -> None:
        with self.raised():
            environment = Environment(self.path, 1 << 24)
            with environment.read() as txn:
                self.assertEqual(txn.get(b"key", db=environment.tables.history), b"value")
                self.assertEqual(txn.get(b"schema", db=environment.tables.meta), LATER)
                self.assertEqual(txn.get(b"steps", db=environment.tables.meta), b"2")
            environment.close()
            store = self.open()
            self.assertEqual(
                [message.id for message, _ in self.successResultOf(store.page(QueueFilter())).found], [self.mid]
            )
            self.successResultOf(store.stop())

    def test_a_step_that_fails_leaves_all_as_it_was(self) -> None:
        def broken(env: Any, txn: Any) -> None:
            raise ZeroDivisionError

        with self.raised(migrations={NOW: rename_table, NOW + 1: broken}), self.assertRaises(ZeroDivisionError):
            Environment(self.path, 1 << 24)
        self.assertEqual(self.meta(b"schema"), b"%d" % NOW)
        with self.raised():
            Environment(self.path, 1 << 24).close()
        self.assertEqual(self.meta(b"schema"), LATER)

    def test_without_a_way_it_is_refused(self) -> None:
        with self.raised(migrations={NOW + 1: count_steps}), self.assertRaises(StoreUnavailable) as refused:
            Environment(self.path, 1 << 24)
        self.assertIn(f"its schema is {NOW}, and this version of the program knows {NOW + 2}", str(refused.exception))
        self.assertEqual(self.meta(b"schema"), b"%d" % NOW)

    def test_not_while_the_earlier_version_runs(self) -> None:
        running = Owners(self.path / "owners")
        running.enter(77)
        with self.raised():
            with self.assertRaises(StoreUnavailable) as refused:
                Environment(self.path, 1 << 24)
            self.assertIn("systemctl restart", str(refused.exception))
            self.assertEqual(self.meta(b"schema"), b"%d" % NOW)
            running.leave()
            Environment(self.path, 1 << 24).close()
        self.assertEqual(self.meta(b"schema"), LATER)


def make_second(env: Any, txn: Any) -> None:
    """Lay the third schema's tables out as the second one's: all deliveries in ``due``, and counted in ``lane``."""
    due, lane = env.open_db(b"due", txn=txn), env.open_db(b"lane", txn=txn)
    lanes, owned, wake, meta = [env.open_db(name, txn=txn) for name in (b"lanes", b"owned", b"wake", b"meta")]
    txn.drop(lanes)
    txn.drop(owned)
    txn.drop(wake, delete=False)
    rows: dict[bytes, records.LaneRow] = {}
    with txn.cursor(env.open_db(b"delivery", txn=txn)) as cursor:
        for key, raw in cursor:
            it = records.decode_delivery(raw)
            entry = records.due_key(it, key[:10])
            txn.put(entry, b"", db=due)
            row = rows.setdefault(entry[:24], records.LaneRow(it.destination, it.customer, priority=it.priority))
            row.deliveries += 1
            row.recipients += len(it.recipients)
            row.held += it.state == "held"
            if it.state != "held":
                row.wake = min(row.wake or entry[24:32], entry[24:32])
    for key, row in rows.items():
        txn.put(key, records.encode(row), db=lane)
        if row.wake:
            txn.put(row.wake + key, b"", db=wake)
    totals = records.decode_totals(txn.get(b"totals", db=meta))
    totals.destinations = len({key[:16] for key in rows})
    txn.put(b"totals", records.encode(totals), db=meta)
    txn.put(b"schema", b"2", db=meta)


class SecondSchemaTests(SynchronousTestCase):
    """A lane's row comes to stand before its deliveries, and what is in memory is in no lane any more."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def open(self) -> LmdbStore:
        store = LmdbStore(self.path, clock(), SETTINGS, InlineWriter())
        self.successResultOf(store.start())
        return store

    def wait(self, coroutine: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def back(self) -> None:
        with lmdb.open(str(self.path), max_dbs=32, map_size=1 << 26) as env, env.begin(write=True) as txn:
            make_second(env, txn)

    def tables(self) -> dict[bytes, list[tuple[bytes, bytes]]]:
        with lmdb.open(str(self.path), max_dbs=32) as env, env.begin() as txn:
            names = (b"delivery", b"lanes", b"owned", b"wake")
            return {name: list(txn.cursor(env.open_db(name, txn=txn))) for name in names}

    def fill(self, store: LmdbStore) -> list[str]:
        random, mids = Random(5), []
        for number in range(60):
            parts = [delivery(f"smtp:d{random.randrange(12)}.example", "a@x", f"{number}@x") for _ in range(2)]
            mids.append(
                self.wait(
                    send(
                        store,
                        *parts,
                        armed=random.random() < 0.4,
                        at=NOON + random.randrange(-50, 50),
                        lane_customer=f"customer{random.randrange(3)}",
                        handling=Handling(priority=random.choice([0, 0, 3])),
                    )
                )
            )
            if random.random() < 0.2:
                self.successResultOf(store.act("hold", [(mids[-1], parts[0].destination)], "root", NOON))
        return mids

    def test_all_is_as_if_it_had_been_written_so(self) -> None:
        store = self.open()
        self.fill(store)
        totals = store.stats()
        self.successResultOf(store.stop())
        before = self.tables()
        self.back()
        with patch.object(schema, "_SLICE", 7):
            store = self.open()
        self.assertEqual(self.successResultOf(store.verify(False)), [])
        self.assertEqual(replace(store.stats(), map_used=0, disk_free=0), replace(totals, map_used=0, disk_free=0))
        self.successResultOf(store.stop())
        self.assertEqual(self.tables(), before)
        self.assertTrue(all(before.values()))
        with lmdb.open(str(self.path), max_dbs=32) as env:
            for name in (b"due", b"lane"):
                self.assertRaises(lmdb.NotFoundError, env.open_db, name, create=False)

    def test_what_was_in_memory_is_reclaimed(self) -> None:
        store = self.open()
        mid = self.wait(send(store, armed=True, at=NOON + 999))
        self.successResultOf(store.stop())
        self.back()
        store = self.open()
        self.assertIsNone(store.next_due())
        self.assertEqual(self.successResultOf(store.reclaim()), 1)
        self.assertEqual([it.message.id for it in self.wait(claim(store))], [mid])
        self.successResultOf(store.stop())

    def test_what_a_defect_left_comes_along_to_be_mended(self) -> None:
        store = self.open()
        self.fill(store)
        self.successResultOf(store.stop())
        self.back()
        with lmdb.open(str(self.path), max_dbs=32, map_size=1 << 26) as env, env.begin(write=True) as txn:
            lane, due = env.open_db(b"lane", txn=txn), env.open_db(b"due", txn=txn)
            with txn.cursor(lane) as cursor:
                cursor.last()
                txn.delete(cursor.key(), db=lane)
            txn.put(b"\0" * 42, b"", db=due)
        store = self.open()
        self.assertGreater(len(self.successResultOf(store.verify(True))), 1)
        self.assertEqual(self.successResultOf(store.verify(False)), [])
        self.successResultOf(store.stop())


class ThirdSchemaTests(SynchronousTestCase):
    """What the third schema left can be removed, though its deliveries say nothing of removals."""

    def test_removed_by_a_filter(self) -> None:
        path = Path(self.mktemp())
        store = LmdbStore(path, clock(), SETTINGS, InlineWriter())
        self.successResultOf(store.start())
        for number in range(9):
            self.successResultOf(Deferred.fromCoroutine(send(store, delivery(f"smtp:{number % 3}"))))
        self.successResultOf(store.stop())
        with lmdb.open(str(path), max_dbs=32, map_size=1 << 24) as env, env.begin(write=True) as txn:
            table = env.open_db(b"delivery", txn=txn)
            for key, row in list(txn.cursor(table)):
                txn.put(key, msgspec.msgpack.encode(msgspec.msgpack.decode(row)[:-1]), db=table)
            txn.put(b"schema", b"3", db=env.open_db(b"meta", txn=txn))
        store = LmdbStore(path, clock(), SETTINGS, InlineWriter())
        self.successResultOf(store.start())
        self.addCleanup(store.stop)
        self.assertEqual(self.successResultOf(store.verify(False)), [])
        removal = self.successResultOf(store.remove(QueueFilter(destination="smtp:1"), "root", NOON))
        self.assertEqual((removal.deliveries, store.stats().deliveries), (3, 6))
        self.assertEqual(self.successResultOf(store.verify(False)), [])


class FirstSchemaTests(SynchronousTestCase):
    """What the first schema had no tables for is found by after the migration."""

    def open(self) -> LmdbStore:
        store = LmdbStore(self.path, clock(), SETTINGS, InlineWriter())
        self.successResultOf(store.start())
        return store

    def found(self, store: LmdbStore, **match: Any) -> list[str]:
        return [message.id for message, _ in self.successResultOf(store.page(QueueFilter(**match))).found]

    def test_holds_and_reasons(self) -> None:
        self.path = Path(self.mktemp())
        store = self.open()
        mids = [self.successResultOf(Deferred.fromCoroutine(send(store))) for _ in range(5)]
        for mid in mids[1:]:
            (it,) = store.deliveries(mid)
            later = msgspec.structs.replace(it, last_reply=f"450 Try again, {mid} of {mid[-1:]}")
            self.successResultOf(store.settle([Settlement(delivery=it, remaining=(later,))]))
        self.successResultOf(store.act("hold", [(mids[2], DESTINATION)], "root", NOON))
        self.successResultOf(store.stop())
        with lmdb.open(str(self.path), max_dbs=32, map_size=1 << 24) as env, env.begin(write=True) as txn:
            make_second(env, txn)
            for name in (b"held", b"reason", b"segment"):
                txn.drop(env.open_db(name, txn=txn))
            txn.put(b"schema", b"1", db=env.open_db(b"meta", txn=txn))
        with patch.object(schema, "_SLICE", 2):
            store = self.open()
        self.assertEqual(self.successResultOf(store.verify(False)), [])
        self.assertEqual(self.found(store, state="held"), [mids[2]])
        self.assertEqual(self.found(store, reason="try AGAIN"), mids[1:])
        self.assertEqual(self.found(store, reason="no such"), [])
        self.successResultOf(store.stop())
