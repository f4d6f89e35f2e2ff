"""Who is at the other end of a transport."""

from __future__ import annotations

import ipaddress
from typing import Any

from twisted.internet import tcp
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress

from ..policy.interfaces import UNIX


def peer_address(address: IAddress) -> tuple[str, int]:
    """The IP address and port of a transport's peer; (:data:`UNIX`, 0) of a Unix socket, ("", 0) of anything else.

    An IPv4 address within IPv6 (RFC 4291 §2.5.5.2), as a listener on "::" sees them, is given as the IPv4 address,
    and an interface's name behind "%" is left out.
    """
    if isinstance(address, UNIXAddress):
        return UNIX, 0
    host, port = getattr(address, "host", ""), getattr(address, "port", 0)
    if not isinstance(host, str):
        return "", 0
    if ":" in host:
        host = host.partition("%")[0]
        try:
            mapped = ipaddress.IPv6Address(host).ipv4_mapped
        except ValueError:
            return "", 0
        if mapped is not None:
            host = str(mapped)
    return host, port


def descriptor(transport: Any) -> int:
    """The file descriptor of a transport; -1 where it has none."""
    transport = getattr(transport, "transport", transport)  # beneath TLS
    return transport.fileno() if isinstance(transport, tcp.Connection) else -1


def is_loopback(address: str) -> bool:
    """Whether a client with this address is on our own machine."""
    return address.startswith("127.") or address == "::1"
