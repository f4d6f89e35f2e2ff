"""The schedule of attempts."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.config.settings import Duration, Queue
from twisted_mta.delivery.retry import CRASH_WAIT, RetryPolicy


def policy(*waits: float, seed: int = 1) -> RetryPolicy:
    return RetryPolicy(Queue(retry=tuple(map(Duration, waits))), random.Random(seed))


class Schedule(SynchronousTestCase):
    """``queue.retry``."""

    def test_needs_a_wait(self) -> None:
        self.assertRaises(ValueError, policy)

    @given(attempt=st.integers(1, 50), seed=st.integers())
    def test_the_list_then_the_last_again(self, attempt: int, seed: int) -> None:
        planned = (60, 300, 900)[min(attempt, 3) - 1]
        wait = policy(60, 300, 900, seed=seed).wait(attempt)
        self.assertTrue(planned <= wait <= planned * 1.2, wait)

    def test_jitter_spreads(self) -> None:
        retry = policy(100)
        waits = [retry.wait(1) for _ in range(200)]
        self.assertLess(min(waits), 103)
        self.assertGreater(max(waits), 117)

    def test_same_seed_same_waits(self) -> None:
        self.assertEqual(policy(60, seed=3).wait(1), policy(60, seed=3).wait(1))


class Expiry(SynchronousTestCase):
    """The end of the lifetime."""

    def test_not_past_it(self) -> None:
        self.assertEqual(policy(7200).next_attempt(9, 1000.0, 1500.0), 1500.0)

    def test_before_it(self) -> None:
        due = policy(60).next_attempt(1, 1000.0, 9000.0)
        assert due is not None
        self.assertTrue(1060 <= due <= 1072)

    def test_none_after_it(self) -> None:
        self.assertIsNone(policy(60).next_attempt(1, 1500.0, 1500.0))
        self.assertIsNone(policy(60).next_attempt(1, 1501.0, 1500.0))


class Arming(SynchronousTestCase):
    """When a delivery under way is due again, should the process die."""

    def test_never_a_hot_loop(self) -> None:
        self.assertEqual(policy(0.5).armed(1, 1000.0), 1000.0 + CRASH_WAIT)

    def test_by_the_schedule(self) -> None:
        self.assertGreaterEqual(policy(300).armed(1, 1000.0), 1300.0)
