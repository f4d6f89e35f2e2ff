"""Addresses and headers in UTF-8 (RFC 6531) with a whole Postfix in both directions, and Python's own client."""

from __future__ import annotations

import email
import email.message
import email.policy
import smtplib
from pathlib import Path
from typing import ClassVar

import pytest

from tests.e2e.case import ANN, ServiceCase, parse
from tests.peers import wait_for
from tests.peers.postfix import Postfix, SmtpSink
from tests.peers.rawsmtp import RawSmtp
from twisted_mta.testing.zones import ZoneServer

pytestmark = pytest.mark.peer

JUERGEN = "j\u00fcrgen@demo.example"
BJOERN = "bj\u00f6rn@b\u00fccher.example"
BJOERN_A = "bj\u00f6rn@xn--bcher-kva.example"
TEXT = "From: J\u00fcrgen <{sender}>\r\nTo: {to}\r\nSubject: Gr\u00fc\u00dfe\r\n\r\nSch\u00f6n.\r\n"


class Utf8Case(ServiceCase):
    """What these tests share."""

    def submit(self, sender: str, recipient: str, text: str = TEXT) -> str:
        """Hands a message in; gives its id."""
        with RawSmtp(self.mta.submissions, implicit_tls=True) as client:
            self.assertIn("SMTPUTF8", client.ehlo().text.split("\n"))
            client.auth_plain(sender, self.password)
            self.assertEqual(client.cmd(f"MAIL FROM:<{sender}> BODY=8BITMIME SMTPUTF8").code, 250)
            self.assertEqual(client.cmd(f"RCPT TO:<{recipient}>").code, 250)
            client.cmd("DATA")
            client.send(text.format(sender=sender, to=recipient).encode())
            answer = client.cmd(".")
        self.assertEqual(answer.code, 250, answer)
        return answer.text.split()[-1]


class PostfixTests(Utf8Case):
    """Postfix is the MX of bücher.example, with SMTPUTF8, and relays to us."""

    postfix: ClassVar[Postfix]
    dns: ClassVar[ZoneServer]

    @classmethod
    def prepare(cls) -> None:
        cls.postfix = Postfix(["xn--bcher-kva.example"], ["bj\u00f6rn", "bob"])
        cls.addClassCleanup(cls.postfix.close)
        zones = {"xn--bcher-kva.example": {"MX": ["10 mx.remote.example."]}, "mx.remote.example": {"A": ["127.0.0.1"]}}
        cls.dns = ZoneServer(zones)
        cls.addClassCleanup(cls.dns.close)
        cls.settings = {"dns": {"servers": [cls.dns.server]}, "relay": {"port": cls.postfix.port}}

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.mta.add_user(JUERGEN)
        with (cls.postfix.folder / "etc" / "main.cf").open("a") as main:
            main.write(
                "mynetworks = 127.0.0.0/8\n"
                "smtputf8_enable = yes\n"
                "smtpd_relay_restrictions = permit_mynetworks, reject\n"
                f"transport_maps = inline:{{ {{demo.example = smtp:[127.0.0.1]:{cls.mta.mx}}} }}\n"
            )
        cls.postfix.start()

    def test_to_postfix(self) -> None:
        self.submit(JUERGEN, BJOERN)
        line = f"Return-Path: <{JUERGEN}>\n".encode()
        message = wait_for(
            "the message",
            lambda: next((one for one in self.postfix.messages("bj\u00f6rn") if line in one), b""),
            15,
            self.mta.check_alive,
        )
        self.assertIn(b" with UTF8SMTPSA id ", message)
        self.assertEqual(parse(message)["Subject"], "Gr\u00fc\u00dfe")

    def test_from_postfix(self) -> None:
        """With a wish for a report about an address beyond ASCII."""
        with RawSmtp(self.postfix.port) as client:
            client.ehlo()
            self.assertEqual(client.cmd(f"MAIL FROM:<{BJOERN_A}> SMTPUTF8 ENVID=eai").code, 250)
            answer = client.cmd(f"RCPT TO:<{JUERGEN}> NOTIFY=SUCCESS ORCPT=utf-8;j\\x{{FC}}rgen@demo.example")
            self.assertEqual(answer.code, 250, answer)
            client.cmd("DATA")
            client.send(TEXT.format(sender=BJOERN_A, to=JUERGEN).encode())
            self.assertEqual(client.cmd(".").code, 250)
        delivered = self.mta.wait_event("deliver", recipient=JUERGEN, sender=BJOERN_A)
        message = parse(Path(delivered["file"]).read_bytes())
        self.assertEqual((message["Return-Path"], message["Subject"]), (f"<{BJOERN_A}>", "Gr\u00fc\u00dfe"))

        def report() -> list[bytes]:
            return [one for one in self.postfix.messages("bj\u00f6rn") if b"Original-Envelope-Id: eai" in one]

        raw = wait_for("a report", report, 15)[0]
        self.assertIn(b"Content-Type: message/global-delivery-status", raw)
        self.assertIn(f"Final-Recipient: utf-8; {JUERGEN}".encode(), raw)
        self.assertIn(b"Original-Recipient: utf-8; j\\x{FC}rgen@demo.example", raw)

    def test_a_stranger_there(self) -> None:
        """Postfix refuses; the report comes to an address in UTF-8."""
        id_ = self.submit(JUERGEN, "niemand\u00e4@b\u00fccher.example")
        bounced = self.mta.wait_event("bounce", id=id_)
        self.assertEqual(bounced["status"], "5.1.1")
        delivered = self.mta.wait_event("deliver", id=bounced["report"])
        raw = Path(delivered["file"]).read_bytes()
        self.assertIn(f"To: {JUERGEN}\n".encode(), raw)
        self.assertIn("Final-Recipient: utf-8; niemand\u00e4@xn--bcher-kva.example\n".encode(), raw)

    def test_python_s_own_client(self) -> None:
        message = email.message.EmailMessage(policy=email.policy.SMTPUTF8)
        message["From"], message["To"], message["Subject"] = "python@b\u00fccher.example", JUERGEN, "\u4f60\u597d"
        message.set_content("Sch\u00f6n")
        with smtplib.SMTP("127.0.0.1", self.mta.mx) as client:
            client.send_message(message)
        delivered = self.mta.wait_event("deliver", sender="python@xn--bcher-kva.example")
        content = Path(delivered["file"]).read_bytes()
        self.assertIn(b" with UTF8SMTP id ", content)
        self.assertIn("Subject: \u4f60\u597d\n".encode(), content)


class BeyondUtf8Tests(Utf8Case):
    """The smarthost is smtp-sink, which does not offer SMTPUTF8."""

    sink: ClassVar[SmtpSink]

    @classmethod
    def prepare(cls) -> None:
        cls.sink = SmtpSink()
        cls.addClassCleanup(cls.sink.close)
        cls.sink.start()
        cls.settings = {"relay": {"smarthost": f"127.0.0.1:{cls.sink.port}"}}

    def test_bounced(self) -> None:
        plain = "Subject: hello\r\n\r\nSch\u00f6n.\r\n"
        for recipient, text, status in ((BJOERN, plain, "5.6.7"), ("bob@remote.example", TEXT, "5.6.9")):
            bounced = self.mta.wait_event("bounce", id=self.submit(ANN, recipient, text))
            self.assertEqual((bounced["status"], bounced["report"] != ""), (status, True), recipient)
        self.assertEqual(self.sink.count(), 0)
