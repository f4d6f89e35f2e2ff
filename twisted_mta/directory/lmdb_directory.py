"""The directory in an LMDB environment of its own, changed live by the command line while the service reads.

Look-ups are read transactions on memory-mapped pages: they wait for nobody, neither for a lock nor for a sync.  What
was found is remembered until LMDB's last transaction id changes, which is asked at each look-up and costs about
0.5 us: so a change by any process is seen by the next look-up, and nothing is ever out of date.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import lmdb
import msgspec
from twisted.internet.interfaces import IReactorTime

from ..config.settings import MIB, Local
from ..mail.status import MailError, Reply
from . import lookup
from .base import BaseDirectory
from .interfaces import Customer, Resolution, User
from .passwords import hash_password
from .records import MAX_KEY, TABLES, Change, R, Record, View, key_of, owned_key_of

T = TypeVar("T")

SCHEMA = b"1"
MAP_SIZE = 64 * MIB
REMEMBERED = 8192
"""Look-ups remembered: at about 500 octets each, 4 MiB."""

_UNREADABLE = Reply(451, "4.3.0", "The directory can't be read just now; try again later")
_MISSING: Any = object()


class DirectoryUnavailable(MailError):
    """The directory can't be read; always temporary.  ``__cause__`` is LMDB's word for it."""


class LmdbDirectory(BaseDirectory):
    """The directory in the folder ``path``, which is made if it is not there (0700, files 0600).

    ``settings`` is the ``[local]`` table, ``clock`` gives the time of what is added.  The map starts with ``map_size``
    octets and doubles when it is full.  Only one object in a process may have ``path`` open; whoever makes it calls
    :meth:`close`.  Look-ups are for the reactor thread; changes may be made from any thread.  Raises OSError or
    ValueError with words for the operator when the folder can't be used.
    """

    def __init__(
        self,
        path: str | Path,
        settings: Local,
        clock: IReactorTime,
        hash_password: Callable[[str], str] = hash_password,
        map_size: int = MAP_SIZE,
        make_keys: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__(settings, clock, hash_password, make_keys)
        self.path = Path(path)
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._env = lmdb.open(str(self.path), map_size=map_size, mode=0o600, max_dbs=8)
        except lmdb.Error as error:
            raise OSError(f"The directory in {self.path} can't be opened: {error}") from error
        self._growing = threading.RLock()  # held around write transactions and around changes of the map
        self._reading = threading.Lock()  # held around read transactions and around changes of the map, taken last
        self._generation = -1
        self._resolved: OrderedDict[str, Resolution] = OrderedDict()
        self._elsewhere: set[str] = set()  # domains, as addresses had them, that were not ours
        self._found: dict[type[Record], OrderedDict[str, Record | None]] = {
            Customer: OrderedDict(),
            User: OrderedDict(),
        }
        try:
            self._tables = self._open_tables()
        except lmdb.Error as error:
            self._env.close()
            raise OSError(f"The directory in {self.path} can't be read: {error}") from error
        except BaseException:
            self._env.close()
            raise

    def _open_tables(self) -> dict[type[Record] | str, Any]:
        names: dict[type[Record] | str, str] = {record: kind for kind, record in TABLES.items()}
        names |= {"owned": "owned", "meta": "meta"}
        tables = {kind: self._env.open_db(name.encode()) for kind, name in names.items()}
        with self._env.begin(write=True, db=tables["meta"]) as txn:
            schema = txn.get(b"schema")
            if schema is None:
                txn.put(b"schema", SCHEMA)
            elif schema != SCHEMA:
                raise ValueError(
                    f"The directory in {self.path} has schema {schema.decode('ascii', 'replace')};"
                    f" this version of the program reads schema {SCHEMA.decode()}"
                )
            txn.put(b"secret", os.urandom(32), overwrite=False)
            self.secret = bytes(cast("bytes", txn.get(b"secret")))
        return tables

    def close(self) -> None:
        """Close the environment; look-ups fail from now on, for a time."""
        self._env.close()

    def reconfigure(self, settings: Local) -> None:
        """See :class:`~.base.BaseDirectory`."""
        super().reconfigure(settings)
        self._generation = -1

    # Look-ups that answer from memory while nothing has changed

    async def resolve(self, address: str) -> Resolution:
        """See :class:`~.interfaces.IDirectory`."""
        self._refresh()
        resolved = self._resolved
        found = resolved.get(address)
        if found is None:
            _, at, domain = address.rpartition("@")
            if at and domain in self._elsewhere:  # whoever is there: the address need not be remembered
                return lookup.REMOTE
            found = self._view(lambda view: lookup.resolve(view, self._locality, address))
            if found is lookup.REMOTE:
                if len(self._elsewhere) == REMEMBERED:
                    self._elsewhere.clear()
                self._elsewhere.add(domain)
                return found
            resolved[address] = found
            if len(resolved) > REMEMBERED:
                resolved.popitem(last=False)
        else:
            resolved.move_to_end(address)
        return found

    async def customer(self, name: str) -> Customer | None:
        """See :class:`~.interfaces.IDirectory`."""
        return self._recall(Customer, name)

    async def user(self, address: str) -> User | None:
        """See :class:`~.interfaces.IDirectory`."""
        return self._recall(User, address)

    def _recall(self, kind: type[R], name: str) -> R | None:
        self._refresh()
        known = self._found[kind]
        found = known.get(name, _MISSING)
        if found is _MISSING:
            found = self._view(lambda view: view.get(kind, key_of(kind, name)))
            known[name] = found
            if len(known) > REMEMBERED:
                known.popitem(last=False)
        else:
            known.move_to_end(name)
        return cast("R | None", found)

    def _refresh(self) -> None:
        """Forget what was remembered if anybody has committed since."""
        try:
            with self._reading:  # no context manager around it as elsewhere: this is most of a look-up's time
                txn = self._env.begin()
                generation = txn.id()
                txn.abort()
        except lmdb.Error:
            with self._transaction() as again:
                generation = again.id()
        if generation != self._generation:
            self._generation = generation
            self._resolved.clear()
            self._elsewhere.clear()
            self._found[Customer].clear()
            self._found[User].clear()

    # Transactions

    def _view(self, read: Callable[[View], T]) -> T:
        with self._transaction() as txn:
            return read(_Records(txn, self._tables))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[lmdb.Transaction]:
        try:
            with self._reading:
                try:
                    txn = self._env.begin()
                except lmdb.MapResizedError:
                    txn = None
                if txn is not None:
                    with txn:
                        yield txn
                    return
            self._resize(0)
            with self._reading, self._env.begin() as txn:
                yield txn
        except lmdb.Error as error:
            raise DirectoryUnavailable(_UNREADABLE) from error

    def _change(self, write: Callable[[Change], T]) -> T:
        with self._growing:
            while True:
                try:
                    with self._env.begin(write=True) as txn:
                        return write(_Records(txn, self._tables))
                except lmdb.MapFullError:
                    self._resize(2 * self._env.info()["map_size"])
                except lmdb.MapResizedError:
                    self._resize(0)

    def _resize(self, size: int) -> None:
        """Set the size of the map; 0: what another process has made of it.  No transaction of this process may be
        open meanwhile (LMDB's ``mdb_env_set_mapsize``), hence the locks."""
        with self._growing, self._reading:
            self._env.set_mapsize(size)


class _Records:
    """A transaction as a :class:`~.records.Change`."""

    __slots__ = ("_tables", "_txn")

    def __init__(self, txn: lmdb.Transaction, tables: dict[type[Record] | str, Any]) -> None:
        self._txn = txn
        self._tables = tables

    def get(self, kind: type[R], key: bytes) -> R | None:
        if not 0 < len(key) <= MAX_KEY:
            return None
        value = self._txn.get(key, db=self._tables[kind])
        return None if value is None else _decode(kind, cast("bytes", value))

    def under(self, kind: type[R], prefix: bytes) -> Iterator[R]:
        for _, value in self._scan(kind, prefix):
            yield _decode(kind, value)

    def owned(self, prefix: bytes) -> Iterator[bytes]:
        for key, _ in self._scan("owned", prefix):
            yield key

    def _scan(self, table: type[Record] | str, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor(db=self._tables[table]) as cursor:
            if not (cursor.set_range(prefix) if prefix else cursor.first()):
                return
            for key, value in cast("Iterator[tuple[bytes, bytes]]", cursor):
                if not key.startswith(prefix):
                    return
                yield key, value

    def put(self, key: bytes, record: Record) -> None:
        self._txn.put(key, msgspec.msgpack.encode(record), db=self._tables[type(record)])
        if (owned := owned_key_of(record)) is not None:
            self._txn.put(owned, b"", db=self._tables["owned"])

    def delete(self, key: bytes, record: Record) -> None:
        self._txn.delete(key, db=self._tables[type(record)])
        if (owned := owned_key_of(record)) is not None:
            self._txn.delete(owned, db=self._tables["owned"])


_decoders: dict[type[Any], msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(kind) for kind in TABLES.values()
}


def _decode(kind: type[R], value: bytes) -> R:
    return cast("R", _decoders[kind].decode(value))
