"""FUTURERELEASE, DELIVERBY, MT-PRIORITY and ETRN with programs of others: smtplib, msmtp and curl hand mail in and ask
for queue runs, a whole Postfix is the next hop, and two of our own pass time and priority on (RFC 4865, 2852, 6710,
1985)."""

from __future__ import annotations

import email.policy
import re
import smtplib
import ssl
import subprocess
import time
from email.message import EmailMessage
from typing import ClassVar

import pytest

from tests.e2e.case import ANN, BEN, ServiceCase, parse
from tests.peers import wait_for
from tests.peers.mta import Mta
from tests.peers.postfix import Postfix, SmtpSink
from tests.peers.process import free_port, require
from twisted_mta.testing.zones import ZoneServer

pytestmark = pytest.mark.peer

BOB = "bob@remote.example"


class ExtensionsCase(ServiceCase):
    """What these tests share: two workers, and a remote.example whose MX is on loopback."""

    dns: ClassVar[ZoneServer]

    @classmethod
    def remote(cls, port: int) -> None:
        """remote.example has its MX at this port."""
        cls.dns = ZoneServer(
            {"remote.example": {"MX": ["10 mx.remote.example."]}, "mx.remote.example": {"A": ["127.0.0.1"]}}
        )
        cls.addClassCleanup(cls.dns.close)
        cls.settings = {
            **cls.settings,
            "workers": 2,
            "dns": {"servers": [cls.dns.server]},
            "relay": {"port": port, "networks": ["127.0.0.0/8"]},
            "queue": {"retry": ["10m"]},
        }

    def smtplib(self) -> smtplib.SMTP:
        """A session of Ann's."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        session = smtplib.SMTP_SSL("127.0.0.1", self.mta.submissions, context=context, timeout=20)
        self.addCleanup(session.close)
        session.login(ANN, self.password)
        return session

    def submit(self, to: str, subject: str, *options: str) -> str:
        """Hands a message in with these parameters of MAIL; its id."""
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = ANN, to, subject
        message.set_content("body\n")
        self.smtplib().sendmail(ANN, [to], message.as_bytes(policy=email.policy.SMTP), mail_options=options)
        (found,) = [event for event in self.mta.events("accept") if event["recipients"] == [to]][-1:]
        return str(found["id"])

    def report(self, about: str) -> str:
        """The report that Ann gets."""

        def find() -> list[str]:
            return [text for one in self.mta.mailbox(ANN) if about in (text := one.decode())]

        (found,) = wait_for(f"a report about {about}", find, alive=self.mta.check_alive)
        return found


class PostfixTests(ExtensionsCase):
    """Postfix, which offers none of them, is the next hop."""

    postfix: ClassVar[Postfix]

    @classmethod
    def prepare(cls) -> None:
        cls.postfix = Postfix(["remote.example"], ["bob"])
        cls.addClassCleanup(cls.postfix.close)
        cls.postfix.start()
        cls.remote(cls.postfix.port)

    def arrived(self, subject: str) -> bytes:
        def find() -> list[bytes]:
            return [one for one in self.postfix.messages("bob", "remote.example") if parse(one)["Subject"] == subject]

        (message,) = wait_for(f"{subject!r} in Postfix", find, alive=self.mta.check_alive)
        return message

    def test_offers(self) -> None:
        session = self.smtplib()
        session.ehlo()
        offers = session.esmtp_features
        seconds, _, date = offers["futurerelease"].partition(" ")
        self.assertEqual(seconds, "2592000")
        self.assertRegex(date, r"^20\d\d-\d\d-\d\dT\d\d:\d\d:00Z$")
        self.assertEqual((offers["deliverby"], offers["mt-priority"], offers["etrn"]), ("", "MIXER", ""))

    def test_dated_mail_waits_through_a_restart(self) -> None:
        begun = time.time()
        identity = self.submit(BOB, "dated", "HOLDFOR=12")
        self.assertIn("put off by the sender until", self.mta.cli("queue", "list"))
        self.assertIn("as the sender asked", self.mta.cli("queue", "show", identity))
        self.mta.stop_cleanly()
        self.mta.start()
        delivered = self.mta.wait_event("deliver", 40, id=identity)
        self.assertGreaterEqual(delivered["time"] - begun, 12)
        self.arrived("dated")
        self.assertIn("put off by the sender until", self.mta.cli("trace", identity))

    def test_an_operator_releases_it_early(self) -> None:
        identity = self.submit(BOB, "early", "HOLDFOR=86400")
        self.mta.cli("queue", "retry", identity)
        self.arrived("early")

    def test_out_of_bounds(self) -> None:
        session = self.smtplib()
        session.ehlo()
        for option in ("HOLDFOR=2592001", "HOLDFOR=0", "HOLDUNTIL=2001-01-01T00:00:00Z", "BY=0;R", "MT-PRIORITY=10"):
            code, words = session.mail(ANN, [option])
            self.assertEqual((code, words[:5]), (501, b"5.5.4"), option)

    def test_returned_as_postfix_knows_nothing_of_it(self) -> None:
        identity = self.submit(BOB, "by R", "BY=60;R")
        self.assertEqual(self.mta.wait_event("bounce", id=identity)["status"], "5.3.3")
        report = self.report(identity)
        self.assertIn("Status: 5.3.3", report)
        self.assertIn("Deliver-By-Date: ", report)

    def test_relayed_and_told(self) -> None:
        identity = self.submit(BOB, "by N", "BY=60;N", "MT-PRIORITY=4")
        self.assertIn(b"PRIORITY 4;", self.arrived("by N"))
        self.assertIn("Action: relayed", self.report(identity))

    def test_msmtp_takes_our_offers(self) -> None:
        done = subprocess.run(
            [require("msmtp"), "--host=127.0.0.1", f"--port={self.mta.submissions}", "--tls=on", "--tls-starttls=off",
             "--tls-certcheck=off", "--auth=plain", f"--user={ANN}", f"--passwordeval=echo {self.password}",
             f"--from={ANN}", "--file=/dev/null", BEN],
            input=b"Subject: from msmtp\n\nbody\n", capture_output=True, timeout=30, check=False,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        wait_for("the message", lambda: [one for one in self.mta.mailbox(BEN) if b"from msmtp" in one])


class ChainTests(ExtensionsCase):
    """Another one of our own is the next hop."""

    next: ClassVar[Mta]

    @classmethod
    def prepare(cls) -> None:
        cls.next = Mta({"extensions": {"deliver_by_minimum": "5s"}}, users=[BOB])
        cls.addClassCleanup(cls.next.close)
        cls.next.write_config({"relay": {"networks": ["127.0.0.0/8"]}})
        cls.next.start()
        cls.remote(cls.next.mx)

    def test_passed_on(self) -> None:
        start = time.time()
        self.submit(BOB, "chain", "BY=100;R", "MT-PRIORITY=-4")
        self.next.wait_mailbox(BOB)
        (accepted,) = self.next.events("accept")
        self.assertEqual((accepted["by_mode"], accepted["priority"]), ("R", -4))
        self.assertLess(abs(accepted["deliver_by"] - start - 100), 10)
        priorities = re.findall(rb"PRIORITY (-?\d)", self.next.mailbox(BOB)[0])
        self.assertEqual(priorities, [b"-4", b"-4"])

    def test_too_near_for_the_next(self) -> None:
        identity = self.submit(BOB, "near", "BY=3;R")
        self.assertEqual(self.mta.wait_event("bounce", id=identity)["status"], "5.4.7")


class EtrnTests(ExtensionsCase):
    """curl asks for a queue run."""

    port: ClassVar[int]

    @classmethod
    def prepare(cls) -> None:
        cls.port = free_port()
        cls.remote(cls.port)

    def etrn(self, domain: str, *options: str, port: int = 0) -> str:
        """The last reply."""
        scheme = "smtps" if options else "smtp"
        done = subprocess.run(
            [require("curl"), "--silent", "--verbose", "--insecure", f"{scheme}://127.0.0.1:{port or self.mta.mx}",
             "--request", f"ETRN {domain}", *options],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        said = [line[2:] for line in done.stderr.splitlines() if re.match(r"< (25[0-3]|45[89]|50\d) ", line)]
        return said[-1] if said else done.stderr

    def test_what_waits_goes_at_once(self) -> None:
        identity = self.submit(BOB, "waiting")
        self.mta.wait_event("defer", id=identity)
        with SmtpSink(port=self.port) as sink:
            sink.start()
            self.assertEqual(
                self.etrn("remote.example"), "253 2.0.0 OK, 1 pending messages for node remote.example started"
            )
            sink.wait_count(1)
        self.mta.wait_event("deliver", id=identity)
        self.assertIn("run", self.mta.cli("trace", identity))
        self.assertTrue(self.etrn("remote.example").startswith("458 4.7.0 "))

    def test_users_ask_for_their_own(self) -> None:
        login = ("--user", f"{ANN}:{self.password}")
        self.assertTrue(self.etrn("demo.example", *login, port=self.mta.submissions).startswith("251 "))
        self.assertTrue(self.etrn("third.example", *login, port=self.mta.submissions).startswith("459 "))
