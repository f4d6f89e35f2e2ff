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

LINED_UP = 48
"""The same where there is a line, unless other work has come off badly: what each turn and each commit cost for
themselves is shared by more then.  Still a turn takes no more than some 20 ms."""

SHARED = 8
"""The same where other processes accept from the socket too, of which none is idle when there is a line."""

REFUSED = 256
"""Connections that are refused in a turn at most."""

FRESH = 0.02
"""Seconds of waiting that are not worth a look."""

_LAST = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0) | getattr(socket, "MSG_MORE", 0)
"""What is sent waits for what follows, which is the end: both are one segment, and wake the client once."""
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

    behind: Callable[[], bool]
    """Whether other work has come off badly, so that a turn of the reactor takes fewer.  Never raises."""

    def admits(self, now: float, waited: float, address: str, filled: float) -> bool:
        """Whether a client that has ``waited`` for so many seconds is let in; ``filled`` is what part of the line is
        taken, 1 where nobody else may wait.  ``now`` is seconds of a clock that goes on.  Never raises."""


def waited(client: socket.socket) -> float:
    """For how many seconds a connection has waited to be accepted; 0 where the system does not tell."""
    if _INFO is None:
        return 0.0
    try:
        milliseconds: int = _number(client.getsockopt(socket.IPPROTO_TCP, _INFO, _SILENT + 4), _SILENT)[0]
    except OSError:
        return 0.0
    return milliseconds / 1000


def filled(listening: socket.socket) -> float:
    """What part of those that may wait do so; 0 where the system does not tell.  At 1 the kernel drops others' attempts
    to connect, which they repeat after a second and later."""
    if _INFO is None:
        return 0.0
    try:
        info = listening.getsockopt(socket.IPPROTO_TCP, _INFO, _ROOM + 4)
    except OSError:
        return 0.0
    room: int = _number(info, _ROOM)[0]
    waiting: int = _number(info, _WAITING)[0]
    return waiting / room if room else 0.0


class Acceptor:
    """``doRead`` of a :class:`twisted.internet.tcp.Port` whose connections are :class:`QuickServer`.

    ``most`` of them become sessions in a turn, ``lined_up`` where there is a line.  What goes wrong with ``accept`` is
    left to the stock method, which knows what to do about it (it keeps a file descriptor for the time when there is
    none).
    """

    def __init__(self, port: Any, gate: IGate | None, most: int = ADMITTED, lined_up: int = LINED_UP) -> None:
        self._port = port
        self._gate = gate
        self._most = most
        self._lined_up = lined_up
        self._stock: Callable[[], Any] = port.doRead
        self._empty = 0.0  # when nobody was left waiting

    def __call__(self) -> None:
        """Accept those whose turn it is."""
        port, gate, now = self._port, self._gate, monotonic()
        listening = port.socket
        admitted = refused = 0
        looks = gate is not None and now - self._empty > FRESH
        taken = -1.0
        most = self._most
        while admitted < most and refused < REFUSED:
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
                if taken < 0:
                    taken = filled(listening) if looks else 0.0
                    if looks and not gate.behind():
                        most = self._lined_up
                if not gate.admits(now, wait, address[0], taken):
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
            client.send(words, _LAST)
    client.close()
