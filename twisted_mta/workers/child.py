"""One worker's process, and the parent's end of the socket to it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, LogLevel
from twisted.protocols import amp
from twisted.python.failure import Failure

from . import commands as c
from .worker import PARENT

ROOT = str(Path(__file__).resolve().parents[2])
"""The folder that holds the package."""
PRIVATE = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
"""Variables that are the parent's alone."""


class IParent(Protocol):
    """What a child tells."""

    def heard(self, child: Child, command: type[amp.Command], entries: Any) -> None:
        """It said something."""

    def ended(self, child: Child, why: str) -> None:
        """Its process has ended."""


class Link(amp.AMP):
    """The parent's end of the socket."""

    def __init__(self, heard: Callable[[type[amp.Command], Any], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._heard = heard

    @c.Due.responder
    def _due(self, lanes: Any) -> dict[str, Any]:
        self._heard(c.Due, lanes)
        return {}

    @c.Counts.responder
    def _counts(self, entries: Any) -> dict[str, Any]:
        self._heard(c.Counts, entries)
        return {}

    @c.Attempts.responder
    def _attempts(self, entries: Any) -> dict[str, Any]:
        self._heard(c.Attempts, entries)
        return {}

    @c.Rates.responder
    def _rates(self, entries: Any) -> dict[str, Any]:
        self._heard(c.Rates, entries)
        return {}


class _One:
    """Gives the one protocol that there is, to ``adoptStreamConnection``."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def doStart(self) -> None:  # noqa: N802 - Twisted's name
        """Nothing."""

    def doStop(self) -> None:  # noqa: N802 - Twisted's name
        """Nothing."""

    def buildProtocol(self, address: object) -> Link:  # noqa: N802 - Twisted's name
        """The link."""
        return self._link


class Child(ProcessProtocol):
    """A worker's process, started when this is made, with these listening sockets.

    ``descriptors`` are what the sockets are in the child, in their order.  Its standard error is logged.
    """

    _log = Logger(namespace="twisted_mta.worker")

    def __init__(self, parent: IParent, slot: int, listening: Sequence[socket.socket], reactor: Any) -> None:
        self.slot = slot
        self.descriptors = tuple(range(PARENT + 1, PARENT + 1 + len(listening)))
        self.report = c.Report()
        self.pinged = False
        self.quiet = 0.0
        """Seconds since it was last heard."""
        self._parent = parent
        self._rest = b""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.link = Link(lambda command, entries: parent.heard(self, command, entries))
        try:
            reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, _One(self.link))
            descriptors: dict[int, Any] = {0: _null(), 1: 1, 2: "r", PARENT: theirs.fileno()}
            descriptors.update(zip(self.descriptors, (one.fileno() for one in listening), strict=True))
            arguments = [sys.executable, "-m", "twisted_mta.workers.worker"]
            self._process = reactor.spawnProcess(self, sys.executable, arguments, environment(), childFDs=descriptors)
            self.pid: int = self._process.pid
        finally:
            ours.close()
            theirs.close()

    def ask(self, command: type[amp.Command], **arguments: Any) -> Deferred[Any]:
        """Have it do something; fails if it ends first."""
        asked: Deferred[Any] = self.link.callRemote(command, **arguments)  # type: ignore[no-untyped-call]
        return asked

    def tell(self, command: type[amp.Command], **arguments: Any) -> None:
        """Tell it something, if it hears."""
        if self.link.transport is not None:
            self.link.callRemote(command, **arguments)  # type: ignore[no-untyped-call]

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessExitedAlready):
            self._process.signalProcess(signal.SIGKILL)

    # Twisted's names

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N802, N803
        """Diagnostics; what is not from the logger (a fault of the interpreter) is an error."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._tell(line.decode("utf-8", "replace"))

    def _tell(self, line: str) -> None:
        name, _, text = line.partition(" ")
        try:
            level = LogLevel.levelWithName(name)
        except Exception:
            level, text = LogLevel.error, line
        self._log.emit(level, "worker {slot}: {text}", slot=self.slot, text=text)

    def processEnded(self, reason: Failure) -> None:  # noqa: N802
        """It is over."""
        if self._rest:
            self._tell(self._rest.decode("utf-8", "replace"))
        error: Any = reason.value
        why = f"signal {error.signal}" if getattr(error, "signal", None) else f"status {getattr(error, 'exitCode', 0)}"
        if self.link.transport is not None:
            self.link.transport.abortConnection()  # type: ignore[attr-defined]
        self._parent.ended(self, why)


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a process of ours: it finds the package where we did."""
    found = {name: value for name, value in environ.items() if name not in PRIVATE}
    found["PYTHONPATH"] = os.pathsep.join([ROOT, *filter(None, [found.get("PYTHONPATH", "")])])
    found["PYTHONSAFEPATH"] = "1"
    return found


_nulls: list[int] = []


def _null() -> int:
    if not _nulls:
        _nulls.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    return _nulls[0]
