"""The rolling windows: whatever the clock does, no span sees more than the limit."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.queue.samples import NOON, charge
from twisted_mta.queue.interfaces import Limits, QuotaExceeded
from twisted_mta.queue.quota import QUEUED_RETRY, Counters, check_connections

HOUR, DAY = 3600.0, 86400.0


def copied(counters: Counters) -> Counters:
    """As it comes back from the disk."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(counters), type=Counters)


class RatesTest(SynchronousTestCase):
    """Recipients and messages in an hour and a day."""

    def spend(self, counters: Counters, now: float, limits: Limits, count: int = 1) -> QuotaExceeded | None:
        cost = charge(limits, count)
        exceeded = counters.check(cost, now)
        if exceeded is None:
            counters.charge(cost, now)
        return exceeded

    def test_refuses_beyond_the_limit_and_says_when_to_try_again(self) -> None:
        counters, limits = Counters("acme"), Limits(recipients_per_hour=5)
        self.assertIsNone(self.spend(counters, NOON, limits, 5))
        exceeded = self.spend(counters, NOON + 60, limits)
        assert exceeded is not None
        self.assertEqual(
            str(exceeded.reply),
            "452 4.5.3 Too many recipients: your limit is 5 in 60 minutes, and 5 are used; try again in 64 minutes",
        )
        self.assertEqual(exceeded.limit, "recipients_per_hour")
        assert exceeded.retry_after is not None
        self.assertTrue(exceeded.temporary)
        self.assertEqual(exceeded.retry_after, 3900 - NOON % 300 - 60)
        self.assertIsNone(self.spend(counters, NOON + 60 + exceeded.retry_after, limits))

    def test_never_fits(self) -> None:
        exceeded = self.spend(Counters("acme"), NOON, Limits(recipients_per_day=5), 6)
        assert exceeded is not None
        self.assertIsNone(exceeded.retry_after)
        self.assertEqual(exceeded.limit, "recipients_per_day")
        self.assertIn("6 at once never fit", exceeded.reply.text)

    def test_nothing_asked_is_never_refused(self) -> None:
        counters, limits = Counters("acme"), Limits(recipients_per_hour=1, messages_per_hour=1)
        self.assertIsNone(self.spend(counters, NOON, limits))
        nothing = charge(limits, 0)
        self.assertIsNotNone(counters.check(nothing, NOON), "a message without recipients is a message")
        self.assertIsNone(counters.check(msgspec.structs.replace(nothing, messages=0), NOON))

    def test_each_limit_by_its_name(self) -> None:
        for name in ("recipients_per_hour", "recipients_per_day", "messages_per_hour", "messages_per_day"):
            counters, limits = Counters("acme"), Limits(**{name: 2})
            self.assertIsNone(self.spend(counters, NOON, limits))
            self.assertIsNone(self.spend(counters, NOON, limits))
            exceeded = self.spend(counters, NOON, limits)
            assert exceeded is not None
            self.assertEqual((exceeded.limit, exceeded.reply.code, exceeded.reply.enhanced), (name, 452, "4.5.3"))

    def test_usage_reports_the_windows(self) -> None:
        counters = Counters("acme")
        counters.charge(charge(count=3), NOON)
        counters.charge(charge(count=2), NOON + 2 * HOUR)
        counters.queue(2, 500)
        usage = counters.usage(NOON + 2 * HOUR)
        self.assertEqual((usage.recipients_hour, usage.recipients_day), (2, 5))
        self.assertEqual((usage.messages_hour, usage.messages_day), (1, 2))
        self.assertEqual((usage.queued_messages, usage.queued_bytes), (2, 500))
        usage = counters.usage(NOON + 3 * DAY)
        self.assertEqual((usage.recipients_hour, usage.recipients_day, usage.queued_messages), (0, 0, 2))

    @given(
        st.lists(st.tuples(st.floats(0, 2000), st.integers(1, 4)), max_size=80),
        st.integers(1, 6),
        st.sampled_from([("recipients_per_hour", HOUR), ("recipients_per_day", DAY)]),
        st.floats(0, 10000),
    )
    def test_no_span_sees_more_than_the_limit(
        self, steps: list[tuple[float, int]], limit: int, window: tuple[str, float], start: float
    ) -> None:
        name, span = window
        stretch = span / HOUR
        counters, now = Counters("acme"), NOON + start
        granted: list[tuple[float, int]] = []
        for wait, count in steps:
            now += wait * stretch
            counters = copied(counters)
            if self.spend(counters, now, Limits(**{name: limit}), count) is None:
                granted.append((now, count))
        for begin, _ in granted:
            self.assertLessEqual(sum(count for at, count in granted if begin <= at < begin + span), limit)

    @given(st.lists(st.tuples(st.floats(0, 900), st.floats(0, 3), st.integers(1, 3)), max_size=80), st.integers(1, 5))
    def test_steps_back_of_the_clock_let_nothing_more_through(
        self, steps: list[tuple[float, float, int]], limit: int
    ) -> None:
        # `real` is the time that passes, `clock` what the machine says: it is set back now and then, by up to hours.
        counters, real, clock = Counters("acme"), 0.0, NOON
        granted: list[tuple[float, int]] = []
        for wait, back, count in steps:
            real += wait
            clock += wait
            if back > 2:
                clock -= (back - 2) * 10000
            if self.spend(counters, clock, Limits(recipients_per_hour=limit), count) is None:
                granted.append((real, count))
            self.assertGreaterEqual(counters.usage(clock).recipients_hour, 0)
        for begin, _ in granted:
            self.assertLessEqual(sum(count for at, count in granted if begin <= at < begin + HOUR), limit)

    @given(st.floats(0, 1e9), st.integers(1, 4))
    def test_a_clock_that_was_ahead_locks_nobody_out(self, ahead: float, count: int) -> None:
        counters, limits = Counters("acme"), Limits(recipients_per_hour=4)
        counters.charge(charge(count=4), NOON + ahead)
        exceeded = counters.check(charge(limits, count), NOON)
        if exceeded is not None:
            assert exceeded.retry_after is not None
            self.assertLessEqual(exceeded.retry_after, HOUR + 600)
            self.assertIsNone(counters.check(charge(limits, count), NOON + exceeded.retry_after))

    @given(
        st.lists(st.tuples(st.floats(0, 4000), st.integers(1, 3)), max_size=40), st.integers(1, 6), st.integers(1, 6)
    )
    def test_after_the_wait_that_was_named_it_fits(
        self, steps: list[tuple[float, int]], limit: int, count: int
    ) -> None:
        counters, now, limits = Counters("acme"), NOON, Limits(recipients_per_hour=limit)
        for wait, some in steps:
            now += wait
            self.spend(counters, now, limits, some)
        exceeded = counters.check(charge(limits, count), now)
        if exceeded is None:
            return
        if count > limit:
            self.assertIsNone(exceeded.retry_after)
            return
        assert exceeded.retry_after is not None
        self.assertIsNotNone(copied(counters).check(charge(limits, count), now + exceeded.retry_after - 1.5))
        self.assertIsNone(counters.check(charge(limits, count), now + exceeded.retry_after))


class QueuedTest(SynchronousTestCase):
    """What may wait in the queue, and how large a message may be."""

    def check(self, counters: Counters, **facts: Any) -> QuotaExceeded | None:
        limits = Limits(queued_messages=2, queued_bytes=1000, message_bytes=900)
        return counters.check(charge(limits, **facts), NOON)

    def test_messages(self) -> None:
        counters = Counters("acme")
        counters.queue(1, 10)
        self.assertIsNone(self.check(counters))
        counters.queue(1, 10)
        exceeded = self.check(counters)
        assert exceeded is not None
        self.assertEqual((exceeded.limit, exceeded.retry_after), ("queued_messages", QUEUED_RETRY))
        self.assertEqual(
            str(exceeded.reply),
            "452 4.2.2 Your queue is full: your limit is 2 messages; try again when some have been delivered",
        )

    def test_bytes(self) -> None:
        counters = Counters("acme")
        counters.queue(1, 200)
        self.assertIsNone(self.check(counters, size=800))
        exceeded = self.check(counters, size=801)
        assert exceeded is not None
        self.assertEqual((exceeded.limit, exceeded.reply.enhanced), ("queued_bytes", "4.2.2"))

    def test_size(self) -> None:
        exceeded = self.check(Counters("acme"), size=901)
        assert exceeded is not None
        self.assertEqual(str(exceeded.reply), "552 5.3.4 The message is too large: your limit is 900 octets")
        self.assertEqual((exceeded.limit, exceeded.retry_after, exceeded.temporary), ("message_bytes", None, False))

    def test_larger_than_the_whole_queue(self) -> None:
        exceeded = Counters("acme").check(charge(Limits(queued_bytes=10), size=11), NOON)
        assert exceeded is not None
        self.assertEqual((exceeded.limit, exceeded.reply.code), ("queued_bytes", 552))

    def test_a_customer_without_a_queue(self) -> None:
        exceeded = Counters("acme").check(charge(Limits(queued_messages=0)), NOON)
        assert exceeded is not None
        self.assertIsNone(exceeded.retry_after)

    def test_never_below_nothing(self) -> None:
        counters = Counters("acme")
        counters.queue(-1, -5)
        self.assertEqual((counters.queued_messages, counters.queued_bytes), (0, 0))

    def test_connections(self) -> None:
        self.assertIsNone(check_connections(Limits(), 10**6))
        self.assertIsNone(check_connections(Limits(connections=2), 1))
        exceeded = check_connections(Limits(connections=2), 2)
        assert exceeded is not None
        self.assertEqual((exceeded.limit, exceeded.reply.code, exceeded.reply.enhanced), ("connections", 421, "4.7.0"))
        self.assertIn("your limit is 2", exceeded.reply.text)
