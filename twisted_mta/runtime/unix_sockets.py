"""Listening Unix sockets: made with their owner and mode, shared by processes, removed by the last of them."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet import unix
from twisted.internet.interfaces import IListeningPort, IReactorSocket

from ..config.settings import Settings
from . import privileges

BACKLOG = 4096
"""Connections that wait to be accepted; the kernel may hold fewer (net.core.somaxconn)."""


class BindError(Exception):
    """A place could not be bound; its text names it and says how to mend it."""


def bind(
    path: str,
    mode: int,
    owner: privileges.Account | None = None,
    account: privileges.Account | None = None,
    backlog: int = BACKLOG,
) -> socket.socket:
    """A socket that listens at ``path``, of ``owner`` and with ``mode``; the caller owns and closes it, and
    :func:`remove` takes its file away.

    What a process that has died left there is replaced.  Folders that are missing are made, for ``account``.  Nobody
    can connect before owner and mode are what they should be.  Raises :class:`BindError`.
    """
    sock = None
    try:
        privileges.make_folder(str(Path(path).parent), account, 0o755)
        _clear(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        before = os.umask(0o777)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        _give(path, owner)
        Path(path).chmod(mode)
        sock.listen(backlog)
    except OSError as error:
        if sock is not None:
            if sock.getsockname() == path:
                remove(path)
            sock.close()
        raise BindError(f"unix:{path} cannot be listened on: {_why(path, error)}") from error
    return sock


def bind_for(settings: Settings, name: str, path: str, account: privileges.Account | None) -> socket.socket:
    """:func:`bind` with the owner and mode that the listener ``name`` wants."""
    it = settings.listen[name]
    owner = privileges.own_account(it.socket_group) if it.socket_group else None
    if os.geteuid() == 0:
        user, group = it.socket_user or settings.user, it.socket_group or settings.group
        owner = privileges.find_account(user, group) or owner
    return bind(path, int(it.socket_mode, 8), owner, account)


def _clear(path: str) -> None:
    """Remove a socket that nobody listens on any more."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, "something that is no socket is there already; remove it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        answer = probe.connect_ex(path)
    if answer != errno.ECONNREFUSED:
        raise OSError(errno.EADDRINUSE, f'another program has it, and "ss -lxp src {path}" names it; stop that one')
    Path(path).unlink()


def _give(path: str, owner: privileges.Account | None) -> None:
    if owner is None:
        return
    uid = owner.uid if os.geteuid() == 0 else -1  # nobody else may give a file away, but to a group of theirs
    try:
        os.chown(path, uid, owner.gid)
    except PermissionError:
        why = "its group is none of the service's user's; make the user a member of socket_group, or start as root"
        raise PermissionError(errno.EPERM, why) from None


def _why(path: str, error: OSError) -> str:
    if error.errno == errno.EACCES:
        return f"this is uid {os.geteuid()}, which may not write to {Path(path).parent}; make that folder for it"
    return error.strerror or str(error)


def remove(path: str) -> None:
    """Take the file away, if we may: who can't, leaves it for the next start to replace."""
    with suppress(OSError):
        Path(path).unlink()


def adopt(reactor: IReactorSocket, sock: socket.socket, factory: Any) -> IListeningPort:
    """Serves ``factory`` on a socket of :func:`bind`, which stays the caller's."""
    port: Any = unix.Port._fromListeningDescriptor(reactor, sock.fileno(), factory)  # type: ignore[no-untyped-call]
    # Other processes accept from the same socket.  The stock port would open the file to everybody when it starts
    # (mode 0666); when it stops, it would remove it, and shut the socket down for all of them.  Files of abstract
    # names, which begin with NUL, it leaves alone.
    port._bindPath = b"\0" + port._bindPath
    port._shouldShutdown = False
    port.startListening()
    adopted: IListeningPort = port
    return adopted
