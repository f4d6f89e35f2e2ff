"""The gate before a listener: who passes, what the others hear, and what is told of them."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tests.smtp.world import HOSTNAME, World
from twisted_mta.config.settings import Defence, Relay
from twisted_mta.mail.events import Overloaded
from twisted_mta.smtp.gate import Gate

FRIEND, MONITOR, PROXY, STRANGER = "198.51.100.7", "203.0.113.9", "198.51.100.8", "192.0.2.7"


class GateTests(SynchronousTestCase):
    def gate(self, role: str = "mx", listener: dict[str, Any] | None = None, **smtp: Any) -> Gate:
        self.world = World(role)
        settings = attrs.evolve(
            self.world.settings,
            smtp=attrs.evolve(self.world.settings.smtp, **smtp),
            relay=Relay(networks=("198.51.100.0/24",)),
            defence=Defence(exempt=(f"{MONITOR}/32",)),
        )
        factory = self.world.factory
        factory.listener = attrs.evolve(factory.listener, **(listener or {}))
        factory.gate = Gate(factory)
        factory.configure(settings, factory.pipeline)
        return factory.gate

    def told(self) -> list[Overloaded]:
        found: list[Overloaded] = self.world.of(Overloaded)
        return found

    def test_who_passes(self) -> None:
        """Of those who have waited for two seconds, where strangers may wait for one."""
        cases: list[tuple[str, dict[str, Any], str, bool]] = [
            ("mx", {}, STRANGER, 0.0),
            ("mx", {}, FRIEND, True),
            ("mx", {}, MONITOR, True),
            ("mx", {}, f"::ffff:{FRIEND}", True),
            ("mx", {}, "fe80::1%eth0", False),
            ("submission", {}, STRANGER, 1.0),
            ("lmtp", {}, STRANGER, 1.0),
            # Whom a proxy speaks for is not known yet.
            ("mx", {"proxies": (f"{PROXY}/32",)}, PROXY, False),
            ("submission", {"proxies": (f"{PROXY}/32",)}, PROXY, False),
            ("mx", {"proxies": (f"{PROXY}/32",)}, FRIEND, True),
        ]
        for role, listener, address, expected in cases:
            gate = self.gate(role, listener)
            self.assertEqual(gate.admits(100.0, 2.0, address, 0.0), expected, (role, listener, address))
            self.assertFalse(gate.admits(100.0, 4.0, address, 0.0))

    def test_words(self) -> None:
        self.assertRegex(self.gate().words, rb"^421 4\.3\.2 " + HOSTNAME.encode() + rb" Too busy [^\r\n]*\r\n$")

    def test_nothing_is_said_before_a_handshake(self) -> None:
        self.assertEqual(self.gate(listener={"tls": "implicit"}).words, b"")

    def test_settings(self) -> None:
        self.assertFalse(self.gate().admits(100.0, 1.5, STRANGER, 0.0))
        self.assertTrue(self.gate(accept_wait=2.0).admits(100.0, 1.5, STRANGER, 0.0))
        self.assertTrue(self.gate(accept_wait=0.0).admits(100.0, 99.0, STRANGER, 1.0))
        gate = self.gate(accept_wait=2.0)
        factory = self.world.factory
        smtp = attrs.evolve(factory.settings.smtp, accept_wait=1.0)
        factory.configure(attrs.evolve(factory.settings, smtp=smtp), factory.pipeline)
        self.assertFalse(gate.admits(100.0, 1.5, STRANGER, 0.0), "a reload")

    def test_one_event_a_second(self) -> None:
        gate = self.gate()
        pressed: list[int] = []
        gate.pressed = lambda: pressed.append(gate.refused)
        for number in range(50):
            gate.admits(100.0, 1.5 + number / 100, f"192.0.2.{min(number, 9)}", 0.0)
        self.assertEqual((gate.refused, len(pressed), self.told()), (50, 1, []))
        self.assertEqual(gate.last, self.world.clock.seconds())
        self.world.clock.advance(1.0)
        (event,) = self.told()
        self.assertEqual((event.listener, event.refused, event.waited), (self.world.factory.name, 50, 1.99))
        self.assertEqual((len(event.clients), event.clients["192.0.2.9"]), (5, 41))
        self.world.clock.advance(5.0)
        self.assertEqual(len(self.told()), 1, "nothing more is to be told")
        gate.admits(200.0, 2.0, STRANGER, 0.0)
        self.world.clock.advance(1.0)
        self.assertEqual([(one.refused, one.clients) for one in self.told()[1:]], [(1, {STRANGER: 1})])
        self.assertEqual(gate.last, event.time + 6.0)

    def test_when_there_is_no_time_for_all(self) -> None:
        """Told once for each turn, be somebody refused or not; not of who has hardly waited."""
        gate = self.gate()
        pressed: list[int] = []
        gate.pressed = lambda: pressed.append(1)
        cases = [(100.0, 0.2, 0), (100.0, 0.3, 1), (100.0, 2.0, 1), (101.0, 0.5, 2), (102.0, 0.1, 2)]
        for now, waited, expected in cases:
            gate.admits(now, waited, STRANGER, 0.0)
            self.assertEqual(len(pressed), expected, (now, waited))

    def test_memory_is_bounded(self) -> None:
        gate = self.gate()
        for number in range(3000):
            gate.admits(100.0, 2.0, f"192.0.{number // 256}.{number % 256}", 0.0)
        self.assertEqual(len(gate._clients), 1000)
        self.assertEqual(gate.refused, 3000)
