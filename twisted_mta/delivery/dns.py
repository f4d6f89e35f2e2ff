"""DNS: dnspython makes and reads the messages, Twisted carries them, and a bounded cache keeps the answers.

Source: RFC 1035 §4.2 (transport), RFC 2308 (negative answers), RFC 5452 (forged answers: random port and id, the
question is compared), RFC 6891 (EDNS), RFC 7766 (TCP), RFC 4035 and RFC 6840 (the AD bit).  A stub: it asks recursive
resolvers, and leaves it to them to validate DNSSEC.
"""

from __future__ import annotations

import functools
import ipaddress
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rdtypes.ANY.MX
import dns.resolver
import dns.reversename
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from ..config.settings import Dns
from ..mail.status import MailError, Reply, printable
from .dns_transport import Exchange, Exchanger, Server

MAX_TTL = 86400.0
"""Seconds that a positive answer is kept at most."""
MAX_NEGATIVE_TTL = 3600.0
"""Seconds that "there is no such thing" is kept at most (RFC 2308 §5 suggests one to three hours)."""
FAILURE_TTL = 15.0
"""Seconds for which a question that found no answer is not asked again (RFC 2308 §7: at most five minutes)."""
MAX_CNAMES = 8
"""Questions that one look-up may become by following CNAMEs beyond what the server followed."""
MAX_EXCHANGES = 200
"""Questions under way at once: each holds a socket."""
PAYLOAD = 1232
"""Octets of a UDP answer: what passes everywhere without fragments."""


class DnsError(MailError):
    """A name could not be looked up, or is not there."""


class DnsTemporary(DnsError):
    """No server answered, or only with a failure: 451 4.4.3."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(Reply(451, "4.4.3", f"{printable(name)}: the name could not be looked up: {why}"))


class DnsNoName(DnsError):
    """The name does not exist (NXDOMAIN): 550 5.1.2."""

    def __init__(self, name: str) -> None:
        super().__init__(Reply(550, "5.1.2", f"{printable(name)}: the domain does not exist"))


class DnsNoData(DnsError):
    """The name exists, but has no records of the kind asked for: 550 5.4.4."""

    def __init__(self, name: str, kind: str) -> None:
        super().__init__(Reply(550, "5.4.4", f"{printable(name)}: the domain has no {kind} record"))


class Mx(NamedTuple):
    """One MX record: ``host`` in lower case without the final dot; "" is the null MX (RFC 7505).

    ``authentic``: a resolver that we trust has validated it by DNSSEC (RFC 4035 §3.2.3, the AD bit).
    """

    preference: int
    host: str
    authentic: bool = False


# ruff: noqa: N805 (zope.interface methods have no self)
class IResolver(Interface):
    """Looks names up.  Names are ASCII, with or without the final dot.  What fails is a :class:`DnsError`."""

    async def mx(name: str) -> Sequence[Mx]:
        """The MX records in no order; none at all where the name exists without.  Raises :class:`DnsNoName`,
        :class:`DnsTemporary`."""

    async def addresses(name: str) -> Sequence[str]:
        """The IPv6 and IPv4 addresses of a host, at least one.  Raises :class:`DnsNoName`, :class:`DnsNoData`, or
        :class:`DnsTemporary` where none is known and one of the two questions had no answer."""

    async def ptr(address: str) -> Sequence[str]:
        """The names of an IP address, at least one.  Raises as ``addresses`` does."""

    async def ipv4(name: str) -> Sequence[str]:
        """The IPv4 addresses of a name, at least one.  Raises as ``addresses`` does."""

    async def texts(name: str) -> Sequence[str]:
        """The TXT records of a name, at least one, each as one text.  Raises as ``addresses`` does."""


@functools.lru_cache(4096)
def _reverse(address: str) -> str:
    return dns.reversename.from_address(address).to_text()


class _Cached(NamedTuple):
    expires: float
    records: tuple[Any, ...]
    error: DnsError | None
    authentic: bool = False


def system_servers(resolv_conf: Path = Path("/etc/resolv.conf")) -> list[Server]:
    """The servers in ``resolv.conf``; the local host where it names none (resolv.conf(5))."""
    resolver = dns.resolver.Resolver(configure=False)
    try:
        resolver.read_resolv_conf(str(resolv_conf))
    except (OSError, dns.exception.DNSException):
        return [("127.0.0.1", 53)]
    return [(str(address), 53) for address in resolver.nameservers] or [("127.0.0.1", 53)]


def parse_server(text: str) -> Server:
    """ "address", "address:port" or "[v6]:port" as (address, port).  Raises ValueError."""
    host, _, port = text.rpartition(":")
    if (host and ":" not in host) or host.endswith("]"):
        return str(ipaddress.ip_address(host.strip("[]"))), int(port)
    return str(ipaddress.ip_address(text.strip("[]"))), 53


@implementer(IResolver)
class Resolver:
    """An :class:`IResolver` that asks ``settings.servers`` in turn, or the system's.

    ``exchange`` carries one message to one server (by default over ``reactor``'s UDP and TCP).  Equal questions at
    the same time are one; at most ``settings.cache`` answers are kept.  Nothing to start or close.
    """

    def __init__(self, settings: Dns, reactor: Any, exchange: Exchange | None = None) -> None:
        self._clock: IReactorTime = reactor
        self._exchange: Exchange = exchange or Exchanger(reactor)
        self._cache: OrderedDict[tuple[str, str], _Cached] = OrderedDict()
        self._asking: dict[tuple[str, str], list[Deferred[_Cached]]] = {}
        self._slots = DeferredSemaphore(MAX_EXCHANGES)
        self.reconfigure(settings)

    def reconfigure(self, settings: Dns) -> None:
        """Take over changed settings; what other servers have answered is forgotten."""
        self._timeout = settings.timeout
        self._attempts = max(1, settings.attempts)
        self._size = settings.cache
        self._trust_ad = settings.trust_ad
        self._servers = [parse_server(text) for text in settings.servers] or system_servers()
        self._cache.clear()

    async def mx(self, name: str) -> Sequence[Mx]:
        """See :class:`IResolver`."""
        key = _key(name)
        answer = self._fresh(key, "MX") or await self._find(key, "MX")
        if isinstance(answer.error, DnsNoData):
            return ()
        if answer.error is not None:
            raise answer.error.anew()
        return [Mx(record.preference, _text(record.exchange), answer.authentic) for record in answer.records]

    async def addresses(self, name: str) -> Sequence[str]:
        """See :class:`IResolver`.  "localhost" is never asked of a server (RFC 6761 §6.3)."""
        if _key(name) == "localhost" or _key(name).endswith(".localhost"):
            return ["::1", "127.0.0.1"]
        found: list[str] = []
        errors: list[DnsError] = []
        cached = [self._fresh(_key(name), kind) for kind in ("AAAA", "A")]
        if None in cached:
            both = [Deferred.fromCoroutine(self._find(_key(name), kind)) for kind in ("AAAA", "A")]
            cached = [await answer for answer in both]
        for answer in cached:
            assert answer is not None
            if answer.error is None:
                found.extend(record.address for record in answer.records)
            else:
                errors.append(answer.error.anew())
        if found:
            return found
        for kind in (DnsTemporary, DnsNoData):  # a name that has any record exists
            for error in errors:
                if isinstance(error, kind):
                    raise error if kind is DnsTemporary else DnsNoData(name, "A or AAAA")
        raise errors[0]

    async def ptr(self, address: str) -> Sequence[str]:
        """See :class:`IResolver`."""
        records = await self.lookup(_reverse(address), "PTR")
        return [_text(record.target) for record in records]

    async def ipv4(self, name: str) -> Sequence[str]:
        """See :class:`IResolver`."""
        return [record.address for record in await self.lookup(name, "A")]

    async def texts(self, name: str) -> Sequence[str]:
        """See :class:`IResolver`."""
        records = await self.lookup(name, "TXT")
        return [b"".join(record.strings).decode("utf-8", "replace") for record in records]

    async def lookup(self, name: str, kind: str) -> tuple[Any, ...]:
        """The records of one kind ("MX", "TXT" …) as dnspython's rdata, at least one.  Raises :class:`DnsError`."""
        key = _key(name)
        answer = self._fresh(key, kind) or await self._find(key, kind)
        if answer.error is not None:
            raise answer.error.anew()
        return answer.records

    def _fresh(self, name: str, kind: str) -> _Cached | None:
        key = (name, kind)
        answer = self._cache.get(key)
        if answer is None:
            return None
        if answer.expires <= self._clock.seconds():
            del self._cache[key]
            return None
        self._cache.move_to_end(key)
        return answer

    async def _find(self, name: str, kind: str) -> _Cached:
        answer = self._fresh(name, kind)
        if answer is not None:
            return answer
        key = (name, kind)
        waiting = self._asking.get(key)
        if waiting is not None:  # the same question is under way
            mine: Deferred[_Cached] = Deferred()
            waiting.append(mine)
            return await mine
        self._asking[key] = []
        try:
            answer = await self._chase(name, kind)
        except Exception as error:
            failure = Failure()  # type: ignore[no-untyped-call]
            for other in self._asking.pop(key):
                other.errback(failure)
            raise error
        self._cache[key] = answer
        while len(self._cache) > self._size:
            self._cache.popitem(last=False)
        for other in self._asking.pop(key):
            other.callback(answer)
        return answer

    async def _chase(self, name: str, kind: str) -> _Cached:
        """Ask, and ask again where the server left the end of a CNAME chain to us."""
        asked = name
        ttl = MAX_TTL
        authentic = self._trust_ad
        for _ in range(MAX_CNAMES):
            try:
                question = dns.name.from_text(f"{asked}.")
            except dns.exception.DNSException:  # a label of more than 63 octets, more than 253 in all
                return _Cached(self._clock.seconds() + ttl, (), DnsNoName(name))
            response, why = await self._ask(question, kind)
            now = self._clock.seconds()
            if response is None:
                return _Cached(now + FAILURE_TTL, (), DnsTemporary(name, why))
            authentic = authentic and bool(response.flags & dns.flags.AD)  # of each link of a chain of CNAMEs
            try:
                chain = response.resolve_chaining()
            except dns.exception.DNSException as error:
                return _Cached(now + FAILURE_TTL, (), DnsTemporary(name, f"malformed answer: {type(error).__name__}"))
            ttl = min(ttl, float(chain.minimum_ttl))
            if chain.answer is not None:
                return _Cached(now + ttl, tuple(chain.answer), None, authentic)
            target = _text(chain.canonical_name)
            if response.rcode() == dns.rcode.NXDOMAIN:
                return _Cached(now + min(ttl, MAX_NEGATIVE_TTL), (), DnsNoName(name))
            if target == asked or any(rrset.rdtype == dns.rdatatype.SOA for rrset in response.authority):
                return _Cached(now + min(ttl, MAX_NEGATIVE_TTL), (), DnsNoData(name, kind))
            asked = target
        return _Cached(self._clock.seconds() + FAILURE_TTL, (), DnsTemporary(name, "too many CNAMEs"))

    async def _ask(self, question: dns.name.Name, kind: str) -> tuple[dns.message.QueryMessage | None, str]:
        """The first answer that any server gives, or None and why there is none."""
        why = "no server answered"
        failed: set[Server] = set()
        edns = True
        for attempt in range(self._attempts):
            server = self._servers[attempt % len(self._servers)]
            if server in failed:
                continue
            response = await self._exchange_bounded(server, question, kind, edns)
            if response is None:
                why = f"no answer from {server[0]}"
                continue
            rcode = response.rcode()
            if edns and rcode in {dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS}:
                edns = False  # RFC 6891 §7: an old server; the same again without
                response = await self._exchange_bounded(server, question, kind, edns)
                rcode = response.rcode() if response is not None else dns.rcode.SERVFAIL
            if response is not None and rcode in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
                return response, ""
            why = f"{dns.rcode.to_text(rcode)} from {server[0]}"
            failed.add(server)
        return None, why

    async def _exchange_bounded(
        self, server: Server, name: dns.name.Name, kind: str, edns: bool
    ) -> dns.message.QueryMessage | None:
        query = dns.message.make_query(name, kind)
        if edns:
            query.use_edns(0, payload=PAYLOAD)
        if self._trust_ad:
            query.flags |= dns.flags.AD  # RFC 6840 §5.7: tell us, without the signatures
        await self._slots.acquire()
        try:
            response = await self._exchange(server, query, self._timeout, False)
            if response is not None and response.flags & dns.flags.TC:
                response = await self._exchange(server, query, self._timeout, True)
        finally:
            self._slots.release()
        return response if isinstance(response, dns.message.QueryMessage) else None


def _key(name: str) -> str:
    return name.rstrip(".").lower()


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower() if name != dns.name.root else ""
