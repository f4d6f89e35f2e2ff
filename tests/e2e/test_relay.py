"""Mail leaves: one message with three fates, a whole Postfix as the remote's MX, and the books that balance."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.e2e.case import ANN, BEN, ServiceCase, crlf, parse
from tests.peers import wait_for
from tests.peers.dovecot import Dovecot
from tests.peers.postfix import Postfix, SmtpSink, smtp_source
from tests.peers.rawsmtp import Answer, RawSmtp
from twisted_mta.testing.zones import ZoneServer

pytestmark = pytest.mark.peer

BOB = "bob@remote.example"


class RemoteTests(ServiceCase):
    """A whole Postfix is the MX of remote.example, found by DNS on loopback."""

    postfix: ClassVar[Postfix]
    dns: ClassVar[ZoneServer]

    @classmethod
    def prepare(cls) -> None:
        cls.postfix = Postfix(["remote.example", "other.example"], ["bob", "bea"])
        cls.addClassCleanup(cls.postfix.close)
        cls.postfix.start()
        mx = {"MX": ["10 mx.remote.example."]}
        cls.dns = ZoneServer(
            {
                "remote.example": mx,
                "other.example": mx,
                "mx.remote.example": {"A": ["127.0.0.1"]},
                "plain.example": {"A": ["127.0.0.1"]},
                "nomail.example": {"MX": ["0 ."]},
            }
        )
        cls.addClassCleanup(cls.dns.close)
        cls.settings = {"dns": {"servers": [cls.dns.server]}, "relay": {"port": cls.postfix.port}}

    def submit(self, recipients: list[str], content: bytes) -> str:
        """Hands a message in as Ann; gives its id."""
        with RawSmtp(self.mta.submissions, implicit_tls=True) as client:
            client.ehlo()
            client.auth_plain(ANN, self.password)
            answer: Answer = client.message(ANN, recipients, content)
        self.assertEqual(answer.code, 250, answer)
        return answer.text.split()[-1]

    def with_subject(self, subject: str, user: str = "bob", domain: str = "remote.example") -> bytes:
        """The one message with this subject in a mailbox of Postfix's."""

        def find() -> list[bytes]:
            return [m for m in self.postfix.messages(user, domain) if parse(m)["Subject"] == subject]

        [message] = wait_for(f"{subject!r} in Postfix", find, alive=self.mta.check_alive)
        return message

    def test_one_message_three_fates_and_the_trace_tells_each(self) -> None:
        identity = self.submit([BEN, BOB, "ghost@remote.example"], b"Subject: three fates\r\n\r\nhello")
        self.with_subject("three fates")
        self.mta.wait_event("done", id=identity)
        story = self.mta.trace(identity)
        told = {(event["event"], event.get("recipient")): event for event in story}
        self.assertEqual(told["accept", None]["sender"], ANN)
        self.assertIn("/ben/Maildir/new/", told["deliver", BEN]["file"])
        self.assertIn(f":{self.postfix.port}", told["deliver", BOB]["relay"])
        self.assertRegex(told["deliver", BOB]["tls"], "^TLSv1.3")
        bounced = told["bounce", "ghost@remote.example"]
        self.assertEqual(bounced["status"], "5.1.1")
        self.mta.wait_event("done", id=bounced["report"])
        [report] = [message for message in self.mta.mailbox(ANN) if b"three fates" in message]
        dsn = parse(report)
        self.assertEqual(dsn["Return-Path"], "<>")
        self.assertEqual(dsn.get_content_type(), "multipart/report")
        self.assertEqual(dsn.get_param("report-type"), "delivery-status")
        self.assertNotEqual(dsn["Auto-Submitted"], None)
        words, status, original = dsn.iter_parts()
        self.assertIn("ghost@remote.example", words.get_content())
        per_message, per_recipient = status.get_payload()
        self.assertRegex(per_message["Reporting-MTA"], r"dns;\s*mta\.demo\.example")
        self.assertRegex(per_recipient["Final-Recipient"], r"rfc822;\s*ghost@remote\.example")
        self.assertEqual(per_recipient["Action"], "failed")
        self.assertEqual(per_recipient["Status"], "5.1.1")
        self.assertRegex(per_recipient["Diagnostic-Code"], r"smtp;\s*550[ -]5\.1\.1")
        self.assertRegex(per_recipient["Remote-MTA"], r"dns;\s*mx\.remote\.example")
        self.assertIn(original.get_content_type(), {"text/rfc822-headers", "message/rfc822"})
        self.assertIn("three fates", original.as_string())

    def test_recipients_of_one_destination_share_a_transaction(self) -> None:
        self.submit([BOB, "bea@remote.example"], b"Subject: together\r\n\r\nx")
        received = [
            next(line for line in self.with_subject("together", user).split(b"\n") if b" id " in line)
            for user in ("bob", "bea")
        ]
        self.assertEqual(received[0].split(b" id ")[1].split()[0], received[1].split(b" id ")[1].split()[0])

    def test_destinations_of_one_message_are_relayed_apart(self) -> None:
        self.submit([BOB, "bob@other.example"], b"Subject: apart\r\n\r\nx")
        self.with_subject("apart")
        self.with_subject("apart", domain="other.example")

    def test_postfix_gets_the_same_octets(self) -> None:
        text = "\n".join([".", "..", "...x", "", "x" * 990, "\ttab", " trailing ", "", "", "end"])
        self.submit([BOB], crlf(f"Subject: octets\nContent-Type: text/plain\n\n{text}").replace(b"\r\n.", b"\r\n.."))
        body = self.with_subject("octets").split(b"\n\n", 1)[1]
        self.assertEqual(body, text.encode() + b"\n")

    def test_eight_bit_content_arrives_unchanged(self) -> None:
        self.submit([BOB], "Subject: eight\r\n\r\nGr\u00fc\u00dfe \u20ac".encode())
        self.assertTrue(self.with_subject("eight").endswith("Gr\u00fc\u00dfe \u20ac\n".encode()))

    def test_a_domain_without_mx_gets_its_mail_at_its_address(self) -> None:
        identity = self.submit(["x@plain.example"], b"Subject: a\r\n\r\nx")
        bounced = self.mta.wait_event("bounce", id=identity)  # Postfix is there, but doesn't know the domain
        self.assertEqual(bounced["status"], "5.7.1")

    def test_null_mx_is_refused_at_once(self) -> None:
        with RawSmtp(self.mta.submissions, implicit_tls=True) as client:
            client.ehlo()
            client.auth_plain(ANN, self.password)
            answer: Answer = client.message(ANN, ["x@nomail.example"], b"Subject: null\r\n\r\nx")
        self.assertEqual((answer.code, answer.text[:6]), (556, "5.1.10"))

    def test_a_domain_that_does_not_exist_bounces(self) -> None:
        identity = self.submit(["x@nowhere.example"], b"Subject: nowhere\r\n\r\nx")
        self.assertEqual(self.mta.wait_event("bounce", id=identity)["status"], "5.1.2")

    def test_a_broken_dns_defers(self) -> None:
        self.dns.broken.add("later.example")
        identity = self.submit(["x@later.example"], b"Subject: later\r\n\r\nx")
        self.assertTrue(self.mta.wait_event("defer", id=identity)["status"].startswith("4."))


class DovecotTests(ServiceCase):
    """Dovecot reads our Maildir and sees what was sent."""

    def test_imap_sees_the_same_bytes(self) -> None:
        body = crlf("first\n.dot\n\nGr\u00fc\u00dfe\n" + "y" * 900 + "\nlast\n")
        head = crlf(f"From: {ANN}\nTo: {BEN}\nSubject: imap\nDate: Mon, 2 Nov 2026 10:00:00 +0000\nMessage-ID: <1@x>\n")
        with RawSmtp(self.mta.submissions, implicit_tls=True) as client:
            client.ehlo()
            client.auth_plain(ANN, self.password)
            sent = head + b"\r\n" + body
            answer = client.message(ANN, [BEN], sent.replace(b"\r\n.", b"\r\n..").removesuffix(b"\r\n"))
            self.assertEqual(answer.code, 250, answer)
        self.mta.wait_mailbox(BEN)
        self.mta.give_to("nobody")
        with Dovecot(f"{self.mta.state}/mail/%d/%n/Maildir", uid=65534, gid=65534) as dovecot:
            [message] = dovecot.fetch(BEN)
        added, _, kept = message.partition(b"From: ")
        self.assertEqual(b"From: " + kept, sent)
        names = [line.split(b":")[0] for line in added.splitlines() if not line[:1].isspace()]
        self.assertEqual(names[0], b"Return-Path")
        self.assertEqual(set(names) - {b"Return-Path", b"Delivered-To", b"Received", b"X-Original-To"}, set())
        self.assertIn(b"Received", names)


class LoadTests(ServiceCase):
    """Postfix's load generator in, Postfix's sink out."""

    sink: ClassVar[SmtpSink]

    @classmethod
    def prepare(cls) -> None:
        cls.sink = SmtpSink()
        cls.addClassCleanup(cls.sink.close)
        cls.sink.start()
        cls.settings = {"relay": {"networks": ["127.0.0.0/8"], "smarthost": f"127.0.0.1:{cls.sink.port}"}}

    def books(self) -> dict[str, int]:
        """What the sink and the log have counted."""
        kinds = ("accept", "deliver", "bounce", "defer", "done")
        return {"sink": self.sink.count()} | {kind: len(self.mta.events(kind)) for kind in kinds}

    def test_five_hundred_messages_and_the_books_balance(self) -> None:
        before = self.books()
        smtp_source(
            self.mta.mx, sender="a@source.test", recipient="b@sink.test", messages=500, sessions=20, reuse=False
        )
        self.sink.wait_count(before["sink"] + 500, 30)
        self.mta.wait_empty()
        after = self.books()
        self.assertEqual(
            {name: after[name] - before[name] for name in after},
            {"sink": 500, "accept": 500, "deliver": 500, "bounce": 0, "defer": 0, "done": 500},
        )

    def test_a_hundred_recipients_leave_in_one_transaction(self) -> None:
        before = self.sink.count()
        smtp_source(self.mta.mx, sender="a@source.test", recipient="b@sink.test", messages=2, recipients=100)
        self.sink.wait_count(before + 2)
        self.mta.wait_empty()
        self.assertEqual(self.sink.count(), before + 2)
