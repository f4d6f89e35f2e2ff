"""A removal that comes upon damage: that stays and is told of, and all else is removed."""

from __future__ import annotations

from unittest.mock import patch

import lmdb

from tests.queue.samples import CUSTOMER
from tests.queue.test_damage import DamageCase
from tests.queue.test_removing import Case
from twisted_mta.mail.ids import id_key
from twisted_mta.queue.batch import Batch
from twisted_mta.queue.interfaces import QueueFilter
from twisted_mta.queue.records import delivery_key, lane_key

D3 = "smtp:d3"


class DamagedTests(Case):
    put = DamageCase.put

    def setUp(self) -> None:
        super().setUp()
        self.bad = self.mids[3]

    told = DamageCase.told

    def work_off(self) -> int:
        steps = 0
        while self.successResultOf(self.store.work_off()):
            steps += 1
            self.assertLess(steps, 100)
        return steps

    def ended(self, deliveries: int) -> None:
        self.work_off()
        (removal,) = self.store.removals()
        self.assertIsNotNone(removal.ended)
        self.assertEqual(removal.deliveries, deliveries)

    def test_a_delivery_before_it_is_looked_at(self) -> None:
        self.put("delivery", delivery_key(id_key(self.bad), D3))
        self.remove()
        self.ended(49)
        self.assertIn(f"{self.bad} can't be read, and is not removed", self.told())

    def test_a_message(self) -> None:
        self.put("message", id_key(self.bad))
        self.remove()
        self.ended(49)
        self.assertIn(f"{self.bad} can't be read, and is not removed", self.told())

    def test_a_delivery_between_look_and_commit(self) -> None:
        self.remove()
        touch = self.store._reader.touch

        def late(found: list[object]) -> None:
            touch(found)  # type: ignore[arg-type]
            if not self.told() and any(delivery.id == self.bad for _, delivery in found):  # type: ignore[misc, attr-defined]
                self.put("delivery", delivery_key(id_key(self.bad), D3))

        with patch.object(self.store._reader, "touch", late):
            self.work_off()
        self.ended(49)
        self.assertIn(f"{self.bad} can't be read, and is not removed", self.told())

    def test_a_page_is_got_around(self) -> None:
        take_out, mid = Batch.take_out, id_key(self.bad)

        def stumble(batch: Batch, at: bytes, *rest: object) -> None:
            if at == mid:
                raise lmdb.CorruptedError("mdb_del: MDB_CORRUPTED")
            take_out(batch, at, *rest)  # type: ignore[arg-type]

        self.remove()
        with patch.object(Batch, "take_out", stumble):
            self.ended(49)
        self.assertIn(f"{self.bad} can't be read, and is not removed: a page", self.told())
        self.assertEqual(len(self.store.deliveries(self.bad)), 1)

    def test_the_row_of_a_lane(self) -> None:
        self.put("lanes", lane_key(D3, CUSTOMER, 0))
        self.successResultOf(self.store.remove(QueueFilter(), "root", 0.0, 0.0))
        self.ended(50)
