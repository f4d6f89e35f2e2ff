"""Certificates by name with OpenSSL's own client, and a reload that adds one while a session is open."""

from __future__ import annotations

import shutil
import signal
import smtplib
import ssl
import subprocess
from pathlib import Path
from typing import ClassVar

import pytest
import trustme

from tests.e2e.case import ANN, ServiceCase
from tests.peers.process import LOOPBACK, peer_dir, require, wait_for

pytestmark = pytest.mark.peer


class SniTests(ServiceCase):
    folder: ClassVar[Path]
    authority: ClassVar[trustme.CA]

    @classmethod
    def prepare(cls) -> None:
        cls.folder = peer_dir("sni")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.authority = trustme.CA()
        cls.authority.cert_pem.write_to_path(str(cls.folder / "ca.pem"))
        cls.settings = {"tls": cls.issue("mx.isp.example"), "sni": {"brand": cls.issue("smtp.brand.example")}}

    @classmethod
    def issue(cls, name: str) -> dict[str, str]:
        issued = cls.authority.issue_cert(name)
        certificate, key = cls.folder / f"{name}.pem", cls.folder / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))
        key.chmod(0o600)
        return {"certificate": str(certificate), "key": str(key)}

    def verified(self, name: str, port: int, *options: str) -> bool:
        done = subprocess.run(
            [
                *(require("openssl"), "s_client", "-connect", f"{LOOPBACK}:{port}", "-servername", name),
                *("-verify_hostname", name, "-verify_return_error", "-CAfile", str(self.folder / "ca.pem"), *options),
            ],
            input="QUIT\r\n",
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return "Verify return code: 0 (ok)" in done.stdout

    def test_names_and_a_reload(self) -> None:
        starttls = ("-starttls", "smtp")
        for name, right in (("mx.isp.example", True), ("smtp.brand.example", True), ("new.brand.example", False)):
            self.assertEqual(self.verified(name, self.mta.submissions), right, name)
            self.assertEqual(self.verified(name, self.mta.mx, *starttls), right, name)
        trusting = ssl._create_unverified_context()
        with smtplib.SMTP_SSL(LOOPBACK, self.mta.submissions, context=trusting, timeout=20) as session:
            self.mta.write_config({"sni": {"new": self.issue("new.brand.example")}})
            self.mta.signal(signal.SIGHUP)
            wait_for("the new name", lambda: self.verified("new.brand.example", self.mta.submissions))
            session.login(ANN, self.mta.password)
        self.assertTrue(self.verified("smtp.brand.example", self.mta.mx, *starttls))
