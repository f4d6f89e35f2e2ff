"""Ending a session whose client still sends: our side is ended first, and what comes is read away.

A connection that is closed while something it received was not read is reset, and a reset takes the last reply away
from a client that has not read it yet (RFC 1122 §4.2.2.13): it sees a broken connection where it was told 421, or even
250.  So reading goes on, within bounds, until the client ends its side.  TLS does the same by itself, with its own
goodbye (RFC 8446 §6.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IHalfCloseableDescriptor

if TYPE_CHECKING:
    from .server import MtaServer


def begin(server: MtaServer) -> None:
    """Send what is to be sent, end our side, and read away as much as a message may have.

    The session's deadline bounds how long that lasts.
    """
    transport: Any = server.transport
    if server.peer.secure or not _ends_one_side(transport):
        transport.loseConnection()
        return
    server.lingering = server.factory.reception.message_bytes(server.peer)
    transport.loseWriteConnection()
    transport.resumeProducing()


def _ends_one_side(transport: Any) -> bool:
    return bool(IHalfCloseableDescriptor.providedBy(transport))


def heard(server: MtaServer, octets: int) -> None:
    """So much of what the client sends was read away."""
    if server.lingering:
        server.lingering -= octets
        if server.lingering <= 0:
            server.transport.abortConnection()
