"""Memory that runs short in a session: the client hears so, and nothing is taken for what it is not."""

from __future__ import annotations

from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from tests.smtp.world import World, codes
from twisted_mta.mail.events import Accepted
from twisted_mta.policy.interfaces import Policy
from twisted_mta.wire.server import ServerConnection

BEGUN = ("EHLO far.example", "MAIL FROM:<far@far.example>", "RCPT TO:<ann@isp.example>", "DATA")
CONTENT = b"A: b\r\n\r\nc\r\n.\r\n"


class Greedy(Policy):
    """Wants more than there is, of whom RCPT names."""

    async def rcpt(self, peer: Any, transaction: Any, recipient: str, resolution: Any) -> None:
        raise MemoryError


class MemoryTests(SynchronousTestCase):
    def test_for_a_command(self) -> None:
        """452, and the session goes on."""
        client = World(stages=[Greedy()]).session()
        client.say(BEGUN[0])
        self.assertEqual(client.codes(BEGUN[1], BEGUN[2], "NOOP"), [250, 452, 250])

    def test_at_the_end_of_a_message(self) -> None:
        world = World()
        world.store.failure = MemoryError()  # type: ignore[assignment]
        client = world.session()
        client.say(*BEGUN)
        client.server.dataReceived(CONTENT)
        self.assertEqual(codes(client.read()), [452])
        self.assertEqual(world.of(Accepted), [])

    def test_for_what_is_said(self) -> None:
        """421 and the end, in whatever state the session is."""
        for said in range(len(BEGUN) + 1):
            world = World()
            client = world.session()
            client.read()
            for line in BEGUN[:said]:
                client.codes(line)
            with mock.patch.object(ServerConnection, "receive", side_effect=MemoryError):
                client.server.dataReceived(b"NOOP\r\n")
            self.assertEqual(codes(client.read()), [421], said)
            self.assertTrue(client.transport.disconnecting)
            client.server.dataReceived(CONTENT)
            self.assertEqual((client.read(), world.store.messages), (b"", []))

    def test_behind_a_message_that_is_being_committed(self) -> None:
        """It is acknowledged, for it is safe; what comes behind the gap is never heard."""
        world = World()
        world.store.slow_commit = True
        client = world.session()
        client.say(*BEGUN)
        client.server.dataReceived(CONTENT)
        with mock.patch.object(ServerConnection, "receive", side_effect=MemoryError):
            client.server.dataReceived(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<ann@isp.example>\r\n")
        self.assertFalse(client.transport.disconnecting)
        self.assertEqual(client.transport.producerState, "paused")
        world.store.commits.pop().callback(None)
        self.assertEqual(codes(client.read()), [250])
        self.assertTrue(client.transport.disconnecting)
        self.assertEqual(len(world.of(Accepted)), 1)
