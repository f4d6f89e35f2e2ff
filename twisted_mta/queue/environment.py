"""The LMDB environment under the store: opening it, its tables, its map's growth, and room on the disk.

Three rules of LMDB shape this module.  A write transaction belongs to one thread from begin to commit.  The map may be
grown only while this process has no transaction open: the writer does it while the reactor waits for it and the
:class:`Gate` keeps the pool's readers out.  Another process may have grown the map, which the next transaction is told
by ``MapResizedError`` and adopts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import lmdb

from ..mail.events import EventSink, Service
from ..mail.status import Reply
from . import damage, schema
from .access import opening
from .copying import COPY, DATA, MAX_READERS, is_whole, lacks, sync, used
from .interfaces import StoreUnavailable
from .owners import OWNERS, Owners
from .records import META_SCHEMA, TABLES
from .rules import disk_full, unavailable

Txn: TypeAlias = "lmdb.Transaction[bytes]"
Db: TypeAlias = Any

LEAST_FREE = 1 << 16
"""Octets that the disk must have for the map to be grown."""

_PAGE = os.sysconf("SC_PAGE_SIZE")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Tables:
    """The handles of the tables, by the names that :mod:`.records` describes."""

    __slots__ = TABLES

    message: Db
    content: Db
    delivery: Db
    lanes: Db
    wake: Db
    owned: Db
    usage: Db
    history: Db
    spool: Db
    held: Db
    reason: Db
    segment: Db
    summary: Db
    meta: Db


class Gate:
    """Keeps the growth of the map and the read transactions of other threads apart."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self.wanted = False
        """Whether somebody waits for the readers to leave: a long reader gives up and begins anew."""

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Hold off growth."""
        with self._changed:
            while self.wanted:
                self._changed.wait()
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody reads, and hold off those that come."""
        with self._changed:
            while self.wanted:
                self._changed.wait()
            self.wanted = True
            while self._readers:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self.wanted = False
                self._changed.notify_all()


class Environment:
    """One open LMDB environment.  Whoever opens it closes it."""

    def __init__(
        self, path: str | os.PathLike[str], map_size: int, *, sync: bool = True, readahead: bool = False
    ) -> None:
        self.path = Path(path)
        self.gate = Gate()
        self._sync = sync
        self._readahead = readahead
        self.generation = 0
        """How many copies, from one to the next, the file is of the first: transactions are numbered anew in each."""
        self._step = _pages(map_size)
        self._env = self._open()
        try:
            self._check_length()
            self.tables = self._open_tables()
        except BaseException:
            self._env.close()
            raise

    def _open(self) -> lmdb.Environment:
        try:
            _make_folder(self.path)
            data = self.path / DATA
            _check_size(self.path, data)
            with opening(self.path):
                data.resolve().with_name(COPY).unlink(missing_ok=True)
                return lmdb.open(
                    str(self.path),
                    map_size=self._step,
                    mode=0o600,
                    max_dbs=2 * len(TABLES),
                    max_readers=MAX_READERS,
                    max_spare_txns=1,
                    readahead=self._readahead,
                    sync=self._sync,
                )
        except (lmdb.Error, OSError) as error:
            raise _cannot_open(self.path, error) from error

    def _check_length(self) -> None:
        """What the file lacks of the map without need is made good, lest touching it end the process."""
        data = self.path / DATA
        missing = lacks(self._env, data)
        if not missing:
            return
        if not is_whole(self._env, data):
            raise _damaged(self.path, f"it lacks {missing} octets")
        with data.open("r+b") as file:
            os.posix_fallocate(file.fileno(), self.map_used - _PAGE, _PAGE)  # never makes a file shorter

    def _open_tables(self) -> Tables:
        try:
            self._env.reader_check()
            with self.read() as txn:
                fresh = not txn.stat(self._env.open_db())["entries"]
            if fresh:
                self._create()
                sync(self.path)
            self._check_schema()
            tables = Tables()
            # Not in a transaction of ours: a handle that is opened in one that is aborted is closed with it.
            for name in TABLES:
                setattr(tables, name, self._env.open_db(name.encode(), create=False))
        except (lmdb.Error, damage.Damaged) as error:
            raise _cannot_open(self.path, error) from error
        return tables

    def _create(self) -> None:
        # Another process may be creating it too: whoever is second finds it done.
        with self._env.begin(write=True) as txn:
            for name in TABLES:
                self._env.open_db(name.encode(), txn=txn)
            meta = self._env.open_db(b"meta", txn=txn)
            if txn.get(META_SCHEMA, db=meta) is None:
                txn.put(META_SCHEMA, b"%d" % schema.VERSION, db=meta)

    def _check_schema(self) -> None:
        try:
            meta = self._env.open_db(b"meta", create=False)
        except lmdb.NotFoundError:
            raise _refused(self.path, "it is not a mail queue") from None
        with self.read() as txn:
            found = txn.get(META_SCHEMA, db=meta)
        if found is None or not found.isdigit():
            raise _refused(self.path, "it is not a mail queue")
        if int(found) == schema.VERSION:
            return
        if not schema.known(int(found)):
            raise _refused(
                self.path, f"its schema is {int(found)}, and this version of the program knows {schema.VERSION}"
            )
        self._migrate(meta)

    def _migrate(self, meta: Db) -> None:
        """Bring it to this version's schema, unless processes of the version before are at work on it."""
        owners = Owners(self.path / OWNERS)
        while True:
            try:
                with self._env.begin(write=True) as txn:
                    found = int(txn.get(META_SCHEMA, db=meta) or b"0")
                    if found == schema.VERSION:
                        return  # another process has done it meanwhile
                    if owners.others():  # who enters asks for the schema in a transaction: none comes in meanwhile
                        raise _refused(self.path, schema.runs(found))
                    schema.migrate(self._env, txn, found)
                return
            except lmdb.MapFullError:
                stat = os.statvfs(self.path)
                self.grow(stat.f_bavail * stat.f_frsize)

    def begin(self) -> Txn:
        """Begin a write transaction: waits for other processes' to end.  Raises ``lmdb.MapResizedError``."""
        return self._env.begin(write=True)

    def commit(self, txn: Txn) -> None:
        """Commit and sync a write transaction.  Where it fails, the transaction is gone and nothing of it is kept."""
        txn.commit()

    @contextlib.contextmanager
    def read(self) -> Iterator[Txn]:
        """A short read transaction on the reactor's thread.  Not to be held across turns."""
        try:
            txn = self._env.begin()
        except lmdb.MapResizedError:
            self.adopt()
            txn = self._env.begin()
        try:
            yield txn
        except damage.PAGES as error:
            raise damage.damaged(error) from error
        finally:
            txn.abort()

    @contextlib.contextmanager
    def read_in_thread(self, buffers: bool = False) -> Iterator[Any]:
        """A read transaction on another thread.  Raises ``lmdb.MapResizedError``: adopt on the reactor's and retry."""
        with self.gate.reading():
            txn: Any = self._env.begin(buffers=True) if buffers else self._env.begin()
            try:
                yield txn
            except damage.PAGES as error:
                raise damage.damaged(error) from error
            finally:
                txn.abort()

    @contextlib.contextmanager
    def search_in_thread(self) -> Iterator[tuple[Any, Txn]]:
        """The same, twice: one that gives buffers, and one that was begun after it and gives octets."""
        with self.gate.reading():
            first: Any = self._env.begin(buffers=True)
            try:
                second = self._env.begin()
                try:
                    yield first, second
                except damage.PAGES as error:
                    raise damage.damaged(error) from error
                finally:
                    second.abort()
            finally:
                first.abort()

    def adopt(self) -> None:
        """Take over the size to which another process has grown the map."""
        with self.gate.alone():
            self._env.set_mapsize(0)

    def grow(self, free: int) -> int:
        """Make the map larger; ``free`` is what the disk has.  Raises StoreUnavailable when that is nothing."""
        size = self.map_size
        if free < LEAST_FREE:
            raise disk_full()
        with self.gate.alone():
            self._env.reader_check()
            self._env.set_mapsize(_pages(size + min(size, free)))
        return self.map_size

    @property
    def map_size(self) -> int:
        """Octets of the map."""
        return int(self._env.info()["map_size"])

    @property
    def map_used(self) -> int:
        """Octets of the map that have ever been in use; freed ones are used again."""
        return used(self._env)

    def sync(self) -> None:
        """Sync all that is committed, where commits do not."""
        if not self._sync:
            self._env.sync(True)

    def close(self) -> None:
        """Close it: no transaction may be open."""
        self._env.close()


def _make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, each with its name on the disk before mail is in it."""
    if path.is_dir():
        return
    _make_folder(path.absolute().parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync(path.absolute().parent)


def _pages(size: int) -> int:
    return max(-(-size // _PAGE), 64) * _PAGE


def _check_size(path: Path, data: Path) -> None:
    """LMDB takes an empty file for a new one, and touches both of its first pages before it looks at them."""
    try:
        size = data.stat().st_size
    except FileNotFoundError:
        return
    if not size and (path / OWNERS).exists():  # else who was first to open it has only begun
        raise _damaged(path, "it is empty, and there was a queue in it")
    if 0 < size < 2 * _PAGE:
        raise _damaged(path, "it is cut short")


def _cannot_open(path: Path, error: Exception) -> StoreUnavailable:
    if isinstance(error, PermissionError):
        return _refused(path, "permission denied; it belongs to another user")
    if isinstance(error, damage.Damaged):
        return _damaged(path, error.how)
    if isinstance(error, lmdb.VersionMismatchError) or "data format" in str(error):
        return _refused(
            path,
            f"another version of LMDB wrote its file ({error}); mta queue export with the program that wrote it and "
            "mta queue import here, or restore it from a backup",
        )
    if isinstance(error, (*damage.PAGES, lmdb.InvalidError, lmdb.PanicError)):
        return _damaged(path, str(error))
    return _refused(path, str(error))


def _damaged(path: Path, how: str) -> StoreUnavailable:
    return _refused(path, f"its file is damaged ({how}); restore it from a backup, or move it away to begin anew")


def _refused(path: Path, why: str) -> StoreUnavailable:
    return StoreUnavailable(Reply(451, "4.3.0", f"The queue in {path} can't be opened: {why}"))


def failure_of(error: BaseException) -> tuple[StoreUnavailable, bool]:
    """What a failed transaction tells the client, and whether the store may not go on before it is opened anew.

    A full disk passes.  After any other failure (a sync's above all) nobody knows what the disk holds: the kernel
    reports such an error once and may have dropped what was not written.
    """
    if isinstance(error, StoreUnavailable):
        return error, False
    if isinstance(error, damage.PAGES):
        return damage.damaged(error), False  # nothing was written, and what is elsewhere is whole
    code = getattr(error, "code", None) or getattr(error, "errno", None) or 0
    if isinstance(error, lmdb.DiskError) or abs(code) in _NO_SPACE:
        return disk_full(), False
    return unavailable(), True


class Disk:
    """The free space under the store, looked at no more than once a second."""

    def __init__(self, path: Path, reserve: int, clock: Callable[[], float], events: EventSink) -> None:
        self._path = path
        self._reserve = reserve
        self._clock = clock
        self._events = events
        self._looked: float | None = None
        self._free = 0
        self._low = False

    def sample(self) -> int:
        """Octets that are free now."""
        stat = os.statvfs(self._path)
        self._free = stat.f_bavail * stat.f_frsize
        return self._free

    def free(self) -> int:
        """Octets that were free within the last second."""
        now = self._clock()
        if self._looked is None or not 0 <= now - self._looked < 1:
            self._looked = now
            self.sample()
            low = self._free < self._reserve
            if low != self._low:
                self._low = low
                detail = f"{self._free} octets are free, {self._reserve} are the reserve"
                self._events(Service(time=now, what="disk-low" if low else "disk-ok", detail=detail))
        return self._free

    @property
    def low(self) -> bool:
        """Whether less than the reserve is free."""
        self.free()
        return self._low
