"""A customer's mail programs hand mail in: swaks, smtplib and curl, over STARTTLS and implicit TLS (RFC 6409, 8314)."""

from __future__ import annotations

import email.policy
import email.utils
import shutil
import smtplib
import ssl
from email.message import EmailMessage
from typing import ClassVar

import pytest

from tests.e2e.case import ANN, BEN, ServiceCase, parse
from tests.peers import peer_dir, wait_for
from tests.peers.clients import curl_smtp, swaks
from tests.peers.rawsmtp import RawSmtp

pytestmark = pytest.mark.peer


class SubmissionTests(ServiceCase):
    """Submission by programs of others; every message is looked for in the recipient's Maildir."""

    ca: ClassVar[str]

    @classmethod
    def prepare(cls) -> None:
        cls.ca = cls.certify()

    def arrived(self, subject: str) -> bytes:
        """The one message with this subject, once it is there."""

        def find() -> list[bytes]:
            return [m for m in self.mta.mailbox(BEN) if parse(m)["Subject"] == subject]

        [message] = wait_for(f"{subject!r} in the mailbox", find, alive=self.mta.check_alive)
        return message

    def swaks(self, subject: str, port: int, *options: str) -> bytes:
        done = swaks(port, "-f", ANN, "-t", BEN, "-au", ANN, "-ap", self.password, "--h-Subject", subject, *options)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return self.arrived(subject)

    def test_swaks_starttls_plain(self) -> None:
        message = self.swaks("starttls plain", self.mta.submission, "--tls", "--auth", "PLAIN", "--body", "eins")
        self.assertIn(b"eins", message)
        self.assertRegex(parse(message)["Received"], r"with ESMTPSA")

    def test_swaks_starttls_login(self) -> None:
        self.swaks("starttls login", self.mta.submission, "--tls", "--auth", "LOGIN")

    def test_swaks_implicit_tls_plain(self) -> None:
        message = self.swaks("tls plain", self.mta.submissions, "--tls-on-connect", "--auth", "PLAIN")
        self.assertRegex(parse(message)["Received"], r"with ESMTPSA")

    def test_swaks_implicit_tls_login(self) -> None:
        self.swaks("tls login", self.mta.submissions, "--tls-on-connect", "--auth", "LOGIN")

    def test_swaks_pipelining(self) -> None:
        self.swaks("pipelined", self.mta.submission, "--tls", "--auth", "PLAIN", "--pipeline")

    def test_swaks_offers_no_password_to_a_wrong_one(self) -> None:
        done = swaks(self.mta.submission, "-f", ANN, "-t", BEN, "-au", ANN, "-ap", "wrong", "--tls", "--auth", "PLAIN")
        self.assertIn("535 5.7.8", done.stdout)
        self.assertNotEqual(done.returncode, 0)

    def smtplib_send(self, session: smtplib.SMTP, subject: str) -> None:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = ANN, BEN, subject
        message["Bcc"] = "secret@demo.example"
        message.set_content("Grüße\n.\n..\n")
        session.login(ANN, self.password)
        self.assertEqual(session.sendmail(ANN, [BEN], message.as_bytes(policy=email.policy.SMTP)), {})
        session.quit()
        arrived = parse(self.arrived(subject))
        self.assertEqual(arrived.get_content(), "Grüße\n.\n..\n")
        self.assertIsNone(arrived["Bcc"])
        self.assertIsNotNone(email.utils.parsedate_to_datetime(arrived["Date"]))
        self.assertRegex(arrived["Message-ID"], r"^<[^@\s]+@[^@\s]+>$")
        self.assertEqual(arrived["Return-Path"], f"<{ANN}>")

    def test_smtplib_starttls_with_a_verified_certificate(self) -> None:
        session = smtplib.SMTP("localhost", self.mta.submission, timeout=20)
        session.starttls(context=ssl.create_default_context(cafile=self.ca))
        self.smtplib_send(session, "smtplib starttls")

    def test_smtplib_implicit_tls_with_a_verified_certificate(self) -> None:
        context = ssl.create_default_context(cafile=self.ca)
        self.smtplib_send(
            smtplib.SMTP_SSL("localhost", self.mta.submissions, context=context, timeout=20), "smtplib tls"
        )

    def curl(self, url: str, subject: str, *options: str) -> None:
        folder = peer_dir("curl")
        self.addCleanup(shutil.rmtree, folder)
        path = folder / "message"
        path.write_bytes(f"From: {ANN}\r\nTo: {BEN}\r\nSubject: {subject}\r\n\r\n.leading dot\r\n".encode())
        done = curl_smtp(
            url,
            sender=ANN,
            recipients=(BEN,),
            message=path,
            user=f"{ANN}:{self.password}",
            cacert=self.ca,
            options=options,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(self.arrived(subject).replace(b"\r\n", b"\n").endswith(b"\n\n.leading dot\n"))

    def test_curl_starttls(self) -> None:
        self.curl(f"smtp://localhost:{self.mta.submission}/client.test", "curl starttls", "--ssl-reqd")

    def test_curl_implicit_tls(self) -> None:
        self.curl(f"smtps://localhost:{self.mta.submissions}/client.test", "curl tls")

    def test_no_mail_without_authentication(self) -> None:
        with RawSmtp(self.mta.submission) as client:
            client.ehlo()
            self.assertEqual(client.cmd(f"MAIL FROM:<{ANN}>").code, 530)
            client.starttls()
            self.assertEqual(client.cmd(f"MAIL FROM:<{ANN}>").code, 530)

    def test_a_user_may_not_use_anothers_address(self) -> None:
        with RawSmtp(self.mta.submissions, implicit_tls=True) as client:
            client.ehlo()
            self.assertEqual(client.auth_plain(ANN, self.password).code, 235)
            self.assertTrue(client.message(BEN, [BEN], b"Subject: x\r\n\r\nx").refused)
            client.cmd("RSET")
            self.assertTrue(client.message("president@elsewhere.example", [BEN], b"Subject: x\r\n\r\nx").refused)
            client.cmd("RSET")
            self.assertEqual(client.message(ANN, [BEN], b"Subject: own address\r\n\r\nx").code, 250)

    def test_a_message_that_was_promised_has_its_id_in_the_reply(self) -> None:
        with RawSmtp(self.mta.submissions, implicit_tls=True) as client:
            client.ehlo()
            client.auth_plain(ANN, self.password)
            answer = client.message(ANN, [BEN], b"Subject: id\r\n\r\nx")
        identity = answer.text.split()[-1]
        self.mta.wait_event("deliver", id=identity)
        self.assertEqual(self.mta.trace(identity)[0]["event"], "accept")

    def test_what_was_said_in_clear_before_tls_is_forgotten(self) -> None:
        with RawSmtp(self.mta.submission) as client:
            client.ehlo()
            self.assertEqual(client.cmd("STARTTLS").code, 220)
            client.handshake()
            self.assertEqual(client.auth_plain(ANN, self.password).code, 503, "the EHLO was in clear")
            client.ehlo()
            self.assertEqual(client.auth_plain(ANN, self.password).code, 235)

    def test_tls_does_not_begin_in_the_middle_of_a_transaction(self) -> None:
        with RawSmtp(self.mta.submission) as client:
            client.ehlo()
            client.auth_plain(ANN, self.password)
            client.cmd(f"MAIL FROM:<{ANN}>")
            self.assertEqual(client.cmd("STARTTLS").code, 503)

    def test_commands_smuggled_before_the_handshake_are_not_taken(self) -> None:
        with RawSmtp(self.mta.submission) as client:
            client.ehlo()
            client.send(b"STARTTLS\r\nMAIL FROM:<%s>\r\n" % ANN.encode())
            answer = client.answer()
            if answer.code == 220:
                # What was sent in clear goes into the handshake, which therefore breaks.
                self.assertRaises((ssl.SSLError, ConnectionError), client.handshake)
            else:
                self.assertTrue(answer.refused)
