"""From a next hop to the addresses to try, in their order.

Source: RFC 5321 §5.1 (MX and addresses), RFC 7505 (null MX), RFC 5321 §4.1.3 (address literals), RFC 8689 §4.2.1 (whose
names can be trusted).
"""

from __future__ import annotations

import ipaddress
import random
import re
import socket
from collections.abc import Callable, Sequence

import msgspec
from twisted.internet.defer import Deferred

from ..config.settings import Settings
from ..mail.status import MailError, Reply
from .dns import DnsError, IResolver, Mx
from .router import split_host_port

MAX_HOSTS = 10
"""MX hosts of one domain that are tried at most."""
MAX_ADDRESSES = 20
"""Addresses that are tried at most in one attempt."""

_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*")
_ALL_DIGITS = re.compile(r"[0-9.]+")


class Target(msgspec.Struct, frozen=True):
    """One place to connect to; ``path`` is a Unix socket's, and then there is nothing else.

    ``authentic``: nobody can have put another host in place of this one (RFC 8689 §4.2.1).  It is named by the
    settings, by the recipient's address itself, or by an MX that was validated by DNSSEC.
    """

    host: str = ""
    address: str = ""
    port: int = 0
    path: str = ""
    authentic: bool = True

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{self.host}[{self.address}]:{self.port}"


class Hops(msgspec.Struct, frozen=True):
    """Where to connect, the best first.  ``fixed``: the operator named the host, so whatever is wrong with it is a
    fault of the settings or of that host, and the mail waits rather than bounces."""

    targets: tuple[Target, ...]
    fixed: bool = False


def is_own_address(address: str) -> bool:
    """Whether an address is one of this machine's: whether a socket can be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def is_public(address: str) -> bool:
    """Whether mail may go to an address that somebody else's DNS names; also for an IPv4 address inside an IPv6 one."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is not None:
            parsed = inner
    return parsed.is_global and not parsed.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052 §2.1


def is_possible(address: str) -> bool:
    """Whether an address can be a host's at all; "0.0.0.0" would be this machine, unnoticed."""
    parsed = ipaddress.ip_address(address)
    inner = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    parsed = inner or parsed
    return not (parsed.is_unspecified or parsed.is_multicast or str(parsed) == "255.255.255.255")


class NextHops:
    """Finds the targets of a next hop.  ``rng`` shuffles what is equal; ``own_address`` knows this machine's."""

    def __init__(
        self,
        settings: Settings,
        resolver: IResolver,
        rng: random.Random | None = None,
        own_address: Callable[[str], bool] = is_own_address,
    ) -> None:
        self._resolver = resolver
        self._rng = rng or random.SystemRandom()
        self._own_address = own_address
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings."""
        self._port = settings.relay.port
        self._private = settings.relay.private_addresses
        self._names = {name.lower() for name in (settings.hostname, settings.relay.hostname) if name}
        self._smarthost: tuple[str, int] | None = None
        if settings.relay.smarthost:
            self._smarthost = split_host_port(settings.relay.smarthost, settings.relay.port)
        here = [one for listener in settings.listen.values() if listener.port == self._port for one in listener.address]
        self._listening = set(here)
        self._listening_on_all = bool({"0.0.0.0", "::"} & self._listening)  # noqa: S104 (compared, not bound)

    async def find(self, nexthop: str) -> Hops:
        """The targets of "example.org" (by MX), "[host]:port" (a smarthost) or "[address]:port" (an address literal).

        At least one.  Raises :class:`MailError` where there is none: temporary, or a bounce.
        """
        if nexthop.startswith("["):
            host, port = split_host_port(nexthop, self._port)
            return await self._fixed(host, port)
        return Hops(tuple(await self._by_mx(nexthop)))

    async def named(self, host: str, port: int) -> Hops:
        """The targets of a host that the operator named."""
        try:
            addresses = [host] if _is_address(host) else self._ordered(await self._resolver.addresses(host))
        except DnsError as error:
            # As Postfix does: a mistake in the settings must not bounce all mail.
            raise MailError(Reply(451, "4.3.5", f"The next hop in the settings: {error.reply.text}")) from None
        return Hops(tuple(Target(host, address, port) for address in addresses[:MAX_ADDRESSES]), fixed=True)

    async def _fixed(self, host: str, port: int) -> Hops:
        # A name in brackets, or the smarthost's address, is the operator's word; any other address was a literal that
        # a sender wrote after the @, which gives nobody a way to hosts inside our networks.
        if not _is_address(host) or (host, port) == self._smarthost:
            return await self.named(host, port)
        literal = f"[{host}]"
        if port == self._port and self._is_us(host):
            raise MailError(_loop(literal))
        self._check_public(literal, [host])
        return Hops((Target(host, host, port),))

    async def _by_mx(self, domain: str) -> list[Target]:
        records = await self._resolver.mx(domain)
        if len(records) == 1 and not records[0].host:
            raise MailError(Reply(556, "5.1.10", f"{domain} does not accept mail (null MX)"))
        # RFC 5321 §5.1: without an MX the domain itself is its host.
        implicit = not records
        found = await self._resolve([Mx(0, domain, True)] if implicit else self._sorted(records))
        errors = [addresses for _, addresses in found if isinstance(addresses, DnsError)]
        hosts = [(mx, addresses) for mx, addresses in found if not isinstance(addresses, DnsError)]
        if not hosts:
            raise _nothing(domain, implicit, errors)
        remaining = self._before_us(hosts)
        if not remaining:
            raise MailError(_loop(domain))
        targets = [
            Target(mx.host, address, self._port, authentic=mx.authentic)
            for mx, addresses in remaining
            for address in addresses
        ]
        allowed = [target for target in targets if self._allowed(target.address)]
        if not allowed:
            for error in errors:
                if error.temporary:
                    raise error
            self._check_public(domain, [target.address for target in targets])
        return allowed[:MAX_ADDRESSES]

    def _sorted(self, records: Sequence[Mx]) -> list[Mx]:
        """By preference, equal ones shuffled (RFC 5321 §5.1); what is no host name is left out."""
        hosts = {record.host: record for record in sorted(records, reverse=True) if _is_host(record.host)}
        shuffled = list(hosts.values())
        self._rng.shuffle(shuffled)
        shuffled.sort(key=lambda record: record.preference)
        return shuffled[:MAX_HOSTS]

    async def _resolve(self, hosts: list[Mx]) -> list[tuple[Mx, list[str] | DnsError]]:
        asked = [Deferred.fromCoroutine(self._addresses(mx.host)) for mx in hosts]
        return [(mx, await answer) for mx, answer in zip(hosts, asked, strict=True)]

    async def _addresses(self, host: str) -> list[str] | DnsError:
        try:
            return self._ordered(await self._resolver.addresses(host))
        except DnsError as error:
            return error

    def _ordered(self, addresses: Sequence[str]) -> list[str]:
        """Both families in turn, so that the bound on addresses never leaves one out; equal ones shuffled."""
        six = [address for address in addresses if ":" in address]
        four = [address for address in addresses if ":" not in address]
        self._rng.shuffle(six)
        self._rng.shuffle(four)
        both = min(len(six), len(four))
        return [one for pair in zip(six, four, strict=False) for one in pair] + six[both:] + four[both:]

    def _before_us(self, hosts: list[tuple[Mx, list[str]]]) -> list[tuple[Mx, list[str]]]:
        """RFC 5321 §5.1: where we are in the list, only hosts that are preferred to us are tried."""
        ours = [
            mx.preference
            for mx, addresses in hosts
            if mx.host in self._names or any(self._is_us(address) for address in addresses)
        ]
        if not ours:
            return hosts
        return [(mx, addresses) for mx, addresses in hosts if mx.preference < min(ours)]

    def _is_us(self, address: str) -> bool:
        return address in self._listening or (self._listening_on_all and self._own_address(address))

    def _allowed(self, address: str) -> bool:
        return is_possible(address) and (self._private or is_public(address))

    def _check_public(self, domain: str, addresses: list[str]) -> None:
        if not any(map(self._allowed, addresses)):
            words = f"{domain} has no mail host with a public address: {', '.join(addresses[:3])}"
            raise MailError(Reply(550, "5.4.4", words))


def _nothing(domain: str, implicit: bool, errors: list[DnsError]) -> MailError:
    """No host of a domain has an address: why."""
    for error in errors:
        if error.temporary:
            return error
    if implicit and errors:
        return errors[0]
    return MailError(Reply(550, "5.4.4", f"No mail host (MX) of {domain} has an address"))


def _loop(domain: str) -> Reply:
    return Reply(554, "5.4.6", f"Mail for {domain} would come back to this server: it is named as its mail host (MX)")


def _is_host(name: str) -> bool:
    return _HOST.fullmatch(name) is not None and _ALL_DIGITS.fullmatch(name) is None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
