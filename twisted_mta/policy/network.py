"""Networks and addresses of peers, as limits and permissions see them."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

SITE = 64
"""Bits of an IPv6 address that one subscriber usually has (RFC 6177); what is counted is counted by these."""


@functools.lru_cache(4096)
def parse_ip(address: str) -> IPAddress | None:
    """An IP address; an IPv4 address within IPv6 (RFC 4291 §2.5.5.2) as the IPv4 address; None for what is none."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address):
        return ip.ipv4_mapped or ip
    return ip


@functools.lru_cache(4096)
def site(address: str) -> str:
    """What addresses are counted as: the IPv4 address, the IPv6 /64, or the text itself where it is no IP address."""
    ip = parse_ip(address)
    if ip is None:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(ip), SITE), strict=False))
    return str(ip)


class Networks:
    """A set of networks.  Raises ValueError for what is not one."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks: tuple[IPNetwork, ...] = tuple(ipaddress.ip_network(network) for network in networks)

    def __contains__(self, ip: IPAddress | None) -> bool:
        return ip is not None and any(ip in network for network in self._networks)
