"""Where the event log goes: a file or standard output that may be full, gone or stuck, and never stops the service."""

from __future__ import annotations

import os
import select
import stat
from pathlib import Path

from twisted.logger import Logger

PENDING = 1 << 20
"""Octets that wait while the place can't be written to; what comes on top is dropped and counted."""
PIECE = 4096  # PIPE_BUF: what a pipe that polls writable takes without blocking (pipe(7))


class LogFile:
    """Bytes appended to a file ("-": standard output), best effort.

    A regular file is written to at once: one ``write`` for each call, which the page cache takes in microseconds.
    A pipe, socket or terminal is written to only as far as it has room, so a reader that stalls (a pager, a journal
    that is overrun) never stops the caller.  What can't be written waits, :data:`PENDING` octets at most; then whole
    batches are dropped and counted in :attr:`lost`.  Faults go to ``twisted.logger``
    once, when they begin and when they are over.
    """

    _log = Logger(namespace="twisted_mta.admin.logfile")

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._regular = False
        self._pending = bytearray()
        self._fault = ""
        self.lost = 0
        """Events dropped since the last time the fault was over."""
        self._open()

    @property
    def waiting(self) -> int:
        """Octets not written yet."""
        return len(self._pending)

    def write(self, data: bytes, events: int) -> bool:
        """Append ``data``, which holds ``events`` events; False when something still waits: call :meth:`drain`."""
        if len(self._pending) + len(data) > PENDING:
            self.lost += events
        else:
            self._pending += data
        return self.drain()

    def drain(self) -> bool:
        """Write what waits, as far as possible now; whether all of it is written."""
        if not self._pending:
            return True
        try:
            if self._fd < 0:
                self._open()
            if self._fd < 0:
                return False
            if not self._put():
                return False
        except OSError as error:
            self._failed(error)
            return False
        if self._fault or self.lost:
            self._log.warn(
                "The event log is written again: {name}; {lost} events were lost", name=self._name(), lost=self.lost
            )
            self._fault, self.lost = "", 0
        return True

    def reopen(self) -> None:
        """Close the file and open its path again, after logrotate has moved it away."""
        self.drain()
        self._shut()
        self._open()
        self.drain()

    def close(self) -> None:
        """Write what can be written, and close."""
        self.drain()
        self._shut()
        self._pending.clear()

    def _name(self) -> str:
        return "standard output" if self._path == "-" else self._path

    def _shut(self) -> None:
        if self._fd > 2:
            os.close(self._fd)
        self._fd = -1

    def _open(self) -> None:
        try:
            if self._path == "-":
                self._fd = 1
            else:
                Path(self._path).parent.mkdir(mode=0o750, parents=True, exist_ok=True)
                self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
        except OSError as error:
            self._fd = -1
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        if not self._fault:
            self._log.error(
                "The event log cannot be written: {name}: {fault}; {room} octets of events are kept, more are dropped",
                name=self._name(),
                fault=error.strerror,
                room=PENDING,
            )
        self._fault = str(error)

    def _put(self) -> bool:
        """Write what waits; whether all of it could be.  Raises OSError; what is written is gone from what waits."""
        pending = self._pending
        if self._regular:
            while pending:
                del pending[: os.write(self._fd, pending)]
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while pending and poll.poll(0):
            del pending[: os.write(self._fd, pending[:PIECE])]
        return not pending
