"""Making the queue's file as small as what is in it: ``mta queue compact``.

LMDB uses again what is free in its file and never gives it back.  Whoever has the file open goes on writing to that
one, so it is replaced while nobody has (:mod:`.access`): a copy is made beside it, synced, compared, and renamed over
it.
Who dies on the way leaves the queue as it was, or compacted, and at most a copy that the next opening removes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import msgspec

from .access import alone, opening
from .copying import COPY, DATA, MAX_READERS, is_whole, lacks, sync

STEPS = ("begun", "copied", "synced", "compared", "renamed", "done")
"""What is told of the way."""

_TABLES = 64


class Room(msgspec.Struct, frozen=True):
    """Octets: of the file, and of what is used in it."""

    file: int
    used: int


def room(folder: Path) -> Room:
    """How large the file is, and would be; whoever has it open may go on.  Raises OSError."""
    with opening(folder), _opened(folder, readonly=True) as env:
        return _room(folder, env)


def compact(folder: Path, reached: Callable[[str], None] = lambda step: None) -> Room:
    """Replace the file of the environment in ``folder`` by one without the room that is free in it.

    What is given tells how large it was, and is.  ``reached`` is told each of :data:`STEPS`.  Raises OSError, of which
    :class:`~twisted_mta.queue.access.InUse` says that somebody has it open; then all is as it was.
    """
    data = (folder / DATA).resolve()
    copy = data.with_name(COPY)
    with alone(folder):
        copy.unlink(missing_ok=True)
        try:
            with _opened(folder, readonly=True, lock=False) as env:
                was = _room(folder, env)
                _check_free(copy.parent, was.used)
                _copy(env, copy, reached)
                sync(copy)
                reached("synced")
                _compare(env, copy)
                reached("compared")
            size = copy.stat().st_size
            copy.rename(data)
        except OSError:
            with contextlib.suppress(OSError):
                copy.unlink(missing_ok=True)
            raise
        reached("renamed")
        sync(data.parent)
        with _opened(folder):
            pass  # has LMDB forget, while nobody else looks, what it noted of the former file
        reached("done")
    return Room(was.file, size)


def _copy(env: lmdb.Environment, copy: Path, reached: Callable[[str], None]) -> None:
    descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        reached("begun")
        env.copyfd(descriptor, compact=True)
        reached("copied")
    except lmdb.Error as error:
        raise _os_error(error, f"{env.path()} can't be copied") from error
    finally:
        os.close(descriptor)


def _compare(env: lmdb.Environment, copy: Path) -> None:
    """See that the copy has all tables with as many rows."""
    try:
        other = lmdb.open(str(copy), subdir=False, readonly=True, lock=False, max_dbs=_TABLES)
    except lmdb.Error as error:
        raise _os_error(error, f"the copy {copy} can't be opened") from error
    with contextlib.closing(other):
        rows, found = _rows(env), _rows(other)
    if rows != found:
        raise OSError(f"the copy {copy} has {found} rows instead of {rows}: nothing was changed")


def _rows(env: lmdb.Environment) -> dict[bytes, int]:
    return {name: stat["entries"] for name, stat in _stats(env)}


def _room(folder: Path, env: lmdb.Environment) -> Room:
    page = env.stat()["psize"]
    pages = 2 + sum(stat[kind] for _, stat in _stats(env) for kind in ("branch_pages", "leaf_pages", "overflow_pages"))
    return Room((folder / DATA).stat().st_size, pages * page)


def _stats(env: lmdb.Environment) -> Iterator[tuple[bytes, Any]]:
    main: Any = env.open_db()
    with env.begin() as txn:
        yield b"", txn.stat(main)
        names = list(txn.cursor(main).iternext(keys=True, values=False))
        for name in names:
            yield name, txn.stat(env.open_db(name, txn=txn, create=False))


def _check_free(folder: Path, needed: int) -> None:
    stat = os.statvfs(folder)
    free = stat.f_bavail * stat.f_frsize
    if free < needed:
        raise OSError(f"the copy needs {needed} octets, and {free} are free on the disk of {folder}")


@contextlib.contextmanager
def _opened(folder: Path, *, readonly: bool = False, lock: bool = True) -> Iterator[lmdb.Environment]:
    try:
        env = lmdb.open(
            str(folder), create=False, readonly=readonly, lock=lock, max_dbs=_TABLES, max_readers=MAX_READERS
        )
    except lmdb.Error as error:
        raise _os_error(error, f"{folder} can't be opened") from error
    try:
        if not is_whole(env, folder / DATA):
            raise OSError(f"{folder / DATA} is damaged: it lacks {lacks(env, folder / DATA)} octets")
        yield env
    finally:
        env.close()


def _os_error(error: lmdb.Error, what: str) -> OSError:
    return OSError(f"{what}: {error}")
