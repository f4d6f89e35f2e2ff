"""Consistent copies of an LMDB environment, such as the queue, while other processes go on using it."""

from __future__ import annotations

import os
from pathlib import Path

import lmdb

DATA = "data.mdb"


def copy_environment(source: Path, target: Path) -> int:
    """Copy the environment in the folder ``source`` into the new folder ``target``, without the room that is free in
    it, and sync the copy; its size in octets.

    The copy is of one moment: as long as it is being made, what others remove meanwhile keeps its room.  Raises
    OSError; then what there is of ``target`` is of no use.  A process must not have the same environment open already.
    """
    try:
        env = lmdb.open(str(source), create=False, readonly=True, max_readers=512, readahead=True)
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


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
