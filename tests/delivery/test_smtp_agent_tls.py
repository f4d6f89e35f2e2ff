"""STARTTLS to other hosts: real TLS, in memory."""

from __future__ import annotations

import functools
from typing import Any

import trustme
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from tests.delivery.sending import BODY, PUBLIC, PUBLIC2, Content, Scene, make_job, outcome
from twisted_mta.mail.events import Service
from twisted_mta.smtp.tls import ServerTls
from twisted_mta.testing.peer import Behaviour, PeerFactory


@functools.cache
def certificate() -> tuple[bytes, bytes]:
    """A chain that nobody can verify, and its key, in PEM."""
    issued = trustme.CA().issue_cert("mx1.example.org")
    return b"".join(pem.bytes() for pem in issued.cert_chain_pems), issued.private_key_pem.bytes()


def server_tls() -> ServerTls:
    return ServerTls(*certificate())


class OtherTls(ServerTls):
    """A server whose only cipher does not go with its own certificate."""

    def __init__(self) -> None:
        super().__init__(*certificate())
        self._context.set_max_proto_version(SSL.TLS1_2_VERSION)
        self._context.set_cipher_list(b"ECDHE-RSA-AES128-GCM-SHA256")


class TlsTests(SynchronousTestCase):
    """relay.tls = none, may, encrypt."""

    def test_may(self) -> None:
        scene = Scene(Behaviour(tls=server_tls()))
        (result,) = scene.deliver(make_job())
        self.assertEqual(result.reply.code, 250)
        self.assertRegex(result.tls, r"^TLSv1\.3 TLS_\w+$")
        self.assertTrue(scene.first.mails[0].secure)
        self.assertEqual(scene.first.mails[0].content, BODY)
        self.assertEqual(scene.first.commands[:3], ["EHLO mta.isp.example", "STARTTLS", "EHLO mta.isp.example"])
        near, far = scene.network.connections[0]
        for secret in (b"Hello.", b"rcpt@example.org"):
            self.assertNotIn(secret, b"".join(near.writes + far.writes))

    def test_server_name_indication(self) -> None:
        scene = Scene(Behaviour(tls=server_tls()))
        scene.deliver(make_job())
        far = scene.network.connections[0][1]
        self.assertEqual(far.getHandle().get_servername(), b"mx1.example.org")

    def test_reused(self) -> None:
        scene = Scene(Behaviour(tls=server_tls()))
        results = [scene.deliver(make_job())[0] for _ in range(2)]
        self.assertEqual([result.reused for result in results], [False, True])
        self.assertEqual(results[0].tls, results[1].tls)
        scene.wait(6)
        self.assertEqual(scene.first.commands[-1], "QUIT")
        scene.wait(20)
        self.assertEqual(scene.network.getDelayedCalls(), [])

    def test_large_content(self) -> None:
        scene = Scene(Behaviour(tls=server_tls()))
        pieces = [b".x" * 499 + b"\r\n" for _ in range(1000)]
        (result,) = scene.deliver(make_job(content=Content(pieces)))
        self.assertEqual(result.reply.code, 250)
        self.assertEqual(scene.first.mails[0].content, b"".join(pieces))

    def test_none(self) -> None:
        scene = Scene(Behaviour(tls=server_tls()), tls="none")
        self.assertEqual(scene.deliver(make_job())[0].tls, "")
        self.assertNotIn("STARTTLS", scene.first.commands)

    def test_encrypt(self) -> None:
        scene = Scene(Behaviour(tls=server_tls()), tls="encrypt")
        self.assertTrue(scene.deliver(make_job())[0].tls.startswith("TLSv1."))

    def test_encrypt_not_offered(self) -> None:
        scene = Scene(tls="encrypt")
        (result,) = scene.deliver(make_job())
        self.assertEqual((result.reply.code, result.reply.enhanced), (451, "4.7.4"))
        self.assertEqual(scene.first.mails + scene.second.mails, [])

    def test_encrypt_offered_by_the_second(self) -> None:
        scene = Scene(second=Behaviour(tls=server_tls()), tls="encrypt")
        self.assertEqual(scene.deliver(make_job())[0].host, "mx2.example.org")

    def test_refused(self) -> None:
        scene = Scene(Behaviour(tls=server_tls(), replies={"STARTTLS": "454 4.7.0 not now"}))
        (result,) = scene.deliver(make_job())
        self.assertEqual((result.reply.code, result.tls), (250, ""))

    def test_handshake_fails(self) -> None:
        """RFC 7435: in clear then, over a new connection to the same host, and somebody is told."""
        scene = Scene(Behaviour(tls=OtherTls()))
        (result,) = scene.deliver(make_job())
        self.assertEqual((result.reply.code, result.tls, result.host), (250, "", "mx1.example.org"))
        self.assertEqual(len(scene.first.peers), 2)
        (event,) = scene.events
        assert isinstance(event, Service)
        self.assertEqual(event.what, "tls-fallback")
        self.assertIn(f"mx1.example.org[{PUBLIC}]:25", event.detail)

    def test_handshake_fails_encrypt(self) -> None:
        scene = Scene(Behaviour(tls=OtherTls()), Behaviour(tls=OtherTls()), tls="encrypt")
        (result,) = scene.deliver(make_job())
        self.assertEqual((result.reply.code, result.reply.enhanced), (451, "4.7.5"))
        self.assertIn("handshake", result.reply.text)
        self.assertEqual(len(scene.first.peers), 1)

    def test_handshake_never_ends(self) -> None:
        scene = Scene()

        class Silent(Protocol):
            """Says 220 to STARTTLS and no more."""

            def connectionMade(self) -> None:
                transport: Any = self.transport
                transport.write(b"220 mx\r\n")

            def dataReceived(self, data: bytes) -> None:
                transport: Any = self.transport
                if data.startswith(b"EHLO"):
                    transport.write(b"250-mx\r\n250 STARTTLS\r\n")
                elif data.startswith(b"STARTTLS"):
                    transport.write(b"220 go\r\n")

        silent = Factory.forProtocol(Silent)
        scene.network.hosts = {(PUBLIC, 25): silent}
        started = scene.start(make_job())
        scene.network.hosts = {(PUBLIC, 25): PeerFactory()}
        scene.wait(121)
        self.assertEqual(outcome(started)[0].reply.code, 250)

    def test_injected_before_the_handshake(self) -> None:
        """CVE-2024-34083: what somebody put behind the 220 in clear ends the session."""
        evil = b"250-mx1.example.org\r\n250 SIZE 1\r\n"
        scene = Scene(Behaviour(tls=server_tls(), inject=evil), Behaviour())
        (result,) = scene.deliver(make_job())
        self.assertEqual((result.reply.code, result.host), (250, "mx2.example.org"))
        self.assertEqual(scene.first.mails, [])

    def test_injected_in_a_segment_of_its_own(self) -> None:
        """The same where it comes by itself, between the 220 and the handshake: that breaks it."""
        scene = Scene(Behaviour(tls=server_tls()), tls="encrypt")
        del scene.network.hosts[(PUBLIC2, 25)]
        results: list[Any] = []
        Deferred.fromCoroutine(scene.agent.deliver(make_job())).addCallback(results.append)
        while "STARTTLS" not in scene.first.commands:
            scene.network.advance(0)
            for near, far in scene.network.connections:
                near.deliver()
                if "STARTTLS" not in scene.first.commands:
                    far.deliver()
        near, far = scene.network.connections[0]
        far.deliver()  # the 220
        far.write_raw(b"250-mx1.example.org\r\n250 SIZE 1\r\n")
        scene.network.flush()
        self.assertEqual(results[0][0].reply.code, 451)
        self.assertEqual(scene.first.mails, [])
