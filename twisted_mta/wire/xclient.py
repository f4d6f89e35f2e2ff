"""What a trusted host says in XCLIENT about the client behind it.  Sans-I/O.

Source: Postfix's XCLIENT_README (postfix.org/XCLIENT_README.html); xtext is that of RFC 3461 §4.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

import msgspec

from .notification import decode_xtext

ATTRIBUTES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "DESTADDR", "DESTPORT")
"""What may be said; LOGIN as well, where there is anything to log in to."""
LOGIN = "LOGIN"

_WORD = re.compile(r"([A-Za-z]{1,20})=(\S+)")
_NONE = ("[UNAVAILABLE]", "[TEMPUNAVAIL]")
_PORT = re.compile(r"[0-9]{1,5}")
_NAME = re.compile(r"[!-~]{1,255}")


class XclientError(ValueError):
    """What was said is not well formed; the words are for the one who said it."""


class Claims(msgspec.Struct, frozen=True):
    """Whatever was not said is None.  What is not known is "", for ports 0; addresses are canonical."""

    name: str | None = None
    address: str | None = None
    port: int | None = None
    protocol: str | None = None
    helo: str | None = None
    login: str | None = None
    here: str | None = None
    here_port: int | None = None


def parse(argument: str) -> Claims:
    """XCLIENT's argument.  Raises :class:`XclientError`."""
    found: dict[str, str] = {}
    for word in argument.split():
        match = _WORD.fullmatch(word)
        name = match[1].upper() if match is not None else ""
        if match is None or name not in _FIELDS:
            raise XclientError(f"the attributes are {' '.join((*ATTRIBUTES, LOGIN))}, each with = and a value in xtext")
        if name in found:
            raise XclientError(f"{name} is said twice")
        text = decode_xtext(match[2])
        if text is None:
            raise XclientError(f"{name} is not in xtext")
        found[name] = "" if text.upper() in _NONE else text
    if not found:
        raise XclientError("there is no attribute")
    said: dict[str, Any] = {_FIELDS[name]: _VALUES[_FIELDS[name]](name, text) for name, text in found.items()}
    return Claims(**said)


def _address(name: str, text: str) -> str:
    if not text:
        return ""
    bare = text[5:] if text[:5].upper() == "IPV6:" else text
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        raise XclientError(f"{name} is no IP address, nor IPV6: and one") from None
    if "%" in bare:
        raise XclientError(f"{name} has a scope")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _port(name: str, text: str) -> int:
    if not text:
        return 0
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise XclientError(f"{name} is no port")
    return int(text)


def _protocol(name: str, text: str) -> str:
    if text.upper() not in ("SMTP", "ESMTP", "LMTP"):
        raise XclientError(f"{name} is SMTP, ESMTP or LMTP")
    return text.upper()


def _word(name: str, text: str) -> str:
    if text and not _NAME.fullmatch(text):
        raise XclientError(f"{name} has more than 255 characters, or a space")
    return text


_FIELDS = {
    "NAME": "name",
    "ADDR": "address",
    "PORT": "port",
    "PROTO": "protocol",
    "HELO": "helo",
    "LOGIN": "login",
    "DESTADDR": "here",
    "DESTPORT": "here_port",
}
_VALUES: dict[str, Callable[[str, str], str | int]] = {
    "name": _word,
    "address": _address,
    "port": _port,
    "protocol": _protocol,
    "helo": _word,
    "login": _word,
    "here": _address,
    "here_port": _port,
}
