"""Sessions' transports, and the reactor's turn, without what each event of a session need not pay for.

For each event of each connection the epoll reactor makes a logging context, nine calls deep, of which nothing here
makes use; each read asks for 64 KiB of memory and gives most of it back; what is written waits for the next turn,
with two ``epoll_ctl`` calls and one event more for each reply; and so does the end of a session that has nothing left
to send.  Transports made here read into memory that is there, send at once what the kernel takes, end at once, and are
called by the reactor directly.  Everything else about them, TLS included, is Twisted's own.

Under any other reactor than Twisted's epoll reactor, Twisted's own turn and transports are left alone.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet import _newtls, error, main, tcp
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv6Address
from twisted.internet.interfaces import IConnector
from twisted.internet.protocol import ClientFactory
from twisted.logger import Logger
from twisted.python import log
from twisted.python.failure import Failure

SIZE = 3 << 15
"""Octets that one read takes: a message of 64 KiB, with its header section, is not to need another for its last lines.
What is read is copied into memory that malloc has at hand; with 128 KiB it would ask the kernel for it."""

_READABLE = getattr(select, "EPOLLIN", 1)
_DONE = Failure(error.ConnectionDone())  # type: ignore[no-untyped-call]
_log = Logger()
_buffer = bytearray(SIZE)  # the reactor's thread alone reads, and each read is copied out before the next one
_view = memoryview(_buffer)


class _Beneath(FileDescriptor):
    """What TLS calls of the connection that carries it."""

    def write(self, data: bytes) -> None:
        """Send records as :meth:`_Quick.write` sends what is in clear."""
        left = _send(self, data)
        if left:
            FileDescriptor.write(self, left)  # this is no method of the connection it is called for


def _send(transport: Any, data: bytes) -> bytes:
    """Send what the kernel takes now, unless something waits before it; what is left.

    A connection that turns out to be lost is left to the transport, which notices and tells its protocol later.
    """
    if not transport.connected or transport.disconnecting or transport._tempDataBuffer or transport.dataBuffer:
        return data
    try:
        sent: int = transport.socket.send(data)
    except OSError:
        return data
    return b"" if sent == len(data) else data[sent:]


class _Quick(tcp.Connection):
    """What is accepted and what is connected."""

    def write(self, data: bytes) -> None:
        """Send now what the kernel takes, in order; the rest goes the usual way, with the usual backpressure."""
        if self.TLS:
            super().write(data)  # type: ignore[no-untyped-call]
            return
        left = _send(self, data)
        if left:
            super().write(left)  # type: ignore[no-untyped-call]

    def startTLS(self, ctx: Any, normal: bool = True) -> None:  # noqa: N802 - Twisted's name
        """Put TLS between the protocol and the socket."""
        _newtls.startTLS(self, ctx, normal, _Beneath)  # type: ignore[no-untyped-call]

    def doRead(self) -> Any:  # noqa: N802 - Twisted's name
        """Read once, and give it to the protocol; why the connection is over, if it is."""
        try:
            size = self.socket.recv_into(_buffer)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not size:
            return main.CONNECTION_DONE
        try:
            data = bytes(_view[:size])
        except MemoryError:
            starved = getattr(self.protocol, "starved", None)
            if starved is None:
                raise
            starved(size)
            return None
        self.protocol.dataReceived(data)
        return None


class QuickServer(_Quick, tcp.Server):
    """A connection that was accepted."""

    leaving = False
    """Whether it is to be closed as soon as the present read is over, with nothing left to send."""

    def __init__(self, sock: Any, protocol: Any, client: Any, server: Any, sessionno: int, reactor: Any) -> None:
        # tcp.Server.__init__, but for the names in its log and representation, which are made when somebody asks.
        tcp.Connection.__init__(self, sock, protocol, reactor)
        if len(client) != 2:
            self._addressType = IPv6Address
        self.server = server
        self.client = client
        self.sessionno = sessionno
        self.hostname = client[0]
        self.startReading()  # type: ignore[no-untyped-call]
        self.connected = 1

    def logPrefix(self) -> str:  # noqa: N802 - Twisted's name
        """What stands in the diagnostics of this connection."""
        return f"{self._getLogPrefix(self.protocol)},{self.sessionno},{self.hostname}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} #{self.sessionno} from {self.hostname}>"

    def loseConnection(self) -> None:  # noqa: N802 - Twisted's name
        """End once all is sent: with the present read where all is, and one is."""
        if _reading is self and self.connected and not (self.TLS or self.disconnecting or self._writeDisconnecting):
            self.disconnecting = 1
            self.leaving = True
        else:
            super().loseConnection()  # type: ignore[no-untyped-call]

    def leave(self) -> None:
        """The read is over in which the connection was told to end."""
        self.leaving = False
        if self._tempDataBuffer or self.dataBuffer or self.producer is not None:
            self.stopReading()  # type: ignore[no-untyped-call]
            self.startWriting()  # type: ignore[no-untyped-call]
        elif not self.disconnected:
            # tcp.Connection.connectionLost, but that nobody waits to write, and that close(2) needs no shutdown(2).
            self.disconnected, self.connected = 1, 0
            self.stopReading()  # type: ignore[no-untyped-call]
            protocol, sock = self.protocol, self.socket
            del self.protocol, self.socket, self.fileno
            with suppress(OSError):
                sock.close()
            protocol.connectionLost(_DONE)


class QuickClient(_Quick, tcp.Client):
    """A connection that was made."""


class _Connector(tcp.Connector):
    def _makeTransport(self) -> QuickClient:  # noqa: N802 - Twisted's name
        return QuickClient(self.host, self.port, self.bindAddress, self, self.reactor)  # type: ignore[no-untyped-call]


def connect(reactor: Any, host: str, port: int, factory: ClientFactory, seconds: float) -> IConnector:
    """``reactor.connectTCP`` with a :class:`QuickClient`, where the reactor is Twisted's epoll reactor."""
    if not _is_epoll(reactor):
        connector: IConnector = reactor.connectTCP(host, port, factory, seconds)
        return connector
    quick = _Connector(host, port, factory, seconds, None, reactor)
    quick.connect()
    return quick


def _is_epoll(reactor: Any) -> bool:
    kind = type(reactor)
    return f"{kind.__module__}.{kind.__qualname__}" == "twisted.internet.epollreactor.EPollReactor"


def quicken(reactor: Any) -> bool:
    """Have the epoll reactor call these transports directly; False where the reactor is another one."""
    if not _is_epoll(reactor):
        return False
    reactor.doIteration = _turn_of(reactor)
    return True


_reading: Any = None
"""The accepted connection that is giving its protocol what it has read, if one is."""


def _turn_of(reactor: Any) -> Callable[[float | None], None]:
    """``EPollReactor.doPoll`` with a short way for what is nearly always there: something to read for a session, or
    somebody to be accepted."""
    poll, selectables = reactor._poller.poll, reactor._selectables
    stock, disconnect = reactor._doReadOrWrite, reactor._disconnectSelectable

    def turn(timeout: float | None) -> None:
        global _reading
        for descriptor, event in poll(-1 if timeout is None else timeout, len(selectables)):
            selectable = selectables.get(descriptor)
            kind = type(selectable)
            if event == _READABLE and (kind is QuickServer or kind is QuickClient):
                if kind is QuickServer:
                    _reading = selectable
                try:
                    why = selectable.doRead()
                    if kind is QuickServer and selectable.leaving:
                        selectable.leave()
                except Exception as error:
                    _log.failure("A session failed")
                    why = error
                _reading = None
                if why is not None:
                    disconnect(selectable, why, True)
            elif kind is tcp.Port and event == _READABLE:
                selectable.doRead()
            elif selectable is not None:
                log.callWithLogger(selectable, stock, selectable, descriptor, event)  # type: ignore[no-untyped-call]

    return turn
