"""Mail addresses: parsing, one canonical form, and the parts others need.

Source: RFC 5321 §4.1.2 (grammar), §4.5.3.1 (sizes), §4.1.3 (address literals), §2.4 (the local part's case is its
owner's), RFC 5890 (A-labels), RFC 6531 §3.3 and RFC 6532 §3.1 (UTF-8 in local parts, in normalisation form C).
"""

from __future__ import annotations

import functools
import ipaddress
import re
import unicodedata

import idna
import msgspec

from .status import MailError, Reply

MAX_LOCAL = 64  # octets, RFC 5321 §4.5.3.1.1
MAX_DOMAIN = 255  # octets, RFC 5321 §4.5.3.1.2
MAX_PATH = 254  # octets of an address: a path of 256 less its angle brackets, RFC 5321 §4.5.3.1.3

_BEYOND = "\u0080-\U0010ffff"
_ATEXT = rf"A-Za-z0-9!#$%&'*+/=?^_`{{|}}~{_BEYOND}\-"
_DOT_STRING = re.compile(rf"[{_ATEXT}]+(?:\.[{_ATEXT}]+)*")
_QUOTED = re.compile(rf'"((?:[ !#-\[\]-~{_BEYOND}]|\\[ -~])*)"')
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")


class AddressError(MailError):
    """What was given is not an address that mail can go to.  Its ``reply`` is a 501 or 553, never temporary."""


class Address(msgspec.Struct, frozen=True):
    """A mailbox: ``local`` without needless quotes, in normalisation form C; ``domain`` in lower case and A-labels, or
    an address literal."""

    local: str
    domain: str

    def __str__(self) -> str:
        return f"{quote_local(self.local)}@{self.domain}"


def quote_local(local: str) -> str:
    """A local part as it is written in an address: quoted exactly where the grammar asks for it (RFC 5321 §4.1.2)."""
    if _DOT_STRING.fullmatch(local):
        return local
    escaped = local.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@functools.lru_cache(4096)
def parse_address(text: str) -> Address:
    """The address that ``text`` ("local@domain") is.  Raises :class:`AddressError`, whose reply tells the sender."""
    if len(text) > MAX_PATH + 2:
        raise AddressError(Reply(501, "5.1.3", "The address is longer than 254 octets"))
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    local, domain = _split(text)
    if not local.isprintable():
        raise AddressError(Reply(501, "5.1.3", "The part before the @ has characters that cannot be seen"))
    if len(local.encode()) > MAX_LOCAL:
        raise AddressError(Reply(501, "5.1.3", "The part before the @ is longer than 64 octets"))
    return Address(local, canonical_domain(domain))


def _split(text: str) -> tuple[str, str]:
    if text.startswith('"'):
        match = _QUOTED.match(text)
        if match is None or text[match.end() : match.end() + 1] != "@":
            raise AddressError(Reply(501, "5.1.3", "The quoted part before the @ is not well formed"))
        return re.sub(r"\\(.)", r"\1", match.group(1)), text[match.end() + 1 :]
    local, at, domain = text.rpartition("@")
    if not at:
        raise AddressError(Reply(501, "5.1.3", "An address needs an @ and a domain"))
    if not _DOT_STRING.fullmatch(local):
        raise AddressError(Reply(501, "5.1.3", "The part before the @ is not well formed"))
    return local, domain


@functools.lru_cache(4096)
def canonical_domain(domain: str) -> str:
    """A domain, or an address literal, in its one form.  Raises :class:`AddressError`."""
    if domain.startswith("["):
        return _literal(domain)
    try:
        ascii_domain = domain if domain.isascii() else idna.encode(domain, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise AddressError(Reply(501, "5.1.2", "The domain is not a valid internationalised name")) from None
    ascii_domain = ascii_domain.lower()
    labels = ascii_domain.split(".")
    if not ascii_domain or len(ascii_domain) > MAX_DOMAIN or not all(map(_LABEL.fullmatch, labels)):
        raise AddressError(Reply(501, "5.1.2", "The domain is not well formed"))
    return ascii_domain


def _literal(domain: str) -> str:
    inside = domain[1:-1]
    try:
        if not domain.endswith("]"):
            raise ValueError(domain)
        if inside[:5].lower() == "ipv6:":
            return f"[IPv6:{ipaddress.IPv6Address(inside[5:])}]"
        return f"[{ipaddress.IPv4Address(inside)}]"
    except ValueError:
        raise AddressError(Reply(501, "5.1.2", "The address literal is not well formed")) from None


@functools.lru_cache(4096)
def canonical(text: str) -> str:
    """``text`` as the one string by which the queue, the quotas and the logs know this address.

    "" (the null sender) stays "".  The local part keeps its case.  Raises :class:`AddressError`.
    """
    return str(parse_address(text)) if text else ""


def domain_of(address: str) -> str:
    """The domain of a canonical address; "" for the null sender."""
    return address.rpartition("@")[2]


def local_of(address: str) -> str:
    """The local part, quotes and all, of a canonical address; "" for the null sender."""
    return address.rpartition("@")[0]


def detail_split(local: str, delimiter: str = "+") -> tuple[str, str]:
    """``user+detail`` as ("user", "detail"); without a delimiter, or with nothing before it, (local, "")."""
    user, found, detail = local.partition(delimiter) if delimiter else (local, "", "")
    return (user, detail) if found and user else (local, "")


def lookup_key(address: str) -> str:
    """The key under which the directory keeps an address: all lower case (local parts of ours ignore case)."""
    return address.lower()
