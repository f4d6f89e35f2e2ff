"""Which processes that use the store are alive.

Each has a number, its incarnation, and holds a lock on a file of that name as long as it lives: the kernel lets go of
it however the process ends.  Who asks takes a shared lock for an instant, so that any number may ask at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

OWNERS = "owners"
"""The directory's name, beside the queue's file."""


class Owners:
    """The lock files in a directory of the store's."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._own: tuple[Path, int] | None = None

    def enter(self, incarnation: int) -> None:
        """Say that this process lives under that number, from before it is used until :meth:`leave`."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        path = self._directory / str(incarnation)
        while True:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Somebody who cleans up may have removed it before we had the lock.
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(descriptor).st_ino:
                    break
            os.close(descriptor)
        self._own = (path, descriptor)

    def leave(self) -> None:
        """Give up the number."""
        if self._own is not None:
            path, descriptor = self._own
            self._own = None
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def alive(self, incarnation: int) -> bool:
        """Whether the process of that number lives."""
        return self._alive(self._directory / str(incarnation))

    def others(self) -> bool:
        """Whether a process that entered and did not leave lives, beside this one."""
        with contextlib.suppress(FileNotFoundError):
            return any(
                path.name.isdigit() and (self._own is None or path != self._own[0]) and self.alive(int(path.name))
                for path in self._directory.iterdir()
            )
        return False

    @contextlib.contextmanager
    def dead(self) -> Iterator[frozenset[int]]:
        """The processes that have died, for whoever comes first to see to what they left.

        Their files are removed when the block is left without an exception; until then others take them for alive.
        """
        found: dict[Path, int] = {}
        try:
            with contextlib.suppress(FileNotFoundError):
                for path in self._directory.iterdir():
                    if path.name.isdigit() and (self._own is None or path != self._own[0]):
                        descriptor = self._take(path)
                        if descriptor is not None:
                            found[path] = descriptor
            yield frozenset(int(path.name) for path in found)
            for path in found:
                path.unlink(missing_ok=True)
        finally:
            for descriptor in found.values():
                os.close(descriptor)

    def _take(self, path: Path) -> int | None:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def _alive(self, path: Path) -> bool:
        if self._own is not None and self._own[0] == path:
            return True
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False
