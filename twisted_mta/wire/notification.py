"""The parameters by which a client says what reports it wants, and what they are to name.  Sans-I/O.

Source: RFC 3461 §4 (NOTIFY, ORCPT, RET, ENVID; xtext), RFC 3464 §2.3.1 (address types), RFC 6533 §3
(type utf-8).

A value is kept as it was given, in xtext, and passed on so (RFC 3461 §5.2.1); :func:`decode_xtext` is for the reports.
"""

from __future__ import annotations

import re

NOTIFY_LIMIT, ORCPT_LIMIT, ENVID_LIMIT = 28, 500, 100
"""Octets of the values, encoded (RFC 3461 §4.1, §4.2 and §4.4)."""

_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+")
_HEX = re.compile(r"\+([0-9A-F]{2})")
_OCTETS = re.compile(r"(?:\+[89A-F][0-9A-F])+")
_BEYOND = re.compile("[\u0080-\U0010ffff]")
_TYPE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,38}[A-Za-z0-9])?")
_WISHES = ("SUCCESS", "FAILURE", "DELAY")


def decode_xtext(value: str) -> str | None:
    """What an xtext stands for; None if it is none, or stands for anything but printable ASCII (RFC 3461 §4)."""
    if not _XTEXT.fullmatch(value):
        return None
    if "+" not in value:
        return value
    text = _HEX.sub(lambda match: chr(int(match[1], 16)), value)
    return text if text.isascii() and text.isprintable() else None


def encode_xtext(text: str) -> str:
    """Printable ASCII as xtext."""
    return re.sub(r"[^!-*,-<>-~]", lambda match: f"+{ord(match[0]):02X}", text)


def parse_notify(value: str) -> str | None:
    """NOTIFY's value in upper case and in one order; None if it is not well formed: NEVER alone, or some of SUCCESS,
    FAILURE and DELAY, each once (RFC 3461 §4.1)."""
    words = value.upper().split(",")
    if words == ["NEVER"]:
        return "NEVER"
    if len(set(words)) != len(words) or not set(words) <= set(_WISHES):
        return None
    return ",".join(word for word in _WISHES if word in words)


def encode_address(address: str) -> str:
    """An address beyond ASCII for type "utf-8" where only ASCII may stand (RFC 6533 §3, utf-8-addr-xtext)."""
    return "".join(
        letter if letter.isascii() and letter.isprintable() and letter not in "+=\\ " else f"\\x{{{ord(letter):02X}}}"
        for letter in address
    )


def _unfolded(value: str) -> str:
    """ORCPT's value with UTF-8 for UTF-8 that was put into xtext octet by octet, and then of type "utf-8": so Postfix
    sends it, as "rfc822"."""
    kind, semicolon, encoded = value.partition(";")
    if kind.lower() not in ("rfc822", "utf-8") or not _OCTETS.search(encoded):
        return value
    try:
        text = _OCTETS.sub(lambda match: bytes.fromhex(match[0].replace("+", "")).decode("utf-8"), encoded)
    except UnicodeDecodeError:
        return value
    return f"utf-8{semicolon}{text}"


def ascii_orcpt(value: str) -> str:
    """ORCPT's value of type "utf-8" as it may stand where only ASCII may, whichever way it was given (RFC 6533 §3)."""
    if "+" in value:
        value = _unfolded(value)
    return value if value.isascii() else _BEYOND.sub(lambda match: f"\\x{{{ord(match[0]):02X}}}", value)


def decode_orcpt(value: str) -> tuple[str, str] | None:
    """ORCPT's address type and address; None if the value is not well formed (RFC 3461 §4.2)."""
    if len(value) > ORCPT_LIMIT:
        return None
    if "+" in value:
        value = _unfolded(value)
    kind, semicolon, encoded = value.partition(";")
    if kind.lower() == "utf-8" and value.isprintable():
        encoded = ascii_orcpt(encoded)
    if not semicolon or not _TYPE.fullmatch(kind):
        return None
    address = decode_xtext(encoded)
    return None if address is None else (kind, address)


def decode_envid(value: str) -> str | None:
    """The envelope id that ENVID's value stands for; None if it is not well formed (RFC 3461 §4.4)."""
    return decode_xtext(value) if len(value) <= ENVID_LIMIT else None
