"""What waits behind a great many removed deliveries is claimed without a pause between."""

from __future__ import annotations

from unittest.mock import Mock, patch

from tests.queue.samples import NOON, delivery, send
from tests.queue.test_removing import Case
from twisted_mta.config.settings import Settings
from twisted_mta.delivery import claims
from twisted_mta.delivery.active import ActiveQueue
from twisted_mta.delivery.claims import FIRST_LANES, Claims
from twisted_mta.delivery.retry import RetryPolicy
from twisted_mta.queue import operations


class BehindRemovedTests(Case):
    def setUp(self) -> None:
        super().setUp()
        self.settings = Settings()
        self.active = ActiveQueue(self.settings, ["smtp"])
        self.claims = Claims(self.store, self.active, Mock(RetryPolicy, armed=lambda attempts, now: now + 600.0),
                             self.clock, lambda: None)  # fmt: skip
        self.clock.advance(NOON + 99 - self.clock.seconds())

    def spam(self, count: int) -> None:
        for number in range(count):
            self.send(1, sender="spam@x", at=NOON + number / 1000)

    def in_memory(self) -> set[str]:
        return {mid for mid, _ in self.active.entries}

    def test_wanted_mail_comes_with_one_look(self) -> None:
        self.patch(operations, "PASSED", 20)
        self.spam(400)
        self.remove(sender="spam@x")
        self.claims.poll(self.clock.seconds())
        self.assertEqual(self.in_memory(), set(self.mids))
        self.assertEqual(self.store.removals()[0].deliveries, 400)
        self.work_off()
        self.assertIsNotNone(self.store.removals()[0].ended)

    def test_a_commit_takes_out_little(self) -> None:
        self.patch(operations, "PASSED", 20)
        self.spam(400)
        self.remove(sender="spam@x")
        for key in self.store.due(self.clock.seconds(), 10, None):
            self.store.claim(key, self.clock.seconds(), 50, lambda delivery: NOON + 9999, lambda delivery: None)
        self.assertEqual(self.store.removals()[0].deliveries, 20)

    def test_removed_lanes_too(self) -> None:
        self.patch(claims, "LANES", FIRST_LANES)
        for number in range(5 * FIRST_LANES):
            part = delivery(f"smtp:s{number}", f"u@s{number}")
            self.run_now(send(self.store, part, sender="spam@x", at=NOON - 600 + number))
        self.remove(sender="spam@x")
        self.claims.poll(self.clock.seconds())
        self.assertEqual(self.in_memory(), set(self.mids))
        self.assertEqual(self.store.removals()[0].deliveries, 5 * FIRST_LANES)

    def test_no_more_than_one_look_without_removals(self) -> None:
        with patch.object(self.store._reader, "due", wraps=self.store._reader.due) as due:
            self.claims.poll(self.clock.seconds())
        self.assertEqual(self.in_memory(), set(self.mids))
        self.assertEqual(due.call_count, 1)

    def test_ends_where_nothing_else_is_due(self) -> None:
        self.remove(sender="nobody@x")
        with patch.object(self.store._reader, "due", wraps=self.store._reader.due) as due:
            self.claims.poll(self.clock.seconds())
        self.assertEqual(self.in_memory(), set(self.mids))
        self.assertEqual(due.call_count, 1)
