"""SCRAM-SHA-256 by GNU SASL's clients, and both channel bindings over real TLS (RFC 5802, 7677, 9266, 5929)."""

from __future__ import annotations

import hashlib
import socket
import ssl
import subprocess
from base64 import b64decode, b64encode
from typing import ClassVar

import pytest
from OpenSSL import SSL

from tests.e2e.case import ANN, BEN, ServiceCase
from tests.peers.clients import msmtp
from tests.peers.process import LOOPBACK, require
from tests.wire.scramclient import ScramClient
from twisted_mta.directory.interfaces import User

pytestmark = pytest.mark.peer


class ScramTests(ServiceCase):
    ca: ClassVar[str]

    @classmethod
    def prepare(cls) -> None:
        cls.ca = cls.certify()

    def gsasl(self, mechanism: str, *options: str, password: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                require("gsasl"),
                *(
                    "--client",
                    "--smtp",
                    "--verbose",
                    "--no-client-first",
                    "--connect",
                    f"localhost:{self.mta.submission}",
                ),
                *(f"--x509-ca-file={self.ca}", "--mechanism", mechanism, "--authentication-id", ANN),
                *("--authorization-id", ANN, "--password", password or self.password, *options),
            ],
            input="QUIT\r\n",
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def authenticated(self, mechanism: str) -> int:
        return len(self.mta.events("auth", user=ANN, mechanism=mechanism))

    def test_gsasl_without_a_binding(self) -> None:
        """In clear within the machine, where the one with a binding is not offered."""
        done = self.gsasl("SCRAM-SHA-256", "--no-starttls", "--no-cb")
        self.assertIn("235 2.7.0", done.stdout, done.stdout + done.stderr)
        self.mta.wait_event("auth", user=ANN, mechanism="SCRAM-SHA-256")

    def test_gsasl_with_tls_exporter(self) -> None:
        done = self.gsasl("SCRAM-SHA-256-PLUS")
        self.assertIn("235 2.7.0", done.stdout, done.stdout + done.stderr)
        self.mta.wait_event("auth", user=ANN, mechanism="SCRAM-SHA-256-PLUS")

    def test_gsasl_with_a_wrong_password(self) -> None:
        done = self.gsasl("SCRAM-SHA-256-PLUS", password="wrong")
        self.assertIn("535 5.7.8", done.stdout, done.stdout + done.stderr)

    def test_msmtp(self) -> None:
        before = len(self.mta.mailbox(BEN))
        done = msmtp(
            self.mta.submissions,
            self.ca,
            *("--tls-starttls=off", "--auth=scram-sha-256", f"--user={ANN}"),
            *(f"--passwordeval=echo '{self.password}'", f"--from={ANN}", BEN),
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.mta.wait_mailbox(BEN, before + 1)
        self.mta.wait_event("auth", user=ANN, mechanism="SCRAM-SHA-256")

    def test_bindings_by_pyopenssl(self) -> None:
        """tls-exporter is for TLS 1.3, and another session's is refused; tls-server-end-point is for both versions."""
        certificate = ssl.create_default_context(cafile=self.ca)
        with certificate.wrap_socket(
            socket.create_connection((LOOPBACK, self.mta.submissions)), server_hostname="localhost"
        ) as plain:
            end_point = hashlib.sha256(plain.getpeercert(binary_form=True) or b"").digest()
        for version, kind, code in (
            (SSL.TLS1_3_VERSION, "tls-exporter", b"235"),
            (SSL.TLS1_2_VERSION, "tls-exporter", b"501"),
            (SSL.TLS1_3_VERSION, "tls-server-end-point", b"235"),
            (SSL.TLS1_2_VERSION, "tls-server-end-point", b"235"),
            (SSL.TLS1_3_VERSION, "stolen", b"535"),
        ):
            said = self.bound(version, kind, end_point)
            self.assertEqual(said[:3], code, (version, kind, said))

    def bound(self, version: int, kind: str, end_point: bytes) -> bytes:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        with socket.create_connection((LOOPBACK, self.mta.submissions)) as raw:
            raw.settimeout(10)
            tls = SSL.Connection(context, raw)
            raw.setblocking(True)
            tls.set_connect_state()
            tls.do_handshake()
            tls.recv(1000)
            tls.send(b"EHLO client.test\r\n")
            self.assertIn(b"SCRAM-SHA-256-PLUS", tls.recv(4000))
            if kind == "tls-server-end-point":
                bound = end_point
            else:
                bound = tls.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
            if kind == "stolen":
                kind, bound = "tls-exporter", b"x" * 32
            client = ScramClient(ANN, self.password, b"p=" + kind.encode(), bound)
            tls.send(b"AUTH SCRAM-SHA-256-PLUS " + b64encode(client.first) + b"\r\n")
            said = tls.recv(4000)
            if said[:3] == b"334":
                tls.send(b64encode(client.final(b64decode(said[4:]))) + b"\r\n")
                said = tls.recv(4000)
            if said[:3] == b"334":
                self.assertEqual(b64decode(said[4:]), b"v=" + b64encode(client.server_signature))
                tls.send(b"\r\n")
                said = tls.recv(4000)
            return said

    def test_keys_are_not_shown(self) -> None:
        for words in (("user", "show", ANN, "--json"), ("user", "list", "--json")):
            done = self.mta.run_cli(*words)
            self.assertNotIn("SCRAM", done.stdout)
        self.assertIn("scram", User.__struct_fields__)
