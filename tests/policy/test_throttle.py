"""Slowing down who guesses passwords."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.policy.samples import peer
from twisted_mta.config.settings import Duration, Settings, Smtp
from twisted_mta.policy.interfaces import IAuthThrottle
from twisted_mta.policy.throttle import HALF_LIFE, KNOWN_FOR, LONGEST, LONGEST_BY_USER, AuthThrottle

ANNA = "anna@isp.example"


class ThrottleCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.throttle = AuthThrottle(Settings(), self.clock)

    def fail(self, address: str, user: str = ANNA, times: int = 1) -> float:
        for _ in range(times):
            self.throttle.failed(peer(address), user)
        return self.delay(address, user)

    def delay(self, address: str, user: str = ANNA) -> float:
        return self.throttle.delay(peer(address), user)

    def succeed(self, address: str, user: str = ANNA) -> None:
        self.throttle.succeeded(peer(address), user)


class Delays(ThrottleCase):
    """How long an answer waits."""

    def test_interface(self) -> None:
        verifyObject(IAuthThrottle, self.throttle)

    def test_doubles(self) -> None:
        self.assertEqual(self.delay("192.0.2.1"), 0.0)
        self.assertEqual([self.fail("192.0.2.1") for _ in range(7)], [1, 2, 4, 8, 16, 30, 30])
        self.assertEqual(self.fail("192.0.2.1", times=2000), LONGEST)

    def test_what_other_processes_saw(self) -> None:
        told: list[tuple[str, str, bool]] = []
        self.throttle.tell = lambda *attempt: told.append(attempt)
        self.fail("192.0.2.1", times=2)
        self.succeed("192.0.2.1")
        other = AuthThrottle(Settings(), self.clock)
        for attempt in told:
            other.learn(*attempt)
        for address, user in (("192.0.2.1", ANNA), ("192.0.2.1", "b@isp.example"), ("192.0.2.9", ANNA)):
            self.assertEqual(other.delay(peer(address), user), self.delay(address, user))

    def test_setting(self) -> None:
        self.throttle.reconfigure(attrs.evolve(Settings(), smtp=Smtp(auth_delay=Duration(0.25))))
        self.assertEqual([self.fail("192.0.2.1") for _ in range(3)], [0.25, 0.5, 1.0])
        self.throttle.reconfigure(attrs.evolve(Settings(), smtp=Smtp(auth_delay=Duration(0.0))))
        self.assertEqual(self.fail("192.0.2.1"), 0.0)

    def test_fades(self) -> None:
        self.fail("192.0.2.1", times=4)
        self.clock.advance(HALF_LIFE)
        self.assertAlmostEqual(self.delay("192.0.2.1"), 2.0)
        self.clock.advance(3 * HALF_LIFE)
        self.assertEqual(self.delay("192.0.2.1"), 0.0)

    def test_clock_back(self) -> None:
        self.clock.advance(10000)
        self.fail("192.0.2.1", times=3)
        self.clock.rightNow = 0.0
        self.assertEqual(self.delay("192.0.2.1"), 4.0)

    def test_address_counts_for_all_users(self) -> None:
        for number in range(3):
            self.fail("192.0.2.1", f"user{number}@isp.example")
        self.assertEqual(self.delay("192.0.2.1", "another@isp.example"), 4.0)
        self.assertEqual(self.delay("192.0.2.2", "another@isp.example"), 0.0)

    def test_ipv6_by_64(self) -> None:
        self.fail("2001:db8::1", times=3)
        self.assertEqual(self.delay("2001:db8::2", "another@isp.example"), 4.0)
        self.assertEqual(self.delay("2001:db8:0:1::2", "another@isp.example"), 0.0)

    def test_user_counts_from_everywhere_but_only_slows(self) -> None:
        for number in range(200):
            self.fail(f"192.0.2.{number}")
        self.assertEqual(self.delay("198.51.100.1"), LONGEST_BY_USER)
        self.assertEqual(self.delay("198.51.100.1", ANNA.upper()), LONGEST_BY_USER)
        self.assertEqual(self.delay("198.51.100.1", "bert@isp.example"), 0.0)


class Known(ThrottleCase):
    """Who has logged in from an address before is not slowed by others."""

    def test_attack_from_elsewhere(self) -> None:
        self.succeed("198.51.100.1")
        for number in range(200):
            self.fail(f"192.0.2.{number}")
        self.assertEqual(self.delay("198.51.100.1"), 0.0)

    def test_neighbour(self) -> None:
        self.succeed("198.51.100.1")
        self.fail("198.51.100.1", "bert@isp.example", times=10)
        self.assertEqual(self.delay("198.51.100.1"), 0.0)
        self.assertEqual(self.delay("198.51.100.1", "carl@isp.example"), LONGEST)

    def test_own_failures_count(self) -> None:
        self.succeed("198.51.100.1")
        self.assertEqual(self.fail("198.51.100.1", times=3), 4.0)
        self.succeed("198.51.100.1")
        self.assertEqual(self.delay("198.51.100.1"), 0.0)

    def test_a_good_account_does_not_help_guessers(self) -> None:
        delays = []
        for number in range(6):
            delays.append(self.fail("192.0.2.1", f"user{number}@isp.example"))
            self.succeed("192.0.2.1", "own@bolt.example")
        self.assertEqual(delays, [1, 2, 4, 8, 16, 30])

    def test_for_a_day(self) -> None:
        self.succeed("198.51.100.1")
        self.clock.advance(KNOWN_FOR)
        self.fail("192.0.2.1", times=10)
        self.assertEqual(self.delay("198.51.100.1"), LONGEST_BY_USER)


class Session(ThrottleCase):
    """smtp.auth_attempts."""

    def test_ended(self) -> None:
        one = peer()
        replies = []
        for number in range(1, 5):
            one.auth_failures = number
            replies.append(self.throttle.failed(one, ANNA))
        self.assertEqual(replies[:2], [None, None])
        self.assertEqual([(reply.code, reply.enhanced) for reply in replies[2:]], [(421, "4.7.0")] * 2)


class Bounds(ThrottleCase):
    """Memory."""

    @given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.booleans()), max_size=100))
    def test_bounded(self, attempts: list[tuple[int, int, bool]]) -> None:
        throttle = AuthThrottle(Settings(), Clock(), entries=5)
        for address, user, good in attempts:
            one = peer(f"192.0.2.{address}")
            (throttle.succeeded if good else throttle.failed)(one, f"u{user}")
            self.assertLessEqual(throttle.delay(one, f"u{user}"), LONGEST)
            sizes = [len(table._counts) for table in (throttle._addresses, throttle._users, throttle._pairs)]
            self.assertLessEqual(max(*sizes, len(throttle._known)), 5)

    def test_long_names_are_cut(self) -> None:
        self.fail("192.0.2.1", "x" * 100000)
        ((_, name),) = self.throttle._pairs._counts
        self.assertEqual(len(name), 320)
