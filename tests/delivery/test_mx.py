"""From a next hop to addresses, RFC 5321 §5.1."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.config.settings import Listener, Relay, Settings
from twisted_mta.delivery.mx import (
    MAX_ADDRESSES,
    MAX_HOSTS,
    Hops,
    NextHops,
    Target,
    is_own_address,
    is_possible,
    is_public,
)
from twisted_mta.mail.status import MailError
from twisted_mta.testing.dns import FakeResolver

A, B, C = "93.184.216.1", "93.184.216.2", "93.184.216.3"
SIX = "2606:2800:220:1::1"


class Case(SynchronousTestCase):
    """A finder over made-up DNS."""

    def finder(
        self, records: Mapping[str, Mapping[str, Sequence[str]]], seed: int = 1, own: Sequence[str] = (), **relay: Any
    ) -> NextHops:
        settings = Settings(hostname="mta.isp.example", relay=Relay(**relay), listen={})
        self.resolver = FakeResolver(records)
        return NextHops(settings, self.resolver, random.Random(seed), lambda address: address in own)

    def find(self, nexthop: str, finder: NextHops) -> list[str]:
        return [str(target) for target in self.hops(nexthop, finder).targets]

    def hops(self, nexthop: str, finder: NextHops) -> Hops:
        return self.successResultOf(Deferred.fromCoroutine(finder.find(nexthop)))

    def refused(self, nexthop: str, finder: NextHops) -> tuple[int, str]:
        reply = self.failureResultOf(Deferred.fromCoroutine(finder.find(nexthop)), MailError).value.reply
        return reply.code, reply.enhanced


class MxTests(Case):
    """What DNS says, and where mail goes."""

    def test_by_preference(self) -> None:
        finder = self.finder(
            {"d.example": {"MX": ["20 b.example.", "10 a.example."]}, "a.example": {"A": [A]}, "b.example": {"A": [B]}}
        )
        self.assertEqual(self.find("d.example", finder), [f"a.example[{A}]:25", f"b.example[{B}]:25"])

    def test_authentic(self) -> None:
        """RFC 8689 §4.2.1: what nobody but the operator, the sender and DNSSEC has a hand in."""
        finder = self.finder(
            {
                "signed.example": {"MX": ["10 a.example."]},
                "plain.example": {"MX": ["10 a.example."]},
                "a.example": {"A": [A]},
            }
        )
        self.resolver.signed = {"signed.example"}
        for nexthop, authentic in (
            ("signed.example", True),
            ("plain.example", False),
            ("a.example", True),
            (f"[{A}]:25", True),
            ("[a.example]:25", True),
        ):
            self.assertEqual([one.authentic for one in self.hops(nexthop, finder).targets], [authentic], nexthop)

    def test_equal_ones_are_shuffled(self) -> None:
        records = {"d.example": {"MX": [f"10 m{n}.example." for n in range(4)] + ["5 first.example."]}}
        records |= {f"m{n}.example": {"A": [f"93.184.216.{n}"]} for n in range(4)} | {"first.example": {"A": [C]}}
        orders = [self.find("d.example", self.finder(records, seed)) for seed in range(40)]
        self.assertEqual({order[0] for order in orders}, {f"first.example[{C}]:25"})
        self.assertEqual({order[1] for order in orders}, {f"m{n}.example[93.184.216.{n}]:25" for n in range(4)})

    def test_no_mx(self) -> None:
        """The domain itself is the host."""
        self.assertEqual(self.find("d.example", self.finder({"d.example": {"A": [A]}})), [f"d.example[{A}]:25"])

    def test_no_mx_with_only_ipv6(self) -> None:
        self.assertEqual(self.find("d.example", self.finder({"d.example": {"AAAA": [SIX]}})), [f"d.example[{SIX}]:25"])

    def test_mx_but_no_fallback_to_the_domain(self) -> None:
        """RFC 5321 §5.1: where there are MX records, the domain's own address is not used."""
        finder = self.finder({"d.example": {"MX": ["10 gone.example."], "A": [A]}})
        self.assertEqual(self.refused("d.example", finder), (550, "5.4.4"))

    def test_neither(self) -> None:
        self.assertEqual(self.refused("d.example", self.finder({"d.example": {"TXT": ["x"]}})), (550, "5.4.4"))

    def test_no_such_domain(self) -> None:
        self.assertEqual(self.refused("d.example", self.finder({})), (550, "5.1.2"))

    def test_null_mx(self) -> None:
        """RFC 7505 §3 and §4.2."""
        finder = self.finder({"d.example": {"MX": ["0 ."], "A": [A]}})
        self.assertEqual(self.refused("d.example", finder), (556, "5.1.10"))

    def test_null_mx_among_others(self) -> None:
        """RFC 7505 §3: it must be alone; beside others it is left out."""
        finder = self.finder({"d.example": {"MX": ["0 .", "10 a.example."]}, "a.example": {"A": [A]}})
        self.assertEqual(self.find("d.example", finder), [f"a.example[{A}]:25"])

    def test_mx_lookup_fails(self) -> None:
        finder = self.finder({})
        self.resolver.temporary.add("d.example")
        self.assertEqual(self.refused("d.example", finder), (451, "4.4.3"))

    def test_address_lookup_fails(self) -> None:
        """While one host may yet be found nothing bounces."""
        finder = self.finder({"d.example": {"MX": ["10 a.example.", "20 gone.example."]}})
        self.resolver.temporary.add("a.example")
        self.assertEqual(self.refused("d.example", finder), (451, "4.4.3"))

    def test_address_lookup_fails_for_one(self) -> None:
        finder = self.finder({"d.example": {"MX": ["10 a.example.", "20 b.example."]}, "b.example": {"A": [B]}})
        self.resolver.temporary.add("a.example")
        self.assertEqual(self.find("d.example", finder), [f"b.example[{B}]:25"])

    def test_host_is_an_alias(self) -> None:
        """RFC 5321 §5.1 forbids it, and all follow it."""
        finder = self.finder(
            {"d.example": {"MX": ["10 a.example."]}, "a.example": {"CNAME": ["c.example."]}, "c.example": {"A": [C]}}
        )
        self.assertEqual(self.find("d.example", finder), [f"a.example[{C}]:25"])

    def test_both_families_in_turn(self) -> None:
        finder = self.finder({"d.example": {"A": [A], "AAAA": [SIX, "2606:2800:220:1::2"]}})
        families = [":" in target.address for target in self.hops("d.example", finder).targets]
        self.assertEqual(families, [True, False, True])

    def test_bounded(self) -> None:
        records = {"d.example": {"MX": [f"{n} m{n}.example." for n in range(100)]}}
        records |= {f"m{n}.example": {"A": [f"93.184.{n}.{k}" for k in range(5)]} for n in range(100)}
        targets = self.hops("d.example", self.finder(records)).targets
        self.assertEqual(len(targets), MAX_ADDRESSES)
        self.assertEqual(targets[0].host, "m0.example")
        self.assertEqual(len([name for name, kind in self.resolver.asked if kind == "A"]), MAX_HOSTS)

    def test_mx_is_an_address(self) -> None:
        """RFC 5321 §5.1: an MX names a host; a number is none, whatever the root's servers say about it."""
        finder = self.finder({"d.example": {"MX": [f"10 {A}."]}, A: {"A": [A]}})
        self.assertEqual(self.refused("d.example", finder), (550, "5.4.4"))

    def test_mx_is_no_host_name(self) -> None:
        for host in ("-.example", "a-.example", "a/b", "\\010.example", "a\\.b.example"):
            finder = self.finder({"d.example": {"MX": [f"10 {host}."]}, host: {"A": [A]}})
            self.assertEqual(self.refused("d.example", finder), (550, "5.4.4"), host)


class SelfTests(Case):
    """We ourselves in the list, RFC 5321 §5.1."""

    RECORDS: Mapping[str, Mapping[str, Sequence[str]]] = {
        "d.example": {"MX": ["10 a.example.", "20 mta.isp.example.", "20 b.example.", "30 c.example."]},
        "a.example": {"A": [A]},
        "b.example": {"A": [B]},
        "c.example": {"A": [C]},
        "mta.isp.example": {"A": ["93.184.216.9"]},
    }

    def test_by_name(self) -> None:
        self.assertEqual(self.find("d.example", self.finder(self.RECORDS)), [f"a.example[{A}]:25"])

    def test_by_relay_hostname(self) -> None:
        finder = self.finder(self.RECORDS, hostname="b.example")
        self.assertEqual(self.find("d.example", finder), [f"a.example[{A}]:25"])

    def test_first(self) -> None:
        records = dict(self.RECORDS) | {"d.example": {"MX": ["10 MTA.isp.example.", "20 b.example."]}}
        self.assertEqual(self.refused("d.example", self.finder(records)), (554, "5.4.6"))

    def test_without_mx(self) -> None:
        self.assertEqual(self.refused("mta.isp.example", self.finder(self.RECORDS)), (554, "5.4.6"))

    def listening(self, *listeners: Listener) -> NextHops:
        finder = self.finder(self.RECORDS, own=[B])
        finder.reconfigure(
            Settings(hostname="x.example", listen={str(number): one for number, one in enumerate(listeners)})
        )
        return finder

    def test_by_address(self) -> None:
        finder = self.listening(Listener(address=(B,), port=25))
        self.assertEqual(len(self.find("d.example", finder)), 1)

    def test_by_address_of_all(self) -> None:
        finder = self.listening(Listener(address=("0.0.0.0",), port=25))
        self.assertEqual(len(self.find("d.example", finder)), 1)

    def test_other_port_is_somebody_else(self) -> None:
        finder = self.listening(Listener(address=(B, "0.0.0.0"), port=2525))
        self.assertEqual(len(self.find("d.example", finder)), 4)

    def test_literal(self) -> None:
        self.assertEqual(
            self.refused(f"[{B}]:25", self.listening(Listener(address=("0.0.0.0",), port=25))), (554, "5.4.6")
        )

    def test_own_address(self) -> None:
        self.assertTrue(is_own_address("127.0.0.1"))
        self.assertFalse(is_own_address("192.0.2.1"))


class PrivateTests(Case):
    """A stranger's DNS that points into our network."""

    def test_loopback(self) -> None:
        for address in (
            "127.0.0.1",
            "10.1.2.3",
            "192.168.1.1",
            "172.16.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
        ):
            finder = self.finder({"d.example": {"MX": ["10 a.example."]}, "a.example": {"A": [address]}})
            self.assertEqual(self.refused("d.example", finder), (550, "5.4.4"), address)

    def test_ipv6(self) -> None:
        for address in (
            "::1",
            "fe80::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::1",
            "::",
            "ff02::1",
        ):
            finder = self.finder({"d.example": {"AAAA": [address]}})
            self.assertEqual(self.refused("d.example", finder), (550, "5.4.4"), address)

    def test_localhost(self) -> None:
        finder = self.finder({"d.example": {"MX": ["10 localhost."]}, "localhost": {"A": ["127.0.0.1"]}})
        self.assertEqual(self.refused("d.example", finder), (550, "5.4.4"))

    def test_public_one_beside_it(self) -> None:
        finder = self.finder({"d.example": {"A": ["127.0.0.1", A]}})
        self.assertEqual(self.find("d.example", finder), [f"d.example[{A}]:25"])

    def test_private_one_while_another_cannot_be_looked_up(self) -> None:
        finder = self.finder(
            {"d.example": {"MX": ["10 a.example.", "20 b.example."]}, "a.example": {"A": ["10.0.0.1"]}}
        )
        self.resolver.temporary.add("b.example")
        self.assertEqual(self.refused("d.example", finder), (451, "4.4.3"))

    def test_allowed_by_the_operator(self) -> None:
        finder = self.finder({"d.example": {"A": ["127.0.0.1"]}}, private_addresses=True)
        self.assertEqual(self.find("d.example", finder), ["d.example[127.0.0.1]:25"])

    def test_unspecified_never(self) -> None:
        finder = self.finder({"d.example": {"A": ["0.0.0.0"], "AAAA": ["::"]}}, private_addresses=True)
        self.assertEqual(self.refused("d.example", finder), (550, "5.4.4"))

    def test_predicates(self) -> None:
        self.assertTrue(is_public(A) and is_public(SIX) and is_public("64:ff9b::5db8:d801"))
        self.assertFalse(is_possible("255.255.255.255") or is_possible("::ffff:0.0.0.0"))


class BracketTests(Case):
    """Smarthosts and address literals."""

    def test_smarthost(self) -> None:
        finder = self.finder(
            {"relay.example": {"A": ["10.0.0.1"], "MX": ["10 no.example."]}}, smarthost="relay.example:587"
        )
        hops = self.hops("[relay.example]:587", finder)
        self.assertEqual(hops, Hops((Target("relay.example", "10.0.0.1", 587),), fixed=True))

    def test_smarthost_by_address(self) -> None:
        finder = self.finder({}, smarthost="127.0.0.1:2526")
        self.assertEqual(self.find("[127.0.0.1]:2526", finder), ["127.0.0.1[127.0.0.1]:2526"])

    def test_smarthost_by_ipv6_address(self) -> None:
        finder = self.finder({}, smarthost="[::1]:2526")
        self.assertEqual(self.find("[::1]:2526", finder), ["::1[::1]:2526"])

    def test_unknown_smarthost_is_not_for_bouncing(self) -> None:
        self.assertEqual(self.refused("[relay.example]:587", self.finder({})), (451, "4.3.5"))

    def test_literal(self) -> None:
        for nexthop in (f"[{A}]:25", f"[{A}]"):
            hops = self.hops(nexthop, self.finder({}))
            self.assertEqual(hops, Hops((Target(A, A, 25),)))

    def test_ipv6_literal(self) -> None:
        self.assertEqual(self.find(f"[IPv6:{SIX}]", self.finder({})), [f"{SIX}[{SIX}]:25"])

    def test_private_literal(self) -> None:
        """user@[127.0.0.1] gives nobody a way to what listens here."""
        for nexthop in ("[127.0.0.1]:25", "[::1]:25", "[10.0.0.1]"):
            self.assertEqual(self.refused(nexthop, self.finder({})), (550, "5.4.4"))
