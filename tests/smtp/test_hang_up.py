"""A client ends its side of the connection, and still listens: Exim does so behind the QUIT that it pipelines."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.smtp.world import Waits, World, codes
from twisted_mta.mail.events import Accepted, Disconnected

BEGUN = ("EHLO far.example", "MAIL FROM:<far@far.example>", "RCPT TO:<ann@isp.example>")


class HangUpTests(SynchronousTestCase):
    """RFC 5321 §4.1.1.10: a connection that ends early cancels what is pending, and nothing that is complete."""

    def test_a_complete_message_is_answered(self) -> None:
        for line, content in (("DATA", b"A: b\r\n\r\nc\r\n.\r\n"), ("NOOP", b"BDAT 9 LAST\r\nA: b\r\n\r\nc")):
            for behind, wanted in ((b"QUIT\r\n", [250, 221]), (b"", [250]), (b"NOOP\r\nNOO", [250, 250])):
                world = World()
                world.store.slow_commit = True
                client = world.session()
                client.say(*BEGUN, line)
                client.server.dataReceived(content + behind)
                client.server.readConnectionLost()
                self.assertFalse(client.transport.disconnecting)
                world.store.commits.pop().callback(None)
                self.assertEqual(codes(client.read()), wanted)
                self.assertTrue(client.transport.disconnecting)
                self.assertEqual(len(world.of(Accepted)), 1)

    def test_what_was_pipelined_is_served(self) -> None:
        wait = Waits("mail")
        client = World(stages=[wait]).session()
        client.say(BEGUN[0])
        client.server.dataReceived("\r\n".join([*BEGUN[1:], "QUIT", ""]).encode())
        client.server.readConnectionLost()
        wait.waiting.pop().callback(None)
        self.assertEqual(codes(client.read()), [250, 250, 221])
        self.assertTrue(client.transport.disconnecting)

    def test_nobody_is_waited_for_with_nothing_under_way(self) -> None:
        for lines in ((), BEGUN[:1], BEGUN, (*BEGUN, "DATA")):
            world = World()
            client = world.session()
            client.say(*lines)
            client.server.dataReceived(b"half a lin")
            client.server.readConnectionLost()
            self.assertTrue(client.transport.disconnecting, lines)
            client.server.writeConnectionLost()
            self.assertEqual(world.store.messages, [])

    def test_nobody_is_waited_for_before_the_greeting(self) -> None:
        wait = Waits("connect")
        client = World(stages=[wait]).session()
        client.server.dataReceived(b"EHLO early.example\r\nMAIL FROM:<a@b.example>\r\n")
        client.server.readConnectionLost()
        self.assertTrue(client.transport.disconnecting)
        wait.waiting.pop().callback(None)
        self.assertEqual(client.read(), b"")

    def test_a_command_that_waits_alone_is_given_up(self) -> None:
        wait = Waits("mail")
        world = World(stages=[wait])
        client = world.session()
        client.say(*BEGUN[:2])
        client.server.readConnectionLost()
        self.assertTrue(client.transport.disconnecting)
        wait.waiting.pop().callback(None)
        self.assertEqual(client.read(), b"")
        self.assertEqual(world.of(Disconnected), [])
