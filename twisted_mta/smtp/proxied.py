"""Connections that come through a proxy: its header is read first, then the session begins with the client's address.

The protocol that reads the header steps aside afterwards, so a session costs no more than another: TLS and SMTP have
the real transport, whose ``getPeer`` now tells of the client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..policy.network import Networks, parse_ip
from ..wire.proxy import Proxied, ProxyError, ProxyHeader
from .peers import peer_address

PATIENCE = 10.0
"""Seconds within which a proxy has to say whom it speaks for."""

_log = Logger()


class ProxyProtocol(Protocol):
    """Reads the header of one connection, and hands the connection over."""

    transport: Any

    def __init__(self, build: Callable[[IAddress], IProtocol | None], clock: IReactorTime) -> None:
        self._build = build
        self._header = ProxyHeader()
        self._late = clock.callLater(PATIENCE, self._give_up, "it says nothing")

    def dataReceived(self, data: bytes) -> None:
        """The header, or a part of it, and perhaps what the client said."""
        try:
            proxied = self._header.receive(data)
        except ProxyError as error:
            self._give_up(str(error))
            return
        if proxied is not None:
            self._late.cancel()
            self._hand_over(proxied)

    def _hand_over(self, proxied: Proxied) -> None:
        transport = self.transport
        if proxied.address:
            kind = IPv6Address if ":" in proxied.address else IPv4Address
            client = kind("TCP", proxied.address, proxied.port)
            transport.getPeer = lambda: client
        session = self._build(transport.getPeer())
        if session is None:
            transport.abortConnection()
            return
        transport.protocol = session
        session.makeConnection(transport)
        if self._header.rest:
            session.dataReceived(self._header.rest)

    def _give_up(self, why: str) -> None:
        address, _ = peer_address(self.transport.getPeer())
        _log.warn("No PROXY header came from {address}: {why}", address=address, why=why)
        if self._late.active():
            self._late.cancel()
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """The proxy has gone before it said anything."""
        if self._late.active():
            self._late.cancel()


class ProxyFactory(ServerFactory):
    """Listens in place of ``inner``: a connection from one of ``proxies``, which are networks, has to begin with a
    header; any other is served as it is."""

    noisy = False

    def __init__(self, inner: IProtocolFactory, proxies: Iterable[str], clock: IReactorTime) -> None:
        self.inner = inner
        self._proxies = Networks(proxies)
        self._clock = clock

    def doStart(self) -> None:
        """See ``IProtocolFactory``."""
        self.inner.doStart()

    def doStop(self) -> None:
        """See ``IProtocolFactory``."""
        self.inner.doStop()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A session, or what reads the header first."""
        if addr is not None and parse_ip(peer_address(addr)[0]) in self._proxies:
            return ProxyProtocol(self.inner.buildProtocol, self._clock)
        return self.inner.buildProtocol(addr)  # type: ignore[arg-type]
