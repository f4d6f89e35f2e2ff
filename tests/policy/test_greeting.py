"""Waiting for the greeting, and what clients call themselves."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.directory.test_contract import now
from tests.policy.samples import account, code, directory, peer
from twisted_mta.config.settings import DAY, Defence, Settings
from twisted_mta.policy.greeting import GreetingPolicy, HelloPolicy, read_literal
from twisted_mta.policy.interfaces import Peer
from twisted_mta.policy.names import UNKNOWN, NamePolicy
from twisted_mta.testing.dns import FakeResolver


def made(**defence: Any) -> Settings:
    return attrs.evolve(Settings(), hostname="mx.isp.example", defence=Defence(**defence))


class Greeting(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1e9)
        self.policy = GreetingPolicy(made(greeting_delay=3.0), self.clock, entries=2)

    def begin(self, one: Peer) -> list[Any]:
        done: list[Any] = []
        Deferred.fromCoroutine(self.policy.connect(one)).addCallback(done.append)
        return done

    def test_strangers_wait(self) -> None:
        done = self.begin(peer(stranger=True))
        self.clock.advance(2.9)
        self.assertEqual(done, [])
        self.clock.advance(0.2)
        self.assertEqual(done, [None])

    def test_nobody_else_does(self) -> None:
        for one in (peer(), peer(stranger=True, role="submission")):
            self.assertEqual(self.begin(one), [None])
        self.policy.reconfigure(made(greeting_delay=0.0))
        self.assertEqual(self.begin(peer(stranger=True)), [None])

    def test_who_has_sent_a_message_waits_no_more(self) -> None:
        self.policy.closed(peer(stranger=True, messages=1))
        self.assertEqual(self.begin(peer(stranger=True)), [None])
        self.clock.advance(7 * DAY)
        self.assertEqual(self.begin(peer(stranger=True)), [])

    def test_nor_where_another_process_took_it(self) -> None:
        told: list[tuple[str, str, int, int]] = []
        self.policy.tell = lambda *what: told.append(what)
        for _ in range(2):
            self.policy.closed(peer(stranger=True, messages=1))
        self.assertEqual(len(told), 1)
        other = GreetingPolicy(made(greeting_delay=3.0), self.clock, entries=2)
        other.learn(told[0][1])
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(other.connect(peer(stranger=True)))), None)

    def test_who_has_not_waits_again(self) -> None:
        self.policy.closed(peer(stranger=True, commands=5))
        self.assertEqual(self.begin(peer(stranger=True)), [])

    def test_what_is_kept_is_bounded(self) -> None:
        for host in range(1, 5):
            self.policy.closed(peer(f"192.0.2.{host}", stranger=True, messages=1))
        self.assertEqual(len(self.policy._known), 2)
        self.assertEqual(self.begin(peer("192.0.2.4", stranger=True)), [None])

    def test_a_client_that_goes_leaves_nothing_waiting(self) -> None:
        one = peer(stranger=True)
        done = self.begin(one)
        self.policy.closed(one)
        self.assertEqual((done, self.clock.getDelayedCalls()), ([None], []))


class Hello(SynchronousTestCase):
    def said(self, name: str, address: str = "192.0.2.1", **facts: Any) -> str:
        return code(HelloPolicy(made()).helo(peer(address, **{"stranger": True, **facts}), name))

    def test_good_names(self) -> None:
        for name in ("far.example", "far.example.", "localhost", "a_b.example", "xn--bcher-kva.example", "A.B-C.D1"):
            self.assertEqual(self.said(name), "250", name)
        self.assertEqual(self.said("[192.0.2.1]"), "250")
        for literal in ("[IPv6:2001:db8::1]", "[ipv6:2001:DB8:0::1]"):
            self.assertEqual(self.said(literal, "2001:db8::1"), "250")

    def test_what_is_no_name(self) -> None:
        for name in ("-a.example", "a..example", "a,b", "192.0.2.1", "a@b", "[192.0.2.1", "[]", "[IPv6:192.0.2.1]",
                     "[2001:db8::1]", "[IPv6:fe80::1%eth0]", "a." * 200, f"{'a' * 64}.example", ".",
                     "$(reboot)"):  # fmt: skip
            self.assertEqual(self.said(name), "501 5.5.4", name)

    def test_somebody_else(self) -> None:
        for name in ("[192.0.2.2]", "[IPv6:2001:db8::1]", "mx.isp.example", "MX.ISP.example."):
            self.assertEqual(self.said(name), "550 5.7.1", name)

    def test_only_strangers_are_judged(self) -> None:
        anna = account(directory())
        for facts in ({"stranger": False}, {"role": "submission"}, {"account": anna}):
            self.assertEqual(self.said("mx.isp.example", **facts), "250", facts)
        policy = HelloPolicy(made(check_helo=False))
        self.assertEqual(code(policy.helo(peer(stranger=True), "[[[")), "250")

    @given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=255))
    def test_any_name_is_judged(self, name: str) -> None:
        self.assertIn(self.said(name), ("250", "501 5.5.4", "550 5.7.1"))
        read_literal(f"[{name}]")


class Named(SynchronousTestCase):
    """The name of the client's address."""

    RECORDS = {
        "1.2.0.192.in-addr.arpa": {"PTR": ["mail.far.example."]},
        "mail.far.example": {"A": ["192.0.2.1"]},
        "2.2.0.192.in-addr.arpa": {"PTR": ["mail.far.example."]},
        "3.2.0.192.in-addr.arpa": {"PTR": [f"n{n}.many.example." for n in range(100)]},
        f"1.{'0.' * 23}8.b.d.0.1.0.0.2.ip6.arpa": {"PTR": ["six.far.example."]},
        "six.far.example": {"AAAA": ["2001:0DB8::0001"]},
    }

    def setUp(self) -> None:
        self.resolver = FakeResolver(self.RECORDS, {"4.2.0.192.in-addr.arpa"})

    def name(self, address: str, **facts: Any) -> str:
        one = peer(address, **{"stranger": True, **facts})
        self.assertIsNone(now(NamePolicy(self.resolver, made()).connect(one)))
        return one.hostname

    def test_forward_confirmed(self) -> None:
        self.assertEqual(self.name("192.0.2.1"), "mail.far.example")
        self.assertEqual(self.name("2001:db8::1"), "six.far.example")
        self.assertEqual(self.name("192.0.2.1", stranger=False, relaying=True), "mail.far.example")

    def test_unknown(self) -> None:
        for address in ("192.0.2.2", "192.0.2.4", "192.0.2.5"):
            self.assertEqual(self.name(address), UNKNOWN, address)

    def test_many_names_are_not_all_asked(self) -> None:
        self.assertEqual(self.name("192.0.2.3"), UNKNOWN)
        self.assertLess(len(self.resolver.asked), 10)

    def test_who_is_exempt_is_not_asked_about(self) -> None:
        self.assertEqual(self.name("192.0.2.1", stranger=False), "")
        self.assertEqual(self.name(""), "")
        self.assertEqual(self.resolver.asked, [])

    def test_nobody_waits(self) -> None:
        waiting: Deferred[Any] = Deferred()

        class Slow(FakeResolver):
            async def ptr(self, address: str) -> Any:
                return await waiting

        one = peer(stranger=True)
        self.assertIsNone(now(NamePolicy(Slow(self.RECORDS), made()).connect(one)))
        self.assertEqual(one.hostname, UNKNOWN)
        waiting.callback(["mail.far.example"])
        self.assertEqual(one.hostname, "mail.far.example")
