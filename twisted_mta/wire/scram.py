"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS of a server, sans-I/O.

Source: RFC 5802 (SCRAM), RFC 7677 (with SHA-256), RFC 5929 §4 (tls-server-end-point), RFC 9266 (tls-exporter),
RFC 4954 §4 (how SMTP carries what a server says last).

Neither side tells the other the password, and what a server stores does not let anybody log in elsewhere.  With a
channel binding, whoever sits between the two with a certificate of their own can't pass the exchange on.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Callable

import msgspec

from ..mail.status import Reply
from .sasl import DENIED, MALFORMED, OTHER_IDENTITY, Denied, Proven, SaslError, Wanted, saslname

NAME = "SCRAM-SHA-256"
PLUS = "SCRAM-SHA-256-PLUS"
BINDINGS = ("tls-exporter", "tls-server-end-point")
"""The channel bindings that are spoken."""
ITERATIONS = 65_536
"""Rounds of PBKDF2 for new keys (RFC 7677 §4 asks for 4096 at least): the most that clients with Cyrus SASL take,
Postfix among them, which otherwise can't log in at all.  The client pays for them at each login; here they cost only
when a password is set."""
MAX_ITERATIONS = 10_000_000
MAX_NONCE = 256

NO_BINDING = Reply(501, "5.5.2", f"The channel binding is not supported here: use {' or '.join(BINDINGS)}")
DOWNGRADED = Reply(535, "5.7.8", f"{PLUS} is offered here, and you were not told: somebody may sit between us")

_NONCE = re.compile(rb"[\x21-\x2b\x2d-\x7e]{1,256}")
_FLAG = re.compile(rb"n|y|p=([A-Za-z0-9.-]{1,64})")
_KEYS = re.compile(r"SCRAM-SHA-256\$(\d{4,8}):([A-Za-z0-9+/=]{4,128})\$([A-Za-z0-9+/=]{44}):([A-Za-z0-9+/=]{44})")


class Keys(msgspec.Struct, frozen=True):
    """What a server has of a password: enough to check a proof, too little to make one (RFC 5802 §3)."""

    salt: bytes
    iterations: int
    stored: bytes
    server: bytes

    def __repr__(self) -> str:
        return f"<Keys {self.iterations}>"

    def __str__(self) -> str:
        """As it is stored, the form of RFC 5803 §2 and of PostgreSQL's ``pg_authid``."""
        salt, stored, server = (base64.b64encode(part).decode() for part in (self.salt, self.stored, self.server))
        return f"{NAME}${self.iterations}:{salt}${stored}:{server}"

    @classmethod
    def make(cls, password: str, salt: bytes = b"", iterations: int = ITERATIONS) -> Keys:
        """The keys of a password that is prepared already; takes a tenth of a second and more."""
        salt = salt or os.urandom(16)
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
        stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
        return cls(salt, iterations, stored, hmac.digest(salted, b"Server Key", "sha256"))

    @classmethod
    def parse(cls, text: str) -> Keys | None:
        """What ``str()`` has made; None for anything else."""
        found = _KEYS.fullmatch(text)
        if found is None or not 1 <= int(found[1]) <= MAX_ITERATIONS:
            return None
        try:
            salt, stored, server = (base64.b64decode(part, validate=True) for part in found.group(2, 3, 4))
        except binascii.Error:
            return None
        return cls(salt, int(found[1]), stored, server) if len(stored) == len(server) == 32 else None

    @classmethod
    def made_up(cls, secret: bytes, username: str) -> Keys:
        """Keys that no password fits, for a user who has none.  The same each time, so that the salt tells nobody
        who exists (RFC 5802 §9 leaves it to us)."""
        salt = hmac.digest(secret, username.encode("utf-8", "surrogatepass"), "sha256")[:16]
        return cls(salt, ITERATIONS, os.urandom(32), os.urandom(32))


class Scram:
    """One exchange.

    ``binding`` gives the data of a kind of channel binding, b"" where the channel has none of it.  ``plus``: the
    mechanism is the one with a binding; ``offered``: that one is offered on this channel.

    :meth:`step` answers the client's first message with :class:`~.sasl.Wanted`; the caller finds the user's
    :class:`Keys`, and :meth:`found` makes the challenge of them.
    """

    def __init__(self, plus: bool, offered: bool, binding: Callable[[str], bytes], nonce: bytes = b"") -> None:
        self.mechanism = PLUS if plus else NAME
        self._offered = offered
        self._binding = binding
        self._own_nonce = nonce or base64.b64encode(os.urandom(18))
        self._header = b""
        self._bound = b""
        self._bare = b""
        self._nonce = b""
        self._server_first = b""
        self._username = ""
        self._keys: Keys | None = None
        self._proven = False

    def step(self, response: bytes | None) -> bytes | Wanted | Proven:
        """See :class:`~.sasl.Exchange`."""
        if response is None:
            return b""
        if self._proven:
            if response:
                raise SaslError(MALFORMED)
            return Proven(self.mechanism, self._username)
        if self._keys is not None:
            return self._final(response, self._keys)
        if self._nonce:
            raise SaslError(MALFORMED)
        return self._first(response)

    def _first(self, response: bytes) -> Wanted:
        flag, _, rest = response.partition(b",")
        identity, comma, bare = rest.partition(b",")
        known = _FLAG.fullmatch(flag)
        if known is None or not comma:
            raise SaslError(MALFORMED)
        plus = self.mechanism == PLUS
        if (known[1] is not None) != plus:
            raise SaslError(MALFORMED)
        if flag == b"y" and self._offered:
            raise SaslError(DOWNGRADED)
        if plus:
            kind = known[1].decode("ascii")
            self._bound = self._binding(kind) if kind in BINDINGS else b""
            if not self._bound:
                raise SaslError(NO_BINDING)
        parts = bare.split(b",")
        if len(parts) < 2 or parts[0][:2] != b"n=" or parts[1][:2] != b"r=" or not _NONCE.fullmatch(parts[1][2:]):
            raise SaslError(MALFORMED)  # "m=", which asks for an extension that we don't know, among others
        _extensions(parts[2:])
        self._username = saslname(parts[0][2:])
        if identity and (identity[:2] != b"a=" or saslname(identity[2:]) != self._username):
            raise SaslError(MALFORMED if identity[:2] != b"a=" else OTHER_IDENTITY)
        self._header = b"%b,%b," % (flag, identity)
        self._bare = bare
        self._nonce = parts[1][2:] + self._own_nonce
        return Wanted(self.mechanism, self._username)

    def found(self, keys: Keys) -> bytes:
        """The challenge for a user with these keys."""
        self._keys = keys
        self._server_first = b"r=%b,s=%b,i=%d" % (self._nonce, base64.b64encode(keys.salt), keys.iterations)
        return self._server_first

    def _final(self, response: bytes, keys: Keys) -> bytes:
        without_proof, _, proof_part = response.rpartition(b",")
        parts = without_proof.split(b",")
        if len(parts) < 2 or parts[0][:2] != b"c=" or parts[1][:2] != b"r=" or proof_part[:2] != b"p=":
            raise SaslError(MALFORMED)
        _extensions(parts[2:])
        channel, proof = _base64(parts[0][2:]), _base64(proof_part[2:])
        signed = b",".join((self._bare, self._server_first, without_proof))
        signature = hmac.digest(keys.stored, signed, "sha256")
        client = bytes(one ^ other for one, other in zip(proof, signature, strict=False))
        good = hmac.compare_digest(hashlib.sha256(client).digest(), keys.stored)
        good &= len(proof) == 32
        good &= hmac.compare_digest(parts[1][2:], self._nonce)
        good &= hmac.compare_digest(channel, self._header + self._bound)
        if not good:
            raise Denied(DENIED, self.mechanism, self._username)
        self._proven = True
        return b"v=" + base64.b64encode(hmac.digest(keys.server, signed, "sha256"))


def _extensions(parts: list[bytes]) -> None:
    """Those that may be ignored have a letter, an equals sign and a value (RFC 5802 §7)."""
    for part in parts:
        if not part[:1].isalpha() or part[1:2] != b"=" or len(part) < 3:
            raise SaslError(MALFORMED)


def _base64(text: bytes) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise SaslError(MALFORMED) from None
    if base64.b64encode(decoded) != text:
        raise SaslError(MALFORMED)
    return decoded
