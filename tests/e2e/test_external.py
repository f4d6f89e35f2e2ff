"""Certificates that real clients show: EXTERNAL (RFC 4422) by curl, msmtp and GNU SASL, relaying by swaks."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path
from typing import ClassVar

import pytest
import trustme

from tests.e2e.case import ANN, BEN, ServiceCase
from tests.peers import peer_dir
from tests.peers.clients import curl_smtp, msmtp, swaks
from tests.peers.process import require

pytestmark = pytest.mark.peer


class ExternalTests(ServiceCase):
    ca: ClassVar[str]
    folder: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.mta.cli("user", "set", BEN, "--certificate", str(cls.folder / "ben.pem"))

    @classmethod
    def prepare(cls) -> None:
        cls.folder = peer_dir("external")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        authority, other = trustme.CA(), trustme.CA()
        for name, leaf in (
            ("ann", authority.issue_cert(ANN)),
            ("ben", other.issue_cert("laptop.example")),
            ("eve", other.issue_cert(ANN)),
        ):
            leaf.private_key_pem.write_to_path(str(cls.folder / f"{name}.key"))
            leaf.cert_chain_pems[0].write_to_path(str(cls.folder / f"{name}.pem"))
            for file in (f"{name}.key", f"{name}.pem"):
                (cls.folder / file).chmod(0o644)
        authorities = cls.folder / "clients-ca.pem"
        authority.cert_pem.write_to_path(str(authorities))
        authorities.chmod(0o644)
        asks = {"client_certificates": True, "client_ca": str(authorities)}
        cls.settings = {
            "smtp": {"auth_delay": "1ms"},
            "listen": dict.fromkeys(("mx", "submission", "submissions"), asks),
        }
        cls.ca = cls.certify()

    def identity(self, name: str) -> tuple[str, str]:
        return str(self.folder / f"{name}.pem"), str(self.folder / f"{name}.key")

    def curl(self, name: str, user: str) -> subprocess.CompletedProcess[str]:
        message = self.folder / "message"
        message.write_text("Subject: by curl\r\n\r\nhello\r\n")
        certificate, key = self.identity(name)
        return curl_smtp(
            f"smtps://localhost:{self.mta.submissions}",
            sender=user,
            recipients=(BEN,),
            message=message,
            cacert=Path(self.ca),
            options=("--cert", certificate, "--key", key, "--user", f"{user}:", "--login-options", "AUTH=EXTERNAL"),
        )

    def test_curl(self) -> None:
        for name, user in (("ann", ANN), ("ben", BEN)):
            done = self.curl(name, user)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.mta.wait_event("auth", user=user, mechanism="EXTERNAL")

    def test_curl_for_somebody_else(self) -> None:
        for name, user in (("ann", BEN), ("ben", ANN)):
            done = self.curl(name, user)
            self.assertIn("< 535 5.7.8", done.stderr)
            self.mta.wait_event("auth-failed", user=user, mechanism="EXTERNAL")

    def test_curl_with_a_certificate_that_nobody_vouches_for(self) -> None:
        done = self.curl("eve", ANN)
        self.assertNotEqual(done.returncode, 0)
        self.assertNotIn("EXTERNAL", done.stderr.partition("< 250 AUTH")[2].partition("\n")[0])

    def test_msmtp(self) -> None:
        before = len(self.mta.mailbox(BEN))
        certificate, key = self.identity("ann")
        done = msmtp(
            self.mta.submission,
            self.ca,
            *(f"--tls-cert-file={certificate}", f"--tls-key-file={key}"),
            *("--auth=external", f"--user={ANN}", f"--from={ANN}", BEN),
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.mta.wait_mailbox(BEN, before + 1)

    def test_gsasl(self) -> None:
        for user in (ANN, ""):
            certificate, key = self.identity("ann")
            done = subprocess.run(
                [
                    require("gsasl"),
                    *("--client", "--smtp", "--verbose", "--connect", f"localhost:{self.mta.submission}"),
                    *(f"--x509-ca-file={self.ca}", f"--x509-cert-file={certificate}", f"--x509-key-file={key}"),
                    *("--mechanism", "EXTERNAL", "--authorization-id", user),
                ],
                input="QUIT\r\n",
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            self.assertIn("235 2.7.0", done.stdout, done.stdout + done.stderr)

    def relayed(self, name: str) -> tuple[int, str]:
        certificate, key = self.identity(name)
        tls = ("--tls", "--tls-cert", certificate, "--tls-key", key)
        done = swaks(self.mta.mx, "-f", "a@far.example", "-t", "joe@elsewhere.invalid", "--quit-after", "RCPT", *tls)
        return done.returncode, done.stdout

    def test_relaying(self) -> None:
        status, said = self.relayed("ben")
        self.assertNotEqual(status, 0)
        self.assertIn("550 5.7.1", said)
        fingerprint = subprocess.run(
            ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(self.folder / "ben.pem")],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.partition("=")[2]
        self.mta.write_config({"relay": {"certificates": [fingerprint.strip()]}})
        self.mta.signal(signal.SIGHUP)
        self.mta.wait_event("service", what="reload")
        status, said = self.relayed("ben")
        self.assertEqual(status, 0, said)
        self.assertIn("550 5.7.1", self.relayed("ann")[1])
