"""What the stages ask of the DNS, and what a client is called there."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, Protocol

from twisted.logger import Logger
from twisted.python.failure import Failure

from ..config.settings import Settings
from ..mail.status import MailError, Reply
from ..runtime.coroutines import run
from .interfaces import Peer, Policy
from .network import parse_ip

UNKNOWN = "unknown"
"""The ``hostname`` of a client that has no name which leads back to it, as far as is known by now."""
NAMES = 4
"""Names of one address that are looked at: more are noise, or an attempt to make us ask."""

_log = Logger()


class Names(Protocol):
    """Looks names up.  What fails raises a :class:`~twisted_mta.mail.status.MailError`.

    :class:`twisted_mta.delivery.dns.IResolver` has these.
    """

    def ptr(self, address: str) -> Coroutine[Any, Any, Sequence[str]]:
        """The names of an IP address."""
        ...

    def addresses(self, name: str) -> Coroutine[Any, Any, Sequence[str]]:
        """The IPv6 and IPv4 addresses of a name."""
        ...

    def ipv4(self, name: str) -> Coroutine[Any, Any, Sequence[str]]:
        """The IPv4 addresses of a name."""
        ...

    def texts(self, name: str) -> Coroutine[Any, Any, Sequence[str]]:
        """The TXT records of a name."""
        ...


class NamePolicy(Policy):
    """Sets ``peer.hostname`` to the name of the client's address that leads back to it, in
    the background: nobody ever waits for it.  Until and unless it is found it is :data:`UNKNOWN`."""

    def __init__(self, names: Names, settings: Settings) -> None:
        self._names = names
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings."""
        self._wanted = settings.defence.reverse_dns
        self.idle = not self._wanted

    async def connect(self, peer: Peer) -> Reply | None:
        """Begin to ask; never refuses."""
        if (
            self._wanted
            and not peer.hostname
            and (peer.stranger or peer.relaying)
            and parse_ip(peer.address) is not None
        ):
            peer.hostname = UNKNOWN
            run(self._find(peer), _found, partial(_not_found, peer.address))
        return None

    async def _find(self, peer: Peer) -> None:
        own = parse_ip(peer.address)
        try:
            names = await self._names.ptr(peer.address)
        except MailError:
            return
        for name in sorted(names)[:NAMES]:
            try:
                addresses = await self._names.addresses(name)
            except MailError:
                continue
            if any(parse_ip(address) == own for address in addresses):
                peer.hostname = name
                return


def _found(_: None) -> None:
    """The peer has its name by now."""


def _not_found(address: str, error: BaseException) -> None:
    _log.failure("The name of {address} was not found", Failure(error), address=address)  # type: ignore[no-untyped-call]
