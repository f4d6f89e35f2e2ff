"""The harness itself: clients, other hosts, time, restarts, and that its books notice what is wrong."""

from __future__ import annotations

import itertools

import attrs
import msgspec
from twisted.trial.unittest import SynchronousTestCase

from tests.testing.world import ANNA, BERT, BOB, WorldCase, people
from twisted_mta.config import ConfigError
from twisted_mta.mail.events import Authenticated, AuthFailed, Connected, Deferred, Delivered, Disconnected, Done
from twisted_mta.mail.status import Reply
from twisted_mta.testing.accounting import Accounting, MessageBooks
from twisted_mta.testing.case import configured
from twisted_mta.testing.client import Refused
from twisted_mta.testing.server import TestServer


class ClientTests(WorldCase):
    """Clients in memory."""

    def test_replies(self) -> None:
        client = self.server.connect()
        self.assertEqual([reply.code for reply in client.replies], [220])
        replies = client.say("EHLO client.example", "MAIL FROM:<x@y.example>", f"RCPT TO:<{ANNA}>", "DATA")
        self.assertEqual([reply.code for reply in replies], [250, 250, 250, 354])
        self.assertEqual(client.send_raw(b"Subject: x\r\n\r\nHi\r\n.\r\n")[0].code, 250)
        self.assertEqual(client.ask("QUIT").code, 221)
        self.assertTrue(client.closed)
        self.assertEqual(self.server.told(Disconnected)[0].reason, "quit")

    def test_one_reply_is_asked_for(self) -> None:
        client = self.server.connect()
        with self.assertRaises(AssertionError):
            client.ask("NOOP\r\nNOOP")

    def test_address(self) -> None:
        self.server.connect(address="2001:db8::1")
        self.assertEqual(self.server.told(Connected)[0].client, "2001:db8::1")

    def test_dropped(self) -> None:
        client = self.server.connect()
        client.say("EHLO client.example", "MAIL FROM:<x@y.example>", f"RCPT TO:<{ANNA}>", "DATA", "Subject: half")
        client.drop()
        self.assertEqual(self.server.told(Disconnected)[0].reason, "lost")
        self.assertEqual(self.server.accounting(), Accounting())

    def test_refused(self) -> None:
        client = self.server.connect()
        with self.assertRaises(Refused) as caught:
            client.mail("x@y.example", BOB)
        self.assertEqual(caught.exception.command, f"RCPT TO:<{BOB}>")
        self.assertEqual(caught.exception.reply.enhanced, "5.7.1")
        self.assertTrue(client.mail("x@y.example", ANNA))  # the session goes on

    def test_content_is_made_fit_for_the_wire(self) -> None:
        self.server.send("x@y.example", ANNA, "Subject: x\n\n.\n..\nend")
        self.assertTrue(self.server.maildir(ANNA)[0].endswith(b"Subject: x\n\n.\n..\nend\n"))

    def test_login_over_starttls(self) -> None:
        client = self.server.connect("submission")
        client.ehlo()
        self.assertIn("STARTTLS", client.extensions)
        self.assertNotIn("AUTH", client.extensions)
        self.assertEqual(client.secure, "")
        client.starttls()
        self.assertIn("TLSv1.3", client.secure)
        client.ehlo()
        self.assertNotIn("STARTTLS", client.extensions)
        self.assertIn("PLAIN", client.extensions["AUTH"].split())
        self.assertEqual(client.login(ANNA, "secret").code, 235)
        told = self.server.told(Authenticated)[0]
        self.assertEqual((told.user, told.customer, told.mechanism), (ANNA, "acme", "PLAIN"))

    def test_login_over_implicit_tls(self) -> None:
        client = self.server.connect("submissions")
        self.assertIn("TLSv1.3", client.secure)
        self.assertEqual(client.replies[0].code, 220)
        client.mail(ANNA, BERT, auth=(ANNA, "secret"))
        self.assertEqual(len(self.server.maildir(BERT)), 1)
        client.quit()
        self.assertTrue(client.closed)

    def test_wrong_password_waits(self) -> None:
        client = self.server.connect("submissions")
        client.ehlo()
        self.assertEqual(client.say("AUTH PLAIN AGFubmFAaXNwLmV4YW1wbGUAd3Jvbmc="), [])
        self.server.advance(1)
        self.assertEqual(client.replies[-1].code, 535)
        self.assertEqual(self.server.told(AuthFailed)[0].user, ANNA)

    def test_large_content_both_ways(self) -> None:
        remote = self.server.remote("else.example", tls=True)
        body = b"\r\n" + (b"x" * 70 + b"\r\n") * 40_000  # 2.8 MB: many chunks, through TLS, paused and resumed
        self.server.send(ANNA, [BOB, BERT], b"Subject: big\r\n" + body, auth=ANNA)
        self.assertTrue(remote.mails[0].content.endswith(body))
        self.assertTrue(remote.mails[0].secure)
        self.assertTrue(self.server.maildir(BERT)[0].endswith(body.replace(b"\r\n", b"\n")))


class TimeTests(WorldCase):
    """The clock, restarts and settings."""

    def test_each_thing_in_its_own_time(self) -> None:
        clock, times = self.server.clock, []
        begun = clock.seconds()

        def again() -> None:
            times.append(clock.seconds() - begun)
            if len(times) < 3:
                clock.callLater(7, again)

        clock.callLater(7, again)
        self.server.advance(100)
        self.assertEqual(times, [7, 14, 21])
        self.assertEqual(clock.seconds(), begun + 100)

    def test_attempts_are_made_when_they_are_due(self) -> None:
        """Skipping the moments at which nothing happens skips none at which something should."""
        self.server.remote("else.example", failure="refused")
        self.server.send(ANNA, BOB, auth=ANNA)
        self.server.advance(86400)
        deferred = self.server.told(Deferred)
        self.assertGreater(len(deferred), 12)
        for earlier, later in itertools.pairwise(deferred):
            self.assertGreater(later.time, earlier.next_attempt - 0.001)  # the store keeps microseconds
            self.assertLess(later.time, earlier.next_attempt + 1.5)

    def test_idle_sessions_end_after_their_timeout(self) -> None:
        client = self.server.connect()
        self.server.advance(299)
        self.assertFalse(client.closed)
        self.server.advance(3)
        self.assertTrue(client.closed)
        self.assertEqual(client.replies[-1], Reply(421, "4.4.2", "Waited too long; closing"))

    @configured("""
        hostname = "other.example"
        [smtp]
        message_bytes = "1MiB"
    """)
    def test_configured(self) -> None:
        client = self.server.connect()
        client.ehlo()
        self.assertEqual(client.extensions["SIZE"], str(1 << 20))
        self.assertTrue(client.replies[0].text.startswith("other.example "))
        self.assertTrue(self.server.settings.relay.private_addresses)  # a default of tests

    def test_restart_with_other_settings(self) -> None:
        self.server.restart('[smtp]\nbanner = "hello"')
        self.assertEqual(self.server.connect().replies[0].text, "mx.isp.example hello")
        self.server.send("x@y.example", ANNA)  # the directory is the same

    def test_sessions_end_at_a_restart(self) -> None:
        client = self.server.connect()
        self.server.restart()
        self.assertEqual((client.replies[-1].code, client.closed), (421, True))

    def test_reload(self) -> None:
        client = self.server.connect()
        self.server.reload('[smtp]\nmessage_bytes = "2MiB"')
        client.ehlo()
        self.assertEqual(client.extensions["SIZE"], str(2 << 20))

    def test_nothing_that_does_not_come(self) -> None:
        from twisted.internet.defer import Deferred as Waiting

        with self.assertRaisesRegex(AssertionError, "nothing has come"):
            self.server.wait(Waiting(), 10)


class RemoteTests(WorldCase):
    """Other hosts."""

    def test_failures(self) -> None:
        remote = self.server.remote("else.example")
        for how in ("refused", "unreachable", "unknown", "timeout"):
            remote.fail(how)
            attempts = remote.attempts
            self.server.send(ANNA, BOB, auth=ANNA)
            self.server.advance(31)
            self.assertGreater(remote.attempts, attempts)
        self.assertEqual(len({event.reply for event in self.server.told(Deferred)}), 4)
        remote.recover()
        self.server.advance(3600)
        self.assertEqual(remote.taken, [(ANNA, BOB)] * 4)

    def test_several_hosts(self) -> None:
        first = self.server.remote("else.example", failure="refused")
        second = self.server.remote("else.example", "mx2.else.example", preference=20, addresses=["2001:db8::2"])
        self.server.send(ANNA, BOB, auth=ANNA)
        self.assertEqual((first.taken, second.taken), ([], [(ANNA, BOB)]))
        self.assertEqual(self.server.told(Delivered)[0].relay, "mx2.else.example[2001:db8::2]:25")

    @configured('[relay]\nsmarthost = "relay.example:587"')
    def test_smarthost(self) -> None:
        remote = self.server.remote(host="relay.example", port=587)
        self.server.send(ANNA, BOB, auth=ANNA)
        self.assertEqual(remote.taken, [(ANNA, BOB)])

    @configured('[local]\nlmtp = "unix:/run/lmtp"')
    def test_lmtp(self) -> None:
        remote = self.server.remote_socket("/run/lmtp", lmtp=True, replies={f"content:{BERT}": "450 4.2.2 full"})
        self.server.send("x@y.example", [ANNA, BERT])
        self.assertEqual(remote.taken, [("x@y.example", ANNA)])
        self.assertEqual([event.recipient for event in self.server.told(Deferred)], [BERT])


class BooksTests(WorldCase):
    """The books notice what they should."""

    def test_totals(self) -> None:
        self.server.remote("else.example", failure="refused")
        self.server.send(ANNA, [BERT, BOB, "x@gone.example"], auth=ANNA)
        self.assertEqual(self.server.accounting(), Accounting(accepted=4, delivered=1, bounced=1, queued=2))
        self.server.advance(1)
        accounting = self.server.accounting()  # with the report to Anna
        self.assertEqual(accounting, Accounting(accepted=4, delivered=2, bounced=1, queued=1))
        self.assertTrue(accounting.balanced)
        self.assertFalse(attrs.evolve(accounting, queued=0).balanced)

    def test_what_is_wrong_is_named(self) -> None:
        mid = self.server.send("x@y.example", ANNA)
        history = self.server.history(mid)
        for kind, words in ((Delivered, "has 0 ends: none"), (Done, "it was done 0 times")):
            books = MessageBooks(mid)
            books.read(event for event in history if not isinstance(event, kind))
            self.assertIn(words, books.problems()[0])
        books = MessageBooks(mid)
        books.read([*history, *(event for event in history if isinstance(event, Delivered))])
        self.assertIn("has 2 ends: delivered, delivered", books.problems()[0])
        stranger = msgspec.structs.replace(self.server.told(Delivered)[0], recipient="who@isp.example")
        books = MessageBooks(mid)
        books.read([*history, stranger])
        self.assertIn("who@isp.example was never routed", books.problems()[0])


class MakingTests(SynchronousTestCase):
    """A server without a test case."""

    def test_in_memory(self) -> None:
        with TestServer(store="memory") as server:
            people(server)
            server.remote("else.example", replies={"RCPT": ["450 4.2.0 not yet"]})
            server.send(ANNA, [BOB, BERT], auth=ANNA)
            server.restart()
            server.advance(600)
            self.assertEqual(server.assert_balanced(), Accounting(accepted=2, delivered=2))
            folder = server.folder
        self.assertFalse(folder.exists())

    def test_settings_with_which_the_service_would_not_start(self) -> None:
        for config in ("[relay]\nnetworks = ['0.0.0.0/0']", "[relay]\nnetwork = []"):
            with self.assertRaises(ConfigError):
                TestServer(config)

    def test_stopped(self) -> None:
        server = TestServer()
        server.close()
        self.assertFalse(server.running)
        with self.assertRaises(RuntimeError):
            server.connect()
