"""What a token says, judged: for us, from whom we trust, now, and about whom.  Pure.

Source: RFC 7519 §4.1 (claims), RFC 7662 §2.2 (the same, as an authorization server tells them), RFC 8725 §3 (what to
insist upon), RFC 6749 §3.3 (scopes), RFC 7800 §3.1 (tokens that are bound to a key).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
from twisted.cred.error import UnauthorizedLogin

from ..config.settings import OAuth
from ..wire.oauth import Status

FOREVER = math.inf


class TokenRefused(UnauthorizedLogin):
    """A token does not do.  ``why`` is for the operator's log and holds nothing of the token."""

    def __init__(self, why: str, status: Status = "invalid_token") -> None:
        super().__init__(why)
        self.why = why
        self.status: Status = status


class Granted(msgspec.Struct, frozen=True):
    """A token does: for this user name, until then (seconds since the epoch)."""

    username: str
    expires: float


def judge(claims: Mapping[str, Any], server: OAuth, now: float) -> Granted:
    """Whom a token's claims name.  Whether they are the issuer's own words is somebody else's question.

    Raises :class:`TokenRefused`.
    """
    expires = _times(claims, server, now)
    issuer = claims.get("iss")
    if server.issuer and (issuer is not None or server.kind == "jwt") and issuer != server.issuer:
        raise TokenRefused("it is of another issuer")
    if server.audience and not _words(claims.get("aud"), split=False) & set(server.audience):
        raise TokenRefused("it is for another audience")
    if "cnf" in claims:
        raise TokenRefused("it is bound to a key, which only its holder may use (RFC 7800)")
    granted = _words(claims.get("scope")) | _words(claims.get("scp"))
    if missing := set(server.scopes) - granted:
        raise TokenRefused(f"it lacks the scope {' '.join(sorted(missing))}", "insufficient_scope")
    return Granted(_username(claims, server), expires)


def _times(claims: Mapping[str, Any], server: OAuth, now: float) -> float:
    expires = _time(claims, "exp")
    if expires is None:
        if server.kind == "jwt":
            raise TokenRefused("it never expires: it has no exp")
        expires = FOREVER
    if now >= expires + server.leeway:
        raise TokenRefused("it has expired")
    for name in ("nbf", "iat"):
        begins = _time(claims, name)
        if begins is not None and begins > now + server.leeway:
            raise TokenRefused(f"it is not valid yet ({name})")
    return expires


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        return float(value)  # as Google's tokeninfo has it
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        raise TokenRefused(f"its {name} is no time")
    return float(value)


def _words(value: object, split: bool = True) -> set[str]:
    """A claim that has one word or several: a text, with spaces between them if ``split``, or a list."""
    if isinstance(value, str):
        return set(value.split()) if split else {value}
    return {word for word in value if isinstance(word, str)} if isinstance(value, list) else set()


def _username(claims: Mapping[str, Any], server: OAuth) -> str:
    name = claims.get(server.user)
    if not isinstance(name, str) or not name:
        raise TokenRefused(f"it has no claim {server.user}")
    if server.user == "email" and claims.get("email_verified") in (False, "false"):
        raise TokenRefused("its email is not verified")
    return f"{name}@{server.domain}" if server.domain and "@" not in name else name
