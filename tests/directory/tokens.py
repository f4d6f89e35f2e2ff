"""Keys of an authorization server, and tokens signed with them."""

from __future__ import annotations

import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

NOW = 1_790_000_000.0
ISSUER = "https://login.isp.example/realms/isp"
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "aud": ["account", "mail"],
    "exp": NOW + 300,
    "iat": NOW - 5,
    "sub": "0815",
    "email": "ann@isp.example",
    "scope": "openid mail.send",
}

RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
SHORT_RSA = rsa.generate_private_key(65537, 1024)
P256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()


def jwk(private: Any, kid: str = "", **more: Any) -> dict[str, Any]:
    """The public key as a server publishes it."""
    kinds = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }
    made: Any = next(algorithm for kind, algorithm in kinds.items() if isinstance(private, kind))
    found = json.loads(made.to_jwk(private.public_key()))
    return {**found, **({"kid": kid} if kid else {}), **more}


def jwks(*keys: dict[str, Any]) -> bytes:
    """A key set."""
    return json.dumps({"keys": keys}).encode()


def token(
    claims: dict[str, Any] | None = None, key: Any = RSA, alg: str = "RS256", kid: str = "one", **head: Any
) -> str:
    """A signed token with these claims over :data:`CLAIMS`; None takes one away."""
    told = {name: value for name, value in {**CLAIMS, **(claims or {})}.items() if value is not None}
    header = {**({"kid": kid} if kid else {}), **head}
    return jwt.PyJWS().encode(json.dumps(told).encode(), key, algorithm=alg, headers=header)
