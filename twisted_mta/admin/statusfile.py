"""How the command line knows that the service runs: ``state_dir/run/mta.json``, locked for as long as it does.

The lock is ``flock``'s: the kernel drops it when the process dies, however it dies, so a file left behind is never
taken for a service that runs.  The lock outlives a fork, so the file may be written before or after one.
"""

from __future__ import annotations

import fcntl
import functools
import os
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from ..config.settings import Settings


@functools.cache
def version() -> str:
    """The version that is installed."""
    try:
        return metadata.version("twisted-mta")
    except metadata.PackageNotFoundError:  # run from a tree that is not installed
        return "unknown"


class ListenerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One port that is open."""

    name: str
    role: str
    tls: str
    address: str
    port: int

    @property
    def place(self) -> str:
        """Where, in one word: "address:port", or the path of a Unix socket behind "unix:"."""
        if self.address.startswith("unix:"):
            return self.address
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One worker process.  ``started`` is seconds since the epoch; ``pid`` is 0 while it is down."""

    slot: int
    pid: int
    started: float
    sessions: int
    state: str


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What the running service says about itself.  ``started`` is seconds since the epoch.

    ``upgrade`` says how the last attempt to hand over to a new version failed, and when; "" if none did.
    """

    pid: int
    started: float
    version: str
    hostname: str = ""
    listeners: tuple[ListenerStatus, ...] = ()
    admin: str = ""
    workers: tuple[WorkerStatus, ...] = ()
    upgrade: str = ""
    refused: int = 0
    """Connections refused for overload since the start, by the processes that serve now."""
    refused_last: float = 0.0
    """When that was last, seconds since the epoch; 0: never."""


class AlreadyRunning(Exception):
    """Another service has the state folder."""


def status_path(settings: Settings) -> Path:
    """Where the file is."""
    return Path(settings.state_dir) / "run" / "mta.json"


class StatusFile:
    """The file, open and locked.  Whoever made it closes it, when the service has stopped."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd

    @classmethod
    def inherited(cls, settings: Settings, descriptor: int) -> StatusFile:
        """The file that an older version has handed over; it says what that has written until :meth:`update`."""
        return cls(status_path(settings), descriptor)

    @property
    def descriptor(self) -> int:
        """The file's descriptor, which holds the lock: another process may be given it."""
        return self._fd

    def leave(self) -> None:
        """Leave file and lock to a process that was given the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def update(self, status: Status) -> None:
        """Write ``status`` in place of what the file says."""
        data = msgspec.json.encode(status) + b"\n"
        # never shorter than before while a reader may look: written first, cut afterwards
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))

    def close(self) -> None:
        """Remove the file and drop the lock."""
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


def write_status(
    settings: Settings, listeners: Sequence[ListenerStatus], clock: Callable[[], float] = time.time
) -> StatusFile:
    """Say that the service runs, from this process.  Raises :class:`AlreadyRunning`, and OSError.

    Keep what is returned open until the service has stopped.
    """
    file = open_status(settings)
    file.update(status_of(settings, listeners, clock()))
    return file


def open_status(settings: Settings) -> StatusFile:
    """The file, locked, and not yet written.  Raises :class:`AlreadyRunning`, and OSError."""
    path = status_path(settings)
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    return StatusFile(path, _locked(path))


def status_of(settings: Settings, listeners: Sequence[ListenerStatus], started: float) -> Status:
    """What there is to say of this process when it starts."""
    return Status(
        pid=os.getpid(),
        started=started,
        version=version(),
        hostname=settings.hostname,
        listeners=tuple(listeners),
        admin=settings.admin.listen,
    )


def _locked(path: Path) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = _read(fd)
            os.close(fd)
            who = f"process {other.pid}" if other else "another process"
            raise AlreadyRunning(f"{who} already serves {path.parent.parent}; stop it first") from None
        # one who stopped between our open and our lock has removed the file that we hold
        if path.exists() and os.fstat(fd).st_ino == path.stat().st_ino:
            return fd
        os.close(fd)


def read_status(settings: Settings) -> Status | None:
    """What the running service says, None when none runs.  Raises PermissionError."""
    try:
        fd = os.open(status_path(settings), os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(fd)
    else:
        return None  # nobody holds it: it was left behind
    finally:
        os.close(fd)


def _read(fd: int) -> Status | None:
    for _ in range(3):  # a reader may meet a writer half-way
        data = os.pread(fd, 1 << 16, 0)
        try:
            return msgspec.json.decode(data, type=Status)
        except msgspec.DecodeError:
            time.sleep(0.01)
    return Status(pid=0, started=0.0, version="")
