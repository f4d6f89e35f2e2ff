"""REQUIRETLS (RFC 8689) through the running service: unbound proves the MX, a second service of ours keeps to it, and
Postfix, which does not know it, gets nothing.  Binary mail (RFC 3030) goes the same way, octet for octet."""

from __future__ import annotations

import shutil
import smtplib
import ssl
from email.message import EmailMessage
from typing import ClassVar

import pytest
import trustme

from tests.e2e.case import ANN, ServiceCase, parse
from tests.peers import peer_dir, wait_for
from tests.peers.mta import Mta
from tests.peers.postfix import Postfix
from tests.peers.unbound import Unbound

pytestmark = pytest.mark.peer

HERE, THERE = "127.0.0.1", "127.0.0.2"
ZONE = f"""\
    @        300 IN MX 10 mx.signed.example.
    mx       300 IN A {THERE}
    postfix  300 IN MX 10 mx.postfix.signed.example.
    mx.postfix 300 IN A {HERE}
    wrong    300 IN MX 10 other.signed.example.
    other    300 IN A {THERE}
    alone    300 IN A {THERE}
    """


def anything() -> ssl.SSLContext:
    """A context that takes every certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class RequireTlsTests(ServiceCase):
    remote: ClassVar[Mta]
    postfix: ClassVar[Postfix]

    @classmethod
    def prepare(cls) -> None:
        folder = peer_dir("ca")
        cls.addClassCleanup(shutil.rmtree, folder)
        folder.chmod(0o755)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        for host, names in (
            ("postfix", ["mx.postfix.signed.example"]),
            ("ours", ["mx.signed.example", "alone.signed.example"]),
        ):
            issued = authority.issue_cert(*names)
            issued.private_key_pem.write_to_path(str(folder / f"{host}.key"))
            issued.cert_chain_pems[0].write_to_path(str(folder / f"{host}.pem"))
            (folder / f"{host}.key").chmod(0o600)
        cls.postfix = Postfix(
            ["postfix.signed.example"],
            settings=f"smtpd_tls_cert_file = {folder}/postfix.pem\nsmtpd_tls_key_file = {folder}/postfix.key\n",
        )
        cls.addClassCleanup(cls.postfix.close)
        cls.postfix.start()
        unbound = Unbound(
            {"signed.example": ZONE, "plain.example": "@ 300 IN MX 10 mx.signed.example.\n"},
            frozenset({"signed.example"}),
        )
        cls.addClassCleanup(unbound.close)
        unbound.start()
        cls.remote = Mta(
            {
                "listen": {"there": {"address": [THERE], "port": cls.postfix.port, "role": "mx", "tls": "starttls"}},
                "tls": {"certificate": f"{folder}/ours.pem", "key": f"{folder}/ours.key"},
            },
            users=[f"bob@{name}" for name in ("signed.example", "alone.signed.example", "plain.example")],
        )
        cls.addClassCleanup(cls.remote.close)
        cls.remote.start()
        cls.settings = {
            "dns": {"servers": [unbound.server], "trust_ad": True},
            "relay": {"port": cls.postfix.port, "ca": f"{folder}/ca.pem"},
        }

    def submit(self, to: str, content: bytes, options: list[str]) -> str:
        """Hands a message in as Ann with Python's own client; gives its id."""
        with smtplib.SMTP_SSL(HERE, self.mta.submissions, context=anything()) as client:
            client.login(ANN, self.password)
            self.assertTrue(client.has_extn("requiretls"))
            self.assertEqual(client.mail(ANN, options)[0], 250)
            self.assertEqual(client.rcpt(to)[0], 250)
            client.send(b"BDAT %d LAST\r\n%b" % (len(content), content))
            code, words = client.getreply()
        self.assertEqual(code, 250, words)
        return words.decode().split()[-1]

    def bounced(self, to: str, subject: str, status: str, words: str) -> None:
        identity = self.submit(to, f"Subject: {subject}\r\n\r\nsecret\r\n".encode(), ["REQUIRETLS", "RET=FULL"])
        self.assertEqual(self.mta.wait_event("bounce", id=identity)["status"], status)
        report = self.mta.trace(identity)[-2]["report"]
        self.mta.wait_event("done", id=report)
        [found] = [message for message in self.mta.mailbox(ANN) if f"Subject: {subject}".encode() in message]
        self.assertIn(words, found.decode())
        self.assertIn(f"Status: {status}", found.decode())
        self.assertNotIn(b"secret", found)
        self.assertEqual(parse(found).get_content_type(), "multipart/report")

    def in_postfix(self, subject: str) -> EmailMessage:
        """The one message with this subject that Postfix has."""

        def find() -> list[EmailMessage]:
            return [one for one in map(parse, self.postfix.messages()) if one["Subject"] == subject]

        [message] = wait_for(f"{subject!r} in Postfix", find)
        return message

    def test_kept_all_the_way(self) -> None:
        for to in ("bob@signed.example", "bob@alone.signed.example"):
            identity = self.submit(to, b"Subject: kept\r\n\r\nsecret\r\n", ["REQUIRETLS"])
            delivered = self.mta.wait_event("deliver", id=identity)
            self.assertRegex(delivered["tls"], "^TLSv1.3 .* verified$")
            there = delivered["reply"].split()[-1]
            self.assertEqual(self.remote.trace(there)[0]["requiretls"], "required")
            self.assertEqual(self.mta.trace(identity)[0]["requiretls"], "required")

    def test_postfix_does_not_know_it(self) -> None:
        self.bounced("bob@postfix.signed.example", "postfix", "5.7.30", "does not offer REQUIRETLS")
        identity = self.submit("bob@postfix.signed.example", b"Subject: without\r\n\r\n\r\n", [])
        self.assertRegex(self.mta.wait_event("deliver", id=identity)["tls"], "^TLSv1.3 ")
        self.in_postfix("without")
        self.assertNotIn("postfix", [parse(one)["Subject"] for one in self.postfix.messages()])

    def test_an_mx_without_dnssec(self) -> None:
        self.bounced("bob@plain.example", "unsigned", "5.7.30", "DNSSEC")

    def test_a_certificate_for_another(self) -> None:
        self.bounced("bob@wrong.signed.example", "wrong", "5.7.10", "it is for another host")

    def test_binary(self) -> None:
        head = b"Subject: binary\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\n\r\n"
        body = bytes(range(256)) * 2000 + b"\r\n.\r\nQUIT\r\n\n.\n"
        identity = self.submit("bob@signed.example", head + body, ["BODY=BINARYMIME", "REQUIRETLS"])
        there = self.mta.wait_event("deliver", id=identity)["reply"].split()[-1]
        self.remote.wait_event("done", id=there)
        [found] = [message for message in self.remote.mailbox("bob@signed.example") if b"binary" in message[:2000]]
        self.assertEqual(found.partition(b"\r\n\r\n")[2], body)

    def test_binary_to_postfix(self) -> None:
        """It offers CHUNKING and 8BITMIME, and no BINARYMIME."""
        head = b"Subject: picture\r\nMIME-Version: 1.0\r\nContent-Type: image/png\r\n"
        body = bytes(range(256)) * 2000
        content = head + b"Content-Transfer-Encoding: binary\r\n\r\n" + body
        identity = self.submit("bob@postfix.signed.example", content, ["BODY=BINARYMIME"])
        self.mta.wait_event("deliver", id=identity)
        message = self.in_postfix("picture")
        self.assertEqual(message.get_content(), body)
        self.assertEqual(message["Content-Transfer-Encoding"], "base64")
