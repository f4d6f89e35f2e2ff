"""The reactor of a server in memory: other hosts to connect to, clients that connect, and time that tests move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress, ITLSTransport
from zope.interface import implementer

from ..policy.interfaces import UNIX
from .network import MemoryNetwork, MemoryTransport

START = 1_790_000_000.0
"""When tests begin, seconds since the epoch: 2026-09-21T14:13:20Z."""


class MemoryReactor(MemoryNetwork):
    """A :class:`~.network.MemoryNetwork` that clients connect to as well, beginning at :data:`START`.

    Both ways of time are there: ``advance`` moves the clock at once, as ``Clock``'s does; :meth:`run` lets all that
    is due on the way happen in its own time.
    """

    def __init__(self, now: float = START) -> None:
        super().__init__()
        self.rightNow = now

    def flush(self) -> None:
        """As :class:`MemoryNetwork`'s; connections that are over are forgotten."""
        super().flush()
        self.connections = [pair for pair in self.connections if not (pair[0].disconnected and pair[1].disconnected)]

    def jump(self, moment: float) -> None:
        """Make it ``moment``, to the digit, and run what is due."""
        self.rightNow = max(moment, self.rightNow)
        self.flush()

    def run(self, until: float, following: Callable[[], float] | None = None) -> None:
        """Let time pass until ``until``, one delayed call after the other.

        ``following`` gives the next moment at which something may happen, by default that of the next delayed call.
        """
        following = following or self.following
        self.flush()
        while self.seconds() < until:
            self.jump(min(until, following()))

    def following(self) -> float:
        """When the next delayed call is due; never: infinity."""
        return min((call.getTime() for call in self.getDelayedCalls()), default=float("inf"))

    def accept(self, client: Any, factory: Any, source: tuple[str, int], port: int) -> tuple[ClientEnd, ServerEnd]:
        """Connect the protocol ``client``, at the address ``source``, to a session of the server's ``factory``; at
        "unix" it comes through a Unix socket."""
        here: IAddress
        there: IAddress
        if source[0] == UNIX:
            here, there = UNIXAddress(b"/run/mta"), UNIXAddress(None)
        else:
            family = IPv6Address if ":" in source[0] else IPv4Address
            here, there = family("TCP", "::1" if ":" in source[0] else "127.0.0.1", port), family("TCP", *source)
        server = factory.buildProtocol(there)
        near, far = ClientEnd(client, True, here), ServerEnd(server, False, there)
        near.other, far.other = far, near
        self.connections.append((near, far))
        client.makeConnection(near)
        server.makeConnection(far)
        return near, far


class ClientEnd(MemoryTransport):
    """The client's end.  Carries nothing while the server does not read."""

    def deliver(self) -> bool:
        """See :class:`MemoryTransport`."""
        waits = isinstance(self.other, ServerEnd) and not self.other.reading
        return False if waits and not self.disconnecting else super().deliver()


@implementer(ITLSTransport)
class ServerEnd(MemoryTransport):  # type: ignore[misc]  # what else ITCPTransport has, the server does not ask for
    """The server's end, as a TCP transport of a real reactor: it can begin TLS, and stop reading."""

    reading = True

    def pauseProducing(self) -> None:  # noqa: N802
        """See ``IPushProducer``."""
        self.reading = False

    def resumeProducing(self) -> None:  # noqa: N802
        """See ``IPushProducer``."""
        self.reading = True

    def stopProducing(self) -> None:  # noqa: N802
        """See ``IPushProducer``."""
        self.loseConnection()
