"""Consistent copies of an LMDB environment, such as the queue, while other processes go on using it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import lmdb

from .access import opening
from .freelist import free_pages

DATA = "data.mdb"

COPY = "data.mdb.compact"
"""Beside it, while it is being compacted; or left by who died over that."""

MAX_READERS = 512

LOOKS = 5
"""How often a file that others may be writing to is looked at before it is held to be damaged."""


def copy_environment(source: Path, target: Path) -> int:
    """Copy the environment in the folder ``source`` into the new folder ``target``, without the room that is free in
    it, and sync the copy; its size in octets.

    The copy is of one moment: as long as it is being made, what others remove meanwhile keeps its room.  Raises
    OSError; then what there is of ``target`` is of no use.  A process must not have the same environment open already.
    """
    try:
        with opening(source):
            env = lmdb.open(str(source), create=False, readonly=True, max_readers=MAX_READERS, readahead=True)
    except lmdb.Error as error:
        raise OSError(f"{source} can't be opened: {error}") from error
    try:
        target.mkdir(mode=0o700)
        env.copy(str(target), compact=True)
    except lmdb.Error as error:
        raise OSError(f"{source} can't be copied to {target}: {error}") from error
    finally:
        env.close()
    (target / DATA).chmod(0o600)
    sync(target / DATA)
    sync(target)
    return (target / DATA).stat().st_size


def used(env: lmdb.Environment) -> int:
    """Octets of the map that have ever been in use; freed ones are used again."""
    return (int(env.info()["last_pgno"]) + 1) * int(env.stat()["psize"])


def lacks(env: lmdb.Environment, data: Path) -> int:
    """Octets by which the file is shorter than the pages that it has given out, if it is."""
    needed = used(env)  # looked up before the size: another process may be adding to both
    return max(0, needed - data.stat().st_size)


def is_whole(env: lmdb.Environment, data: Path) -> bool:
    """Whether the file has all pages that are in use: to touch one that it does not have ends the process.

    LMDB itself leaves the last pages unwritten where they were given and taken back in one transaction.
    """
    size = int(env.stat()["psize"])
    for _ in range(LOOKS):
        missing = lacks(env, data)
        if not missing:
            return True
        last = int(env.info()["last_pgno"])
        with contextlib.suppress(ValueError):
            if free_pages(data, size).issuperset(range(last + 1 - -(-missing // size), last + 1)):
                return True
    return False


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
