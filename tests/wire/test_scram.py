"""SCRAM-SHA-256, with and without a channel binding (RFC 5802, RFC 7677)."""

from __future__ import annotations

from base64 import b64decode, b64encode

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.wire.scramclient import ScramClient
from twisted_mta.wire.sasl import Denied, Proven, SaslError, Wanted
from twisted_mta.wire.scram import DOWNGRADED, ITERATIONS, NAME, NO_BINDING, PLUS, Keys, Scram

KEYS = Keys.make("pencil", b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
BOUND = {"tls-exporter": b"E" * 32, "tls-server-end-point": b"P" * 32}


def server(plus: bool = False, offered: bool = False, nonce: bytes = b"") -> Scram:
    return Scram(plus, offered or plus, lambda kind: BOUND.get(kind, b""), nonce)


class VectorTests(SynchronousTestCase):
    """The example of RFC 7677 §3, octet for octet."""

    def test_exchange(self) -> None:
        scram = server(nonce=b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
        self.assertEqual(scram.step(None), b"")
        self.assertEqual(scram.step(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"), Wanted(NAME, "user"))
        self.assertEqual(
            scram.found(KEYS),
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        )
        self.assertEqual(
            scram.step(
                b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
                b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
            ),
            b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        )
        self.assertEqual(scram.step(b""), Proven(NAME, "user"))

    def test_keys_as_text(self) -> None:
        """PostgreSQL's form; what it stores for a password is what we store."""
        self.assertRegex(str(KEYS), r"^SCRAM-SHA-256\$4096:W22ZaJ0SNY7soEsUEjb6gQ==\$[^:]{44}:[^:]{44}$")
        self.assertEqual(Keys.parse(str(KEYS)), KEYS)
        for text in ("", "x", str(KEYS)[:-1], str(KEYS).replace("4096", "99999999"), str(KEYS).replace("4096", "0000")):
            self.assertIsNone(Keys.parse(text), text)
        self.assertNotIn("W22", repr(KEYS))

    def test_made_up_keys_stay_the_same(self) -> None:
        one, again = Keys.made_up(b"s" * 32, "ann@x"), Keys.made_up(b"s" * 32, "ann@x")
        self.assertEqual((one.salt, one.iterations), (again.salt, ITERATIONS))
        self.assertNotEqual(one.salt, Keys.made_up(b"s" * 32, "ben@x").salt)


class ExchangeTests(SynchronousTestCase):
    def run_through(self, client: ScramClient, scram: Scram, keys: Keys = KEYS) -> object:
        self.assertIsInstance(scram.step(client.first), Wanted)
        said = scram.step(client.final(scram.found(keys)))
        self.assertEqual(said, b"v=" + b64encode(client.server_signature))
        return scram.step(b"")

    def test_bindings(self) -> None:
        for kind, bound in BOUND.items():
            client = ScramClient("user", "pencil", b"p=" + kind.encode(), bound)
            self.assertEqual(self.run_through(client, server(plus=True)), Proven(PLUS, "user"))

    def test_another_channel(self) -> None:
        """Somebody in the middle has another TLS session with each side."""
        client, scram = ScramClient("user", "pencil", b"p=tls-exporter", b"M" * 32), server(plus=True)
        scram.step(client.first)
        denied = self.assertRaises(Denied, scram.step, client.final(scram.found(KEYS)))
        self.assertEqual((denied.reply.code, denied.username, denied.mechanism), (535, "user", PLUS))

    def test_wrong_password(self) -> None:
        client, scram = ScramClient("user", "pen"), server()
        scram.step(client.first)
        self.assertRaises(Denied, scram.step, client.final(scram.found(KEYS)))

    def test_user_without_keys(self) -> None:
        client, scram = ScramClient("user", "pencil"), server()
        scram.step(client.first)
        made_up = Keys(KEYS.salt, KEYS.iterations, b"1" * 32, b"2" * 32)
        self.assertRaises(Denied, scram.step, client.final(scram.found(made_up)))

    def test_anothers_nonce(self) -> None:
        client, scram = ScramClient("user", "pencil"), server()
        scram.step(client.first)
        self.assertRaises(Denied, scram.step, client.final(scram.found(KEYS), b"fyko+d2lbbFgONRv9" + b"x" * 24))

    def test_header_that_changed(self) -> None:
        """What the client said first must be what it signs in the end."""
        client, scram = ScramClient("user", "pencil"), server()
        scram.step(client.first)
        client.header = b"y,,"
        self.assertRaises(Denied, scram.step, client.final(scram.found(KEYS)))

    def test_downgrade(self) -> None:
        """The client could bind the channel, and was not told that we can (RFC 5802 §6)."""
        first = ScramClient("user", "pencil", b"y").first
        self.assertEqual(self.assertRaises(SaslError, server(offered=True).step, first).reply, DOWNGRADED)
        self.assertIsInstance(server().step(first), Wanted)

    def test_escaped_names(self) -> None:
        client, scram = ScramClient("a,b=c@x", "pencil"), server()
        self.assertEqual(scram.step(client.first), Wanted(NAME, "a,b=c@x"))

    def test_own_identity(self) -> None:
        self.assertEqual(server().step(b"n,a=ann,n=ann,r=abc"), Wanted(NAME, "ann"))
        self.assertEqual(self.assertRaises(SaslError, server().step, b"n,a=boss,n=ann,r=abc").reply.code, 535)

    def test_refused_first(self) -> None:
        for plus, first in (
            (False, b""),
            (False, b"n"),
            (False, b"n,"),
            (False, b"n,,"),
            (False, b"x,,n=ann,r=abc"),
            (False, b"n,,n=ann"),
            (False, b"n,,r=abc,n=ann"),
            (False, b"n,,n=,r=abc"),
            (False, b"n,,n=ann,r="),
            (False, b"n,,n=ann,r=a b"),
            (False, b"n,,n=ann,r=" + b"a" * 257),
            (False, b"n,,m=x,n=ann,r=abc"),
            (False, b"n,,n=a=b,r=abc"),
            (False, b"n,,n=a\0b,r=abc"),
            (False, b"n,,n=\xff,r=abc"),
            (False, b"n,,n=ann,r=abc,"),
            (False, b"n,,n=ann,r=abc,1=x"),
            (False, b"n,b=ann,n=ann,r=abc"),
            (False, b"p=tls-exporter,,n=ann,r=abc"),
            (True, b"n,,n=ann,r=abc"),
            (True, b"y,,n=ann,r=abc"),
        ):
            reply = self.assertRaises(SaslError, server(plus).step, first).reply
            self.assertEqual((reply.code, reply.enhanced), (501, "5.5.2"), first)
        reply = self.assertRaises(SaslError, server(True).step, b"p=tls-unique,,n=ann,r=abc").reply
        self.assertEqual(reply, NO_BINDING)
        self.assertEqual(self.assertRaises(SaslError, server().step, b"n,,n=" + b"a" * 1025 + b",r=a").reply.code, 500)

    def test_extensions_that_may_be_ignored(self) -> None:
        self.assertIsInstance(server().step(b"n,,n=ann,r=abc,x=y"), Wanted)

    def test_more_at_the_end(self) -> None:
        client, scram = ScramClient("user", "pencil"), server()
        scram.step(client.first)
        scram.step(client.final(scram.found(KEYS)))
        self.assertRaises(SaslError, scram.step, b"x")

    @given(st.booleans(), st.lists(st.binary(max_size=80), max_size=4))
    def test_only_sasl_error_escapes(self, plus: bool, responses: list[bytes]) -> None:
        scram = server(plus)
        try:
            for response in responses:
                if isinstance(scram.step(response), Wanted):
                    scram.found(KEYS)
        except SaslError:
            pass

    @given(st.text("abcnyp=,-+/r0123\0", max_size=60), st.text("crp=,biws0123+/ \xff", max_size=60))
    def test_nothing_but_the_password_proves(self, first: str, final: str) -> None:
        scram = server()
        try:
            if isinstance(scram.step(first.encode()), Wanted):
                scram.found(KEYS)
                said = scram.step(final.encode())
                self.fail(f"{said!r}")
        except SaslError:
            pass
