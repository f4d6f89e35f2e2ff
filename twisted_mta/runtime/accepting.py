"""Accepting connections: a few in a turn of the reactor, and those who have waited too long not at all.

The kernel keeps those who wait first come, first served, and tells of each when its handshake was over.  A turn accepts
from the head of that line: whoever is let in becomes a session, whoever is not is told so and closed, which costs a
tenth of a session and needs none.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from twisted.logger import Logger

from .quick import QuickServer

ADMITTED = 8
"""Connections of one socket that become sessions in a turn of the reactor.  So turns stay short however many wait, and
all that goes on in a turn, deliveries among them, has its share of the time."""

REFUSED = 256
"""Connections that are refused in a turn at most."""

FRESH = 0.02
"""Seconds of waiting that are not worth a look."""

_NOW = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0)
_INFO = getattr(socket, "TCP_INFO", None)
_WAITING, _ROOM = 24, 28
"""Where ``struct tcp_info`` (linux/tcp.h) has, for a socket that listens, how many wait and how many may."""
_SILENT = 44
"""Where it has the milliseconds since something was last sent: of who has just been accepted, since the handshake."""
_number = struct.Struct("=I").unpack_from
_log = Logger()


class IGate(Protocol):
    """Who stands before a listener."""

    words: bytes
    """What who is refused is told; empty: nothing can be said."""

    def admits(self, now: float, waited: float, address: str, full: bool) -> bool:
        """Whether a client that has ``waited`` for so many seconds is let in; ``full``: there is hardly room for more
        to wait.  ``now`` is seconds of a clock that goes on.  Never raises."""


def waited(client: socket.socket) -> float:
    """For how many seconds a connection has waited to be accepted; 0 where the system does not tell."""
    if _INFO is None:
        return 0.0
    try:
        milliseconds: int = _number(client.getsockopt(socket.IPPROTO_TCP, _INFO, _SILENT + 4), _SILENT)[0]
    except OSError:
        return 0.0
    return milliseconds / 1000


def crowded(listening: socket.socket) -> bool:
    """Whether three quarters of those that may wait do so.  The kernel drops others' attempts to connect then."""
    if _INFO is None:
        return False
    try:
        info = listening.getsockopt(socket.IPPROTO_TCP, _INFO, _ROOM + 4)
    except OSError:
        return False
    return bool(_number(info, _WAITING)[0] * 4 >= _number(info, _ROOM)[0] * 3)


class Acceptor:
    """``doRead`` of a :class:`twisted.internet.tcp.Port` whose connections are :class:`QuickServer`.

    ``most`` of them become sessions in a turn.  What goes wrong with ``accept`` is left to the stock method, which
    knows what to do about it (it keeps a file descriptor for the time when there is none).
    """

    def __init__(self, port: Any, gate: IGate | None, most: int = ADMITTED) -> None:
        self._port = port
        self._gate = gate
        self._most = most
        self._stock: Callable[[], Any] = port.doRead
        self._empty = 0.0  # when nobody was left waiting

    def __call__(self) -> None:
        """Accept those whose turn it is."""
        port, gate, now = self._port, self._gate, monotonic()
        listening = port.socket
        admitted = refused = 0
        looks = gate is not None and now - self._empty > FRESH
        full: bool | None = None
        while admitted < self._most and refused < REFUSED:
            try:
                descriptor, address = listening._accept()
            except BlockingIOError:
                self._empty = now
                return
            except OSError:
                port.numberAccepts = 1
                self._stock()
                return
            client = socket.socket(port.addressFamily, socket.SOCK_STREAM, 0, descriptor)
            if looks:
                assert gate is not None
                wait = waited(client)
                looks = wait > FRESH  # those behind have waited less
                if full is None:
                    full = looks and crowded(listening)
                if not gate.admits(now, wait, address[0], full):
                    refused += 1
                    refuse(client, gate.words)
                    continue
            admitted += 1
            self._serve(client, address)

    def _serve(self, client: socket.socket, address: Any) -> None:
        port, transport = self._port, None
        try:
            if len(address) == 4:  # with the scope, as the stock method gives it
                numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
                address = (socket.getnameinfo(address, numeric)[0], *address[1:])
            protocol = port.factory.buildProtocol(port._buildAddr(address))
            if protocol is None:
                client.close()
                return
            number = port.sessionno
            port.sessionno = number + 1
            transport = QuickServer(client, protocol, address, port, number, port.reactor)
            protocol.makeConnection(transport)
        except Exception:  # for want of memory, or of a fault: it is not left without a word
            _log.failure("A connection could not be served")
            if transport is not None:
                transport.abortConnection()  # type: ignore[no-untyped-call]
            else:
                refuse(client, self._gate.words if self._gate is not None else b"")


def refuse(client: socket.socket, words: bytes) -> None:
    """Say so, and close.  A client that is gone, or takes nothing, has not lost anything."""
    with contextlib.suppress(OSError):
        if words:
            client.send(words, _NOW)
    client.close()
