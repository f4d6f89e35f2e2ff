"""What is spoken of TLS: ciphers by listener, ALPN, and what a context keeps."""

from __future__ import annotations

import contextlib
import ssl

import trustme
from OpenSSL import SSL
from OpenSSL._util import lib  # type: ignore[import-untyped]
from twisted.trial.unittest import SynchronousTestCase

from tests.smtp.test_sni import several
from tests.smtp.world import World
from twisted_mta.config.settings import Tls
from twisted_mta.smtp.ciphers import INTERMEDIATE, OPPORTUNISTIC, OUTGOING, SUITES
from twisted_mta.smtp.tls import ServerTls, TlsError, client_context

AUTHORITY = trustme.CA()


def pair(kind: trustme.KeyType = trustme.KeyType.ECDSA) -> tuple[bytes, bytes]:
    issued = AUTHORITY.issue_cert("mx.isp.example", key_type=kind)
    return issued.cert_chain_pems[0].bytes(), issued.private_key_pem.bytes()


ECDSA, RSA = pair(), pair(trustme.KeyType.RSA)


class Handshakes(SynchronousTestCase):
    def handshake(
        self, creator: object, version: int = SSL.TLS1_2_VERSION, ciphers: bytes = b"", alpn: list[bytes] | None = None
    ) -> tuple[SSL.Connection, SSL.Connection]:
        """Both ends.  Raises SSL.Error when they do not agree."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(version)
        if ciphers:
            context.set_cipher_list(ciphers + b":@SECLEVEL=0")
        if alpn:
            context.set_alpn_protos(alpn)
        client = SSL.Connection(context, None)
        server: SSL.Connection = creator.serverConnectionForTLS(None)  # type: ignore[attr-defined]
        client.set_connect_state()
        server.set_accept_state()
        for _ in range(4):
            for end, other in ((client, server), (server, client)):
                with contextlib.suppress(SSL.WantReadError):
                    end.do_handshake()
                with contextlib.suppress(SSL.WantReadError):
                    other.bio_write(end.bio_read(1 << 16))
        return client, server

    def cipher(self, creator: object, ciphers: bytes) -> str:
        """The cipher they agree on, "" if on none."""
        try:
            return self.handshake(creator, ciphers=ciphers)[0].get_cipher_name() or ""
        except SSL.Error:
            return ""


class CipherTests(Handshakes):
    def test_users_get_mozillas_intermediate_list(self) -> None:
        for own, key in ((ECDSA, "ECDSA"), (RSA, "RSA")):
            tls = ServerTls(*own)
            for name in (f"ECDHE-{key}-AES128-GCM-SHA256", f"ECDHE-{key}-CHACHA20-POLY1305"):
                self.assertEqual(self.cipher(tls, name.encode()), name)
            for name in (f"ECDHE-{key}-AES128-SHA", "AES128-SHA", "AES128-GCM-SHA256", "DHE-RSA-AES128-GCM-SHA256"):
                self.assertEqual(self.cipher(tls, name.encode()), "", name)

    def test_the_world_gets_cbc_as_well(self) -> None:
        tls = ServerTls(*RSA).opportunistic
        self.assertEqual(self.cipher(tls, b"ECDHE-RSA-AES128-SHA"), "ECDHE-RSA-AES128-SHA")
        self.assertEqual(
            self.cipher(tls, b"ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES256-GCM-SHA384"), "ECDHE-RSA-AES256-GCM-SHA384"
        )
        for name in (b"AES128-SHA", b"AES128-GCM-SHA256", b"AECDH-AES128-SHA", b"ECDHE-RSA-NULL-SHA"):
            with contextlib.suppress(SSL.Error):  # that OpenSSL does not know at all any more
                self.assertEqual(self.cipher(tls, name), "", name)

    def test_which_listener_has_which(self) -> None:
        tls = ServerTls(*ECDSA)
        self.assertIs(World("mx", tls=tls).factory.creator, tls.opportunistic)
        for role in ("submission", "lmtp"):
            self.assertIs(World(role, tls=tls).factory.creator, tls)

    def test_all_of_the_lists_are_known(self) -> None:
        """A name that OpenSSL does not know would be passed over in silence."""
        for names in (INTERMEDIATE, OPPORTUNISTIC, OUTGOING):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.set_ciphers(names)
            known = {cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"}
            self.assertEqual(known, set(names.split(":")))
        connection = SSL.Connection(client_context(), None)
        self.assertLessEqual({*SUITES.split(":"), *OUTGOING.split(":")}, set(connection.get_cipher_list()))

    def test_of_the_settings(self) -> None:
        tls = ServerTls(*RSA, Tls(ciphers="ECDHE-RSA-AES256-GCM-SHA384", ciphersuites="TLS_CHACHA20_POLY1305_SHA256"))
        for creator in (tls, tls.opportunistic):
            self.assertEqual(self.cipher(creator, b"ECDHE+AES"), "ECDHE-RSA-AES256-GCM-SHA384")
            self.assertEqual(self.cipher(creator, b"ECDHE-RSA-AES128-GCM-SHA256"), "")
            client, _ = self.handshake(creator, SSL.TLS1_3_VERSION)
            self.assertEqual(client.get_cipher_name(), "TLS_CHACHA20_POLY1305_SHA256")
        tls.load(*RSA, Tls(minimum="1.3"))
        self.assertRaises(SSL.Error, self.handshake, tls)

    def test_what_is_no_list(self) -> None:
        for settings in (Tls(ciphers="no-such-cipher"), Tls(ciphersuites="no-such-suite"), Tls(ciphers="\xe4")):
            self.assertRaises(TlsError, ServerTls, *ECDSA, settings)
            self.assertRaises(TlsError, client_context, settings)

    def test_nothing_before_1_2(self) -> None:
        for creator in (ServerTls(*ECDSA), ServerTls(*ECDSA).opportunistic):
            self.assertRaises(SSL.Error, self.handshake, creator, SSL.TLS1_1_VERSION, b"ALL")


class AlpnTests(Handshakes):
    """RFC 7301."""

    def test_it_is_tolerated(self) -> None:
        tls = ServerTls(*several(ECDSA, RSA))
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            for offered, chosen in (
                ([b"smtp"], b"smtp"),
                ([b"h2", b"smtp"], b"smtp"),
                ([b"lmtp"], b"lmtp"),
                (None, b""),
            ):
                for creator in (tls, tls.opportunistic):
                    client, _ = self.handshake(creator, version, alpn=offered)
                    self.assertEqual(client.get_alpn_proto_negotiated(), chosen, (version, offered))

    def test_other_protocols_alone(self) -> None:
        """A browser that somebody led here gets no session (ALPACA)."""
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            self.assertRaises(SSL.Error, self.handshake, ServerTls(*ECDSA), version, alpn=[b"h2", b"http/1.1"])


class MemoryTests(SynchronousTestCase):
    def test_buffers_are_given_back_and_no_session_is_kept(self) -> None:
        tls = ServerTls(*ECDSA)
        for context in (tls._context, tls.old_ciphers, client_context()):
            self.assertTrue(lib.SSL_CTX_set_mode(context._context, 0) & lib.SSL_MODE_RELEASE_BUFFERS)
            self.assertEqual(lib.SSL_CTX_get_session_cache_mode(context._context), SSL.SESS_CACHE_OFF)
            options = lib.SSL_CTX_get_options(context._context)
            for option in (SSL.OP_NO_COMPRESSION, SSL.OP_NO_RENEGOTIATION):
                self.assertTrue(options & option)
