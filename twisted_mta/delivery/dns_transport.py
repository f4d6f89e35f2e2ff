"""One DNS message to one server and back, over UDP or TCP.

Each question has a socket, and so a random source port, and a random id of its own; a datagram that does not answer
exactly this question is ignored, not taken for a failure (RFC 5452 §9).
"""

# ruff: noqa: N802 (Twisted's names)
from __future__ import annotations

from typing import Any, Protocol

import dns.exception
import dns.message
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ClientFactory, DatagramProtocol, connectionDone
from twisted.internet.protocol import Protocol as StreamProtocol
from twisted.python.failure import Failure

Server = tuple[str, int]
"""Address and port."""


class Exchange(Protocol):
    """Carries a question to a server."""

    async def __call__(
        self, server: Server, query: dns.message.Message, timeout: float, tcp: bool
    ) -> dns.message.Message | None:
        """The answer, None when there was none within ``timeout`` seconds."""


class Exchanger:
    """An :data:`Exchange` over a reactor's sockets."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    async def __call__(
        self, server: Server, query: dns.message.Message, timeout: float, tcp: bool
    ) -> dns.message.Message | None:
        """See :class:`Exchange`."""
        waiting = _Waiting(self._reactor, query, timeout)
        if tcp:
            self._reactor.connectTCP(server[0], server[1], _TcpFactory(waiting), timeout)
        else:
            try:
                self._reactor.listenUDP(0, _Udp(waiting, server), interface="::" if ":" in server[0] else "")
            except (OSError, CannotListenError):  # no descriptor or port is free, or no such family
                waiting.end(None)
        return await waiting.done


class _Waiting:
    """A question under way: ends once, with an answer or None."""

    def __init__(self, reactor: Any, query: dns.message.Message, timeout: float) -> None:
        self.query = query
        self.wire = query.to_wire()
        self.done: Deferred[dns.message.Message | None] = Deferred()
        self.close = _nothing
        self._timer: IDelayedCall = reactor.callLater(timeout, self.end, None)

    def answer(self, wire: bytes) -> bool:
        """Take what arrived; False where it does not answer the question."""
        try:
            message = dns.message.from_wire(wire, ignore_trailing=True)
            if not self.query.is_response(message):
                return False
        except Exception:
            # dnspython's own errors and whatever else a stranger's bytes make it raise: not our answer.
            return False
        self.end(message)
        return True

    def give_up_soon(self) -> None:
        """Await no more from the next turn on."""
        self._timer.reset(0)

    def end(self, message: dns.message.Message | None) -> None:
        """No more is awaited."""
        if self.done.called:
            return
        if self._timer.active():
            self._timer.cancel()
        close, self.close = self.close, _nothing
        close()
        if not self.done.called:  # a connector that is told to stop says so before it returns
            self.done.callback(message)


def _nothing() -> None:
    pass


class _Udp(DatagramProtocol):
    noisy = False

    def __init__(self, waiting: _Waiting, server: Server) -> None:
        self._waiting = waiting
        self._server = server

    def startProtocol(self) -> None:
        transport: Any = self.transport
        self._waiting.close = self._close
        try:
            transport.connect(*self._server)  # the kernel drops what others send
            transport.write(self._waiting.wire)
        except OSError:
            # No route there.  Twisted has not finished opening the port, so it can be closed in the next turn only.
            self._waiting.give_up_soon()

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self._waiting.answer(datagram)

    def connectionRefused(self) -> None:
        self._waiting.end(None)

    def stopProtocol(self) -> None:
        # A refusal often comes as an error of the socket alone, and Twisted closes the port without connectionRefused.
        self._waiting.close = _nothing
        self._waiting.end(None)

    def _close(self) -> None:
        transport: Any = self.transport
        transport.stopListening()


class _Tcp(StreamProtocol):
    def __init__(self, waiting: _Waiting) -> None:
        self._waiting = waiting
        self._buffer = b""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self._waiting.close = transport.abortConnection
        wire = self._waiting.wire
        transport.write(len(wire).to_bytes(2, "big") + wire)  # RFC 1035 §4.2.2

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) < 2:
            return
        length = int.from_bytes(self._buffer[:2], "big")
        if len(self._buffer) >= 2 + length and not self._waiting.answer(self._buffer[2 : 2 + length]):
            self._waiting.end(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._waiting.end(None)


class _TcpFactory(ClientFactory):
    noisy = False

    def __init__(self, waiting: _Waiting) -> None:
        self._waiting = waiting

    def startedConnecting(self, connector: Any) -> None:
        self._waiting.close = connector.disconnect

    def buildProtocol(self, addr: Any) -> _Tcp:
        return _Tcp(self._waiting)

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self._waiting.end(None)
