"""Key sets (RFC 7517) and tokens signed with their keys (RFC 7515, RFC 8725)."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from typing import Any

import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.directory.tokens import CLAIMS, ED, ISSUER, OTHER_RSA, P256, P384, RSA, SHORT_RSA, jwk, jwks, token
from twisted_mta.config.settings import OAuth
from twisted_mta.directory.jwks import BadSignature, KeySet, NotAJwt, UnknownKey, issuer_of

ALL = OAuth().algorithms
KEYS = KeySet.parse(
    jwks(jwk(RSA, "one"), jwk(P256, "two"), jwk(P384, "three"), jwk(ED, "four"), jwk(OTHER_RSA, "five", alg="PS256"))
)


class ParseTests(SynchronousTestCase):
    def count(self, *keys: Any) -> int:
        return len(KeySet.parse(jwks(jwk(RSA, "good"), *keys))) - 1

    def test_kinds(self) -> None:
        self.assertEqual(len(KEYS), 5)

    def test_passed_over(self) -> None:
        for key in (
            jwk(OTHER_RSA, use="enc"),
            jwk(OTHER_RSA, key_ops=["encrypt"]),
            jwk(OTHER_RSA, alg="RSA-OAEP"),
            jwk(OTHER_RSA, alg="HS256"),
            jwk(OTHER_RSA, alg="none"),
            jwk(OTHER_RSA, alg=7),
            jwk(SHORT_RSA),
            {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
            {"kty": "RSA", "n": "!", "e": "AQAB"},
            {"kty": "RSA"},
            {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
            {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"},
            {"kty": "OKP", "crv": "X25519", "x": "AA"},
            {"kty": "unheard"},
            {"kty": ["RSA"]},
            {},
            "words",
            None,
        ):
            self.assertEqual(self.count(key), 0, key)
        self.assertEqual(self.count(jwk(OTHER_RSA, use="sig", key_ops=["verify"], alg="RS256")), 1)

    def test_no_key_set(self) -> None:
        for text in (b"", b"[", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b"[" * 100_000, jwks(jwk(SHORT_RSA))):
            self.assertRaises(ValueError, KeySet.parse, text)

    def test_a_private_key_is_not_kept(self) -> None:
        whole = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA))
        self.assertIn("d", whole)
        keys = KeySet.parse(jwks({**whole, "kid": "one", "key_ops": ["sign", "verify"]}))
        self.assertEqual(keys.claims(token(), ALL)["iss"], ISSUER)

    @given(
        st.recursive(
            st.none() | st.text(max_size=5) | st.integers(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(("keys", "kty", "crv", "n", "e", "x", "kid", "alg", "use")), inner)
            ),
        )
    )
    def test_only_value_error_escapes(self, document: Any) -> None:
        with contextlib.suppress(ValueError):
            KeySet.parse(json.dumps(document).encode())


class SignatureTests(SynchronousTestCase):
    def refused(self, text: str, allowed: tuple[str, ...] = ALL, error: type[Exception] = BadSignature) -> None:
        with self.assertRaises(ValueError) as caught:
            KEYS.claims(text, allowed)
        self.assertIs(type(caught.exception), error, text[:60])

    def test_good(self) -> None:
        for key, alg, kid in (
            (RSA, "RS256", "one"),
            (RSA, "PS512", "one"),
            (P256, "ES256", "two"),
            (P384, "ES384", "three"),
            (ED, "EdDSA", "four"),
            (OTHER_RSA, "PS256", "five"),
        ):
            self.assertEqual(KEYS.claims(token(key=key, alg=alg, kid=kid), ALL), CLAIMS, alg)
            self.assertEqual(KEYS.claims(token(key=key, alg=alg, kid=""), ALL), CLAIMS, alg)

    def test_ed25519_by_its_newer_name(self) -> None:
        """RFC 9864."""
        jws = jwt.PyJWS()
        jws.register_algorithm("Ed25519", jwt.algorithms.OKPAlgorithm())
        text = jws.encode(b'{"iss": "x"}', ED, algorithm="Ed25519", headers={"kid": "four"})
        self.assertEqual(KEYS.claims(text, ALL), {"iss": "x"})
        self.refused(text, ("EdDSA",))

    def test_forged(self) -> None:
        good = token()
        head, payload, signature = good.split(".")
        other = token({"email": "root@isp.example"}).split(".")[1]
        self.refused(f"{head}.{other}.{signature}")
        self.refused(f"{head}.{payload}.")
        self.refused(f"{head}.{payload}.{signature[:-8]}")
        self.refused(token(key=OTHER_RSA))
        self.refused(token(key=OTHER_RSA, kid=""), ("RS256",))
        self.refused(token(key=P256, alg="ES256", kid="one"))
        self.refused(token(key=OTHER_RSA, alg="RS256", kid="five"), error=BadSignature)

    def test_unknown_key(self) -> None:
        self.refused(token(kid="new"), error=UnknownKey)

    def test_algorithm_confusion(self) -> None:
        """Neither no signature nor a MAC under the public key passes, even if the settings' list were to allow it."""
        pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

        def part(words: Any) -> str:
            return urlsafe_b64encode(json.dumps(words).encode()).rstrip(b"=").decode()

        for kid in ("one", None):
            for alg in ("HS256", "none", "None", "nOnE"):
                start = f"{part({'alg': alg, 'kid': kid})}.{part(CLAIMS)}"
                mac = urlsafe_b64encode(hmac.digest(pem, start.encode(), hashlib.sha256)).rstrip(b"=").decode()
                for signature in ("", mac):
                    self.refused(f"{start}.{signature}")
                    self.refused(f"{start}.{signature}", (*ALL, alg))
        self.refused(token(), ("ES256",))

    def test_critical_extensions(self) -> None:
        """RFC 7515 §4.1.11: what must be understood and is not."""
        self.refused(token(crit=["exp"], exp=1))

    def test_tokens_of_another_kind(self) -> None:
        """RFC 8725 §3.11: what is signed by the same keys for another purpose is no access token (RFC 9068 §2.1)."""
        for typ in ("JWT", "jwt", "at+jwt", "application/at+jwt", "application/okta-internal-at+jwt"):
            self.assertEqual(KEYS.claims(token(typ=typ), ALL), CLAIMS)
        for typ in ("logout+jwt", "dpop+jwt", "secevent+jwt", "JOSE", "at+jwt+x"):
            self.refused(token(typ=typ), error=NotAJwt)

    def test_no_jwt(self) -> None:
        head, payload, signature = token().split(".")
        for text in ("", "ya29.opaque", "a.b.c", f"{head}.{payload}.{signature}.", f"{head}.{payload}", "..", "é.é.é"):
            self.refused(text, error=NotAJwt)

    def test_payload_that_is_none(self) -> None:
        for payload in (b"[]", b'"x"', b"{", b"[" * 3000):
            text = jwt.PyJWS().encode(payload, RSA, algorithm="RS256", headers={"kid": "one"})
            self.refused(text, error=NotAJwt)

    def test_issuer_before_any_check(self) -> None:
        self.assertEqual(issuer_of(token()), ISSUER)
        for text in ("opaque", "a.b.c", token({"iss": None}), token({"iss": 7})):
            self.assertIsNone(issuer_of(text))

    @given(st.text(st.characters(codec="ascii"), max_size=60))
    def test_only_value_error_escapes(self, noise: str) -> None:
        for text in (noise, f"{token().split('.')[0]}.{noise}"):
            issuer_of(text)
            try:
                KEYS.claims(text, ALL)
            except ValueError:
                continue
            self.fail(text)
