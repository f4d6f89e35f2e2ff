"""The upgrade: a new version is started with our listening sockets, and takes over when it is ready.

No socket is ever closed on the way, so no connection is refused; the lock on the state folder goes over with its
descriptor.  Until the new version says that it is ready, nothing has changed here.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from ..runtime import sockets
from .child import PRIVATE

VARIABLE = "TWISTED_MTA_HANDOVER"
TIME = 120.0
"""Seconds that a new version has to become ready."""
_READY = 3
_FIRST = 4


class UpgradeFailed(Exception):
    """The new version does not take over; the words say why."""


class _Letter(msgspec.Struct, frozen=True):
    """What the variable says: the old process, descriptors, and the settings' address and port of each socket.

    ``pidfile`` is the descriptor of twistd's pid file, -1 where there is none.
    """

    pid: int
    ready: int
    status: int
    sockets: tuple[tuple[str, int, int], ...]
    pidfile: int = -1


@attrs.frozen
class Launch:
    """How this process was started, for another to be started alike."""

    argv: Sequence[str]
    folder: str
    pidfile: str = ""

    @classmethod
    def ours(cls, pidfile: str = "") -> Launch:
        """To be called before anybody changes the folder."""
        return cls(
            (sys.executable, *sys.orig_argv[1:]), str(Path.cwd()), str(Path(pidfile).absolute()) if pidfile else ""
        )


class Inheritance:
    """What an older version hands over to this process.  Whoever takes it says :meth:`ready` or :meth:`failed`."""

    def __init__(self, letter: _Letter) -> None:
        self.pid = letter.pid
        self.status = letter.status
        self.pidfile = letter.pidfile
        self._ready = letter.ready
        self._sockets = {(address, port): fd for address, port, fd in letter.sockets}
        for fd in (letter.ready, letter.status, letter.pidfile, *self._sockets.values()):
            if fd >= 0:
                os.set_inheritable(fd, False)

    def take(self, address: str, port: int) -> socket.socket | None:
        """The socket that listens there, if there is one."""
        fd = self._sockets.pop((address, port), None)
        return None if fd is None else sockets.inherited(fd)

    def ready(self) -> None:
        """We serve: the older version may go.  Sockets that nobody took are closed."""
        self._say(f"ready {os.getpid()}\n")

    def failed(self, words: str) -> None:
        """We do not, and end."""
        self._say(f"failed {' '.join(words.split())}\n")

    def _say(self, line: str) -> None:
        if self._ready < 0:
            return
        with suppress(OSError):  # it may be gone
            os.write(self._ready, line.encode("utf-8", "replace")[:4000])
        for fd in (self._ready, *self._sockets.values()):
            os.close(fd)
        self._ready = -1
        self._sockets.clear()


def inheritance(environ: MutableMapping[str, str] = os.environ) -> Inheritance | None:
    """What this process inherits; once, for the variable is removed."""
    text = environ.pop(VARIABLE, "")
    return Inheritance(msgspec.json.decode(text, type=_Letter)) if text else None


def tell_failure(words: str) -> None:
    """There is somebody to inherit from, and we cannot: say why."""
    heir = inheritance()
    if heir is not None:
        heir.failed(words)


class Successor(ProcessProtocol):
    """A new version that is starting.  ``ready`` fires with its process id, or fails with :class:`UpgradeFailed`.

    ``files`` are the descriptors of the status file and of the pid file, the latter -1 where there is none.
    """

    def __init__(
        self,
        launch: Launch,
        listening: Sequence[tuple[str, int, socket.socket]],
        files: tuple[int, int],
        reactor: Any,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.ready: Deferred[int] = Deferred()
        self._said = b""
        self._status = ""
        status, pidfile = files
        numbers = range(_FIRST + 2, _FIRST + 2 + len(listening))
        letter = _Letter(
            os.getpid(),
            _READY,
            _FIRST,
            tuple((address, port, fd) for (address, port, _), fd in zip(listening, numbers, strict=True)),
            _FIRST + 1 if pidfile >= 0 else -1,
        )
        descriptors: dict[int, Any] = {0: 0, 1: 1, 2: 2, _READY: "r", _FIRST: status}
        if pidfile >= 0:
            descriptors[_FIRST + 1] = pidfile
        descriptors.update(zip(numbers, (one.fileno() for _, _, one in listening), strict=True))
        found = {name: value for name, value in environ.items() if name not in PRIVATE or name == "NOTIFY_SOCKET"}
        if "WATCHDOG_USEC" in environ:
            found["WATCHDOG_USEC"] = environ["WATCHDOG_USEC"]
        found[VARIABLE] = msgspec.json.encode(letter).decode()
        self._process = reactor.spawnProcess(
            self, launch.argv[0], list(launch.argv), found, launch.folder, childFDs=descriptors
        )
        self._timeout: IDelayedCall = reactor.callLater(TIME, self._late)

    def _late(self) -> None:
        with suppress(ProcessExitedAlready):
            self._process.signalProcess("KILL")
        self._fail(f"it was not ready after {TIME:g} s")

    def _fail(self, words: str) -> None:
        if not self.ready.called:
            if self._timeout.active():
                self._timeout.cancel()
            self.ready.errback(UpgradeFailed(words))

    # Twisted's names

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N802, N803
        """It speaks."""
        self._said += data
        line, end, _ = self._said.partition(b"\n")
        if not end or self.ready.called:
            return
        word, _, rest = line.decode("utf-8", "replace").partition(" ")
        if word == "ready":
            if self._timeout.active():
                self._timeout.cancel()
            self.ready.callback(int(rest))
        else:
            self._fail(rest)

    def processExited(self, reason: Failure) -> None:  # noqa: N802
        """It has ended, or gone into the background."""
        code = getattr(reason.value, "exitCode", None)
        self._status = f" with status {code}" if code else ""

    def processEnded(self, reason: Failure) -> None:  # noqa: N802
        """It has ended, and its end of the pipe is closed."""
        self._fail(f"it ended{self._status} before it was ready; the log has its words")
