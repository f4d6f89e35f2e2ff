"""`mta queue verify` of queues that are long, or wrong in many places: in little memory, and to the same end."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.queue.samples import NOON, SETTINGS, clock, delivery, send
from twisted_mta.queue import records, verify
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.writer import InlineWriter


class VerifyCase(SynchronousTestCase):
    """``self.store`` and what is done to its rows."""

    def setUp(self) -> None:
        self.store = LmdbStore(Path(self.mktemp()), clock(), SETTINGS, InlineWriter())
        self.successResultOf(self.store.start())
        self.addCleanup(self.store.stop)

    @property
    def environment(self) -> Any:
        return self.store._environment

    def fill(self, count: int, lanes: int, customers: int = 1) -> list[str]:
        return [
            self.successResultOf(
                Deferred.fromCoroutine(
                    send(
                        self.store,
                        delivery(f"smtp:d{number % lanes}.example"),
                        at=NOON + number,
                        customer=f"c{number % customers}",
                        lane_customer=f"c{number % customers}",
                    )
                )
            )
            for number in range(count)
        ]

    def verify(self, repair: bool = False) -> list[str]:
        lines: list[str] = self.successResultOf(self.store.verify(repair))
        return lines

    def rows(self, table: str) -> list[tuple[bytes, bytes]]:
        with self.environment.read() as txn, txn.cursor(getattr(self.environment.tables, table)) as cursor:
            return list(cursor)


class PartsTests(VerifyCase):
    def test_customers_in_parts(self) -> None:
        self.fill(60, 5, customers=23)
        with self.environment.begin() as txn:
            for number in (0, 3, 7, 21, 22):
                key = records.usage_key(f"c{number}")
                counters = records.decode_counters(txn.get(key, db=self.environment.tables.usage))
                counters.queued_messages += number + 1
                if number == 21:
                    txn.delete(key, db=self.environment.tables.usage)
                else:
                    txn.put(key, records.encode(counters), db=self.environment.tables.usage)
        whole = self.verify()
        self.assertEqual(len(whole), 5)
        self.patch(verify, "MOST", 6)
        self.assertEqual(sorted(self.verify()), sorted(whole))
        self.assertEqual(sorted(self.verify(True)), sorted(whole))
        self.assertEqual(self.verify(), [])

    def test_a_great_many_discrepancies_are_mended_in_turns(self) -> None:
        ids = self.fill(60, 9)
        entries = [key for key, _ in self.rows("lanes") if len(key) == records.DUE_BYTES]
        with self.environment.begin() as txn:
            for mid in ids[:40]:  # as a removal that was cut short
                with txn.cursor(self.environment.tables.delivery) as cursor:
                    cursor.set_range(records.id_key(mid))
                    cursor.delete()
                txn.delete(records.id_key(mid), db=self.environment.tables.message)
                txn.delete(records.chunk_key(records.id_key(mid), 0), db=self.environment.tables.content)
        self.patch(verify, "MOST", 7)
        lines = self.verify()
        self.assertEqual(len(lines), 8)
        self.assertEqual(lines[-1], "there is more: the count ended here")
        lines = self.verify(True)
        self.assertEqual(len([line for line in lines if "is listed as due" in line]), 40)
        self.assertNotIn("there is more: the count ended here", lines)
        self.assertEqual(self.verify(), [])
        self.assertEqual(self.store.stats().deliveries, 20)
        self.assertEqual(len([key for key, _ in self.rows("lanes") if len(key) == records.DUE_BYTES]), 20)
        self.assertEqual(len(entries), 60)

    def test_what_can_not_be_mended_does_not_go_on_for_ever(self) -> None:
        ids = self.fill(10, 2)
        with self.environment.begin() as txn:
            for mid in ids:
                txn.delete(records.chunk_key(records.id_key(mid), 0), db=self.environment.tables.content)
        self.patch(verify, "MOST", 4)
        self.assertEqual(self.verify(True)[-1], "there is more: the count ended here")
        self.assertEqual(len(self.verify(True)), 5)

    def test_memory_does_not_follow_the_number_of_lanes(self) -> None:
        peaks = []
        for count in (200, 1800):
            self.fill(count, count, customers=3)
            self.verify()  # what is cached is in memory from now on
            tracemalloc.start()
            try:
                self.assertEqual(self.verify(), [])
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
        self.assertLess(peaks[1] - peaks[0], 60_000, peaks)


class DamageTests(VerifyCase):
    """Whatever rows of lanes, wake and meta are lost or made up: it is found, and mended."""

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_any_rows_are_lost_or_made_up(self, data: st.DataObject) -> None:
        self.store.stop()
        self.setUp()
        self.fill(data.draw(st.integers(1, 12)), 3, customers=2)
        before = {table: self.rows(table) for table in ("lanes", "wake")}
        totals = self.store.stats()
        damaged = False
        with self.environment.begin() as txn:
            for table, rows in before.items():
                handle = getattr(self.environment.tables, table)
                for key, _ in data.draw(st.lists(st.sampled_from(rows), unique=True)):
                    damaged |= txn.delete(key, db=handle)
                for key, value in data.draw(st.lists(st.sampled_from(rows), unique=True)):
                    # another time, or another message, of a lane that there is
                    if len(key) > records.LANE_BYTES:
                        at = data.draw(st.integers(24 if table == "lanes" else 0, len(key) - 1))
                        made = key[:at] + bytes([key[at] ^ 1]) + key[at + 1 :]
                        damaged |= txn.put(made, value, db=handle, overwrite=False)
        lines = self.verify()
        self.assertEqual(bool(lines), damaged)
        self.verify(True)
        self.verify(True)  # some only show once others are mended
        self.assertEqual(self.verify(), [])
        self.assertEqual({table: self.rows(table) for table in before}, before)
        self.assertEqual(
            (totals.deliveries, totals.destinations),
            (self.store.stats().deliveries, self.store.stats().destinations),
        )
