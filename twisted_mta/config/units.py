"""What a setting's text may be: durations, sizes, addresses, networks, hosts and ports.  Parsed strictly, and back.

Each ``parse_*`` gives the one canonical form or raises :class:`UnitError`, which says what is wrong and how to mend it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

import attrs
import idna

__all__ = [
    "HostPort",
    "UnitError",
    "format_duration",
    "format_size",
    "is_ip_address",
    "parse_address",
    "parse_address_port",
    "parse_domain",
    "parse_duration",
    "parse_endpoint",
    "parse_host_port",
    "parse_mailbox",
    "parse_network",
    "parse_server",
    "parse_size",
]


class UnitError(ValueError):
    """A text is not what it should be.  ``wrong`` reads after the value, ``mend`` after a semicolon."""

    def __init__(self, wrong: str, mend: str) -> None:
        super().__init__(f"{wrong}; {mend}")
        self.wrong = wrong
        self.mend = mend


# --- durations and sizes ---------------------------------------------------------------------------------------------

_MILLISECONDS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile(r"(\d{1,12}w)?(\d{1,12}d)?(\d{1,12}h)?(\d{1,12}m)?(\d{1,12}s)?(\d{1,12}ms)?", re.ASCII)
_PART = re.compile(r"(\d+)([a-z]+)")
_MAX_DURATION = 100 * 365 * 86_400_000
_DURATION_MEND = 'write a number with a unit of w, d, h, m, s or ms, largest first, such as "90s", "5d" or "1h30m"'


def parse_duration(text: str) -> float:
    """Seconds, exact to the millisecond, of "90s", "5m", "4h", "5d", "1w", "250ms" or several joined: "1h30m"."""
    if not text or not _DURATION.fullmatch(text):
        mend = f'write "{text}s" for seconds' if re.fullmatch(r"\d{1,9}", text, re.ASCII) else _DURATION_MEND
        raise UnitError("is not a duration", mend)
    total = sum(int(number) * _MILLISECONDS[unit] for number, unit in _PART.findall(text))
    if total > _MAX_DURATION:
        raise UnitError("is longer than a century", _DURATION_MEND)
    return total / 1000


def format_duration(seconds: float) -> str:
    """The text that :func:`parse_duration` reads as ``seconds``, rounded to the millisecond."""
    rest = round(seconds * 1000)
    parts = []
    for unit, size in _MILLISECONDS.items():
        if unit == "w":
            continue  # everybody counts queue lifetimes in days
        number, rest = divmod(rest, size)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"


_BINARY = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}
_DECIMAL = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "kB": 10**3, "KB": 10**3, "": 1}
_OCTETS = _BINARY | _DECIMAL
_SIZE = re.compile(r"(\d{1,19})([A-Za-z]*)", re.ASCII)
_MAX_SIZE = 1 << 60
_SIZE_MEND = 'write a number with a unit of KiB, MiB, GiB or TiB (or kB, MB, GB, TB), such as "50MiB"'


def parse_size(text: str) -> int:
    """Octets of "50MiB", "10MB" or "1024".  Binary units are powers of 1024, the others powers of 1000."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UnitError("is not a size", _SIZE_MEND)
    number, unit = match.groups()
    if unit not in _OCTETS:
        guess = f"{unit[0].upper()}iB"
        mend = f'write "{number}{guess}"' if guess in _BINARY and unit[1:].lower() in ("", "ib", "b") else _SIZE_MEND
        raise UnitError("is not a size", mend)
    octets = int(number) * _OCTETS[unit]
    if octets > _MAX_SIZE:
        raise UnitError("is more than an exbibyte", _SIZE_MEND)
    return octets


def format_size(octets: int) -> str:
    """The shortest text that :func:`parse_size` reads as exactly ``octets``."""
    exact = [f"{octets // size}{unit}" for unit, size in _OCTETS.items() if octets % size == 0]
    return min(exact, key=len) if octets else "0"


# --- addresses, networks, hosts --------------------------------------------------------------------------------------

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?", re.ASCII)
_LOCAL_PART = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}", re.ASCII)


@attrs.frozen
class HostPort:
    """A host, by name or address, and a TCP port.  ``str()`` is "host:port", an IPv6 address in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> str:
    """An IPv4 or IPv6 address in its canonical form."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        mend = 'write an address such as "192.0.2.1" or "2001:db8::1"'
        if text == "*":
            mend = 'write "0.0.0.0" for all of IPv4, "::" for all of IPv6'
        elif text.startswith("[") and is_ip_address(text[1:-1]):
            mend = f'write "{text[1:-1]}"'
        elif "/" in text:
            mend = "write one address, not a network"
        raise UnitError("is not an IP address", mend) from None


UNIX = "unix:"
"""What a Unix socket's path is written behind."""
_MAX_PATH = 107
"""Octets of a Unix socket's path (unix(7): ``sun_path`` has 108 with the NUL)."""


def parse_listen_address(text: str) -> str:
    """An IP address in its canonical form, or "unix:/path"."""
    if text.startswith("/"):
        raise UnitError("is not an IP address", f'write "{UNIX}{text}"')
    if not text.startswith(UNIX):
        return parse_address(text)
    path = text.removeprefix(UNIX)
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise UnitError("has no absolute path of a socket", 'write it as "unix:/run/twisted-mta/lmtp"')
    if len(path.encode()) > _MAX_PATH:
        raise UnitError(f"has a path of more than {_MAX_PATH} octets", "no socket can have that: choose a shorter one")
    return text


def parse_mode(text: str) -> str:
    """A file's mode in octal, four digits."""
    if not re.fullmatch(r"0?[0-7]{3}", text, re.ASCII):
        raise UnitError("is not a file's mode", 'write three octal digits, such as "0660"')
    return text.rjust(4, "0")


def is_ip_address(text: str) -> bool:
    """Whether ``text`` is an IPv4 or IPv6 address, without brackets."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def parse_network(text: str) -> str:
    """A network such as "192.0.2.0/24" in its canonical form; one address stands for itself."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        loose = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise UnitError("is not a network", 'write an address and a prefix length, such as "192.0.2.0/24"') from None
    raise UnitError("has bits set behind its prefix", f'write "{loose}"')


def parse_domain(text: str) -> str:
    """A host or domain name in lower case and A-labels (RFC 5890, RFC 1035 §2.3.4)."""
    mend = 'write a name such as "isp.example"'
    try:
        name = (text if text.isascii() else idna.encode(text, uts46=True).decode("ascii")).lower()
    except (idna.IDNAError, UnicodeError):
        raise UnitError("is not a domain name", mend) from None
    if text.startswith("*."):
        mend = "there are no wildcards; name each domain"
    elif name.endswith(".") and len(name) > 1:
        mend = f'leave out the last dot: "{text[:-1]}"'
    elif "@" in text:
        mend = "write only what stands behind the @"
    labels = name.split(".")
    if not name or len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise UnitError("is not a domain name", mend)
    if labels[-1].isdigit():
        raise UnitError("is not a domain name", "write a name, not an address")
    return name


def _parse_port(text: str, lowest: int) -> int:
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or not lowest <= int(text) <= 65535:
        raise UnitError("has no port that exists", f"write a port from {lowest} to 65535 behind the colon")
    return int(text)


def _split_port(text: str, sample: str, default: int, lowest: int) -> tuple[str, int]:
    """Divides "host:port"; the mend proposes ``default`` where the port is missing."""
    if is_ip_address(text):
        raise UnitError("has no port", f'write "{HostPort(text, default)}"')
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        raise UnitError("has no port", f'write "{text}:{default}"' if text else f'write it as "{sample}"')
    if host.startswith("[") and host.endswith("]"):
        inside = host[1:-1]
        if not is_ip_address(inside):
            raise UnitError("has brackets around a name", f'write "{inside}:{port}"')
        host = inside
    elif ":" in host:
        raise UnitError("is ambiguous", f'put an IPv6 address in brackets, such as "[2001:db8::1]:{default}"')
    return host, _parse_port(port, lowest)


def _host(text: str) -> str:
    return parse_address(text) if is_ip_address(text) else parse_domain(text)


def parse_host_port(text: str, default: int = 25) -> HostPort:
    """A "host:port", the host a name or an address, an IPv6 address in brackets."""
    host, port = _split_port(text, f"relay.example:{default}", default, 1)
    return HostPort(_host(host), port)


def parse_address_port(text: str, default: int = 8025, lowest: int = 0) -> HostPort:
    """An "address:port".  Port 0 is any free one, where ``lowest`` lets it."""
    host, port = _split_port(text, f"127.0.0.1:{default}", default, lowest)
    return HostPort(parse_address(host), port)


def parse_server(text: str) -> str:
    """An "address" or "address:port" of a name server, canonical; without a port it is 53."""
    return parse_address(text) if ":" not in text or is_ip_address(text) else str(parse_address_port(text, 53, 1))


def parse_endpoint(text: str) -> str:
    """A "host:port" or "unix:/path", canonical."""
    if text.startswith("unix:"):
        if not text.startswith("unix:/"):
            raise UnitError("has no absolute path", 'write it as "unix:/run/dovecot/lmtp"')
        return text
    if text.startswith("/"):
        raise UnitError("is not host:port", f'write "unix:{text}"')
    return str(parse_host_port(text, 24))


def parse_mailbox(text: str) -> str:
    """A mail address "local@domain" with a plain local part, its domain canonical."""
    local, at, domain = text.rpartition("@")
    if not at or not _LOCAL_PART.fullmatch(local) or ".." in f".{local}.":
        raise UnitError("is not a mail address", 'write it as "hostmaster@isp.example"')
    return f"{local}@{parse_domain(domain)}"


def parse_fingerprint(text: str) -> str:
    """A certificate's SHA-256 fingerprint, without colons and in lower case.  Raises :class:`UnitError`."""
    plain = text.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", plain):
        mend = 'write what "openssl x509 -noout -fingerprint -sha256 -in FILE" says'
        raise UnitError("is no SHA-256 fingerprint", mend)
    return plain


def canonical(parse: Callable[[str], object]) -> Callable[[str], str]:
    """``parse`` as a function from text to canonical text, with "" for a setting that is not set."""
    return lambda text: str(parse(text)) if text else ""
