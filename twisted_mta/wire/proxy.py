"""The header with which a proxy says whose connection it carries, sans-I/O: PROXY protocol, versions 1 and 2.

Source: "The PROXY protocol", HAProxy Technologies (haproxy.org/download/2.6/doc/proxy-protocol.txt), §2.1 and §2.2.
"""

from __future__ import annotations

import ipaddress
import re
import struct

import msgspec

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
MAX_V1 = 107
"""Octets of a header of version 1, CRLF included (§2.1)."""
MAX_V2 = 4096
"""Octets of addresses and extensions of version 2 that are taken; HAProxy sends some dozens."""

_V1 = re.compile(rb"PROXY (TCP4|TCP6) (\S+) (\S+) (0|[1-9]\d{0,4}) (0|[1-9]\d{0,4})")
_TCP4, _TCP6, _UNIX, _UNSPECIFIED = 0x11, 0x21, 0x31, 0x00


class ProxyError(Exception):
    """What came is no header; the words are for the log."""


class Proxied(msgspec.Struct, frozen=True):
    """Who is behind the proxy.  ``address`` of "": the proxy itself, such as for a health check."""

    address: str = ""
    port: int = 0


class ProxyHeader:
    """Gathers a header.  Once :meth:`receive` has given what it says, ``rest`` is what came behind it."""

    def __init__(self) -> None:
        self.rest = b""
        self._data = b""

    def receive(self, data: bytes) -> Proxied | None:
        """Take what came; None while more is needed.  Raises :class:`ProxyError`."""
        self._data += data
        head = self._data[: len(SIGNATURE)]
        if head.startswith(b"PROXY "[: len(head)]):
            return self._version_1()
        if head == SIGNATURE[: len(head)]:
            return self._version_2()
        raise ProxyError("it begins with something else")

    def _version_1(self) -> Proxied | None:
        end = self._data.find(b"\r\n", 0, MAX_V1)
        if end < 0:
            if len(self._data) >= MAX_V1:
                raise ProxyError("the line is too long")
            return None
        line, self.rest, self._data = self._data[:end], self._data[end + 2 :], b""
        if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
            return Proxied()
        found = _V1.fullmatch(line)
        if found is None:
            raise ProxyError("the line is malformed")
        kind = ipaddress.IPv4Address if found[1] == b"TCP4" else ipaddress.IPv6Address
        try:
            source, _ = (str(kind(address.decode("ascii"))) for address in found.group(2, 3))
        except ValueError:
            raise ProxyError("an address is malformed") from None
        if "%" in source or int(found[4]) > 65535 or int(found[5]) > 65535:
            raise ProxyError("a port is malformed")
        return Proxied(source, int(found[4]))

    def _version_2(self) -> Proxied | None:
        if len(self._data) < 16:
            return None
        version, family, length = struct.unpack_from("!BBH", self._data, 12)
        if version not in (0x20, 0x21):
            raise ProxyError("the version or command is unknown")
        if length > MAX_V2:
            raise ProxyError("it is too long")
        if len(self._data) < 16 + length:
            return None
        body, self.rest, self._data = self._data[16 : 16 + length], self._data[16 + length :], b""
        if version == 0x20 or family in (_UNSPECIFIED, _UNIX):  # LOCAL, or nothing that has an IP address
            return Proxied()
        size = {_TCP4: 4, _TCP6: 16}.get(family, 0)
        if not size:
            raise ProxyError("it is not about a TCP connection")
        if length < 2 * size + 4:
            raise ProxyError("the addresses are cut off")
        (port,) = struct.unpack_from("!H", body, 2 * size)
        return Proxied(str(ipaddress.ip_address(body[:size])), port)
