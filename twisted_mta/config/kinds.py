"""What kind of value a setting takes, as an annotation that mypy ignores and loading, dumping and the manual read.

``networks: tuple[Network, ...]`` is a tuple of ``str`` to everybody else; to :mod:`.load` it is texts that
:func:`.units.parse_network` accepts.  A duration is a number of seconds, a size one of octets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NewType

import attrs

from . import dns_lists, units

Duration = NewType("Duration", float)
"""Seconds.  Written "90s", "5m", "4h", "5d", "1w", or several joined: "1h30m"."""

Size = NewType("Size", int)
"""Octets.  Written "50MiB", "1GiB", "512KiB", "10MB", or a plain number."""

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@attrs.frozen
class Kind:
    """A text of a certain form: what the manual calls it, how it is made canonical, an example for mends."""

    name: str
    parse: Callable[[str], str]
    example: str


@attrs.frozen
class Range:
    """A whole number from ``low`` to ``high``, both included."""

    low: int
    high: int = 1_000_000_000

    def __str__(self) -> str:
        return (
            f"whole number from {self.low} to {self.high}" if self.high < 10**9 else f"whole number, {self.low} or more"
        )


ListenAddress = Annotated[str, Kind("IP address or unix:/path", units.parse_listen_address, "127.0.0.1")]
FileMode = Annotated[str, Kind("file mode", units.parse_mode, "0660")]
Network = Annotated[str, Kind("network", units.parse_network, "192.0.2.0/24")]
Domain = Annotated[str, Kind("domain", units.parse_domain, "isp.example")]
MaybeDomain = Annotated[str, Kind("domain", units.canonical(units.parse_domain), "mx1.isp.example")]
MaybeHostPort = Annotated[str, Kind("host:port", units.canonical(units.parse_host_port), "relay.example:25")]
MaybeAddressPort = Annotated[str, Kind("address:port", units.canonical(units.parse_address_port), "127.0.0.1:8025")]
MaybeEndpoint = Annotated[
    str, Kind("host:port or unix:/path", units.canonical(units.parse_endpoint), "unix:/run/dovecot/lmtp")
]
MaybeMailbox = Annotated[str, Kind("mail address", units.canonical(units.parse_mailbox), "hostmaster@isp.example")]
DnsListText = Annotated[str, Kind("DNS list", dns_lists.parse_dns_list, "zen.isp.example=127.0.0.2/31*2")]
Fingerprint = Annotated[str, Kind("SHA-256 fingerprint", units.parse_fingerprint, "12:AB:…, 32 octets")]
Server = Annotated[str, Kind("address or address:port", units.parse_server, "192.0.2.53")]

Port = Annotated[int, Range(1, 65535)]
ListenPort = Annotated[int, Range(0, 65535)]
Count = Annotated[int, Range(0)]
Positive = Annotated[int, Range(1)]
Priority = Annotated[int, Range(0, 9)]
