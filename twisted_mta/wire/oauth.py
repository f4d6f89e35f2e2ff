"""OAUTHBEARER and XOAUTH2 of a server, sans-I/O: how a client shows a token, and how it hears what is wrong with it.

Source: RFC 7628 §3 (OAUTHBEARER), RFC 6750 §2.1 (what a token may be made of), RFC 5801 §4 (the GS2 header), Google's
"OAuth 2.0 Mechanism" (XOAUTH2, which clients had before).

Both are one message of the client's.  A token that is refused is answered with a challenge, which says what is wrong in
JSON; only what the client says to that, whatever it is, gets the reply (RFC 7628 §3.2.3).
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from ..mail.status import Reply
from .sasl import MALFORMED, SaslError, saslname

OAUTHBEARER = "OAUTHBEARER"
XOAUTH2 = "XOAUTH2"

Status = Literal["invalid_token", "insufficient_scope"]
"""What is wrong with a token, as RFC 6750 §3.1 names it."""

_HTTP = {"invalid_token": "401", "insufficient_scope": "403"}
"""The same as XOAUTH2 has it: the status that an HTTP server would give."""

# One separator divides the pairs, one more ends them; values have no control characters but HTAB, CR and LF (§3.1).
_PAIRS = re.compile(rb"(?:[A-Za-z]++=[\t\r\n\x20-\x7e]*+\x01)*+\x01")
_BEARER = re.compile(r"bearer[ \t]+([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)
_GS2 = re.compile(rb"([nyp][^,]*),(?:a=([^,]*))?,")


class Bearer(msgspec.Struct, frozen=True):
    """A token that was shown.  ``username`` is who the client says it is, "" where that is left to the token; ``token``
    is "" where the client only asks how to get one (RFC 7628 §4.3).  Never printed."""

    mechanism: str
    username: str
    token: str

    def __repr__(self) -> str:
        return f"<Bearer {self.mechanism}>"


class OAuth:
    """One exchange.  :meth:`step` answers the client's message with :class:`Bearer`; of a token that is refused,
    :meth:`refused` makes the challenge, and the next :meth:`step` ends it."""

    def __init__(self, mechanism: str) -> None:
        self.mechanism = mechanism
        self._refusal: Reply | None = None

    def step(self, response: bytes | None) -> bytes | Bearer:
        """See :class:`~.sasl.Exchange`."""
        if self._refusal is not None:
            raise SaslError(self._refusal)  # the client's dummy: %x01, or nothing at all
        if response is None:
            return b""
        username, token = _oauthbearer(response) if self.mechanism == OAUTHBEARER else _xoauth2(response)
        return Bearer(self.mechanism, username, token)

    def refused(self, status: Status, reply: Reply, scope: str = "", configuration: str = "") -> bytes:
        """The challenge that says why the token was refused.

        ``reply`` ends the exchange; ``scope`` is what a token must have, with spaces between; ``configuration`` the URL
        where a client finds how to get one (RFC 7628 §3.2.2, RFC 8414 §3).
        """
        self._refusal = reply
        if self.mechanism == OAUTHBEARER:
            words = {"status": str(status)}
            if scope:
                words["scope"] = scope
            if configuration:
                words["openid-configuration"] = configuration
        else:
            words = {"status": _HTTP[status], "schemes": "bearer", "scope": scope}
        return msgspec.json.encode(words)


def _oauthbearer(response: bytes) -> tuple[str, str]:
    """``gs2-header %x01 *(key "=" value %x01) %x01`` (RFC 7628 §3.1)."""
    header = _GS2.match(response)
    # "p" would bind to the channel, which tokens can't (§3.1); "y" says that the client could, were we able to
    if header is None or header[1] not in (b"n", b"y") or response[header.end() : header.end() + 1] != b"\x01":
        raise SaslError(MALFORMED)
    username = saslname(header[2]) if header[2] is not None else ""
    return username, _token(_pairs(response[header.end() + 1 :]))


def _xoauth2(response: bytes) -> tuple[str, str]:
    """``"user=" address %x01 "auth=Bearer " token %x01 %x01``."""
    user, _, rest = response.partition(b"\x01")
    if not user.startswith(b"user=") or len(user) == len(b"user="):
        raise SaslError(MALFORMED)
    # An address has no "," or "=" that would have to be escaped here, and a name that has is taken as it is.
    return saslname(user[len(b"user=") :].replace(b"=", b"=3D").replace(b",", b"=2C")), _token(_pairs(rest))


def _pairs(text: bytes) -> dict[str, str]:
    if _PAIRS.fullmatch(text) is None:
        raise SaslError(MALFORMED)
    pairs: dict[str, str] = {}
    for pair in text[:-1].split(b"\x01")[:-1]:
        key, _, value = pair.decode("ascii").partition("=")
        if pairs.setdefault(key.lower(), value) is not value:
            raise SaslError(MALFORMED)
    return pairs


def _token(pairs: dict[str, str]) -> str:
    """The token; host and port, which the client may name too, say nothing that the connection does not."""
    shown = pairs.get("auth")
    if shown is None:
        raise SaslError(MALFORMED)
    if not shown:
        return ""
    bearer = _BEARER.fullmatch(shown.strip(" \t\r\n"))
    if bearer is None:
        raise SaslError(MALFORMED)
    return bearer[1]
