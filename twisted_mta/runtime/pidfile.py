"""twistd's pid file, once the service is no longer root: who made it may not remove it, nor may an heir replace it.

So it is kept open from the time that we are root.  At the end it is removed where that is allowed; elsewhere it gets a
number that no process can have, which the next twistd takes for what it is: a file that a dead service left behind.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

GONE = (1 << 22) + 1
"""Beyond PID_MAX_LIMIT of Linux (proc(5), /proc/sys/kernel/pid_max)."""


class PidFile:
    """A pid file of ours; ``path`` "" is none."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._inherited = False
        self.descriptor = -1
        """For an heir; -1 where there is none."""

    def open(self) -> None:
        """Keep twistd's file open.  To be called as root."""
        if self._path is not None:
            with suppress(OSError):
                self.descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    def inherit(self, descriptor: int) -> None:
        """Take over the file of an older version, which twistd knows nothing of."""
        self._inherited = True
        self.descriptor = descriptor

    def write(self) -> None:
        """Name this process in a file that was inherited."""
        if self._path is not None and self._inherited:
            if self._is_there():
                self._put(os.getpid())
            else:
                with suppress(OSError):
                    self._path.write_text(f"{os.getpid()}\n", "ascii")

    def leave(self) -> None:
        """The process ends, with nobody to follow.  What twistd can remove is left to it."""
        if self._path is not None:
            try:
                if self._inherited:
                    self._path.unlink(missing_ok=True)
                elif not os.access(self._path.parent, os.W_OK, effective_ids=True):
                    self._put(GONE)
            except OSError:
                self._put(GONE)

    def _is_there(self) -> bool:
        """Whether the file that is open is the one that has the name."""
        assert self._path is not None
        try:
            return self.descriptor >= 0 and os.path.samestat(os.fstat(self.descriptor), self._path.stat())
        except OSError:
            return False

    def _put(self, pid: int) -> None:
        if self.descriptor >= 0:
            with suppress(OSError):
                os.pwrite(self.descriptor, f"{pid}\n".encode(), 0)
                os.ftruncate(self.descriptor, len(f"{pid}\n"))
