"""Keys that an authorization server publishes, and tokens signed with them.  Pure; the cryptography is PyJWT's.

Source: RFC 7517 (JWK and JWK sets), RFC 7515 (JWS, compact form), RFC 7518 §3 (algorithms), RFC 8037 and RFC 9864
(EdDSA and Ed25519), RFC 8725 §3 (what goes wrong), RFC 9068 §2.1 (how access tokens are called).

An algorithm must be allowed by the settings, fit the kind of the key, and be the one that the key names, if it names
one.  So neither "none" nor a MAC under a public key can pass, whatever a token says of itself.
"""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import jwt
import msgspec

T = TypeVar("T")

MAX_KEYS = 100
MAX_TRIES = 4
"""Keys that are tried on a token that does not name its key."""
MIN_RSA = 2048
"""Bits of the shortest RSA key that counts (RFC 7518 §3.3)."""

_ACCESS = re.compile(r"(?:application/)?(?:jwt|(?:[a-z-]+-)?at\+jwt)", re.IGNORECASE)
"""What a token may call itself (RFC 8725 §3.11): others are for logging out, proofs of keys, or events."""
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_FITTING: Mapping[tuple[str, str], frozenset[str]] = {
    ("RSA", ""): _RSA,
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA", "Ed25519"}),
}
"""The algorithms for a kind of key and its curve."""


class NotAJwt(ValueError):
    """What was given is no signed JWT."""


class BadSignature(ValueError):
    """No key that may sign it has signed it."""


class UnknownKey(BadSignature):
    """It names a key that is not in the set, which may be newer."""


class Header(msgspec.Struct, frozen=True):
    """What is looked at of a JWT's header."""

    alg: str
    kid: str | None = None
    crit: Any = None
    typ: str = "JWT"


class _Named(msgspec.Struct, frozen=True):
    iss: str | None = None


class Key(msgspec.Struct, frozen=True):
    """One public key: its id ("" for none), the algorithms it is for, and the key itself."""

    kid: str
    algorithms: frozenset[str]
    public: Any


class KeySet:
    """The keys of one server."""

    def __init__(self, keys: Collection[Key]) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    @classmethod
    def parse(cls, text: bytes) -> KeySet:
        """A JWK set as it is published.  Keys that are not for signatures, or of a kind that is not known, are passed
        over (RFC 7517 §5).  Raises ValueError with words for the operator where none is left."""
        try:
            document = msgspec.json.decode(text)
        except (ValueError, RecursionError):
            raise ValueError("it is no JSON") from None
        listed = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(listed, list):
            raise ValueError('it has no list "keys"')
        keys = [key for one in listed[:MAX_KEYS] if isinstance(one, dict) and (key := _read(one)) is not None]
        if not keys:
            raise ValueError("it has no key that signatures can be checked with")
        return cls(keys)

    def claims(self, token: str, allowed: Collection[str]) -> dict[str, Any]:
        """The claims of a token that one of the keys has signed by one of the ``allowed`` algorithms.

        Raises :class:`NotAJwt`, :class:`UnknownKey` or :class:`BadSignature`.
        """
        header = read_header(token)
        if not _ACCESS.fullmatch(header.typ):
            raise NotAJwt
        if header.crit is not None or header.alg not in allowed:
            raise BadSignature  # RFC 7515 §4.1.11: what is critical and not known
        named = self._keys if header.kid is None else [key for key in self._keys if key.kid == header.kid]
        if not named:
            raise UnknownKey
        for key in [key for key in named if header.alg in key.algorithms][:MAX_TRIES]:
            algorithm = "EdDSA" if header.alg == "Ed25519" else header.alg
            verifier = jwt.PyJWS(algorithms=[algorithm])
            if header.alg != algorithm:
                verifier = jwt.PyJWS(algorithms=[])
                verifier.register_algorithm(header.alg, jwt.algorithms.OKPAlgorithm())
            try:
                payload = verifier.decode_complete(token, key.public, algorithms=[header.alg])["payload"]
            except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
                continue
            return _claims(payload)
        raise BadSignature


def read_header(token: str) -> Header:
    """The header of a signed JWT.  Raises :class:`NotAJwt`."""
    parts = token.split(".")
    if len(parts) != 3:
        raise NotAJwt
    return _decoded(parts[0], Header)


def issuer_of(token: str) -> str | None:
    """Who a token says has issued it, believed by nobody yet; None where it does not say, or is no JWT."""
    try:
        read_header(token)
        return _decoded(token.split(".")[1], _Named).iss
    except NotAJwt:
        return None


def _decoded(segment: str, into: type[T]) -> T:
    try:
        return msgspec.json.decode(urlsafe_b64decode(segment + "=" * (-len(segment) % 4)), type=into)
    except (binascii.Error, ValueError, RecursionError):  # msgspec's errors are ValueErrors
        raise NotAJwt from None


def _claims(payload: bytes) -> dict[str, Any]:
    try:
        claims = msgspec.json.decode(payload)
    except (ValueError, RecursionError):
        raise NotAJwt from None
    if not isinstance(claims, dict):
        raise NotAJwt
    return claims


def _read(jwk: dict[str, Any]) -> Key | None:
    kind, curve, kid = jwk.get("kty"), jwk.get("crv", ""), jwk.get("kid", "")
    if not all(isinstance(word, str) for word in (kind, curve, kid)):
        return None
    algorithms = _FITTING.get((str(kind), "" if kind == "RSA" else curve), frozenset())
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    if "alg" in jwk:
        algorithms &= {jwk["alg"]} if isinstance(jwk["alg"], str) else frozenset()
    if not algorithms:
        return None
    public = {name: value for name, value in jwk.items() if name not in ("d", "p", "q", "dp", "dq", "qi", "oth")}
    made: dict[str, Any] = {
        "RSA": jwt.algorithms.RSAAlgorithm,
        "EC": jwt.algorithms.ECAlgorithm,
        "OKP": jwt.algorithms.OKPAlgorithm,
    }
    try:
        key: Any = made[str(kind)].from_jwk(public)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError):
        return None
    if kind == "RSA" and key.key_size < MIN_RSA:
        return None
    return Key(kid, algorithms, key)
