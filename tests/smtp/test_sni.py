"""Which certificate a client is shown (RFC 6066 §3), and what a resumed session has of it."""

from __future__ import annotations

import contextlib
import hashlib

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.smtp.tls import ServerTls, TlsError, channel_binding

AUTHORITY = trustme.CA()


def pair(*names: str) -> tuple[bytes, bytes]:
    issued = AUTHORITY.issue_cert(*names)
    return b"".join(blob.bytes() for blob in issued.cert_chain_pems), issued.private_key_pem.bytes()


def several(*pairs: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    return b"".join(one for one, _ in pairs), b"".join(two for _, two in pairs)


MX, BRAND, WILD = pair("mx.isp.example"), pair("smtp.brand.example", "mail.brand.example"), pair("*.wild.example")


class SniTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.contexts = {}
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            self.contexts[version] = SSL.Context(SSL.TLS_CLIENT_METHOD)
            self.contexts[version].set_max_proto_version(version)

    def handshake(
        self, tls: ServerTls, name: bytes = b"", version: int = SSL.TLS1_3_VERSION, session: SSL.Session | None = None
    ) -> tuple[SSL.Connection, SSL.Connection]:
        """A client and a server that have shaken hands in memory."""
        client, server = SSL.Connection(self.contexts[version], None), tls.serverConnectionForTLS(None)  # type: ignore[arg-type]
        client.set_connect_state()
        server.set_accept_state()
        if name:
            client.set_tlsext_host_name(name)
        if session is not None:
            client.set_session(session)
        for _ in range(4):
            for end, other in ((client, server), (server, client)):
                with contextlib.suppress(SSL.WantReadError):
                    end.do_handshake()
                with contextlib.suppress(SSL.WantReadError):
                    other.bio_write(end.bio_read(1 << 16))
        with contextlib.suppress(SSL.WantReadError):
            client.recv(1)
        return client, server

    def shown(self, tls: ServerTls, name: bytes) -> list[str]:
        client, _ = self.handshake(tls, name)
        certificate = client.get_peer_certificate(as_cryptography=True)
        assert certificate is not None
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.DNSName)

    def test_by_name(self) -> None:
        tls = ServerTls(*several(MX, BRAND, WILD))
        for name, first in (
            (b"", "mx.isp.example"),
            (b"mx.isp.example", "mx.isp.example"),
            (b"smtp.brand.example", "smtp.brand.example"),
            (b"MAIL.Brand.example", "smtp.brand.example"),
            (b"a.wild.example", "*.wild.example"),
            (b"a.b.wild.example", "mx.isp.example"),
            (b"wild.example", "mx.isp.example"),
            (b"nobody.example", "mx.isp.example"),
            (b"\xff\xfe", "mx.isp.example"),
        ):
            self.assertEqual(self.shown(tls, name)[0], first, name)

    def test_chains_of_more_than_one(self) -> None:
        """Each certificate keeps the chain that stands behind it."""
        child = AUTHORITY.create_child_ca()
        issued = child.issue_cert("deep.example")
        deep = b"".join(blob.bytes() for blob in issued.cert_chain_pems), issued.private_key_pem.bytes()
        client, _ = self.handshake(ServerTls(*several(MX, deep, BRAND)), b"deep.example")
        self.assertEqual(len(client.get_peer_cert_chain() or ()), len(issued.cert_chain_pems))
        self.assertEqual(
            self.shown(ServerTls(*several(MX, deep, BRAND)), b"mail.brand.example")[0], "smtp.brand.example"
        )

    def test_what_does_not_match(self) -> None:
        for certificate, key in ((MX[0], MX[1] + BRAND[1]), (MX[0] + BRAND[0], BRAND[1] + MX[1]), (BRAND[0], MX[1])):
            self.assertRaises(TlsError, ServerTls, certificate, key)

    def test_end_point_is_of_the_certificate_shown(self) -> None:
        client, server = self.handshake(ServerTls(*several(MX, BRAND)), b"smtp.brand.example")
        shown = client.get_peer_certificate(as_cryptography=True)
        assert shown is not None
        digest = hashlib.sha256(shown.public_bytes(Encoding.DER)).digest()
        self.assertEqual(channel_binding(server, "tls-server-end-point"), digest)
        exported = client.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
        self.assertEqual(channel_binding(server, "tls-exporter"), exported)

    def test_resumed_without_memory_of_ours(self) -> None:
        """By ticket, in both versions and under both names; we keep no session."""
        tls = ServerTls(*several(MX, BRAND))
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            for name in (b"mx.isp.example", b"smtp.brand.example"):
                client, server = self.handshake(tls, name, version)
                self.assertFalse(_reused(server))
                _, again = self.handshake(tls, name, version, client.get_session())
                self.assertTrue(_reused(again), (version, name))


def _reused(connection: SSL.Connection) -> bool:
    return bool(SSL._lib.SSL_session_reused(connection._ssl))  # pyOpenSSL has no name for it
