"""Wishes for reports (RFC 3461) with a whole Postfix: it asks us, and we ask it."""

from __future__ import annotations

import email
import email.message
from collections.abc import Callable
from typing import ClassVar

import pytest

from tests.e2e.case import ANN, BEN, ServiceCase, crlf
from tests.peers import wait_for
from tests.peers.postfix import Postfix, SmtpSink
from tests.peers.rawsmtp import RawSmtp
from twisted_mta.testing.zones import ZoneServer

pytestmark = pytest.mark.peer

BOB = "bob@remote.example"
TEXT = crlf("Subject: wishes\n\nThe body.")


class WishesCase(ServiceCase):
    """What these tests share."""

    def report(self, messages: Callable[[], list[bytes]], mark: str) -> email.message.Message:
        """The report about the message with this envelope id, once it is there."""
        line = f"Original-Envelope-Id: {mark}\n".encode()
        (found,) = wait_for(f"a report about {mark}", lambda: [one for one in messages() if line in one], 15)
        return email.message_from_bytes(found)

    def submit(self, recipient: str, wishes: str, envid: str) -> str:
        """Hands a message in as Ann; gives its id."""
        with RawSmtp(self.mta.submissions, implicit_tls=True) as client:
            client.ehlo()
            client.auth_plain(ANN, self.password)
            self.assertEqual(client.cmd(f"MAIL FROM:<{ANN}> RET=FULL ENVID={envid}").code, 250)
            self.assertEqual(client.cmd(f"RCPT TO:<{recipient}> {wishes}").code, 250)
            client.cmd("DATA")
            answer = client.cmd(TEXT + b"\r\n.")
        self.assertEqual(answer.code, 250, answer)
        return answer.text.split()[-1]


class ReportTests(WishesCase):
    """Postfix is the MX of remote.example and relays to us."""

    postfix: ClassVar[Postfix]
    dns: ClassVar[ZoneServer]

    @classmethod
    def prepare(cls) -> None:
        cls.postfix = Postfix()
        cls.addClassCleanup(cls.postfix.close)
        cls.dns = ZoneServer(
            {"remote.example": {"MX": ["10 mx.remote.example."]}, "mx.remote.example": {"A": ["127.0.0.1"]}}
        )
        cls.addClassCleanup(cls.dns.close)
        cls.settings = {"dns": {"servers": [cls.dns.server]}, "relay": {"port": cls.postfix.port}}

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        with (cls.postfix.folder / "etc" / "main.cf").open("a") as main:
            main.write(
                "mynetworks = 127.0.0.0/8\n"
                "smtpd_relay_restrictions = permit_mynetworks, reject\n"
                f"transport_maps = inline:{{ {{demo.example = smtp:[127.0.0.1]:{cls.mta.mx}}} }}\n"
            )
        cls.postfix.start()

    def ask(self, recipient: str, wishes: str, envid: str) -> None:
        """Gives Postfix a message from Bob."""
        with RawSmtp(self.postfix.port) as client:
            client.ehlo()
            self.assertEqual(client.cmd(f"MAIL FROM:<{BOB}> RET=HDRS ENVID={envid}").code, 250)
            self.assertEqual(client.cmd(f"RCPT TO:<{recipient}> {wishes}").code, 250)
            client.cmd("DATA")
            self.assertEqual(client.cmd(TEXT + b"\r\n.").code, 250)

    def test_we_pass_wishes_on(self) -> None:
        """Postfix has them, and reports the success by itself."""
        id_ = self.submit(BOB, "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;robert+40remote.example", "we+2Bask")
        report = self.report(lambda: self.mta.mailbox(ANN), "we+ask")
        self.assertIn("mx.remote.example", str(report["From"]))
        about = report.get_payload()[1].get_payload()[1]
        self.assertEqual((about["Action"], about["Original-Recipient"]), ("delivered", "rfc822;robert@remote.example"))
        self.assertEqual([event["event"] for event in self.mta.trace(id_) if event["event"] == "report"], [])

    def test_postfix_asks_us(self) -> None:
        self.ask(BEN, "NOTIFY=SUCCESS ORCPT=rfc822;benjamin+40demo.example", "it+3Dasks")
        self.mta.wait_mailbox(BEN)
        report = self.report(self.postfix.messages, "it=asks")
        self.assertEqual(report.get_content_type(), "multipart/report")
        self.assertIn("mta.demo.example", str(report["From"]))
        about = report.get_payload()[1].get_payload()[1]
        self.assertEqual((about["Action"], about["Status"]), ("delivered", "2.0.0"))
        self.assertEqual(about["Original-Recipient"], "rfc822; benjamin@demo.example")
        self.assertEqual(report.get_payload()[2].get_content_type(), "text/rfc822-headers")

    def test_nothing_is_said_where_nothing_is_wanted(self) -> None:
        id_ = self.submit("nobody@remote.example", "NOTIFY=NEVER", "silence")
        bounced = self.mta.wait_event("bounce", id=id_)
        self.assertEqual(bounced.get("report", ""), "")
        self.assertIn("NOTIFY", bounced["fate"])

    def test_the_message_comes_back(self) -> None:
        id_ = self.submit("nobody@remote.example", "NOTIFY=FAILURE", "failure")
        self.mta.wait_event("bounce", id=id_)
        report = self.report(lambda: self.mta.mailbox(ANN), "failure")
        returned = report.get_payload()[2]
        self.assertEqual(returned.get_content_type(), "message/rfc822")
        self.assertIn("The body.", returned.get_payload()[0].get_payload())


class BeyondReportsTests(WishesCase):
    """The smarthost is smtp-sink, told not to offer DSN."""

    sink: ClassVar[SmtpSink]

    @classmethod
    def prepare(cls) -> None:
        cls.sink = SmtpSink(["-N"])
        cls.addClassCleanup(cls.sink.close)
        cls.sink.start()
        cls.settings = {"relay": {"smarthost": f"127.0.0.1:{cls.sink.port}"}}

    def test_beyond_such_reports(self) -> None:
        """To a server without DSN: the sender hears that it was relayed."""
        id_ = self.submit("carl@plain.example", "NOTIFY=SUCCESS", "relayed")
        delivered = self.mta.wait_event("deliver", id=id_)
        self.assertTrue(delivered["report"])
        report = self.report(lambda: self.mta.mailbox(ANN), "relayed")
        self.assertEqual(report.get_payload()[1].get_payload()[1]["Action"], "relayed")
        self.assertNotIn(b"NOTIFY", self.sink.messages()[0])
