"""When there are too many: who is turned away, who has to go, and who has to be quick."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.smtp.world import Client, World, account, codes
from twisted_mta.config.settings import Relay
from twisted_mta.mail.events import Disconnected
from twisted_mta.policy.interfaces import Policy
from twisted_mta.smtp.factory import MtaServerFactory

GONE = Failure(ConnectionDone())
FRIEND = "198.51.100.7"


class Strange(Policy):
    """All but one are strangers."""

    async def connect(self, peer: Any) -> None:
        peer.stranger = peer.address != FRIEND


class Case(SynchronousTestCase):
    def world(self, **smtp: Any) -> World:
        world = World(stages=[Strange()], **smtp)
        settings = attrs.evolve(world.settings, relay=Relay(networks=(f"{FRIEND}/32",)))
        world.factory.configure(settings, world.factory.pipeline)
        return world

    def open(self, world: World, address: str = "192.0.2.7") -> Client:
        client = world.session(address)
        client.read()
        return client


class SheddingTests(Case):
    def test_the_newest_stranger_goes_for_a_customer(self) -> None:
        world = self.world(connections=3)
        old, friend, new = self.open(world), self.open(world, FRIEND), self.open(world)
        customer = world.session(FRIEND)
        self.assertEqual(codes(customer.read()), [220])
        self.assertEqual([codes(one.read()) for one in (old, friend, new)], [[], [], [421]])
        self.assertTrue(new.transport.disconnecting)
        new.server.connectionLost(GONE)
        self.assertEqual(world.of(Disconnected)[0].reason, "overload")

    def test_a_submission_listener_is_for_customers(self) -> None:
        world = self.world(connections=1)
        stranger = self.open(world)
        other = World("submission", stages=[Strange()])
        other.factory.sessions = world.sessions
        customer = other.session()
        self.assertEqual((codes(customer.read()), codes(stranger.read())), ([220], [421]))

    def test_nobody_goes_for_a_stranger(self) -> None:
        world = self.world(connections=1)
        first, second = self.open(world), world.session()
        self.assertEqual((codes(first.read()), codes(second.read())), ([], [421]))

    def test_nobody_with_a_message_under_way_goes(self) -> None:
        world = self.world(connections=1)
        sending = self.open(world)
        sending.codes("EHLO far.example", "MAIL FROM:<joe@far.example>", "RCPT TO:<ann@isp.example>", "DATA")
        self.assertEqual(codes(world.session(FRIEND).read()), [421])
        sending.server.dataReceived(b"Subject: x\r\n\r\nx\r\n.\r\n")
        self.assertEqual(codes(sending.read()), [250])

    def test_users_never_go(self) -> None:
        world = self.world(connections=1)
        user = self.open(world)
        user.server.peer.account = account()
        self.assertEqual(codes(world.session(FRIEND).read()), [421])
        self.assertEqual(user.read(), b"")

    def test_who_has_to_go_once_does_not_have_to_twice(self) -> None:
        world = self.world(connections=2)
        one, two = self.open(world), self.open(world)
        self.assertEqual(codes(world.session(FRIEND).read()), [220])
        self.assertEqual(codes(world.session(FRIEND).read()), [220])
        self.assertEqual([codes(each.read()) for each in (one, two)], [[421], [421]])
        self.assertEqual(codes(world.session(FRIEND).read()), [421])

    def test_file_descriptors(self) -> None:
        world = self.world()
        world.sessions._descriptors = 768
        self.assertTrue(world.factory.has_room("192.0.2.7", 767))
        self.assertTrue(world.factory.has_room("192.0.2.7", -1))
        self.assertFalse(world.factory.has_room("192.0.2.7", 768))
        stranger = self.open(world)
        self.assertTrue(world.factory.has_room(FRIEND, 768))
        self.assertEqual(codes(stranger.read()), [421])

    def test_the_systems_limit_leaves_something_for_deliveries(self) -> None:
        for soft, expected in ((1024, 768), (100, 75), (10000, 9744), (-1, 1 << 62)):
            self.patch(__import__("resource"), "getrlimit", lambda _, soft=soft: (soft, soft))
            self.assertEqual(self.world().sessions._descriptors, expected)


class PatienceTests(Case):
    """Time-outs shrink for strangers when there is little room."""

    def crowd(self, **smtp: Any) -> tuple[World, Client, Client, Client]:
        """Four of five sessions are open and a fifth comes."""
        world = self.world(connections=5, **smtp)
        stranger, friend, user = self.open(world), self.open(world, FRIEND), self.open(world)
        user.server.peer.account = account()
        self.open(world, FRIEND)
        return world, stranger, friend, user

    def test_strangers_must_be_quick(self) -> None:
        world, stranger, friend, user = self.crowd()
        world.clock.advance(60)
        self.assertEqual(stranger.read(), b"", "four fifths are not too many")
        self.open(world, FRIEND)
        world.clock.pump([1.0] * 2)
        self.assertEqual([codes(one.read()) for one in (stranger, friend, user)], [[421], [], []])

    def test_the_quick_ones_stay(self) -> None:
        world, stranger, _, _ = self.crowd()
        self.open(world, FRIEND)
        for _ in range(10):
            world.clock.pump([1.0] * 9)
            self.assertEqual(stranger.codes("NOOP"), [250])
        world.clock.pump([1.0] * 12)
        self.assertEqual(codes(stranger.read()), [421])

    def test_handshakes_too(self) -> None:
        world, stranger, _, _ = self.crowd()
        self.open(world, FRIEND)
        stranger.server.peer.secure = True
        stranger.server.deadline = world.clock.seconds() + 60
        world.clock.pump([1.0] * 9)
        self.assertEqual(stranger.read(), b"")
        world.clock.pump([1.0] * 2)
        self.assertEqual(codes(stranger.read()), [421])

    def test_it_is_a_setting(self) -> None:
        world, stranger, _, _ = self.crowd(overload_timeout=100.0)
        self.open(world, FRIEND)
        world.clock.pump([1.0] * 98)
        self.assertEqual(stranger.read(), b"")
        world.clock.pump([1.0] * 4)
        self.assertEqual(codes(stranger.read()), [421])
        self.assertIsInstance(world.factory, MtaServerFactory)
