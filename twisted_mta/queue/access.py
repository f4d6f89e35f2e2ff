"""Who may open an LMDB environment: everybody, or nobody while its file is being replaced.

LMDB itself has a shared lock on ``lock.mdb`` for each process that has the environment open, so whoever gets an
exclusive one is alone.  That one makes others wait, for minutes perhaps and deaf to signals; a second lock, on the
folder, is looked at first, and lets this program say what is the matter instead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

LOCK = "lock.mdb"

_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, process


class InUse(OSError):
    """The environment can't be opened, or not alone; its words say by whom it is used."""


@contextlib.contextmanager
def opening(folder: Path) -> Iterator[None]:
    """In the block an environment may be opened.  Raises :class:`InUse` while somebody is :func:`alone` with it."""
    with _open(folder, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse("it is being compacted (mta queue compact); try again when that is done") from None
        yield


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """In the block nobody else has the environment open.  Raises :class:`InUse`.

    POSIX gives such locks to processes, not to descriptors: an environment that this process opens with locks, and
    closes, ends it.
    """
    with (
        _open(folder, os.O_RDONLY | os.O_DIRECTORY) as descriptor,
        _open(folder / LOCK, os.O_RDWR | os.O_CREAT) as lock,
    ):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse("another process opens or compacts it at this moment") from None
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
        except (BlockingIOError, PermissionError):
            raise InUse(f"{_holder(lock)} has it open") from None
        yield


def _holder(lock: int) -> str:
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(lock, fcntl.F_GETLK, asked))
    return f"process {pid}" if kind != fcntl.F_UNLCK and pid > 0 else "another process"


@contextlib.contextmanager
def _open(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
