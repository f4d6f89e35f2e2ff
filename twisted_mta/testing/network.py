"""A network in memory: a reactor that connects clients to server factories, with real TLS and a clock of its own."""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.internet import address, error
from twisted.internet.interfaces import ISSLTransport, ITransport
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer

_error: Any = error  # its classes have no annotations

BUFFER = 65536
"""Octets in a transport's buffer above which its producer is paused."""


class MemoryNetwork(Clock):
    """A reactor of which clients need ``connectTCP``, ``connectUNIX``, ``callLater`` and ``seconds``.

    ``hosts`` maps (address, port), or the path of a Unix socket, to a server factory; an exception instead is how the
    connection fails, None is silence until the time-out; all others refuse.  ``attempts`` has every (address, port) or
    path that was tried, ``connections`` the (client, server) transports.  Bytes move only in :meth:`flush`.
    """

    def __init__(self, hosts: dict[Any, Any] | None = None) -> None:
        super().__init__()
        self.hosts: dict[Any, Any] = hosts if hosts is not None else {}
        self.attempts: list[Any] = []
        self.connections: list[tuple[MemoryTransport, MemoryTransport]] = []

    def connectTCP(  # noqa: N802
        self,
        host: str,
        port: int,
        factory: Any,
        timeout: float = 30,
        bindAddress: Any = None,  # noqa: N803
    ) -> Connector:
        """As ``IReactorTCP``'s."""
        family = address.IPv6Address if ":" in host else address.IPv4Address
        return self._connect((host, port), family("TCP", host, port), factory, timeout)

    def connectUNIX(self, path: str, factory: Any, timeout: float = 30, checkPID: bool = False) -> Connector:  # noqa: N802, N803
        """As ``IReactorUNIX``'s."""
        return self._connect(path, address.UNIXAddress(path), factory, timeout)

    def _connect(self, place: Any, peer: Any, factory: Any, timeout: float) -> Connector:
        self.attempts.append(place)
        connector = Connector(self, factory, peer, self.hosts.get(place, _error.ConnectionRefusedError()), timeout)
        factory.doStart()
        factory.startedConnecting(connector)
        connector.connect()
        return connector

    def flush(self) -> None:
        """Carry bytes, ends of connections and what is due now until nothing moves."""
        for _ in range(10000):
            self.advance(0)
            moved = [transport.deliver() for pair in list(self.connections) for transport in pair]
            due = any(call.getTime() <= self.seconds() for call in self.getDelayedCalls())
            if not any(moved) and not due:
                return
        raise AssertionError("the two sides never stop talking")


class Connector:
    """As ``IConnector``."""

    def __init__(self, network: MemoryNetwork, factory: Any, peer: Any, server: Any, timeout: float) -> None:
        self._network = network
        self._factory = factory
        self._peer = peer
        self._server = server
        self._timeout = timeout
        self._call: Any = None
        self._transport: MemoryTransport | None = None

    def connect(self) -> None:
        """Begin; the outcome comes with the next turn."""
        if self._server is None:
            self._call = self._network.callLater(self._timeout, self._fail, _error.TimeoutError())
        elif isinstance(self._server, Exception):
            self._call = self._network.callLater(0, self._fail, self._server)
        else:
            self._call = self._network.callLater(0, self._succeed)

    def disconnect(self) -> None:
        """Stop connecting, or close."""
        if self._transport is not None:
            self._transport.loseConnection()
        elif self._call is not None and self._call.active():
            self._call.cancel()
            self._fail(_error.UserError())

    def getDestination(self) -> Any:  # noqa: N802
        """Where to."""
        return self._peer

    def _fail(self, reason: Exception) -> None:
        self._factory.clientConnectionFailed(self, Failure(reason))  # type: ignore[no-untyped-call]
        self._factory.doStop()

    def _succeed(self) -> None:
        client = self._factory.buildProtocol(self._peer)
        server = self._server.buildProtocol(None)
        self._transport = near = MemoryTransport(client, True, self._peer)
        far = MemoryTransport(server, False, None)
        near.other, far.other = far, near
        self._network.connections.append((near, far))
        near.lost = self._lost
        client.makeConnection(near)
        server.makeConnection(far)

    def _lost(self, reason: Failure) -> None:
        self._factory.clientConnectionLost(self, reason)
        self._factory.doStop()


@implementer(ITransport)
class MemoryTransport:
    """One end of a connection.  Written bytes wait until the network carries them; a push producer is paused above
    :data:`BUFFER` of them.  ``peak`` is the most that ever waited; ``stalled`` stops their being carried."""

    def __init__(self, wire_protocol: Any, client: bool, peer: Any) -> None:
        self.protocol = wire_protocol
        self.client = client
        self.other: MemoryTransport | None = None
        self.peak = 0
        self.stalled = False
        self.writes: list[bytes] = []
        self.disconnecting = self.disconnected = self.aborted = False
        self.producer: Any = None
        self.lost: Any = lambda reason: None
        self._peer = peer
        self._out: deque[bytes] = deque()
        self._waiting = 0
        self._paused = False
        self._tls: Any = None

    # What protocols call

    def write(self, data: bytes) -> None:
        """See ``ITransport``."""
        if self._tls is not None:
            self._tls.write(data)
        else:
            self.write_raw(data)

    def writeSequence(self, data: Any) -> None:  # noqa: N802
        """See ``ITransport``."""
        self.write(b"".join(data))

    def write_raw(self, data: bytes) -> None:
        """Below TLS."""
        if self.disconnected or self.disconnecting:
            return
        self.writes.append(data)
        self._out.append(data)
        self._waiting += len(data)
        self.peak = max(self.peak, self._waiting)
        if self.producer is not None and self._waiting > BUFFER and not self._paused:
            self._paused = True
            self.producer.pauseProducing()

    def loseConnection(self) -> None:  # noqa: N802
        """See ``ITransport``."""
        if self._tls is not None and not self.disconnecting:
            self._tls.loseConnection()
        else:
            self.disconnecting = True

    def abortConnection(self) -> None:  # noqa: N802
        """See ``ITCPTransport``."""
        self.aborted = self.disconnecting = True
        self._out.clear()

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802
        """See ``IConsumer``; push producers only."""
        if not streaming:
            raise NotImplementedError("push producers only")
        if self._tls is not None and producer is not self._tls:
            self._tls.registerProducer(producer, streaming)
        else:
            self.producer = producer

    def unregisterProducer(self) -> None:  # noqa: N802
        """See ``IConsumer``."""
        if self._tls is not None and self.producer is not None:
            self._tls.unregisterProducer()
        self.producer = None
        self._paused = False

    def pauseProducing(self) -> None:  # noqa: N802
        """See ``IPushProducer``: what the other side says waits."""
        if self.other is not None:
            self.other.stalled = True

    def resumeProducing(self) -> None:  # noqa: N802
        """See ``IPushProducer``."""
        if self.other is not None:
            self.other.stalled = False

    def stopProducing(self) -> None:  # noqa: N802
        """See ``IPushProducer``."""
        self.loseConnection()

    def getPeer(self) -> Any:  # noqa: N802
        """See ``ITransport``."""
        return self._peer

    def getHost(self) -> Any:  # noqa: N802
        """See ``ITransport``."""
        return self._peer

    def getHandle(self) -> Any:  # noqa: N802
        """The TLS connection."""
        return self._tls.getHandle()

    def startTLS(self, context: Any, normal: bool = True) -> None:  # noqa: N802
        """See ``ITLSTransport``: real TLS, in memory."""
        factory: Any = TLSMemoryBIOFactory(context, self.client == normal, None)  # type: ignore[arg-type]
        # The factory's own protocol gathers writes, and waits for the global reactor's next turn with them.
        wrapped = TLSMemoryBIOProtocol(factory, self.protocol, False)  # type: ignore[no-untyped-call]
        self.protocol = wrapped
        directlyProvides(self, ISSLTransport)
        below = _Below(self)
        wrapped.makeConnection(below)  # type: ignore[no-untyped-call]
        self._tls = wrapped

    # What the network calls

    def deliver(self) -> bool:
        """Carry what waits to the other side; whether anything moved."""
        if self.disconnected or self.stalled:
            return False
        moved = False
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._waiting = 0
            moved = True
            if self.other is not None and not self.other.disconnected:
                self.other.protocol.dataReceived(data)
            if self._paused and self.producer is not None and not self._out:
                self._paused = False
                self.producer.resumeProducing()
        if self.disconnecting and not self._out:
            moved = True
            self._end(_error.ConnectionAborted() if self.aborted else _error.ConnectionDone())
            if self.other is not None and not self.other.disconnected:
                self.other._end(_error.ConnectionLost() if self.aborted else _error.ConnectionDone())
        return moved

    def _end(self, reason: Exception) -> None:
        self.disconnected = True
        failure = Failure(reason)  # type: ignore[no-untyped-call]
        if self.producer is not None:
            self.producer.stopProducing()
        self.protocol.connectionLost(failure)
        self.lost(failure)


class _Below:
    """The transport as TLS sees it: what it writes is already encrypted."""

    def __init__(self, transport: MemoryTransport) -> None:
        self._transport = transport
        self.write = transport.write_raw

    def writeSequence(self, data: Any) -> None:  # noqa: N802
        self.write(b"".join(data))

    def loseConnection(self) -> None:  # noqa: N802
        self._transport.disconnecting = True

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802
        self._transport.producer = producer

    def unregisterProducer(self) -> None:  # noqa: N802
        self._transport.producer = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
