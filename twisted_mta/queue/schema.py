"""Schema versions of the queue: how one that an earlier version of the program wrote becomes one of this version.

A migration is a function that turns schema ``n`` into ``n + 1`` in a write transaction.  All that are needed run in a
single one: a process that dies halfway leaves the queue as it was.  What a migration may rely on is the tables' layout
at its time, never the records' classes of today: those change, a migration does not.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import lmdb
import msgspec

from .access import opening
from .records import META_SCHEMA, SCHEMA
from .terms import normal

Migration: TypeAlias = Callable[[Any, Any], None]
"""Given the environment (for tables to be made with ``open_db(name, txn=txn)``) and the transaction."""

VERSION = SCHEMA
"""The schema that this version of the program reads and writes."""

_SLICE = 100_000
"""Rows that a migration keeps in memory."""


def _index_replies_and_holds(env: Any, txn: Any) -> None:
    """1 to 2: what is on hold, and what was last answered, can be looked for; segments are made by and by."""
    delivery = env.open_db(b"delivery", txn=txn, create=False)
    held, reason, _ = [env.open_db(name, txn=txn) for name in (b"held", b"reason", b"segment")]
    texts: dict[bytes, bytes] = {}
    rows: list[tuple[bytes, bytes]] = []
    with txn.cursor(delivery) as cursor:
        for key, row in cursor:
            # (tag, id, destination, customer, recipients, next attempt, state, attempts, last attempt, last reply, ...)
            fields = msgspec.msgpack.decode(row)
            if fields[6] == "held":
                txn.put(key, b"", db=held)
            if fields[9]:
                text = normal(fields[9]).encode("utf-8", "surrogatepass")
                name = hashlib.blake2b(text, digest_size=8).digest()
                rows.append((name + key, b""))
                texts[name] = text
                if len(rows) >= _SLICE:
                    _put_all(txn, reason, rows, texts)
    _put_all(txn, reason, rows, texts)


def _put_all(txn: Any, table: Any, rows: list[tuple[bytes, bytes]], texts: dict[bytes, bytes]) -> None:
    rows += texts.items()
    rows.sort()
    with txn.cursor(table) as cursor:
        cursor.putmulti(rows)
    rows.clear()
    texts.clear()


MIGRATIONS: Mapping[int, Migration] = {1: _index_replies_and_holds}
"""By the schema that each starts from."""


def runs(found: int) -> str:
    """Why a queue of schema ``found`` can't be brought up to date now, and what to do."""
    return (
        f"it has schema {found}, this version of the program writes schema {VERSION}, and the version that writes "
        f"{found} still runs; stop that and start this one (systemctl restart twisted-mta): it brings the queue up to "
        "date as it opens it"
    )


def schema_of(path: str | os.PathLike[str]) -> int | None:
    """The schema of the queue in a folder; None where there is no queue.  Raises OSError and ``lmdb.Error``."""
    if not (Path(path) / "data.mdb").exists():
        return None
    with opening(Path(path)):
        env = lmdb.open(str(path), readonly=True, max_dbs=1, lock=True)
    with env:
        try:
            meta = env.open_db(b"meta", create=False)
        except lmdb.NotFoundError:
            return None
        with env.begin() as txn:
            found = txn.get(META_SCHEMA, db=meta)
    return int(found) if found is not None and found.isdigit() else None


def known(found: int) -> bool:
    """Whether there is a way from a schema to the one of this version."""
    return found <= VERSION and all(version in MIGRATIONS for version in range(found, VERSION))


def migrate(env: Any, txn: Any, found: int) -> None:
    """Bring a queue of schema ``found`` to this version's, in a write transaction that the caller commits."""
    meta = env.open_db(b"meta", txn=txn, create=False)
    for version in range(found, VERSION):
        MIGRATIONS[version](env, txn)
        txn.put(META_SCHEMA, b"%d" % (version + 1), db=meta)
