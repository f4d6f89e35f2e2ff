"""A directory in memory: for tests, and for services that need no directory on disk."""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Iterator
from typing import TypeVar, cast

import argon2
from twisted.internet.interfaces import IReactorTime

from ..config.settings import Local
from .base import BaseDirectory
from .passwords import hash_password
from .records import TABLES, Change, R, Record, View, owned_key_of

T = TypeVar("T")

_CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def cheap_hash(password: str) -> str:
    """A hash that costs nothing, and protects nothing: for tests."""
    return hash_password(password, _CHEAP)


class MemoryDirectory(BaseDirectory):
    """The twin of :class:`~.lmdb_directory.LmdbDirectory` that forgets everything at the end."""

    def __init__(
        self,
        settings: Local,
        clock: IReactorTime,
        hash_password: Callable[[str], str] = cheap_hash,
        make_keys: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__(settings, clock, hash_password, make_keys)
        self.secret = os.urandom(32)
        self._tables = _Tables({kind: {} for kind in TABLES.values()}, [])

    def _view(self, read: Callable[[View], T]) -> T:
        return read(self._tables)

    def _change(self, write: Callable[[Change], T]) -> T:
        changed = _Tables({kind: dict(table) for kind, table in self._tables.records.items()}, self._tables.keys[:])
        result = write(changed)
        self._tables = changed
        return result


class _Tables:
    def __init__(self, records: dict[type[Record], dict[bytes, Record]], keys: list[bytes]) -> None:
        self.records = records
        self.keys = keys

    def get(self, kind: type[R], key: bytes) -> R | None:
        return cast("R | None", self.records[kind].get(key))

    def under(self, kind: type[R], prefix: bytes) -> Iterator[R]:
        table = self.records[kind]
        return iter([cast("R", table[key]) for key in sorted(table) if key.startswith(prefix)])

    def owned(self, prefix: bytes) -> Iterator[bytes]:
        start = bisect.bisect_left(self.keys, prefix)
        for key in self.keys[start:]:
            if not key.startswith(prefix):
                return
            yield key

    def put(self, key: bytes, record: Record) -> None:
        owned = owned_key_of(record)
        if owned is not None and key not in self.records[type(record)]:
            bisect.insort(self.keys, owned)
        self.records[type(record)][key] = record

    def delete(self, key: bytes, record: Record) -> None:
        owned = owned_key_of(record)
        if owned is not None:
            self.keys.remove(owned)
        del self.records[type(record)][key]
