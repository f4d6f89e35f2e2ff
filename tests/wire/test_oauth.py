"""OAUTHBEARER (RFC 7628), XOAUTH2, and EXTERNAL (RFC 4422 appendix A)."""

from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.mail.status import Reply
from twisted_mta.wire import sasl
from twisted_mta.wire.oauth import OAUTHBEARER, XOAUTH2, Bearer, OAuth
from twisted_mta.wire.sasl import Claimed, External, SaslError

RFC = (
    b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01"
    b"auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01"
)
"""The message of RFC 7628 §4.1."""
REFUSED = Reply(535, "5.7.8", "no")


class OAuthBearerTests(SynchronousTestCase):
    def refused(self, response: bytes) -> Reply:
        return self.assertRaises(SaslError, OAuth(OAUTHBEARER).step, response).reply

    def test_example(self) -> None:
        got = OAuth(OAUTHBEARER).step(RFC)
        self.assertEqual(got, Bearer(OAUTHBEARER, "user@example.com", "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="))

    def test_without_an_initial_response(self) -> None:
        exchange = OAuth(OAUTHBEARER)
        self.assertEqual(exchange.step(None), b"")
        self.assertIsInstance(exchange.step(RFC), Bearer)

    def test_whom_the_token_names(self) -> None:
        for header in (b"n,,", b"y,,"):
            got = OAuth(OAUTHBEARER).step(header + b"\x01auth=bearer abc\x01\x01")
            self.assertEqual(got, Bearer(OAUTHBEARER, "", "abc"))

    def test_names_are_escaped(self) -> None:
        got = OAuth(OAUTHBEARER).step(b"n,a=a=2Cb=3Dc,\x01auth=Bearer abc\x01\x01")
        self.assertEqual(got, Bearer(OAUTHBEARER, "a,b=c", "abc"))

    def test_asking_how_to_get_a_token(self) -> None:
        """RFC 7628 §4.3."""
        got = OAuth(OAUTHBEARER).step(b"n,a=user@example.com,\x01host=h\x01auth=\x01\x01")
        self.assertEqual(got, Bearer(OAUTHBEARER, "user@example.com", ""))

    def test_malformed(self) -> None:
        good = b"n,,\x01auth=Bearer abc\x01\x01"
        self.assertIsInstance(OAuth(OAUTHBEARER).step(good), Bearer)
        for bad in (
            b"",
            b"\x01",
            b"n,,",
            b"n,,\x01\x01",
            b"n,,\x01host=h\x01\x01",
            good[:-1],
            good[:-2],
            good + b"\x01",
            good + b"x",
            good.replace(b"n,,", b"p=tls-exporter,,"),
            good.replace(b"n,,", b"x,,"),
            good.replace(b"n,,", b"n,b=c,"),
            good.replace(b"n,,", b"n,"),
            good.replace(b"n,,", b"n,a=,"),
            good.replace(b"n,,", b"n,a=a=2c,"),
            good.replace(b"n,,", b"n,a=\xff,"),
            good.replace(b"n,,", b"n,a=a\0b,"),
            good.replace(b"Bearer", b"Basic"),
            good.replace(b"Bearer ", b"Bearer"),
            good.replace(b"abc", b"a b"),
            good.replace(b"abc", b"a=b"),
            good.replace(b"abc", b"a\0b"),
            good.replace(b"abc", b"\xc3\xa4"),
            good.replace(b"auth=Bearer abc", b"auth=Bearer abc\x01auth=Bearer abc"),
            good.replace(b"auth", b"a-th"),
        ):
            self.assertEqual(self.refused(bad), sasl.MALFORMED, bad)

    def test_refusal(self) -> None:
        """RFC 7628 §3.2.3: the failure is told first, and whatever the client says to that ends the exchange."""
        for dummy in (b"\x01", b"", RFC):
            exchange = OAuth(OAUTHBEARER)
            exchange.step(RFC)
            told = json.loads(exchange.refused("invalid_token", REFUSED, "mail", "https://idp.example/.well-known/x"))
            self.assertEqual(
                told,
                {
                    "status": "invalid_token",
                    "scope": "mail",
                    "openid-configuration": "https://idp.example/.well-known/x",
                },
            )
            self.assertEqual(self.assertRaises(SaslError, exchange.step, dummy).reply, REFUSED)

    def test_what_is_not_known_is_not_told(self) -> None:
        told = json.loads(OAuth(OAUTHBEARER).refused("insufficient_scope", REFUSED))
        self.assertEqual(told, {"status": "insufficient_scope"})

    def test_no_token_is_printed(self) -> None:
        self.assertNotIn("vF9", repr(OAuth(OAUTHBEARER).step(RFC)))

    @given(st.binary(max_size=80), st.sampled_from((OAUTHBEARER, XOAUTH2)), st.booleans())
    @example(b"n,a=", OAUTHBEARER, False)
    def test_only_sasl_error_escapes(self, noise: bytes, mechanism: str, behind: bool) -> None:
        start = b"n,," if mechanism == OAUTHBEARER else b"user=a"
        try:
            got = OAuth(mechanism).step(start + b"\x01auth=Bearer " + noise + b"\x01\x01" if behind else noise)
        except SaslError:
            return
        assert isinstance(got, Bearer)
        self.assertTrue(got.token.isascii())
        self.assertTrue(got.token.isprintable())


class XOAuth2Tests(SynchronousTestCase):
    def test_example(self) -> None:
        got = OAuth(XOAUTH2).step(b"user=someuser@example.com\x01auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckBhdA\x01\x01")
        self.assertEqual(got, Bearer(XOAUTH2, "someuser@example.com", "ya29.vF9dft4qmTc2Nvb3RlckBhdA"))

    def test_names_are_taken_as_they_are(self) -> None:
        got = OAuth(XOAUTH2).step(b"user=a=2Cb,c\x01auth=Bearer x\x01\x01")
        self.assertEqual(got, Bearer(XOAUTH2, "a=2Cb,c", "x"))

    def test_malformed(self) -> None:
        for bad in (
            b"",
            b"user=\x01auth=Bearer x\x01\x01",
            b"auth=Bearer x\x01\x01",
            b"user=a\x01\x01",
            b"user=a\x01auth=Bearer x\x01",
            b"user=\xff\x01auth=Bearer x\x01\x01",
            b"user=" + b"a" * 2000 + b"\x01auth=Bearer x\x01\x01",
        ):
            self.assertIn(self.assertRaises(SaslError, OAuth(XOAUTH2).step, bad).reply.code, (500, 501), bad)

    def test_refusal(self) -> None:
        exchange = OAuth(XOAUTH2)
        told = json.loads(exchange.refused("invalid_token", REFUSED, "mail"))
        self.assertEqual(told, {"status": "401", "schemes": "bearer", "scope": "mail"})
        self.assertEqual(self.assertRaises(SaslError, exchange.step, b"").reply, REFUSED)


class ExternalTests(SynchronousTestCase):
    def test_whom(self) -> None:
        self.assertEqual(External().step(None), b"")
        self.assertEqual(External().step(b""), Claimed("EXTERNAL", ""))
        self.assertEqual(External().step("änn@x".encode()), Claimed("EXTERNAL", "änn@x"))

    def test_malformed(self) -> None:
        for bad in (b"a\0b", b"\xff", b"a" * 2000):
            self.assertRaises(SaslError, External().step, bad)
