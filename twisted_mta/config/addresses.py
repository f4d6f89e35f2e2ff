"""Questions about IP addresses that decide whether a setting is safe."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable

from .units import UNIX, HostPort, is_ip_address

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_EMBEDDING = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "::ffff:0:0/96",  # IPv4-mapped, RFC 4291 §2.5.5.2
        "::/96",  # IPv4-compatible, RFC 4291 §2.5.5.1
        "64:ff9b::/96",  # NAT64, RFC 6052 §2.1
        "2002::/16",  # 6to4, RFC 3056 §2
        "2001::/32",  # Teredo, RFC 4380 §4: the server's address comes first, clients are anywhere
    )
)
"""IPv6 networks in which all of IPv4 is contained."""


class Exposure(enum.Enum):
    """Who can reach an address that we listen on."""

    LOOPBACK = "this machine"
    PRIVATE = "a private network"
    PUBLIC = "everybody"


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


def is_loopback(address: str) -> bool:
    """Whether an IP address is of 127.0.0.0/8 or ::1, also when written as IPv4-mapped."""
    return _plain(address).is_loopback


def exposure(address: str) -> Exposure:
    """Who can reach ``address``; "0.0.0.0" and "::" are taken for public."""
    if address.startswith(UNIX):
        return Exposure.LOOPBACK
    parsed = _plain(address)
    if parsed.is_loopback:
        return Exposure.LOOPBACK
    if parsed.is_private and not parsed.is_unspecified:
        return Exposure.PRIVATE
    return Exposure.PUBLIC


def reach(network: IpNetwork) -> int:
    """The prefix length of ``network``; where all or a part of IPv4 is embedded in it, the IPv4 prefix length."""
    if isinstance(network, ipaddress.IPv6Network):
        for embedding in _EMBEDDING:
            if network.subnet_of(embedding):
                return network.prefixlen - embedding.prefixlen
            if network.supernet_of(embedding):
                return 0
    return network.prefixlen


def overlaps(one: str, other: str) -> bool:
    """Whether two listening sockets of the same port would be in each other's way ("::" is IPv6 alone)."""
    if one.startswith(UNIX) or other.startswith(UNIX):
        return one == other
    first, second = ipaddress.ip_address(one), ipaddress.ip_address(other)
    if first.version != second.version:
        return False
    return first == second or first.is_unspecified or second.is_unspecified


def points_at(target: HostPort, listening: Iterable[tuple[str, int]], hostname: str) -> bool:
    """Whether a connection to ``target`` would certainly reach one of the (address, port) that we listen on."""
    ours = [address for address, port in listening if port == target.port and not address.startswith(UNIX)]
    if not ours:
        return False
    if target.host in ("localhost", hostname.lower()):
        return target.host != "localhost" or any(_is_any(address) or is_loopback(address) for address in ours)
    if target.host in ours:
        return True
    return is_ip_address(target.host) and is_loopback(target.host) and any(map(_is_any, ours))


def _is_any(address: str) -> bool:
    return ipaddress.ip_address(address).is_unspecified


def too_wide(network: IpNetwork) -> str:
    """Why ``network`` may not relay; "" when it may."""
    share = reach(network)
    if share == 0:
        return "would let anybody relay"
    if share < 8 if network.version == 4 or _embeds(network) else share < 16:
        return "would let a large part of the Internet relay"
    return ""


def _embeds(network: IpNetwork) -> bool:
    return reach(network) != network.prefixlen
