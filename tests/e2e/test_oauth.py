"""Tokens of a real authorization server, shown by curl and msmtp (RFC 7628, RFC 7662)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.e2e.case import ANN, BEN, ServiceCase
from tests.peers import peer_dir
from tests.peers.clients import curl_smtp
from tests.peers.issuer import Issuer, write_secret
from tests.peers.process import require

pytestmark = pytest.mark.peer

SECRET = "client's s:cret%"


class OAuthCase(ServiceCase):
    __test__ = False
    ca: ClassVar[str]
    issuer: ClassVar[Issuer]
    folder: ClassVar[Path]

    @classmethod
    def prepare(cls) -> None:
        cls.folder = peer_dir("oauth")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.issuer = Issuer(
            {"ann": (ANN, "ann's pässword"), "eve": ("eve@demo.example", "eve's password")},
            {"mail": SECRET, "other": "other's secret"},
        )
        cls.addClassCleanup(cls.issuer.close)
        cls.issuer.start()
        cls.settings = {
            "smtp": {"auth_delay": "1ms"},
            "oauth": {"isp": {"issuer": cls.issuer.url, "ca": str(cls.issuer.ca), "audience": ["mail"], **cls.table()}},
        }
        cls.ca = cls.certify()

    @classmethod
    def table(cls) -> dict[str, Any]:
        raise NotImplementedError

    def token(self, client: str = "mail", user: str = "ann", password: str = "ann's pässword") -> str:
        return self.issuer.token(client, user, password)

    def curl(self, mechanism: str, token: str, user: str = ANN) -> subprocess.CompletedProcess[str]:
        message = self.folder / "message"
        message.write_text("Subject: by curl\r\n\r\nhello\r\n")
        return curl_smtp(
            f"smtps://localhost:{self.mta.submissions}",
            sender=ANN,
            recipients=(BEN,),
            message=message,
            cacert=Path(self.ca),
            options=("--user", f"{user}:", "--oauth2-bearer", token, "--login-options", f"AUTH={mechanism}"),
        )

    def msmtp(self, mechanism: str, token: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                require("msmtp"),
                *("--file=/dev/null", "--host=localhost", f"--port={self.mta.submissions}", "--tls=on"),
                *("--tls-starttls=off", f"--tls-trust-file={self.ca}", f"--auth={mechanism}", f"--user={ANN}"),
                *(f"--passwordeval=echo '{token}'", f"--from={ANN}", BEN),
            ],
            input="Subject: by msmtp\n\nhello\n",
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def check_good(self) -> None:
        token, before = self.token(), len(self.mta.mailbox(BEN))
        for mechanism in ("OAUTHBEARER", "XOAUTH2"):
            done = self.curl(mechanism, token)
            self.assertEqual(done.returncode, 0, done.stderr + self.mta.output()[-3000:] + self.issuer.output()[-2500:])
            done = self.msmtp(mechanism.lower(), token)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.mta.wait_event("auth", user=ANN, mechanism=mechanism)
        self.mta.wait_mailbox(BEN, before + 4)
        self.check_nothing_is_told(token)

    def check_refused(self) -> None:
        """A token for another service of the same provider, one of a user whom we don't know, and one that was
        changed; the client hears why, ends the exchange, and gets 535."""
        good = self.token()
        changed = f"{good[:-20]}{'A' * 20}"
        for token in (self.token("other"), self.token(user="eve", password="eve's password"), changed):
            for mechanism in ("OAUTHBEARER", "XOAUTH2"):
                done = self.curl(mechanism, token)
                self.assertNotEqual(done.returncode, 0)
                self.assertRegex(done.stderr, "< 334 ey|< 535 5.7.8")
            done = self.msmtp("oauthbearer", token)
            self.assertIn("535", done.stderr)
            self.check_nothing_is_told(token)
        done = self.curl("OAUTHBEARER", good, BEN)
        self.assertNotEqual(done.returncode, 0)
        self.mta.wait_event("auth-failed", user=BEN, mechanism="OAUTHBEARER")
        self.check_nothing_is_told(good)

    def check_nothing_is_told(self, token: str) -> None:
        told = self.mta.output()
        for part in token.split("."):
            self.assertNotIn(part, told)
        self.assertNotIn(SECRET, told)
        self.assertNotIn("Traceback", told)


class SignedTests(OAuthCase):
    """By the keys that the issuer publishes, which are found by its configuration."""

    __test__ = True

    @classmethod
    def table(cls) -> dict[str, Any]:
        return {}

    def test_good(self) -> None:
        self.check_good()

    def test_refused(self) -> None:
        self.check_refused()

    def test_the_issuer_is_away(self) -> None:
        """Its keys serve on; a service that begins meanwhile, or a token of a key that is new, has to wait."""
        token = self.token()
        self.assertEqual(self.curl("OAUTHBEARER", token).returncode, 0)
        self.issuer.kill()
        self.addCleanup(self.issuer.start)
        self.assertEqual(self.curl("OAUTHBEARER", token).returncode, 0)
        self.mta.stop()
        self.mta.start()
        for mechanism in ("OAUTHBEARER", "XOAUTH2"):
            done = self.curl(mechanism, token)
            self.assertIn("< 454 4.7.0", done.stderr)
        self.mta.wait_event("auth-failed", user=ANN, temporary=True)
        self.check_nothing_is_told(token)


class IntrospectionTests(OAuthCase):
    """By asking the issuer about each token, from several workers."""

    __test__ = True

    @classmethod
    def prepare(cls) -> None:
        super().prepare()
        cls.settings = {**cls.settings, "workers": 2}

    @classmethod
    def table(cls) -> dict[str, Any]:
        secret = write_secret(cls.folder, SECRET)
        login = {"client_id": "mail", "client_secret_file": secret}
        return {"kind": "introspection", "cache": "0s", "user": "sub", "domain": "demo.example", **login}

    def test_good(self) -> None:
        self.check_good()

    def test_refused(self) -> None:
        self.check_refused()

    def test_revoked(self) -> None:
        token = self.token()
        self.assertEqual(self.curl("OAUTHBEARER", token).returncode, 0)
        self.issuer.revoke("mail", token)
        self.assertNotEqual(self.curl("OAUTHBEARER", token).returncode, 0)

    def test_the_issuer_is_away(self) -> None:
        token = self.token()
        self.issuer.kill()
        self.addCleanup(self.issuer.start)
        self.assertIn("< 454 4.7.0", self.curl("OAUTHBEARER", token).stderr)
        self.check_nothing_is_told(token)
