"""TLS with real handshakes, against the ssl module: STARTTLS, implicit TLS, injection, failure, reload, facts."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Callable
from typing import Any, Literal

import trustme
from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.smtp.test_authentication import Checker, Realm
from tests.smtp.world import World
from twisted_mta.config.settings import Tls
from twisted_mta.mail.events import Accepted, Authenticated, Disconnected, TlsFailed
from twisted_mta.smtp.tls import ClientTls, ServerTls, TlsError, client_context

AUTHORITY = trustme.CA()


def pair(name: str = "mx.isp.example") -> tuple[bytes, bytes]:
    """A certificate and its key, as PEM."""
    issued = AUTHORITY.issue_cert(name)
    return issued.cert_chain_pems[0].bytes(), issued.private_key_pem.bytes()


def context() -> ssl.SSLContext:
    made = ssl.create_default_context()
    AUTHORITY.configure_trust(made)
    return made


class ContextTests(SynchronousTestCase):
    def test_what_is_no_pair(self) -> None:
        certificate, key = pair()
        _, other = pair()
        for one, two in ((certificate, other), (b"", key), (key, certificate), (certificate, b"x"), (b"x", key)):
            self.assertRaises(TlsError, ServerTls, one, two)

    def test_failed_reload_keeps_the_old(self) -> None:
        tls = ServerTls(*pair())
        before = tls._context
        self.assertRaises(TlsError, tls.load, b"broken", b"broken")
        self.assertIs(tls._context, before)

    def test_client_names_the_host_but_not_an_address(self) -> None:
        for host, name in (
            ("mx.far.example", b"mx.far.example"),
            ("192.0.2.1", None),
            ("2001:db8::1", None),
            ("", None),
        ):
            connection = ClientTls(client_context(), host).clientConnectionForTLS(None)  # type: ignore[arg-type]
            self.assertEqual(connection.get_servername(), name)


class TlsCase(TestCase):
    """Serves on loopback; ``talk`` runs in a thread, as those clients block."""

    def serve(self, role: str = "mx", listener_tls: str = "starttls", minimum: Literal["1.2", "1.3"] = "1.2") -> World:
        self.tls = ServerTls(*pair(), Tls(minimum=minimum))
        self.realm = Realm()
        portal = Portal(self.realm, [Checker()])
        world = World(role, tls=self.tls, listener_tls=listener_tls, portal=portal, clock=reactor)
        port: Any = reactor.listenTCP(0, world.factory.listening(), interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        self.port: int = port.getHost().port
        return world

    async def talk(self, world: World, client: Callable[[], Any]) -> Any:
        try:
            return await deferToThread(client)
        finally:
            if len(world.sessions):
                await world.sessions.drain(0.2)

    def connect(self) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.port, "laptop", timeout=10)


class StartTlsTests(TlsCase):
    def test_smtplib(self) -> Any:
        async def run() -> None:
            world = self.serve()

            def client() -> tuple[bool, bool]:
                with self.connect() as smtp:
                    smtp.ehlo()
                    before = smtp.has_extn("starttls")
                    smtp._host = "mx.isp.example"  # type: ignore[attr-defined]  # the name to verify
                    smtp.starttls(context=context())
                    smtp.ehlo()
                    after = smtp.has_extn("starttls")
                    smtp.sendmail("joe@far.example", ["ann@isp.example"], b"Subject: x\r\n\r\nhello\r\n")
                    return before, after

            self.assertEqual(await self.talk(world, client), (True, False))
            (accepted,) = world.of(Accepted)
            self.assertEqual(accepted.protocol, "ESMTPS")
            self.assertRegex(accepted.tls, r"^TLSv1\.3 TLS_[A-Z0-9_]+$")
            self.assertIn(b"\t(using TLSv1.3 with cipher TLS_", world.store.messages[0][1])
            self.assertEqual(world.of(Disconnected)[0].reason, "quit")

        return Deferred.fromCoroutine(run())

    def test_state_from_the_clear_is_forgotten(self) -> Any:
        """RFC 3207 §4.2: the name, the sender and the recipients of before the handshake are gone."""

        async def run() -> None:
            world = self.serve()

            def client() -> tuple[int, int, str]:
                with self.connect() as smtp:
                    smtp.ehlo()
                    smtp._host = "mx.isp.example"  # type: ignore[attr-defined]
                    smtp.starttls(context=context())
                    early = smtp.docmd("MAIL FROM:<joe@far.example>")[0]
                    again = smtp.docmd("EHLO laptop")[0]
                    return early, again, smtp.sock.version()  # type: ignore[union-attr]

            self.assertEqual(await self.talk(world, client), (503, 250, "TLSv1.3"))

        return Deferred.fromCoroutine(run())

    def test_account_from_the_clear_is_forgotten(self) -> Any:
        async def run() -> None:
            world = self.serve("submission")

            def client() -> tuple[int, int, int]:
                with self.connect() as smtp:
                    smtp.login("ann@isp.example", "secret")
                    smtp._host = "mx.isp.example"  # type: ignore[attr-defined]
                    smtp.starttls(context=context())
                    smtp.ehlo()
                    before = smtp.mail("ann@isp.example")[0]
                    (session,) = world.sessions._open
                    self.assertIsNone(session.peer.account)  # type: ignore[attr-defined]
                    again = smtp.login("ann@isp.example", "secret")[0]
                    return before, again, smtp.mail("ann@isp.example")[0]

            self.assertEqual(await self.talk(world, client), (530, 235, 250))
            self.assertEqual(self.realm.left, 2)

        return Deferred.fromCoroutine(run())

    def test_injection(self) -> Any:
        """What is sent in clear behind STARTTLS is not run, neither before nor in TLS: the session ends."""

        async def run() -> None:
            world = self.serve()

            def client() -> bytes:
                with socket.create_connection(("127.0.0.1", self.port), 10) as sock:
                    said = sock.recv(1000)
                    sock.sendall(b"EHLO far.example\r\n")
                    said = sock.recv(1000)
                    sock.sendall(b"STARTTLS\r\nMAIL FROM:<evil@far.example>\r\n")
                    said = b""
                    while data := sock.recv(1000):
                        said += data
                    return said

            self.assertEqual(
                await self.talk(world, client), b"421 4.7.0 Commands were sent behind STARTTLS: closing\r\n"
            )

        return Deferred.fromCoroutine(run())

    def test_clear_text_instead_of_a_handshake(self) -> Any:
        async def run() -> None:
            world = self.serve()

            def client() -> bytes:
                with socket.create_connection(("127.0.0.1", self.port), 10) as sock:
                    sock.recv(1000)
                    sock.sendall(b"EHLO far.example\r\n")
                    sock.recv(1000)
                    sock.sendall(b"STARTTLS\r\n")
                    said = sock.recv(1000)
                    sock.sendall(b"MAIL FROM:<evil@far.example>\r\nQUIT\r\n")
                    try:
                        while data := sock.recv(1000):
                            said += data
                    except ConnectionResetError:
                        pass
                    return said

            said = await self.talk(world, client)
            self.assertTrue(said.startswith(b"220 2.0.0 Ready to start TLS\r\n"))
            self.assertNotIn(b"250", said)
            (event,) = world.of(TlsFailed)
            self.assertTrue(event.reason)
            self.assertEqual(world.of(Disconnected)[0].reason, "tls")

        return Deferred.fromCoroutine(run())

    def test_old_version(self) -> Any:
        async def run() -> None:
            world = self.serve(minimum="1.3")

            def client() -> None:
                old = context()
                old.maximum_version = ssl.TLSVersion.TLSv1_2
                with self.connect() as smtp:
                    smtp.ehlo()
                    smtp._host = "mx.isp.example"  # type: ignore[attr-defined]
                    smtp.starttls(context=old)

            try:
                await self.talk(world, client)
                self.fail("TLS 1.2 was let in")
            except (ssl.SSLError, smtplib.SMTPServerDisconnected, ConnectionError):
                pass
            self.assertEqual(len(world.of(TlsFailed)), 1)

        return Deferred.fromCoroutine(run())


class ImplicitTests(TlsCase):
    def test_submission(self) -> Any:
        async def run() -> None:
            world = self.serve("submission", "implicit")

            def client() -> tuple[bool, str]:
                smtp = smtplib.SMTP_SSL(timeout=10, local_hostname="laptop", context=context())
                smtp._host = "mx.isp.example"  # type: ignore[attr-defined]
                smtp.connect("127.0.0.1", self.port)
                with smtp:
                    smtp.ehlo()
                    offered = smtp.has_extn("starttls")
                    smtp.login("ann@isp.example", "secret")
                    smtp.sendmail("ann@isp.example", ["joe@far.example"], b"Subject: x\r\n\r\nhello\r\n")
                    return offered, smtp.esmtp_features["auth"]

            offered, mechanisms = await self.talk(world, client)
            self.assertFalse(offered)
            self.assertEqual(mechanisms.split(), ["PLAIN", "LOGIN"])
            (accepted,) = world.of(Accepted)
            self.assertEqual((accepted.protocol, accepted.user), ("ESMTPSA", "ann@isp.example"))
            self.assertEqual(len(world.of(Authenticated)), 1)

        # The certificate's name is not the address that is connected to: say which one is meant.
        original = ssl.SSLContext.wrap_socket

        def named(self: ssl.SSLContext, sock: Any, **options: Any) -> Any:
            return original(self, sock, **{**options, "server_hostname": "mx.isp.example"})

        self.patch(ssl.SSLContext, "wrap_socket", named)
        return Deferred.fromCoroutine(run())

    def test_reload(self) -> Any:
        """New connections get the new certificate; one that is up goes on."""

        async def run() -> None:
            world = self.serve("mx", "implicit")

            def connect() -> tuple[ssl.SSLSocket, bytes]:
                raw = socket.create_connection(("127.0.0.1", self.port), 10)
                sock = context().wrap_socket(raw, server_hostname="mx.isp.example")
                sock.recv(1000)
                certificate = sock.getpeercert(True)
                assert certificate is not None
                return sock, certificate

            old, before = await deferToThread(connect)
            self.tls.load(*pair())
            new, after = await deferToThread(connect)
            self.assertNotEqual(before, after)

            def finish() -> bytes:
                old.sendall(b"NOOP\r\n")
                said = old.recv(1000)
                for sock in (old, new):
                    sock.close()
                return said

            self.assertEqual(await self.talk(world, finish), b"250 2.0.0 OK\r\n")

        return Deferred.fromCoroutine(run())
