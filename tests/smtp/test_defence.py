"""What a session does to strangers."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.smtp.world import World, codes
from twisted_mta.policy.interfaces import Policy

GONE = Failure(ConnectionDone())


class Strange(Policy):
    """All are strangers."""

    async def connect(self, peer: Any) -> None:
        peer.stranger = True


class TarpitTests(SynchronousTestCase):
    """A stranger's refused commands."""

    def test_pauses_grow(self) -> None:
        world = World(stages=[Strange()], errors=14)
        client = world.session()
        client.read()
        self.assertEqual(client.codes(*["FOO"] * 10), [500] * 10)
        for seconds in (1, 2, 4):
            self.assertEqual(client.codes("FOO"), [500], "said at once")
            self.assertEqual(client.codes("NOOP"), [])
            world.clock.advance(seconds - 0.1)
            self.assertEqual(client.read(), b"")
            world.clock.advance(0.2)
            self.assertEqual(codes(client.read()), [250])
        self.assertEqual(client.codes("FOO"), [500])
        world.clock.advance(8)
        self.assertEqual(client.codes("FOO"), [421])
        self.assertTrue(client.transport.disconnecting)

    def test_a_client_that_goes_leaves_nothing_waiting(self) -> None:
        world = World(stages=[Strange()])
        client = world.session()
        client.say(*["FOO"] * 11)
        client.server.connectionLost(GONE)
        self.assertEqual(world.clock.getDelayedCalls(), [])

    def test_others_do_not_wait(self) -> None:
        client = World().session()
        client.read()
        self.assertEqual(client.codes(*["FOO"] * 15, "NOOP"), [500] * 15 + [250])


class Waits(Policy):
    """Greets when the test says so."""

    def __init__(self, stranger: bool = True) -> None:
        self.stranger = stranger
        self.greet: Deferred[None] = Deferred()

    async def connect(self, peer: Any) -> None:
        peer.stranger = self.stranger
        await self.greet


class EarlyTalkerTests(SynchronousTestCase):
    """Who speaks before the greeting (RFC 5321 §4.3.1)."""

    def after(self, said: bytes, wait: Waits, role: str = "mx") -> bytes:
        client = World(role, stages=[wait]).session()
        client.server.dataReceived(said)
        wait.greet.callback(None)
        return client.read()

    def test_a_stranger_is_turned_away(self) -> None:
        for said in (b"EHLO far.example\r\n", b"E", b"\r\n"):
            self.assertTrue(self.after(said, Waits()).startswith(b"554 5.5.1 You spoke before"), said)
            self.assertNotIn(b"250", self.after(said, Waits()))

    def test_who_waits_is_greeted(self) -> None:
        self.assertEqual(codes(self.after(b"", Waits())), [220])

    def test_others_may(self) -> None:
        self.assertEqual(codes(self.after(b"EHLO far.example\r\n", Waits(stranger=False))), [220, 250])
        self.assertEqual(codes(self.after(b"EHLO far.example\r\n", Waits(), "submission")), [220, 250])
