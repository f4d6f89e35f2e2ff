"""TLS with OpenSSL's and GnuTLS's own clients: ALPN, resumption, ciphers, renegotiation, and an end too soon."""

from __future__ import annotations

import contextlib
import shutil
import ssl
import subprocess
import time
from typing import ClassVar

import pytest

from tests.e2e.case import ANN, BEN, ServiceCase
from tests.peers.process import LOOPBACK, peer_dir, require
from tests.peers.rawsmtp import Closed, RawSmtp

pytestmark = pytest.mark.peer


class ClientTests(ServiceCase):
    """Programs that others wrote."""

    authority: ClassVar[str]

    @classmethod
    def prepare(cls) -> None:
        cls.authority = cls.certify()

    def s_client(self, port: int, *options: str, say: str = "QUIT\r\n") -> str:
        done = subprocess.run(
            [require("openssl"), "s_client", "-connect", f"{LOOPBACK}:{port}", *options],
            input=say,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.stdout + done.stderr

    def test_alpn(self) -> None:
        for port, more in ((self.mta.submissions, ()), (self.mta.mx, ("-starttls", "smtp"))):
            self.assertIn("ALPN protocol: smtp", self.s_client(port, "-alpn", "smtp", *more))
            self.assertIn("No ALPN negotiated", self.s_client(port, *more))
            self.assertIn("no application protocol", self.s_client(port, "-alpn", "h2,http/1.1", *more))

    def test_resumption(self) -> None:
        folder = peer_dir("session")
        self.addCleanup(shutil.rmtree, folder)
        for port, more in ((self.mta.submissions, ()), (self.mta.mx, ("-starttls", "smtp"))):
            for version in ("-tls1_2", "-tls1_3"):
                file = str(folder / f"{port}{version}")
                # TLS 1.3's tickets follow the handshake: some words have to come before they are stored.
                first = self.talk(port, version, *more, "-sess_out", file)
                self.assertIn("New, TLSv1.", first)
                again = self.talk(port, version, *more, "-sess_in", file)
                self.assertIn("Reused, TLSv1.", again, (version, more))

    def talk(self, port: int, *options: str) -> str:
        """s_client that waits for the reply to NOOP before it ends."""
        with subprocess.Popen(
            [require("openssl"), "s_client", "-connect", f"{LOOPBACK}:{port}", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"NOOP\r\n")
            process.stdin.flush()
            said = b""
            while b"250 2.0.0 OK" not in said and (more := process.stdout.readline()):
                said += more
            process.stdin.write(b"QUIT\r\n")
            process.stdin.close()
            said += process.stdout.read()
        return said.decode("utf-8", "replace")

    def test_ciphers(self) -> None:
        for port, more, cipher, good in (
            (self.mta.submissions, (), "ECDHE-ECDSA-AES128-GCM-SHA256", True),
            (self.mta.submissions, (), "ECDHE-ECDSA-AES128-SHA", False),
            (self.mta.mx, ("-starttls", "smtp"), "ECDHE-ECDSA-AES128-SHA", True),
            (self.mta.mx, ("-starttls", "smtp"), "AES128-SHA", False),
        ):
            said = self.s_client(port, "-tls1_2", "-cipher", cipher, *more)
            self.assertEqual(f"Cipher is {cipher}" in said, good, (cipher, said[-500:]))

    def test_no_renegotiation(self) -> None:
        self.assertIn("no renegotiation", self.s_client(self.mta.submissions, "-tls1_2", say="R\r\n"))

    def test_gnutls(self) -> None:
        program = require("gnutls-bin", "/usr/bin/gnutls-cli")
        for port, more in ((self.mta.submissions, ()), (self.mta.mx, ("--starttls-proto=smtp",))):
            for priority in ("NORMAL:-VERS-ALL:+VERS-TLS1.3", "NORMAL:-VERS-ALL:+VERS-TLS1.2"):
                done = subprocess.run(
                    [
                        *(
                            program,
                            "--port",
                            str(port),
                            f"--x509cafile={self.authority}",
                            "--verify-hostname=localhost",
                        ),
                        *(f"--priority={priority}", "--alpn=smtp", "--resume", *more, LOOPBACK),
                    ],
                    input="QUIT\r\n",
                    capture_output=True,
                    text=True,
                    timeout=30,
                    check=False,
                )
                said = done.stdout + done.stderr
                self.assertIn("The certificate is trusted", said)
                self.assertIn("Application protocol: smtp", said)
                self.assertIn("This is a resumed session", said, priority)


class EndTests(ServiceCase):
    """TLS is closed in the middle of a message (CVE-2026-45185): that is the end of the message, and of the session."""

    def cut(self, *octets: bytes) -> None:
        for implicit in (False, True):
            port = self.mta.submissions if implicit else self.mta.mx
            with RawSmtp(port, implicit_tls=implicit) as session:
                session.ehlo()
                if implicit:
                    self.assertEqual(session.auth_plain(ANN, self.mta.password).code, 235)
                else:
                    session.starttls()
                session.cmd(f"MAIL FROM:<{ANN}>")
                session.cmd(f"RCPT TO:<{BEN}>")
                for one in octets:
                    session.send(one)
                time.sleep(0.2)
                assert isinstance(session.socket, ssl.SSLSocket)
                with contextlib.suppress(OSError):
                    session.socket = session.socket.unwrap()
                with contextlib.suppress(OSError):
                    session.socket.sendall(b"in clear\r\n.\r\nNOOP\r\nRSET\r\n")
                with contextlib.suppress(Closed, OSError):
                    self.assertEqual(session.rest(), b"")

    def test_in_data(self) -> None:
        self.cut(b"DATA\r\nSubject: cut\r\n\r\nhalf a li")
        self.nothing_came()

    def test_before_the_last_dot(self) -> None:
        self.cut(b"DATA\r\nSubject: cut\r\n\r\nline\r\n.")
        self.nothing_came()

    def test_in_bdat(self) -> None:
        self.cut(b"BDAT 20\r\nSubject: cut\r\n\r\nline", b"BDAT 40 LAST\r\nhalf")
        self.nothing_came()

    def nothing_came(self) -> None:
        """What is sent after it does come, so that whatever was to come would have."""
        before = len(self.mta.mailbox(BEN))
        with RawSmtp(self.mta.mx) as session:
            session.ehlo()
            self.assertEqual(session.message(ANN, [BEN], b"Subject: whole\r\n").code, 250)
        found = self.mta.wait_mailbox(BEN, before + 1)
        self.mta.wait_empty()
        self.assertEqual([one for one in found if b"Subject: cut" in one or b"in clear" in one], [])
