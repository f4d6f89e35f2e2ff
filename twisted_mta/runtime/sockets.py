"""Listening sockets: bound while we are root, told apart by family, with errors that name the port and the mend."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from typing import Any, cast

from twisted.internet.interfaces import IListeningPort, IReactorSocket
from twisted.internet.protocol import ServerFactory

from . import unix_sockets
from .accepting import SHARED, Acceptor, IGate
from .unix_sockets import BACKLOG, BindError

LOCAL = 32
"""Connections of a Unix socket that a turn of the reactor takes.  Those that are refused are closed in the next turn,
so this bounds how many file descriptors they have before that."""


def bind(address: str, port: int, backlog: int = BACKLOG) -> socket.socket:
    """A TCP socket that listens on ``address`` and ``port``; the caller owns and closes it.

    "::" takes IPv6 alone, so that "0.0.0.0" may stand beside it (Twisted's own ``listenTCP`` leaves that to the
    system, where one of the two fails).  Raises :class:`BindError`.
    """
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    sock = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(socket.getaddrinfo(address, port, family, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)[0][4])
        sock.listen(backlog)
    except OSError as error:
        if sock is not None:
            sock.close()
        place = f"[{address}]:{port}" if family == socket.AF_INET6 else f"{address}:{port}"
        raise BindError(f"{place} cannot be listened on: {_why(error, port)}") from error
    return sock


def _why(error: OSError, port: int) -> str:
    if error.errno in (errno.EACCES, errno.EPERM) and port < 1024:
        return (
            f"ports below 1024 need root or CAP_NET_BIND_SERVICE, and this is uid {os.geteuid()}; "
            "start it as root with user = set, or use conf/systemd/twisted-mta.service"
        )
    if error.errno == errno.EADDRINUSE:
        return f'another program has it, and "ss -ltnp sport = :{port}" names it; stop that one, or choose another port'
    if error.errno == errno.EADDRNOTAVAIL:
        return 'this machine has no such address; "ip address" lists those it has'
    if error.errno == errno.EAFNOSUPPORT:
        return "this machine has no IPv6; leave the IPv6 addresses out"
    return error.strerror or str(error)


def inherited(descriptor: int) -> socket.socket:
    """A listening socket that another process of ours has bound and given to this one; the caller owns it.

    It is set not to block once more: whoever copies a socket that Python takes for a blocking one makes it one, for all
    processes that have it.
    """
    os.set_inheritable(descriptor, False)
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    return sock


def adopt(
    reactor: IReactorSocket,
    sock: socket.socket,
    factory: ServerFactory[Any],
    *,
    fair: bool = False,
    gate: IGate | None = None,
) -> IListeningPort:
    """Serves ``factory`` on a socket of :func:`bind`; the port owns it from now on, and ``sock`` is closed.

    ``fair``: other processes accept from it too, so only one connection is taken in a turn of the reactor, unless there
    is a line.  The kernel wakes all of them; Twisted would have the first take up to a hundred at once, and leave the
    others nothing.

    ``gate`` is asked about those who have waited to be accepted; the time is not known of a Unix socket's.
    """
    try:
        if sock.family == socket.AF_UNIX:
            port = unix_sockets.adopt(reactor, sock, factory)
            _take_at_most(1 if fair else LOCAL, port)
        else:
            port = reactor.adoptStreamPort(sock.fileno(), sock.family, factory)
            cast(Any, port).doRead = Acceptor(port, gate, 1, SHARED) if fair else Acceptor(port, gate)
    finally:
        sock.close()
    return port


def _take_at_most(count: int, port: Any) -> None:
    stock = port.doRead

    def read() -> Any:
        port.numberAccepts = count  # which the stock method changes each time
        return stock()

    port.doRead = read
