"""Sessions' transports, and the reactor's turn, without what each event of a session need not pay for.

For each event of each connection the epoll reactor makes a logging context, nine calls deep, of which nothing here
makes use; each read asks for 64 KiB of memory and gives most of it back; and what is written waits for the next turn,
with two ``epoll_ctl`` calls and one event more for each reply.  Transports made here read into memory that is there,
send at once what the kernel takes, and are called by the reactor directly.  Everything else about them, TLS included,
is Twisted's own.

Under any other reactor than Twisted's epoll reactor, Twisted's own turn is left alone.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from twisted.internet import main, tcp
from twisted.logger import Logger
from twisted.python import log

SIZE = 1 << 16
"""Octets that one read takes."""

_READABLE = getattr(select, "EPOLLIN", 1)
_log = Logger()
_buffer = bytearray(SIZE)  # the reactor's thread alone reads, and each read is copied out before the next one
_view = memoryview(_buffer)


class QuickServer(tcp.Server):
    """A connection that was accepted."""

    def write(self, data: bytes) -> None:
        """Send now what the kernel takes, in order; the rest goes the usual way, with the usual backpressure.

        A connection that turns out to be lost is left to the transport, which notices and tells its protocol later.
        """
        if self.TLS or not self.connected or self.disconnecting or self._tempDataBuffer or self.dataBuffer:
            super().write(data)  # type: ignore[no-untyped-call]
            return
        try:
            sent = self.socket.send(data)
        except OSError:
            sent = 0
        if sent < len(data):
            super().write(data[sent:])  # type: ignore[no-untyped-call]

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
        self.protocol.dataReceived(bytes(_view[:size]))
        return None


def quicken(reactor: Any) -> bool:
    """Have the epoll reactor call :class:`QuickServer` directly; False where the reactor is another one."""
    kind = type(reactor)
    if f"{kind.__module__}.{kind.__qualname__}" != "twisted.internet.epollreactor.EPollReactor":
        return False
    reactor.doIteration = _turn_of(reactor)
    return True


def _turn_of(reactor: Any) -> Callable[[float | None], None]:
    """``EPollReactor.doPoll`` with a short way for what is nearly always there: something to read for a session."""
    poll, selectables = reactor._poller.poll, reactor._selectables
    stock, disconnect = reactor._doReadOrWrite, reactor._disconnectSelectable

    def turn(timeout: float | None) -> None:
        for descriptor, event in poll(-1 if timeout is None else timeout, len(selectables)):
            selectable = selectables.get(descriptor)
            if event == _READABLE and type(selectable) is QuickServer:
                try:
                    why = selectable.doRead()
                except Exception as error:
                    _log.failure("A session failed")
                    why = error
                if why is not None:
                    disconnect(selectable, why, True)
            elif selectable is not None:
                log.callWithLogger(selectable, stock, selectable, descriptor, event)  # type: ignore[no-untyped-call]

    return turn
