"""The test case of this folder: one running service for each class."""

from __future__ import annotations

import email
import email.message
import email.policy
import shutil
from typing import Any, ClassVar

import trustme
from twisted.trial.unittest import SynchronousTestCase

from tests.peers import peer_dir
from tests.peers.mta import Mta

ANN, BEN = "ann@demo.example", "ben@demo.example"


def parse(content: bytes) -> email.message.EmailMessage:
    """A message, parsed by Python's own parser."""
    return email.message_from_bytes(content, policy=email.policy.default)  # type: ignore[return-value]


def crlf(text: str) -> bytes:
    """Text with CRLF for its LFs."""
    return text.replace("\n", "\r\n").encode()


class ServiceCase(SynchronousTestCase):
    """``cls.mta`` runs for the whole class with ``cls.settings`` over the defaults, and is ended after it."""

    settings: ClassVar[dict[str, Any]] = {}
    mta: ClassVar[Mta]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.prepare()
        cls.mta = Mta(cls.settings)
        cls.addClassCleanup(cls.mta.close)
        cls.mta.start()

    @classmethod
    def prepare(cls) -> None:
        """Starts what the service needs, and puts it into ``cls.settings`` (which is then the class's own)."""

    @classmethod
    def certify(cls) -> str:
        """Makes a CA and a certificate for localhost, puts it into the settings; gives the CA's PEM file."""
        folder = peer_dir("ca")
        cls.addClassCleanup(shutil.rmtree, folder)
        authority = trustme.CA()
        server = authority.issue_cert("localhost", "127.0.0.1", "mta.demo.example")
        ca, certificate, key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        authority.cert_pem.write_to_path(str(ca))
        server.private_key_pem.write_to_path(str(key))
        for blob in server.cert_chain_pems:
            blob.write_to_path(str(certificate), append=True)
        key.chmod(0o600)
        cls.settings = {**cls.settings, "tls": {"certificate": str(certificate), "key": str(key)}}
        return str(ca)

    @property
    def password(self) -> str:
        """The password of all users."""
        return self.mta.password
