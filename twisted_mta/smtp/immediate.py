"""Writing to the socket at once where nothing waits before it.

Twisted's transports keep what is written for the reactor's next turn: two ``epoll_ctl`` calls and one more event for
each reply, measured at a fifth of all that a session costs when its commands come one at a time.  A reply nearly
always fits into the kernel's buffer, so it is sent directly; whatever does not fit goes the usual way, with the usual
backpressure.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import tcp

_SOCKETS = (tcp.Server, tcp.Client)
"""Transports whose ``writeSomeData`` is the socket's ``send``; TLS, UNIX sockets and tests' transports are not."""


def write(transport: Any, data: bytes) -> None:
    """``transport.write(data)``, sooner.  The order of what is written is kept.

    A connection that turns out to be lost is left to the transport, which notices and tells its protocol later.
    """
    if (
        type(transport) in _SOCKETS
        and transport.connected
        and not transport.disconnecting
        and not transport.dataBuffer
        and not transport._tempDataBuffer
        and not transport.TLS
    ):
        sent = transport.writeSomeData(data)
        if sent == len(data):
            return
        if isinstance(sent, int) and sent > 0:
            data = data[sent:]
    transport.write(data)
