"""Rates by address and by customer."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.policy.samples import account, directory, peer, transaction
from twisted_mta.config.settings import Defence, Settings
from twisted_mta.mail.status import Reply
from twisted_mta.policy.interfaces import Peer
from twisted_mta.policy.rates import CONNECTIONS, KNOWN, RatePolicy, Rates

NOW = 1_800_000_000.0


def made(**defence: Any) -> Settings:
    """Settings without any rate but those given."""
    none = {field.name: None for field in attrs.fields(Defence) if "_per_" in field.name}
    return attrs.evolve(Settings(), defence=Defence(**{**none, "tarpit": 10.0, **defence}))


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.directory = directory()

    def policy(self, entries: int = 100, **defence: Any) -> RatePolicy:
        return RatePolicy(made(**defence), self.clock, entries)

    def ask(self, answer: Any) -> tuple[float, int]:
        """How long an answer takes, and its code, 0 for none."""
        outcome: list[Reply | None] = []
        Deferred.fromCoroutine(answer).addCallback(outcome.append)
        began = self.clock.seconds()
        while not outcome:
            calls = self.clock.getDelayedCalls()
            self.assertEqual(len(calls), 1, "the answer waits for nothing")
            self.clock.advance(calls[0].getTime() - self.clock.seconds())
        reply = outcome[0]
        return round(self.clock.seconds() - began, 3), reply.code if reply is not None else 0

    def stranger(self, address: str = "192.0.2.1", **facts: Any) -> Peer:
        return peer(address, stranger=True, **facts)

    def user(self, address: str = "192.0.2.1", name: str = "anna@isp.example", **facts: Any) -> Peer:
        return self.stranger(address, role="submission", account=account(self.directory, name), **facts)


class AddressTests(Case):
    """Counted by address."""

    def connect(self, policy: RatePolicy, address: str = "192.0.2.1") -> tuple[float, int]:
        return self.ask(policy.connect(self.stranger(address)))

    def test_free_then_late_then_refused(self) -> None:
        policy = self.policy(connections_per_minute=6, tarpit=0.0)
        self.assertEqual([self.connect(policy)[1] for _ in range(13)], [0] * 12 + [421])
        policy = self.policy(connections_per_minute=6, tarpit=0.001)
        waits = [self.connect(policy)[0] for _ in range(12)]
        self.assertEqual(waits[:6], [0.0] * 6)
        self.assertEqual(waits, sorted(waits), "ever later")
        policy = self.policy(connections_per_minute=2)
        self.assertEqual([self.connect(policy) for _ in range(3)][:2], [(0.0, 0)] * 2)
        self.assertEqual(self.connect(policy)[0], round((1 - 5 / 60) * 10, 3))

    def test_refused_ones_do_not_count_so_the_rate_gets_in(self) -> None:
        policy = self.policy(connections_per_minute=6, tarpit=0.0)
        for _ in range(50):
            last = self.connect(policy)
        self.assertEqual(last, (0.0, 421))
        self.clock.advance(10.1)
        self.assertEqual([self.connect(policy)[1] for _ in range(2)], [0, 421])
        self.clock.advance(121)
        self.assertEqual([self.connect(policy) for _ in range(6)], [(0.0, 0)] * 6)

    def test_each_address_has_its_own(self) -> None:
        policy = self.policy(connections_per_minute=1, tarpit=0.0)
        codes = [self.connect(policy, one)[1] for one in ("192.0.2.1",) * 3 + ("192.0.2.2",)]
        self.assertEqual(codes, [0, 0, 421, 0])
        codes = [self.connect(policy, f"2001:db8::{n}")[1] for n in range(3)]
        self.assertEqual([*codes, self.connect(policy, "2001:db8:0:1::1")[1]], [0, 0, 421, 0])

    def test_the_words(self) -> None:
        policy = self.policy(connections_per_minute=1, tarpit=0.0)
        self.connect(policy)
        self.connect(policy)
        said: list[Any] = []
        Deferred.fromCoroutine(policy.connect(self.stranger())).addCallback(said.append)
        self.assertEqual(str(said[0]), "421 4.7.0 Too many connections from 192.0.2.1; try again in 60 seconds")

    def test_messages(self) -> None:
        policy = self.policy(messages_per_minute=2, tarpit=0.0)
        one = self.stranger()
        self.assertEqual([self.ask(policy.mail(one, transaction()))[1] for _ in range(5)], [0, 0, 0, 0, 421])

    def test_errors_of_sessions_that_are_over(self) -> None:
        policy = self.policy(errors_per_minute=10, tarpit=0.0)
        for expected in (0, 0, 421):
            one = self.stranger()
            self.assertEqual(self.ask(policy.connect(one)), (0.0, expected))
            one.errors = 11
            policy.closed(one)
        self.clock.advance(60)
        self.assertEqual(self.connect(policy), (0.0, 0))

    def test_commands_count_once(self) -> None:
        policy = self.policy(commands_per_minute=10, tarpit=0.0)
        one = self.stranger(commands=20)
        self.assertEqual(self.ask(policy.mail(one, transaction()))[1], 0)
        policy.closed(one)
        self.assertEqual(self.connect(policy)[1], 0)
        policy.closed(self.stranger(commands=1))
        self.assertEqual(self.connect(policy)[1], 421)

    def test_nobody_is_turned_away_for_longer_than_a_window(self) -> None:
        policy = self.policy(errors_per_minute=1, tarpit=0.0)
        for _ in range(1000):
            policy.closed(self.stranger(errors=1000))
        self.clock.advance(59)
        self.assertEqual(self.connect(policy)[1], 421)
        self.clock.advance(2)
        self.assertEqual(self.connect(policy)[1], 0)

    def test_a_clock_that_goes_back_turns_nobody_away(self) -> None:
        policy = self.policy(errors_per_minute=1, tarpit=0.0)
        policy.closed(self.stranger(errors=1000))
        self.assertEqual(self.connect(policy)[1], 421)
        self.clock.rightNow -= 86400
        self.assertEqual(self.connect(policy)[1], 0)
        policy.closed(self.stranger(errors=1000))  # what happens from now on counts
        self.assertEqual(self.connect(policy)[1], 421)
        self.clock.advance(61)
        self.assertEqual(self.connect(policy)[1], 0)

    def test_who_is_no_stranger_is_not_counted(self) -> None:
        policy = self.policy(connections_per_minute=1, messages_per_minute=1, errors_per_minute=1)
        one = peer(errors=100)
        for _ in range(10):
            self.assertEqual(self.ask(policy.connect(one)), (0.0, 0))
            self.assertEqual(self.ask(policy.mail(one, transaction())), (0.0, 0))
            policy.closed(one)
        self.assertEqual(len(policy._addresses), 0)

    def test_a_client_that_goes_leaves_nothing_waiting(self) -> None:
        policy = self.policy(connections_per_minute=1)
        self.connect(policy)
        self.clock.advance(30)
        one, done = self.stranger(), []
        Deferred.fromCoroutine(policy.connect(one)).addCallback(done.append)
        self.assertEqual((done, len(self.clock.getDelayedCalls())), ([], 1))
        policy.closed(one)
        self.assertEqual((done, self.clock.getDelayedCalls()), ([None], []))

    @given(st.lists(st.integers(0, 500), min_size=200, max_size=400))
    def test_memory_is_bounded(self, hosts: list[int]) -> None:
        policy = self.policy(entries=20, connections_per_minute=1, tarpit=0.0)
        for host in hosts:
            self.connect(policy, f"2001:db8:0:{host:x}::1")
        self.assertLessEqual(len(policy._addresses), 20)


class LoginTests(Case):
    """Failed logins, and who suffers for them."""

    def guess(self, policy: RatePolicy, times: int, address: str = "192.0.2.1") -> None:
        for _ in range(times):
            policy.closed(self.stranger(address, role="submission", auth_failures=3, commands=5))

    def test_an_address_that_guesses_is_turned_away(self) -> None:
        policy = self.policy(auth_failures_per_hour=10, tarpit=0.0)
        self.guess(policy, 20)
        self.assertEqual(self.ask(policy.connect(self.stranger(role="submission"))), (0.0, 421))
        self.clock.advance(3601)
        self.assertEqual(self.ask(policy.connect(self.stranger(role="submission"))), (0.0, 0))

    def test_other_addresses_of_the_customer_are_not(self) -> None:
        policy = self.policy(auth_failures_per_hour=1, errors_per_minute=1, customer_errors_per_minute=10, tarpit=0.0)
        self.guess(policy, 20)
        policy.closed(self.stranger(errors=100))
        elsewhere = self.user("198.51.100.9")
        self.assertEqual(self.ask(policy.connect(elsewhere)), (0.0, 0))
        self.assertEqual(self.ask(policy.mail(elsewhere, transaction())), (0.0, 0))

    def test_users_behind_an_address_are_not_turned_away_for_a_neighbours_guesses(self) -> None:
        policy = self.policy(auth_failures_per_hour=1, tarpit=0.0)
        good = self.user()
        self.assertEqual(self.ask(policy.mail(good, transaction())), (0.0, 0))
        policy.closed(good)
        self.guess(policy, 20)
        self.assertEqual(self.ask(policy.connect(self.stranger(role="submission"))), (0.0, 0))
        self.clock.advance(86401)
        self.guess(policy, 20)
        self.assertEqual(self.ask(policy.connect(self.stranger(role="submission"))), (0.0, 421))


class CustomerTests(Case):
    """Counted by customer, whatever the address."""

    def test_messages_from_everywhere(self) -> None:
        policy = self.policy(customer_messages_per_minute=3, tarpit=0.0)
        answers = [self.ask(policy.mail(self.user(f"192.0.2.{n}"), transaction()))[1] for n in range(7)]
        self.assertEqual(answers, [0] * 6 + [421])
        other = self.user("192.0.2.1", "carl@bolt.example")
        self.assertEqual(self.ask(policy.mail(other, transaction())), (0.0, 0))

    def test_a_connection_counts_once(self) -> None:
        policy = self.policy(customer_connections_per_minute=1, tarpit=0.0)
        one = self.user()
        self.assertEqual([self.ask(policy.mail(one, transaction()))[1] for _ in range(5)], [0] * 5)
        self.assertEqual(self.ask(policy.mail(self.user(), transaction()))[1], 0)
        self.assertEqual(self.ask(policy.mail(self.user(), transaction()))[1], 421)

    def test_messages_of_users_do_not_count_for_their_address(self) -> None:
        policy = self.policy(messages_per_minute=1, tarpit=0.0)
        one = self.user()
        self.assertEqual([self.ask(policy.mail(one, transaction()))[1] for _ in range(5)], [0] * 5)
        self.assertEqual(self.ask(policy.mail(self.stranger(), transaction()))[1], 0)


class SharedTests(Case):
    """Several processes, each told what the others count."""

    def setUp(self) -> None:
        super().setUp()
        self.limits = {"connections_per_minute": 5, "auth_failures_per_hour": 2, "customer_messages_per_minute": 5}
        self.here, self.there = (self.policy(tarpit=0.0, **self.limits) for _ in range(2))
        self.told: list[tuple[str, str, int, int]] = []

        def tell(*what: Any) -> None:
            self.told.append(what)
            self.there.learn(*what)

        self.here.tell = tell

    def test_what_is_counted_here_counts_there(self) -> None:
        for number in range(5):
            self.assertEqual(self.ask(self.here.connect(self.stranger()))[1], 0)
            self.assertEqual(self.ask(self.there.connect(self.stranger()))[1], 0)
            self.assertEqual(self.told, [("address", "192.0.2.1", CONNECTIONS, 1)] * (number + 1))
        self.assertEqual(self.ask(self.there.connect(self.stranger()))[1], 421)
        self.assertEqual(self.ask(self.there.connect(self.stranger("192.0.2.2")))[1], 0)

    def test_customers_too(self) -> None:
        for _ in range(10):
            self.ask(self.here.mail(self.user(), transaction()))
        self.assertEqual(self.ask(self.there.mail(self.user("198.51.100.1"), transaction()))[1], 421)

    def test_and_where_a_user_has_logged_in(self) -> None:
        self.ask(self.here.mail(self.user(), transaction()))
        self.here.closed(self.user())
        self.assertEqual([what for what in self.told if what[2] == KNOWN], [("address", "192.0.2.1", KNOWN, 0)], "once")
        self.here.closed(self.stranger(auth_failures=9))
        self.assertEqual(self.ask(self.there.connect(self.stranger()))[1], 0)
        self.here.closed(self.stranger("192.0.2.9", auth_failures=9))
        self.assertEqual(self.ask(self.there.connect(self.stranger("192.0.2.9")))[1], 421)

    def test_what_has_no_limit_is_not_told(self) -> None:
        self.here.closed(self.stranger(commands=50))
        self.assertEqual(self.told, [])


class RatesTests(SynchronousTestCase):
    @given(st.lists(st.tuples(st.floats(0, 90), st.integers(1, 5)), max_size=50), st.integers(1, 20))
    def test_never_more_than_two_windows_worth_in_a_window(self, steps: list[tuple[float, int]], limit: int) -> None:
        rates = Rates("address")
        rates.limits = (limit, None, None, None, None)
        counters, now, taken = rates.of("a"), NOW, []
        for pause, amount in steps:
            now += pause
            if rates.excess(counters, CONNECTIONS, now, amount) <= 1.0:
                rates.add(counters, CONNECTIONS, amount, now)
                taken.append((now, amount))
        for start, _ in taken:
            within = sum(amount for when, amount in taken if start <= when < start + 60)
            self.assertLessEqual(within, 3 * limit)
