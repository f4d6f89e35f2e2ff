"""A queue of an earlier version becomes one of this version, or stays what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import lmdb
import msgspec
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.queue.samples import DESTINATION, NOON, SETTINGS, clock, send
from twisted_mta.queue import schema
from twisted_mta.queue.environment import Environment
from twisted_mta.queue.interfaces import QueueFilter, Settlement, StoreUnavailable
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.owners import Owners
from twisted_mta.queue.writer import InlineWriter


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
        migrations = {2: rename_table, 3: count_steps}
        return patch.multiple(schema, VERSION=4, MIGRATIONS=steps.get("migrations", migrations))

    def meta(self, name: bytes) -> bytes | None:
        with lmdb.open(str(self.path), max_dbs=32) as env, env.begin() as txn:
            found: bytes | None = txn.get(name, db=env.open_db(b"meta", txn=txn))
            return found

    def test_all_steps_are_taken(self) -> None:
        with self.raised():
            environment = Environment(self.path, 1 << 24)
            with environment.read() as txn:
                self.assertEqual(txn.get(b"key", db=environment.tables.history), b"value")
                self.assertEqual(txn.get(b"schema", db=environment.tables.meta), b"4")
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

        with self.raised(migrations={2: rename_table, 3: broken}), self.assertRaises(ZeroDivisionError):
            Environment(self.path, 1 << 24)
        self.assertEqual(self.meta(b"schema"), b"2")
        with self.raised():
            Environment(self.path, 1 << 24).close()
        self.assertEqual(self.meta(b"schema"), b"4")

    def test_without_a_way_it_is_refused(self) -> None:
        with self.raised(migrations={3: count_steps}), self.assertRaises(StoreUnavailable) as refused:
            Environment(self.path, 1 << 24)
        self.assertIn("its schema is 2, and this version of the program knows 4", str(refused.exception))
        self.assertEqual(self.meta(b"schema"), b"2")

    def test_not_while_the_earlier_version_runs(self) -> None:
        running = Owners(self.path / "owners")
        running.enter(77)
        with self.raised():
            with self.assertRaises(StoreUnavailable) as refused:
                Environment(self.path, 1 << 24)
            self.assertIn("systemctl restart", str(refused.exception))
            self.assertEqual(self.meta(b"schema"), b"2")
            running.leave()
            Environment(self.path, 1 << 24).close()
        self.assertEqual(self.meta(b"schema"), b"4")


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
