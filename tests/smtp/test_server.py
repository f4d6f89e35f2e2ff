"""Sessions: the greeting, the order of commands, refusals."""

from __future__ import annotations

from twisted.mail.smtp import ESMTP, SMTPFactory
from twisted.trial.unittest import SynchronousTestCase

from tests.smtp.world import GONE, HELLO, MAIL, NOW, RCPT, Says, Waits, World, codes
from twisted_mta.mail.events import Accepted, Connected, Disconnected, Rejected
from twisted_mta.mail.status import MailError, Reply


class GreetingTests(SynchronousTestCase):
    def test_is_twisteds(self) -> None:
        world = World()
        self.assertIsInstance(world.factory, SMTPFactory)
        self.assertIsInstance(world.session().server, ESMTP)

    def test_banner(self) -> None:
        self.assertEqual(World(banner="no relay").session().read(), b"220 mx.isp.example no relay\r\n")

    def test_extensions(self) -> None:
        client = World(message_bytes=1234).session()
        client.read()
        self.assertEqual(
            client.say(HELLO).split(b"\r\n"),
            [
                b"250-mx.isp.example",
                b"250-PIPELINING",
                b"250-SIZE 1234",
                b"250-8BITMIME",
                b"250-ENHANCEDSTATUSCODES",
                b"250-DSN",
                b"250-CHUNKING",
                b"250-BINARYMIME",
                b"250-SMTPUTF8",
                b"250-HELP",
                b"250-LIMITS RCPTMAX=1000",
                b"250-DELIVERBY",
                b"250 MT-PRIORITY MIXER",
                b"",
            ],
        )
        self.assertEqual(client.say("HELO far.example"), b"250 mx.isp.example\r\n")

    def test_policy_refuses_the_connection(self) -> None:
        world = World(stages=[Says("connect", Reply(554, "5.7.1", "Not you"))])
        client = world.session()
        self.assertEqual(client.read(), b"554 5.7.1 Not you\r\n")
        self.assertFalse(client.transport.disconnecting)
        self.assertEqual(codes(client.say("EHLO far.example")), [503])
        self.assertEqual(codes(client.say("QUIT")), [221])
        self.assertTrue(client.transport.disconnecting)
        self.assertEqual(world.of(Rejected)[0].stage, "connect")
        client.server.connectionLost(GONE)
        self.assertEqual(world.of(Disconnected)[0].reason, "refused")

    def test_policy_takes_its_time(self) -> None:
        wait = Waits("connect")
        client = World(stages=[wait]).session()
        client.server.dataReceived(b"EHLO far.example\r\n")
        self.assertEqual(client.read(), b"")
        wait.waiting[0].callback(None)
        self.assertEqual(codes(client.read()), [220, 250])

    def test_too_many_sessions(self) -> None:
        world = World(connections=2)
        first, second, third = (world.session() for _ in range(3))
        self.assertEqual([codes(one.read()) for one in (first, second, third)], [[220], [220], [421]])
        self.assertTrue(third.transport.disconnecting)
        for one in (third, first):
            one.server.connectionLost(GONE)
        self.assertEqual(codes(world.session().read()), [220])

    def test_addresses(self) -> None:
        world = World()
        for address in ("192.0.2.7", "::ffff:192.0.2.7"):
            world.session(address)
        world.session("2001:db8::7%eth0")
        self.assertEqual([event.client for event in world.of(Connected)], ["192.0.2.7", "192.0.2.7", "2001:db8::7"])


class OrderTests(SynchronousTestCase):
    """Replies in order, and one write for a group (RFC 2920)."""

    def test_group_in_one_write(self) -> None:
        client = World().session()
        client.say(HELLO)
        client.transport.writes = 0
        self.assertEqual(client.codes(MAIL, RCPT, "RCPT TO:<bob@isp.example>", "DATA"), [250, 250, 250, 354])
        self.assertEqual(client.transport.writes, 1)

    def test_commands_behind_the_content(self) -> None:
        client = World().session()
        client.say(HELLO, MAIL, RCPT, "DATA")
        client.transport.writes = 0
        client.server.dataReceived(b"A: b\r\n\r\nc\r\n.\r\nNOOP\r\n" + MAIL.encode() + b"\r\nQUIT\r\n")
        self.assertEqual(codes(client.read()), [250, 250, 250, 221])
        self.assertEqual(client.transport.writes, 1)
        self.assertTrue(client.transport.disconnecting)

    def test_nothing_overtakes_a_policy_that_waits(self) -> None:
        wait = Waits("mail", "rcpt", "data")
        world = World(stages=[wait])
        client = world.session()
        client.say(HELLO)
        self.assertEqual(client.say(MAIL, RCPT, "RCPT TO:<bob@isp.example>", "DATA", "NOOP"), b"")
        for reply, expected in ((None, 250), (Reply(450, "4.7.1", "Greylisted"), 450), (None, 250)):
            self.assertEqual(len(wait.waiting), 1)
            wait.waiting.pop().callback(reply)
            self.assertEqual(codes(client.read()), [expected])
        wait.waiting.pop().callback(Reply(550, "5.7.1", "No"))
        self.assertEqual(codes(client.read()), [550, 250])

    def test_a_directory_that_waits(self) -> None:
        world = World()
        client = world.session()
        client.say(HELLO)
        world.directory.slow = True
        self.assertEqual(client.codes(MAIL, RCPT, "NOOP"), [250])
        world.directory.waiting.pop().callback(None)
        self.assertEqual(codes(client.read()), [250, 250])

    def test_commit_that_waits(self) -> None:
        world = World()
        world.store.slow_commit = True
        client = world.session()
        client.say(HELLO, MAIL, RCPT, "DATA")
        client.server.dataReceived(b"A: b\r\n\r\nc\r\n.\r\nNOOP\r\n")
        self.assertEqual(client.read(), b"")
        self.assertEqual(world.of(Accepted), [])
        world.store.commits.pop().callback(None)
        self.assertEqual(codes(client.read()), [250, 250])
        self.assertEqual(len(world.of(Accepted)), 1)

    def test_data_without_recipients(self) -> None:
        client = World().session()
        self.assertEqual(client.codes(HELLO, MAIL, "RCPT TO:<nobody@isp.example>", "DATA")[1:], [250, 250, 550, 554])


class RefusalTests(SynchronousTestCase):
    def test_policies(self) -> None:
        for hook, before, line, stage in (
            ("helo", (), HELLO, "helo"),
            ("mail", (HELLO,), MAIL, "mail"),
            ("rcpt", (HELLO, MAIL), RCPT, "rcpt"),
            ("data", (HELLO, MAIL, RCPT), "DATA", "data"),
        ):
            world = World(stages=[Says(hook, Reply(550, "5.7.1", "No"))])
            client = world.session()
            client.say(*before)
            self.assertEqual(client.say(line), b"550 5.7.1 No\r\n")
            (event,) = world.of(Rejected)
            self.assertEqual((event.stage, event.reply), (stage, "550 5.7.1 No"))
            self.assertFalse(client.transport.disconnecting)

    def test_content_policy(self) -> None:
        world = World(stages=[Says("content", Reply(550, "5.7.1", "No such words"))])
        client = world.session()
        client.say(HELLO)
        self.assertEqual(client.send(b"A: b\r\n\r\nc"), b"550 5.7.1 No such words\r\n")
        self.assertEqual(world.store.begun[0].aborted, 1)
        (event,) = world.of(Rejected)
        self.assertEqual((event.stage, event.sender), ("content", "joe@far.example"))

    def test_content_policy_that_waits_holds_the_body(self) -> None:
        wait = Waits("content")
        world = World(stages=[wait])
        client = world.session()
        client.say(HELLO, MAIL, RCPT, "DATA")
        client.server.dataReceived(b"A: b\r\n\r\nfirst\r\n")
        client.server.dataReceived(b"second\r\n.\r\nNOOP\r\n")
        self.assertEqual((world.store.begun[0].data, client.read()), (b"", b""))
        wait.waiting.pop().callback(None)
        self.assertEqual(codes(client.read()), [250, 250])
        self.assertTrue(world.store.messages[0][1].endswith(b"A: b\r\n\r\nfirst\r\nsecond\r\n"))

    def test_421_of_a_policy_closes(self) -> None:
        world = World(stages=[Says("mail", Reply(421, "4.7.0", "Go away"))])
        client = world.session()
        client.say(HELLO)
        self.assertEqual(client.codes(MAIL, "NOOP"), [421])
        self.assertTrue(client.transport.disconnecting)

    def test_fault_of_a_policy_is_temporary(self) -> None:
        client = World(stages=[Says("mail", ZeroDivisionError())]).session()
        client.say(HELLO)
        self.assertEqual(client.codes(MAIL, "NOOP"), [451, 250])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_directory_that_is_down(self) -> None:
        world = World()
        world.directory.failure = MailError(Reply(451, "4.3.0", "The directory is down"))
        client = world.session()
        client.say(HELLO)
        self.assertEqual(client.codes(MAIL, RCPT), [250, 451])

    def test_relaying(self) -> None:
        """Without any stage at all nothing is relayed; who may is told by the same rule as in the access stage."""
        world = World()
        client = world.session()
        client.say(HELLO, MAIL)
        for path, code in (
            ("joe@other.example", 550),
            ("joe%other.example@isp.example", 550),
            ("other.example!joe@isp.example", 550),
            ('"joe@other.example"@isp.example', 550),
            ("@isp.example:joe@other.example", 550),
            ("joe@other.example@isp.example", 501),
            ("joe", 501),
            ("nobody@isp.example", 550),
            ("@other.example:ann@isp.example", 250),
            ("ANN@ISP.EXAMPLE", 250),
            ("postmaster", 250),
        ):
            self.assertEqual(client.codes(f"RCPT TO:<{path}>"), [code], path)
        client.server.peer.relaying = True
        self.assertEqual(client.codes("RCPT TO:<joe@other.example>"), [250])
        self.assertEqual(client.codes("RCPT TO:<@isp.example:joe@other.example>"), [550])


class HelpTests(SynchronousTestCase):
    def test_small_commands(self) -> None:
        client = World().session()
        client.read()
        self.assertEqual(
            client.codes("NOOP x", "HELP", "HELP MAIL", "VRFY ann", "EXPN list", "RSET", "TURN", "STARTTLS"),
            [250, 214, 214, 252, 502, 250, 500, 503],
        )
        self.assertEqual(client.codes(HELLO, "STARTTLS", "AUTH PLAIN"), [250, 502, 503])

    def test_time_is_the_clocks(self) -> None:
        world = World()
        world.session()
        self.assertEqual(world.of(Connected)[0].time, NOW)
