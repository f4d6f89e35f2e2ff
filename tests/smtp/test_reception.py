"""From content to a committed message: trace fields, what submission adds, routing, charges, hand-over, failures."""

from __future__ import annotations

import email
import email.policy

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tests.smtp.world import HOSTNAME, NOW, Client, World, account, codes
from twisted_mta.mail.events import Accepted, Rejected, Routed
from twisted_mta.mail.header import Head
from twisted_mta.mail.status import MailError, Reply
from twisted_mta.policy.interfaces import Peer, Transaction
from twisted_mta.queue.incoming import HELD_CHUNKS
from twisted_mta.queue.interfaces import CHUNK, QuotaExceeded, StoreUnavailable
from twisted_mta.smtp.trace import literal, received

MESSAGE = b"From: Joe <joe@far.example>\r\nSubject: hello\r\n\r\nbody\r\n"
NO_SPACE = StoreUnavailable(Reply(452, "4.3.1", "Not enough free disk"))


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.client = self.greet(self.world)

    def greet(self, world: World, line: str = "EHLO far.example", logged_in: bool = False) -> Client:
        client = world.session()
        client.say(line)
        if logged_in:
            client.server.peer.account = account()
        return client

    def stored(self, world: World | None = None) -> bytes:
        """The content of the one message that was taken."""
        ((_, content),) = (world or self.world).store.messages
        return content

    def headers(self, world: World | None = None) -> email.message.EmailMessage:
        return email.message_from_bytes(self.stored(world), policy=email.policy.default)  # type: ignore[return-value]


class TraceTests(Case):
    """RFC 5321 §4.4, RFC 3848."""

    def test_received(self) -> None:
        self.client.send(MESSAGE)
        id = self.world.store.begun[0].id  # noqa: A001
        self.assertEqual(
            self.stored(),
            b"Received: from far.example ([192.0.2.7])\r\n\tby mx.isp.example with ESMTP id " + id.encode() + b"\r\n"
            b"\tfor <ann@isp.example>;\r\n\tMon, 21 Sep 2026 14:13:20 +0000\r\n" + MESSAGE,
        )

    def test_several_recipients_are_not_named(self) -> None:
        self.client.say("MAIL FROM:<joe@far.example>", "RCPT TO:<ann@isp.example>", "RCPT TO:<bob@isp.example>", "DATA")
        self.client.server.dataReceived(MESSAGE + b".\r\n")
        self.assertNotIn(b"for <", self.stored())
        self.assertNotIn(b"bob", self.stored())

    def test_keywords(self) -> None:
        for line, secure, logged_in, keyword in (
            ("HELO far.example", False, False, "SMTP"),
            ("EHLO far.example", False, False, "ESMTP"),
            ("EHLO far.example", True, False, "ESMTPS"),
            ("EHLO far.example", False, True, "ESMTPA"),
            ("EHLO far.example", True, True, "ESMTPSA"),
        ):
            world = World()
            client = self.greet(world, line, logged_in)
            if secure:
                client.server.peer.secure, client.server.peer.tls = True, "TLSv1.3 TLS_AES_256_GCM_SHA384"
            client.send(MESSAGE)
            received = " ".join(self.headers(world)["Received"].split())
            self.assertIn(f"by {HOSTNAME} with {keyword} id ", received)
            self.assertEqual("(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384)" in received, secure)
            self.assertEqual(world.store.messages[0][0].message.protocol, keyword)

    def test_utf8(self) -> None:
        """RFC 6531 §4.3; and no UTF-8 of ours goes into the header."""
        client = self.greet(self.world)
        for subject, needed in (("Gr\u00fc\u00dfe", True), ("Hello", False)):
            client.say("MAIL FROM:<bj\u00f6rn@far.example> SMTPUTF8", "RCPT TO:<ann@isp.example>", "DATA")
            client.say(f"Subject: {subject}", "", "Gr\u00fc\u00dfe", ".")
            new, content = self.world.store.messages[-1]
            self.assertEqual((new.message.protocol, new.message.utf8), ("UTF8SMTP", needed))
            self.assertIn(b" with UTF8SMTP id ", content)
        self.assertEqual(new.message.sender, "bj\u00f6rn@far.example")
        client.say("MAIL FROM:<bob@far.example>", "RCPT TO:<ann@isp.example>", "DATA", "Subject: \u00fc", "", ".")
        self.assertFalse(self.world.store.messages[-1][0].message.utf8, "declared by nobody: as it was before SMTPUTF8")

    def test_a_recipient_beyond_ascii_is_not_named(self) -> None:
        """An alias may lead it on to where such a header cannot go."""
        peer = Peer("s", "192.0.2.7", 25, "mx", "mx", esmtp=True)
        for recipient, named in (("ann@isp.example", True), ("\u00e4nn@isp.example", False)):
            line = received(peer, "mx.isp.example", "id", NOW, recipient, True)
            self.assertEqual(b"for <" in line, named)
            self.assertTrue(line.isascii())

    def test_strange_name(self) -> None:
        """What a client calls itself can't close a comment or open another field."""
        client = self.greet(self.world, 'EHLO evil(;)"<x>@')
        client.send(MESSAGE)
        self.assertIn(b"Received: from evil?????x?? ([192.0.2.7])\r\n", self.stored())

    def test_literal(self) -> None:
        self.assertEqual((literal("192.0.2.1"), literal("2001:db8::1")), ("[192.0.2.1]", "[IPv6:2001:db8::1]"))

    def test_return_path_is_removed(self) -> None:
        self.client.send(b"Return-Path: <forged@far.example>\r\n" + MESSAGE)
        self.assertTrue(self.stored().endswith(b"+0000\r\n" + MESSAGE))

    def test_odd_messages(self) -> None:
        for content, after in (
            (b"", b""),
            (b"\r\nbody\r\n", b"\r\nbody\r\n"),
            (b"no header\r\n", b"\r\nno header\r\n"),
        ):
            world = World()
            client = self.greet(world)
            client.say("MAIL FROM:<>", "RCPT TO:<ann@isp.example>", "DATA")
            client.server.dataReceived(content + b".\r\n")
            self.assertEqual(codes(client.read()), [250])
            self.assertTrue(self.stored(world).endswith(b"14:13:20 +0000\r\n" + after))

    def test_postmaster_without_a_domain(self) -> None:
        self.client.send(MESSAGE, recipient="Postmaster")
        self.assertEqual(self.world.of(Accepted)[0].recipients, ("postmaster@isp.example",))


class SubmissionTests(Case):
    """RFC 6409 §8."""

    def test_missing_fields_are_added(self) -> None:
        client = self.greet(self.world, logged_in=True)
        client.send(MESSAGE)
        found = self.headers()
        id = self.world.store.begun[0].id  # noqa: A001
        self.assertEqual(found["Date"], "Mon, 21 Sep 2026 14:13:20 +0000")
        self.assertEqual(found["Message-ID"], f"<{id}@{HOSTNAME}>")
        self.assertEqual(self.world.of(Accepted)[0].message_id, f"<{id}@{HOSTNAME}>")

    def test_fields_that_are_there_stay(self) -> None:
        client = self.greet(self.world, logged_in=True)
        content = b"date: yesterday\r\nmessage-id: <1@far.example>\r\n" + MESSAGE
        client.send(content)
        self.assertTrue(self.stored().endswith(content))
        self.assertEqual(self.world.of(Accepted)[0].message_id, "<1@far.example>")

    def test_bcc_is_removed(self) -> None:
        client = self.greet(self.world, logged_in=True)
        client.send(
            b"Bcc: secret@far.example,\r\n other@far.example\r\nBCC:\r\nResent-Bcc: third@far.example\r\n" + MESSAGE
        )
        for word in (b"cc:", b"secret", b"other", b"third"):
            self.assertNotIn(word, self.stored())

    def test_nothing_of_that_for_the_world(self) -> None:
        content = b"Bcc: mine@far.example\r\n" + MESSAGE
        self.client.send(content)
        self.assertTrue(self.stored().endswith(content))


class CommitTests(Case):
    def test_message_and_deliveries(self) -> None:
        self.world.clock.advance(1)
        self.client.say("MAIL FROM:<joe@far.example>", "RCPT TO:<ann@isp.example>", "RCPT TO:<bob@isp.example>", "DATA")
        self.world.clock.advance(2)
        self.client.server.dataReceived(MESSAGE + b".\r\n")
        ((new, content),) = self.world.store.messages
        message = new.message
        self.assertEqual((message.sender, message.recipients, message.arrived), ("joe@far.example", 2, NOW + 3))
        self.assertEqual((message.size, message.chunks), (len(content), 1))
        self.assertEqual(message.expires, NOW + 3 + self.world.settings.queue.lifetime)
        self.assertEqual((message.client, message.helo, message.listener), ("192.0.2.7", "far.example", "mx"))
        (delivery,) = new.deliveries
        self.assertEqual(delivery.destination, "smtp:isp.example")
        self.assertEqual([one.address for one in delivery.recipients], ["ann@isp.example", "bob@isp.example"])
        self.assertEqual((new.charge, new.lane_customer, new.next_attempt), (None, "isp", NOW + 60))
        accepted, routed = new.story
        self.assertEqual(self.world.of(Accepted), [accepted])
        self.assertEqual(self.world.of(Routed), [routed])
        assert isinstance(accepted, Accepted)
        assert isinstance(routed, Routed)
        self.assertEqual(accepted.seconds, 2.0)
        self.assertEqual(routed.destinations, {"smtp:isp.example": ("ann@isp.example", "bob@isp.example")})
        self.assertEqual(self.client.read(), b"250 2.0.0 queued as " + message.id.encode() + b"\r\n")

    def test_wishes_for_reports(self) -> None:
        """RFC 3461: kept as given, for the recipients that came with them."""
        client = self.greet(self.world)
        client.say(
            "MAIL FROM:<joe@far.example> RET=hdrs ENVID=QQ+2B1",
            "RCPT TO:<ann@isp.example>",
            "RCPT TO:<bob@isp.example> NOTIFY=never ORCPT=rfc822;b+40c",
            "DATA",
            "Subject: x",
            "",
            ".",
        )
        ((new, _),) = self.world.store.messages
        self.assertEqual((new.message.ret, new.message.envid), ("HDRS", "QQ+2B1"))
        found = [(to.address, to.notify, to.orcpt) for to in new.deliveries[0].recipients]
        self.assertEqual(found, [("ann@isp.example", "", ""), ("bob@isp.example", "NEVER", "rfc822;b+40c")])

    def test_charge(self) -> None:
        client = self.greet(self.world, logged_in=True)
        client.send(MESSAGE, recipient="joe@far.example", sender="ann@isp.example")
        ((new, content),) = self.world.store.messages
        charge = new.charge
        assert charge is not None
        self.assertEqual(
            (charge.customer, charge.recipients, charge.bytes, charge.messages), ("isp", 1, len(content), 1)
        )
        self.assertEqual(charge.limits.recipients_per_hour, 1000)
        self.assertEqual((new.lane_customer, new.message.customer, new.message.user), ("isp", "isp", "ann@isp.example"))

    def test_small_content_is_handed_over(self) -> None:
        self.client.say("MAIL FROM:<>", "RCPT TO:<ann@isp.example>", "DATA")
        for piece in (MESSAGE[:10], MESSAGE[10:50], MESSAGE[50:], b"more\r\n", b".\r\n"):
            self.client.server.dataReceived(piece)
        ((new, content),) = self.world.store.messages
        self.assertEqual(self.world.scheduler.offered, [(new, content)])

    def test_large_content_is_not(self) -> None:
        self.client.send(MESSAGE + (b"x" * 98 + b"\r\n") * (HELD_CHUNKS * CHUNK // 100))
        ((new, content),) = self.world.store.messages
        self.assertGreater(len(content), HELD_CHUNKS * CHUNK)
        self.assertEqual(self.world.scheduler.offered, [(new, None)])
        self.assertEqual(new.message.chunks, 3)

    def test_what_is_a_little_more_than_a_chunk_is_handed_over(self) -> None:
        """As what was 64 KiB before our Received line."""
        self.client.send(MESSAGE + (b"x" * 98 + b"\r\n") * (CHUNK // 100))
        ((new, content),) = self.world.store.messages
        self.assertGreater(len(content), CHUNK)
        self.assertEqual(self.world.scheduler.offered, [(new, content)])
        self.assertEqual(new.message.chunks, 2)

    def test_scheduler_without_room(self) -> None:
        self.world.scheduler.armed = None
        self.client.send(MESSAGE)
        self.assertEqual(self.world.scheduler.offered, [])
        self.assertEqual(self.world.store.messages[0][0].next_attempt, NOW)

    def test_eight_bit_is_what_it_is(self) -> None:
        for body, said, found in (
            (b"plain\r\n", "BODY=8BITMIME", "7BIT"),
            (b"\xe4\r\n", "BODY=7BIT", "8BITMIME"),
            (b"\xe4\r\n", "", "8BITMIME"),
        ):
            world = World()
            client = self.greet(world)
            client.say(f"MAIL FROM:<> {said}", "RCPT TO:<ann@isp.example>", "DATA")
            client.server.dataReceived(MESSAGE + body + b".\r\n")
            self.assertEqual(world.store.messages[0][0].message.body, found)

    def test_what_is_plain_is_known(self) -> None:
        async def stage(peer: Peer, transaction: Transaction, head: Head) -> None:
            head.prepend(b"X-Stage: of a plugin\n.\r\n" if b"bad" in head.fields else b"X-Stage: of a plugin\r\n")

        for content, plain in (
            (MESSAGE, True),
            (b"Return-Path: <forged@far.example>\r\n" + MESSAGE, True),
            (MESSAGE + b"..\r\n", False),
            (b"..no header\r\n", False),
            (b"Subject: bad\r\n" + MESSAGE, False),
            (b"", True),
        ):
            for cut in (0, 1, len(content) // 2, len(content)):
                world = World()
                world.factory.pipeline.content = (stage,)
                client = self.greet(world)
                client.say("MAIL FROM:<>", "RCPT TO:<ann@isp.example>", "DATA")
                client.server.dataReceived(content[:cut])
                client.server.dataReceived(content[cut:] + b".\r\n")
                self.assertEqual(world.store.messages[0][0].message.plain, plain, (content, cut))

    def test_message_id_of_a_joker(self) -> None:
        self.client.send(b"Message-ID: <\x1b[2J" + b"x" * 500 + b">\r\n" + MESSAGE)
        shown = self.world.of(Accepted)[0].message_id
        self.assertTrue(shown.isprintable())
        self.assertLessEqual(len(shown), 210)


class FailureTests(Case):
    def test_no_space_at_the_start(self) -> None:
        self.world.store.full = NO_SPACE
        said = self.client.codes("MAIL FROM:<>", "RCPT TO:<ann@isp.example>", "DATA", "NOOP")
        self.assertEqual(said, [250, 250, 452, 250])

    def test_commit_fails(self) -> None:
        self.world.store.failure = NO_SPACE
        self.assertEqual(self.client.send(MESSAGE)[:9], b"452 4.3.1")
        self.assertEqual((self.world.of(Accepted), self.world.scheduler.offered), ([], []))
        self.assertEqual(self.world.store.begun[0].aborted, 0)  # ended by commit, not twice

    def test_quota_names_its_limit(self) -> None:
        reply = Reply(452, "4.5.3", "recipients_per_hour: none left; try again in 10 minutes")
        self.world.store.failure = QuotaExceeded(reply, "recipients_per_hour", 600.0)
        client = self.greet(self.world, logged_in=True)
        self.assertEqual(client.send(MESSAGE), reply.encode())
        (event,) = self.world.of(Rejected)
        self.assertEqual((event.limit, event.stage, event.customer), ("recipients_per_hour", "content", "isp"))

    def test_write_fails(self) -> None:
        self.world.store.slow = True
        self.client.say("MAIL FROM:<>", "RCPT TO:<ann@isp.example>", "DATA")
        self.client.server.dataReceived(MESSAGE + b"more\r\n")
        self.world.store.writes.pop().errback(NO_SPACE)
        self.client.server.dataReceived(b"and more\r\n.\r\nNOOP\r\n")
        self.assertEqual(codes(self.client.read()), [452, 250])
        self.assertEqual((self.world.store.begun[0].aborted, self.world.store.writes), (1, []))

    def test_router_fails(self) -> None:
        self.world.router.failure = MailError(Reply(451, "4.3.0", "The directory is down"))
        self.assertEqual(codes(self.client.send(MESSAGE)), [451])
        self.assertEqual(self.world.store.begun[0].aborted, 1)

    def test_all_recipients_are_unroutable(self) -> None:
        self.world.router.refused = {"ann@isp.example"}
        self.assertEqual(self.client.send(MESSAGE)[:9], b"550 5.4.6")
        self.assertEqual((self.world.store.messages, self.world.store.begun[0].aborted), ([], 1))

    def test_some_recipients_are_unroutable(self) -> None:
        """They were accepted, so they end in a report: their delivery is stored, and refused by the router then."""
        self.world.router.refused = {"bob@isp.example"}
        self.client.say("MAIL FROM:<joe@far.example>", "RCPT TO:<ann@isp.example>", "RCPT TO:<bob@isp.example>", "DATA")
        self.client.server.dataReceived(MESSAGE + b".\r\n")
        self.assertEqual(codes(self.client.read()), [250])
        _, delivery = self.world.store.messages[0][0].deliveries
        self.assertEqual(
            (delivery.destination, delivery.recipients[0].address), ("error:unroutable", "bob@isp.example")
        )

    def test_fault_in_the_scheduler(self) -> None:
        """The message is safe all the same."""
        del self.world.scheduler.offered
        self.assertEqual(codes(self.client.send(MESSAGE)), [250])
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

    def test_reconfigured(self) -> None:
        changed = attrs.evolve(self.world.settings, hostname="new.isp.example")
        self.world.reception.configure(changed)
        self.world.factory.configure(changed, self.world.factory.pipeline)
        self.assertEqual(self.client.say("HELO far.example"), b"250 new.isp.example\r\n")
        self.client.send(MESSAGE)
        self.assertIn(b"by new.isp.example with SMTP", self.stored())
