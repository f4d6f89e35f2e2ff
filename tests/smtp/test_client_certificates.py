"""Certificates that clients show: EXTERNAL (RFC 4422 appendix A) and relaying, with real TLS in memory."""

from __future__ import annotations

import contextlib
import datetime
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.mail.events import Accepted, Authenticated, AuthFailed
from twisted_mta.mail.status import MailError, Reply
from twisted_mta.smtp.tls import ClientTls, TlsError, client_context
from twisted_mta.testing.client import MemoryClient
from twisted_mta.testing.server import TestServer

PROXY = "192.0.2.25"
ANN, BOB = "ann@isp.example", "bob@isp.example"
OURS, OTHERS = trustme.CA(), trustme.CA()
ANNS = OURS.issue_cert(ANN)
BOTH = OURS.issue_cert(ANN, BOB)
HOST = OURS.issue_cert("client.example")
FOREIGN = OTHERS.issue_cert(ANN)
EXPIRED = OURS.issue_cert(ANN, not_after=datetime.datetime(2021, 1, 1, tzinfo=datetime.UTC))


def loaded(leaf: trustme.LeafCert) -> x509.Certificate:
    return x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())


def fingerprint(leaf: trustme.LeafCert) -> str:
    return loaded(leaf).fingerprint(SHA256()).hex()


def revocations(*leaves: trustme.LeafCert) -> bytes:
    """A list of :data:`OURS` that revokes these."""
    authority = x509.load_pem_x509_certificate(OURS.cert_pem.bytes())
    key: Any = load_pem_private_key(OURS.private_key_pem.bytes(), None)
    today = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject)
    builder = builder.last_update(today - datetime.timedelta(1)).next_update(today + datetime.timedelta(1))
    for leaf in leaves:
        revoked = x509.RevokedCertificateBuilder().serial_number(loaded(leaf).serial_number)
        builder = builder.add_revoked_certificate(revoked.revocation_date(today - datetime.timedelta(1)).build())
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


class CertificateCase(SynchronousTestCase):
    ca = True

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(folder.name) / "ca.pem"
        self.file.write_bytes(OURS.cert_pem.bytes())
        asks = f'client_certificates = true\nclient_ca = "{self.file if self.ca else ""}"'
        self.server = TestServer(
            f"""
            [listen.submission]
            port = 587
            role = "submission"
            {asks}
            xclient = ["{PROXY}"]
            [listen.submissions]
            port = 465
            role = "submission"
            tls = "implicit"
            {asks}
            [listen.mx]
            port = 25
            xclient = ["{PROXY}"]
            {asks}
            [listen.plain]
            port = 588
            role = "submission"
            [smtp]
            auth_delay = "0s"
            [relay]
            certificates = ["{fingerprint(HOST).upper()}"]
            """
        )
        self.addCleanup(self.server.close)
        self.server.add_customer("isp")
        self.server.add_domain("isp.example", "isp")
        for name in ("ann", "bob"):
            self.server.add_user(f"{name}@isp.example")

    def client(
        self, leaf: trustme.LeafCert | None, listener: str = "submission", address: str = "198.51.100.9"
    ) -> MemoryClient:
        context = client_context()
        if leaf is not None:
            context.use_certificate(loaded(leaf))
            context.use_privatekey(load_pem_private_key(leaf.private_key_pem.bytes(), None))  # type: ignore[arg-type]
        client = self.server.connect(listener, address=address)
        client.ehlo()
        self.assertNotIn("EXTERNAL", client.extensions.get("AUTH", ""), "nothing is known before TLS")
        self.assertEqual(client.ask("STARTTLS").code, 220)
        transport: Any = client.transport
        transport.startTLS(ClientTls(context))
        self.server.clock.flush()
        self.assertFalse(client.closed)
        client.ehlo()
        return client

    def external(self, client: MemoryClient, user: str = "") -> Reply:
        return client.ask(f"AUTH EXTERNAL {b64encode(user.encode()).decode() or '='}")

    def offered(self, client: MemoryClient) -> bool:
        return "EXTERNAL" in client.extensions["AUTH"].split()


class ExternalTests(CertificateCase):
    def test_by_an_address_that_an_authority_vouches_for(self) -> None:
        for user in ("", ANN, "Ann@ISP.example"):
            client = self.client(ANNS)
            self.assertTrue(self.offered(client))
            self.assertEqual(str(self.external(client, user)), "235 2.7.0 Authenticated")
            self.assertEqual(client.ask(f"MAIL FROM:<{ANN}>").code, 250)
        event = [e for e in self.server.events if isinstance(e, Authenticated)][-1]
        self.assertEqual((event.user, event.customer, event.mechanism), (ANN, "isp", "EXTERNAL"))

    def test_in_two_steps_and_cancelled(self) -> None:
        client = self.client(ANNS)
        self.assertEqual(str(client.ask("AUTH EXTERNAL")), "334 ")
        self.assertEqual(client.ask("*").code, 501)
        client.ask("AUTH EXTERNAL")
        self.assertEqual(str(client.ask(b64encode(b"a\0b").decode()))[:9], "501 5.5.2")
        client.ask("AUTH EXTERNAL")
        self.assertEqual(client.ask("").code, 235)
        self.assertEqual(self.external(client).code, 503)

    def test_somebody_else(self) -> None:
        for user in (BOB, "eve@isp.example", "nonsense", "postmaster"):
            client = self.client(ANNS)
            self.assertEqual(str(self.external(client, user))[:9], "535 5.7.8")
            self.assertEqual(client.ask(f"MAIL FROM:<{ANN}>").code, 530)
            failed = [e for e in self.server.events if isinstance(e, AuthFailed)][-1]
            self.assertEqual((failed.user, failed.mechanism), (user, "EXTERNAL"))

    def test_guesses_are_counted(self) -> None:
        client = self.client(ANNS)
        self.assertEqual([self.external(client, BOB).code for _ in range(3)], [535, 535, 421])

    def test_several_users(self) -> None:
        """Which of them has to be said."""
        self.assertEqual(self.external(self.client(BOTH)).code, 535)
        for user in (ANN, BOB):
            self.assertEqual(self.external(self.client(BOTH), user).code, 235)

    def test_certificates_that_nobody_vouches_for(self) -> None:
        """They are shown in vain, and the session goes on as any other."""
        for leaf in (None, FOREIGN, EXPIRED, HOST):
            client = self.client(leaf)
            self.assertFalse(self.offered(client))
            self.assertEqual(str(self.external(client, ANN))[:9], "504 5.5.4")
            self.assertEqual(client.ask("NOOP").code, 250)

    def test_listeners_that_do_not_ask(self) -> None:
        client = self.client(ANNS, "plain")
        self.assertFalse(self.offered(client))
        self.assertEqual(self.external(client, ANN).code, 504)

    def test_not_where_it_is_switched_off(self) -> None:
        self.server.reload("[submission]\nmechanisms = ['PLAIN']")
        client = self.client(ANNS)
        self.assertFalse(self.offered(client))
        self.assertEqual(self.external(client).code, 504)

    def test_registered(self) -> None:
        """By its fingerprint, whoever has signed it, and however long ago."""
        directory = self.server.parts.directory
        for leaf in (FOREIGN, EXPIRED, HOST):
            directory.set_user(BOB, certificates=(fingerprint(leaf),))
            client = self.client(leaf)
            self.assertTrue(self.offered(client))
            self.assertEqual(self.external(client, ANN).code, 535)
            self.assertEqual(self.external(client).code, 235)
            self.assertEqual(client.ask(f"MAIL FROM:<{BOB}>").code, 250)
            client.ask("RSET")
            directory.set_user(BOB, certificates=())
            self.assertEqual(str(client.ask(f"MAIL FROM:<{BOB}>"))[:9], "421 4.7.0")
            self.assertFalse(self.offered(self.client(leaf)))

    def test_registered_for_one_and_certified_for_another(self) -> None:
        self.server.parts.directory.set_user(BOB, certificates=(fingerprint(ANNS),))
        self.assertEqual(self.external(self.client(ANNS)).code, 535)
        for user in (ANN, BOB):
            self.assertEqual(self.external(self.client(ANNS), user).code, 235)

    def test_suspended(self) -> None:
        self.server.parts.directory.set_user(ANN, suspended=True)
        self.assertEqual(str(self.external(self.client(ANNS)))[:10], "525 5.7.13")

    def test_directory_that_is_down(self) -> None:
        async def down(_: str) -> Any:
            raise MailError(Reply(451, "4.3.0", "down"))

        self.patch(self.server.parts.directory, "certified", down)
        client = self.client(ANNS)
        self.assertTrue(self.offered(client))
        self.assertEqual(str(self.external(client))[:9], "454 4.7.0")

    def test_revoked(self) -> None:
        self.file.write_bytes(OURS.cert_pem.bytes() + revocations(ANNS))
        self.assertTrue(self.offered(self.client(ANNS)))
        self.load()
        self.assertFalse(self.offered(self.client(ANNS)))
        self.assertTrue(self.offered(self.client(BOTH)))

    def test_authorities_are_read_again(self) -> None:
        self.file.write_bytes(OTHERS.cert_pem.bytes())
        self.load()
        self.assertTrue(self.offered(self.client(FOREIGN)))
        self.assertFalse(self.offered(self.client(ANNS)))
        self.file.write_bytes(b"nothing")
        self.assertRaises(TlsError, self.load)
        self.assertTrue(self.offered(self.client(FOREIGN)))

    def load(self) -> None:
        tls, pair = self.server.parts.tls, self.server._pair
        assert tls is not None
        assert pair is not None
        tls.load(pair.certificate, pair.key)

    def test_sessions_are_not_resumed(self) -> None:
        """A ticket would bring back a certificate that nobody has judged this time."""
        tls = self.server.parts.factories["submission"].tls
        assert tls is not None
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            context = client_context()
            context.set_max_proto_version(version)
            context.set_session_cache_mode(SSL.SESS_CACHE_CLIENT)
            context.use_certificate(loaded(ANNS))
            context.use_privatekey(load_pem_private_key(ANNS.private_key_pem.bytes(), None))  # type: ignore[arg-type]
            session = None
            alive = []  # OpenSSL has no session resumed whose connection ended without a word
            for _ in range(2):
                client, server = SSL.Connection(context, None), tls.serverConnectionForTLS(None)  # type: ignore[arg-type]
                client.set_connect_state()
                server.set_accept_state()
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
                alive.append((client, server))
                session = client.get_session()
                self.assertIsNotNone(session)
                self.assertFalse(SSL._lib.SSL_session_reused(server._ssl))  # type: ignore[attr-defined]
                shown = tls.shown(server)
                assert shown is not None
                self.assertEqual(shown.addresses, (ANN,))


class FingerprintTests(CertificateCase):
    """Without an authority."""

    ca = False

    def test_no_address_is_believed(self) -> None:
        self.assertFalse(self.offered(self.client(ANNS)))
        self.server.parts.directory.set_user(ANN, certificates=(fingerprint(ANNS),))
        self.assertEqual(self.external(self.client(ANNS)).code, 235)

    def test_relaying(self) -> None:
        for leaf, code in ((HOST, 250), (ANNS, 550), (None, 550)):
            client = self.client(leaf, "mx")
            self.assertNotIn("AUTH", client.extensions)
            self.assertEqual(client.ask("MAIL FROM:<joe@far.example>").code, 250)
            self.assertEqual(client.ask("RCPT TO:<jim@elsewhere.example>").code, code)
        client = self.client(HOST, "mx")
        client.mail("joe@far.example", "jim@elsewhere.example")
        (event,) = [e for e in self.server.events if isinstance(e, Accepted)]
        self.assertEqual(event.certificate, fingerprint(HOST))

    def test_a_proxy_s_certificate_is_not_its_clients(self) -> None:
        self.server.parts.directory.set_user(ANN, certificates=(fingerprint(HOST),))
        client = self.client(HOST, address=PROXY)
        self.assertTrue(self.offered(client))
        self.assertEqual(client.xclient("ADDR=198.51.100.7").code, 220)
        client.ehlo()
        self.assertFalse(self.offered(client))
        self.assertEqual(self.external(client, ANN).code, 504)
        client = self.client(HOST, "mx", PROXY)
        self.assertEqual(client.xclient("ADDR=198.51.100.7").code, 220)
        client.ehlo()
        client.ask("MAIL FROM:<joe@far.example>")
        self.assertEqual(client.ask("RCPT TO:<jim@elsewhere.example>").code, 550)

    def test_relaying_is_for_mx_alone(self) -> None:
        client = self.client(HOST)
        self.assertEqual(client.ask("MAIL FROM:<joe@far.example>").code, 530)

    def test_relaying_is_taken_away(self) -> None:
        self.server.reload("[relay]\ncertificates = []")
        client = self.client(HOST, "mx")
        client.ask("MAIL FROM:<joe@far.example>")
        self.assertEqual(client.ask("RCPT TO:<jim@elsewhere.example>").code, 550)
