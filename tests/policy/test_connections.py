"""Sessions at once from one address."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.directory.test_contract import now
from tests.policy.samples import code, peer
from twisted_mta.config.settings import Relay, Settings, Smtp
from twisted_mta.policy.connections import ConnectionPolicy
from twisted_mta.policy.interfaces import Peer
from twisted_mta.policy.network import Networks, parse_ip, site


def made(limit: int = 2, networks: tuple[str, ...] = ()) -> Settings:
    return attrs.evolve(Settings(), smtp=Smtp(connections_per_address=limit), relay=Relay(networks=networks))


class Connections(SynchronousTestCase):
    """connect and closed."""

    def setUp(self) -> None:
        self.policy = ConnectionPolicy(made())

    def connect(self, address: str) -> tuple[Peer, str]:
        one = peer(address)
        return one, code(self.policy.connect(one))

    def codes(self, *addresses: str) -> list[str]:
        return [self.connect(address)[1] for address in addresses]

    def test_sessions_in_other_processes_count(self) -> None:
        changed: list[str] = []
        self.policy.tally.changed = lambda key, count: changed.append(key)
        self.policy.tally.elsewhere("192.0.2.1", 1)
        first, _ = self.connect("192.0.2.1")
        self.assertEqual(self.codes("192.0.2.1"), ["421 4.7.0"])
        self.policy.tally.elsewhere("192.0.2.1", 0)
        self.assertEqual(self.codes("192.0.2.1"), ["250"])
        self.policy.closed(first)
        self.assertEqual((changed, self.policy.tally.own), (["192.0.2.1"] * 3, {"192.0.2.1": 1}))

    def test_limit(self) -> None:
        first, _ = self.connect("192.0.2.1")
        self.assertEqual(self.codes("192.0.2.1", "192.0.2.1", "192.0.2.2"), ["250", "421 4.7.0", "250"])
        self.policy.closed(first)
        self.assertEqual(self.codes("192.0.2.1", "192.0.2.1"), ["250", "421 4.7.0"])

    def test_ipv6_by_64(self) -> None:
        self.assertEqual(
            self.codes("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:0:1::1", "2001:db8:0:1::1"),
            ["250", "250", "421 4.7.0", "250"],
        )

    def test_ipv4_within_ipv6(self) -> None:
        self.assertEqual(self.codes("192.0.2.1", "::ffff:192.0.2.1", "::ffff:192.0.2.1"), ["250", "250", "421 4.7.0"])

    def test_refused_sessions_do_not_count(self) -> None:
        first, _ = self.connect("192.0.2.1")
        self.connect("192.0.2.1")
        for _ in range(5):
            refused, answer = self.connect("192.0.2.1")
            self.assertEqual(answer, "421 4.7.0")
            self.policy.closed(refused)
        self.policy.closed(first)
        self.assertEqual(self.codes("192.0.2.1", "192.0.2.1"), ["250", "421 4.7.0"])

    def test_exempt(self) -> None:
        self.policy.reconfigure(made(networks=("198.51.100.0/24", "2001:db8:5::/48")))
        for address in ("127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", "198.51.100.7", "2001:db8:5:6::7"):
            self.assertEqual(self.codes(*[address] * 5), ["250"] * 5, address)

    def test_relaying(self) -> None:
        for address, networks, expected in (
            ("127.0.0.1", (), False),
            ("::1", (), False),
            ("192.0.2.1", ("192.0.2.0/25",), True),
            ("192.0.2.200", ("192.0.2.0/25",), False),
            ("::ffff:192.0.2.1", ("192.0.2.0/25",), True),
            ("2001:db8::1", ("2001:db8::/32", "192.0.2.0/25"), True),
            ("no address", ("0.0.0.0/1",), False),
            ("", ("0.0.0.0/1",), False),
        ):
            self.policy.reconfigure(made(networks=networks))
            one, _ = self.connect(address)
            self.assertIs(one.relaying, expected, (address, networks))

    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=60))
    def test_nothing_is_kept_of_closed_sessions(self, steps: list[tuple[bool, int]]) -> None:
        policy = ConnectionPolicy(made())
        sessions: list[Peer] = []
        for opens, number in steps:
            if opens:
                one = peer(f"192.0.2.{number}")
                refused = now(policy.connect(one)) is not None
                open_now = [each for each in sessions if each.address == one.address]
                self.assertEqual(refused, len(open_now) >= 2)
                if refused:
                    policy.closed(one)
                else:
                    sessions.append(one)
            elif sessions:
                policy.closed(sessions.pop(number % len(sessions)))
        for one in sessions:
            policy.closed(one)
        self.assertEqual((policy.tally.own, policy._sites), ({}, {}))


class Addresses(SynchronousTestCase):
    """What addresses are counted as."""

    def test_site(self) -> None:
        for address, expected in (
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:0:0:1::1", "2001:db8::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("unix", "unix"),
        ):
            self.assertEqual(site(address), expected)

    def test_networks(self) -> None:
        with self.assertRaises(ValueError):
            Networks(["192.0.2.1/24"])
        self.assertNotIn(None, Networks(["192.0.2.0/24"]))
        self.assertNotIn(parse_ip("2001:db8::1"), Networks(["192.0.2.0/24"]))
