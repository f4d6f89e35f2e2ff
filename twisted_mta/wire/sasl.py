"""SASL exchanges of a server, sans-I/O: PLAIN, LOGIN and EXTERNAL, and what all exchanges come to.

Source: RFC 4954 §4 (AUTH), RFC 4616 (PLAIN), draft-murchison-sasl-login (LOGIN, which RFC 4954's clients still use),
RFC 4422 appendix A (EXTERNAL), RFC 4648 §3.3 and §4 (base64, nothing but its alphabet).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Protocol

import msgspec

from ..mail.status import MailError, Reply

MAX_LINE = 12288
"""Octets of a line with base64, CRLF included (RFC 4954 §4)."""
MAX_SECRET = 1024
"""Octets of a user name or a password; RFC 4616 §2 asks for 255 at least."""

CANCELLED = Reply(501, "5.7.0", "Authentication cancelled")
NOT_BASE64 = Reply(501, "5.5.2", "The response is not valid base64")
MALFORMED = Reply(501, "5.5.2", "The response is not what the mechanism asks for")
TOO_LONG = Reply(500, "5.5.6", "The response is too long")
DENIED = Reply(535, "5.7.8", "The user name or the password is wrong")
OTHER_IDENTITY = Reply(535, "5.7.8", "Acting for another identity is not supported: leave the first field empty")


class SaslError(MailError):
    """The exchange is over; ``reply`` says why.  Never holds what the client sent."""


class Denied(SaslError):
    """The client has shown that it does not know the password of ``username``; this counts as a guess."""

    def __init__(self, reply: Reply, mechanism: str, username: str) -> None:
        super().__init__(reply)
        self.mechanism = mechanism
        self.username = username


class Wanted(msgspec.Struct, frozen=True):
    """The exchange goes on once it is told the keys of ``username`` (see :mod:`.scram`)."""

    mechanism: str
    username: str


class Proven(msgspec.Struct, frozen=True):
    """The exchange itself has proved that the client is ``username``."""

    mechanism: str
    username: str


class Claimed(msgspec.Struct, frozen=True):
    """What the channel has proved is enough, if it proves that the client is ``username``; "" is whoever it proves."""

    mechanism: str
    username: str


class Credentials(msgspec.Struct, frozen=True):
    """What an exchange came to.  Never printed: it holds a password."""

    mechanism: str
    username: str
    password: bytes

    def __repr__(self) -> str:
        return f"<Credentials {self.mechanism}>"


class Exchange(Protocol):
    """One exchange: :meth:`step` until it gives what it came to, or raises :class:`SaslError`."""

    def step(self, response: bytes | None) -> object:
        """Take a decoded response (None: AUTH came without one); the next challenge, not encoded, or the end:
        :class:`Credentials`, :class:`Wanted`, :class:`Proven`, :class:`Claimed` or :class:`~.oauth.Bearer`."""
        ...


class Plain:
    """PLAIN: one message, ``authzid NUL authcid NUL password`` (RFC 4616 §2)."""

    def step(self, response: bytes | None) -> bytes | Credentials:
        """See :class:`Exchange`."""
        if response is None:
            return b""
        parts = response.split(b"\0")
        if len(parts) != 3:
            raise SaslError(MALFORMED)
        identity, username, password = parts
        if identity and identity != username:
            raise SaslError(OTHER_IDENTITY)
        return _credentials("PLAIN", username, password)


class Login:
    """LOGIN: asks for the user name, then for the password; an initial response is the user name."""

    def __init__(self) -> None:
        self._username: bytes | None = None

    def step(self, response: bytes | None) -> bytes | Credentials:
        """See :class:`Exchange`."""
        if response is None:
            return b"Username:"
        if self._username is None:
            self._username = response
            return b"Password:"
        return _credentials("LOGIN", self._username, response)


class External:
    """EXTERNAL: one message, whom to act as, or nothing (RFC 4422 appendix A)."""

    def step(self, response: bytes | None) -> bytes | Claimed:
        """See :class:`Exchange`."""
        if response is None:
            return b""
        if len(response) > MAX_SECRET:
            raise SaslError(TOO_LONG)
        if b"\0" in response:
            raise SaslError(MALFORMED)
        try:
            return Claimed("EXTERNAL", response.decode("utf-8"))
        except UnicodeDecodeError:
            raise SaslError(MALFORMED) from None


MECHANISMS: dict[str, Callable[[], Exchange]] = {"PLAIN": Plain, "LOGIN": Login, "EXTERNAL": External}


def _credentials(mechanism: str, username: bytes, password: bytes) -> Credentials:
    if len(username) > MAX_SECRET or len(password) > MAX_SECRET:
        raise SaslError(TOO_LONG)
    if not username or not password or b"\0" in username or b"\0" in password:
        raise SaslError(MALFORMED)
    try:
        return Credentials(mechanism, username.decode("utf-8"), password)
    except UnicodeDecodeError:
        raise SaslError(MALFORMED) from None


def saslname(escaped: bytes) -> str:
    """A user name, in which "=2C" and "=3D" stand for a comma and an equals sign (RFC 5802 §5.1, RFC 5801 §4).

    Raises :class:`SaslError`.
    """
    if len(escaped) > MAX_SECRET:
        raise SaslError(TOO_LONG)
    if not escaped or b"\0" in escaped or escaped.count(b"=") != escaped.count(b"=2C") + escaped.count(b"=3D"):
        raise SaslError(MALFORMED)
    try:
        return escaped.replace(b"=2C", b",").replace(b"=3D", b"=").decode("utf-8")
    except UnicodeDecodeError:
        raise SaslError(MALFORMED) from None


def decode(line: bytes, initial: bool = False) -> bytes:
    """What a client's line holds.  "*" cancels; "=" as the initial response is an empty one (RFC 4954 §4).

    Raises :class:`SaslError`.
    """
    if line == b"*" and not initial:
        raise SaslError(CANCELLED)
    if line == b"=" and initial:
        return b""
    try:
        # validate= alone lets "====" pass in places where only the end may have padding
        decoded = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        raise SaslError(NOT_BASE64) from None
    if base64.b64encode(decoded) != line:
        raise SaslError(NOT_BASE64)
    return decoded


def challenge(data: bytes) -> Reply:
    """The reply that asks for a response (RFC 4954 §4: 334 and base64)."""
    return Reply(334, "", base64.b64encode(data).decode("ascii"))
