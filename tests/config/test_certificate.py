"""Certificates and keys: what cannot be used is an error, what will annoy is a warning."""

from __future__ import annotations

import datetime
import os
import pwd
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from twisted_mta.config import Problem, Settings, certificate, check
from twisted_mta.config.settings import Tls
from twisted_mta.runtime.certificates import self_signed

HOST = "mx1.isp.example"
NOW = datetime.datetime.now(datetime.UTC)


class Pairs(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.tls = self.made(self.folder / "good")

    def made(self, folder: Path, now: datetime.datetime = NOW) -> Tls:
        self_signed(folder, HOST, now=now)
        return Tls(certificate=str(folder / "self-signed.pem"), key=str(folder / "self-signed.key"))

    def one(self, tls: Tls, hostname: str = HOST, user: str = "") -> Problem:
        (problem,) = certificate.check(tls, hostname, user)
        return problem

    def told(self, problem: Problem, severity: str, key: str, value: str, wrong: str, mend: str) -> None:
        self.assertEqual((problem.severity, problem.key, problem.value), (severity, key, value))
        self.assertIn(wrong, problem.wrong)
        self.assertIn(mend, problem.mend)

    def test_good(self) -> None:
        self.assertEqual(list(certificate.check(self.tls, HOST)), [])
        self.assertEqual(list(certificate.check(self.tls, "")), [])

    def test_through_check(self) -> None:
        broken = Tls(certificate=self.tls.certificate, key="/no/such/key")
        (problem,) = check(Settings(tls=broken))
        self.told(
            problem, "error", "tls.key", "/no/such/key", "cannot be read: No such file", "name a file that exists"
        )

    def test_missing_certificate(self) -> None:
        tls = Tls(certificate="/no/such/pem", key=self.tls.key)
        self.told(self.one(tls), "error", "tls.certificate", "/no/such/pem", "No such file", "name a file that exists")

    def test_a_folder(self) -> None:
        tls = Tls(certificate=self.tls.certificate, key=str(self.folder))
        self.told(self.one(tls), "error", "tls.key", str(self.folder), "is a folder", "name a PEM file")

    def test_another_key(self) -> None:
        other = self.made(self.folder / "other")
        tls = Tls(certificate=self.tls.certificate, key=other.key)
        mend = "the key that the certificate was made for"
        self.told(self.one(tls), "error", "tls.key", other.key, f"is not the key of {tls.certificate}", mend)

    def test_swapped(self) -> None:
        tls = Tls(certificate=self.tls.key, key=self.tls.certificate)
        mend = "-----BEGIN CERTIFICATE-----"
        self.told(self.one(tls), "error", "tls.certificate", self.tls.key, "has no certificate that can be read", mend)

    def test_no_key_inside(self) -> None:
        tls = Tls(certificate=self.tls.certificate, key=self.tls.certificate)
        mend = "-----BEGIN PRIVATE KEY-----"
        self.told(self.one(tls), "error", "tls.key", tls.key, "has no private key that can be read", mend)

    def test_locked_key(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        locked = self.folder / "locked"
        locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
        tls = Tls(certificate=self.tls.certificate, key=str(locked))
        self.told(self.one(tls), "error", "tls.key", str(locked), "is locked with a passphrase", "openssl pkey -in")

    def test_both_in_one_file(self) -> None:
        both = self.folder / "both"
        both.write_bytes(Path(self.tls.certificate).read_bytes() + Path(self.tls.key).read_bytes())
        both.chmod(0o600)
        self.assertEqual(list(certificate.check(Tls(certificate=str(both), key=str(both)), HOST)), [])

    def test_expired(self) -> None:
        tls = self.made(self.folder / "old", NOW - datetime.timedelta(days=1000))
        ended = f"{NOW - datetime.timedelta(days=1000 - 397):%Y-%m-%d}"
        self.told(self.one(tls), "warning", "tls.certificate", tls.certificate, f"expired on {ended}", "renew it")

    def test_expires_soon(self) -> None:
        tls = self.made(self.folder / "soon", NOW - datetime.timedelta(days=390))
        self.told(self.one(tls), "warning", "tls.certificate", tls.certificate, "expires on", "renew it")

    def test_not_yet(self) -> None:
        tls = self.made(self.folder / "early", NOW + datetime.timedelta(days=2))
        self.told(self.one(tls), "warning", "tls.certificate", tls.certificate, "is not valid before", "clock")

    def test_another_name(self) -> None:
        problem = self.one(self.tls, "mx2.isp.example")
        self.told(problem, "warning", "tls.certificate", self.tls.certificate, "is not for mx2.isp.example", "hostname")

    def test_open_to_all(self) -> None:
        Path(self.tls.key).chmod(0o644)
        mend = f"chmod o-rwx {self.tls.key}"
        self.told(self.one(self.tls), "warning", "tls.key", self.tls.key, "read by every user of the machine", mend)

    def test_not_readable_after_the_drop(self) -> None:
        try:
            nobody = pwd.getpwnam("nobody")
        except KeyError:
            raise SkipTest("there is no user nobody") from None
        if os.geteuid() == nobody.pw_uid:
            raise SkipTest("we are nobody")
        problem = self.one(self.tls, user="nobody")
        self.told(problem, "warning", "tls.key", self.tls.key, "cannot be read by nobody, so a reload", "readable for")
        self.assertEqual(list(certificate.check(self.tls, HOST, "root")), [])
        self.assertEqual(list(certificate.check(self.tls, HOST, "no-such-user")), [])

    def test_not_readable_at_all(self) -> None:
        if os.geteuid() == 0:
            raise SkipTest("root reads everything")
        Path(self.tls.key).chmod(0)
        self.told(self.one(self.tls), "error", "tls.key", self.tls.key, "Permission denied", "make it readable for")

    def test_wildcards(self) -> None:
        chain, _ = certificate.read_pair(self.tls)
        self.assertTrue(certificate.covers(chain[0], "MX1.isp.example"))
        self.assertFalse(certificate.covers(chain[0], "isp.example"))
        self_signed(self.folder / "wild", "*.isp.example")
        wild = Tls(certificate=str(self.folder / "wild/self-signed.pem"), key=str(self.folder / "wild/self-signed.key"))
        chain, _ = certificate.read_pair(wild)
        self.assertTrue(certificate.covers(chain[0], "mx1.isp.example"))
        self.assertFalse(certificate.covers(chain[0], "a.mx1.isp.example"))
        self.assertFalse(certificate.covers(chain[0], "isp.example"))
