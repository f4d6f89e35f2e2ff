"""Mail for a server without 8BITMIME (RFC 6152 §3): a Postfix that does not offer it, and what it then has."""

from __future__ import annotations

import email.message
import email.policy
import smtplib
from typing import ClassVar

import pytest

from tests.e2e.case import ANN, ServiceCase, parse
from tests.e2e.test_requiretls import HERE, anything
from tests.peers import wait_for
from tests.peers.postfix import Postfix
from twisted_mta.testing.zones import ZoneServer

pytestmark = pytest.mark.peer

BOB = "bob@remote.example"
TEXT = "Viele Grüße aus dem Norden, und noch mehr, damit die Zeile länger ist als die Kodierung sie haben will\r\n"


class ConversionTests(ServiceCase):
    postfix: ClassVar[Postfix]

    @classmethod
    def prepare(cls) -> None:
        cls.postfix = Postfix(settings="smtpd_discard_ehlo_keywords = 8bitmime, chunking, dsn, smtputf8\n")
        cls.addClassCleanup(cls.postfix.close)
        cls.postfix.start()
        dns = ZoneServer({"remote.example": {"A": ["127.0.0.1"]}})
        cls.addClassCleanup(dns.close)
        cls.settings = {"dns": {"servers": [dns.server]}, "relay": {"port": cls.postfix.port}}

    def submit(self, message: email.message.EmailMessage) -> str:
        with smtplib.SMTP_SSL(HERE, self.mta.submissions, context=anything()) as client:
            client.login(ANN, self.password)
            raw = message.as_bytes(policy=email.policy.SMTP)
            self.assertFalse(raw.isascii())
            client.mail(ANN, ["BODY=8BITMIME"])
            client.rcpt(BOB)
            code, words = client.data(raw)
        self.assertEqual(code, 250)
        return words.decode().split()[-1]

    def made(self, subject: str) -> email.message.EmailMessage:
        """A text with a picture and a message, by Python's own library, in 8bit."""
        message = email.message.EmailMessage()
        message["Subject"], message["To"] = subject, BOB
        message.set_content(TEXT * 2000, cte="8bit")
        within = email.message.EmailMessage()
        within["Subject"] = "within"
        within.set_content(TEXT, cte="8bit")
        message.add_attachment(b"\x89PNG\x00", "image", "png")
        message.add_attachment(within)
        return message

    def test_converted(self) -> None:
        identity = self.submit(self.made("8bit"))
        self.assertEqual(self.mta.wait_event("deliver", id=identity)["converted"], "7bit")
        [raw] = wait_for("a message in Postfix", lambda: [m for m in self.postfix.messages() if b": 8bit" in m])
        self.assertTrue(raw.isascii())
        found = parse(raw)
        text, picture, attached = found.iter_parts()
        plain = TEXT.replace("\r\n", "\n")
        self.assertEqual(text.get_content(), plain * 2000)  # type: ignore[attr-defined]
        self.assertEqual(text["Content-Transfer-Encoding"], "quoted-printable")
        self.assertEqual(picture.get_content(), b"\x89PNG\x00")  # type: ignore[attr-defined]
        self.assertEqual(attached.get_content().get_content(), plain)  # type: ignore[attr-defined]
        self.assertEqual([part.defects for part in found.walk()], [[]] * 5)

    def test_signed(self) -> None:
        message = self.made("signed")
        message.set_type("multipart/signed")
        identity = self.submit(message)
        self.assertEqual(self.mta.wait_event("bounce", id=identity)["status"], "5.6.3")
        report = self.mta.trace(identity)[-2]["report"]
        self.mta.wait_event("done", id=report)
        self.assertIn(b"signature", b"".join(self.mta.mailbox(ANN)))
