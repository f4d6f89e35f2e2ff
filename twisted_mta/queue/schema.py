"""Schema versions of the queue: how one that an earlier version of the program wrote becomes one of this version.

A migration is a function that turns schema ``n`` into ``n + 1`` in a write transaction.  All that are needed run in a
single one: a process that dies halfway leaves the queue as it was.  What a migration may rely on is the tables' layout
at its time, never the records' classes of today: those change, a migration does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from .records import META_SCHEMA, SCHEMA

Migration: TypeAlias = Callable[[Any, Any], None]
"""Given the environment (for tables to be made with ``open_db(name, txn=txn)``) and the transaction."""

VERSION = SCHEMA
"""The schema that this version of the program reads and writes."""

MIGRATIONS: Mapping[int, Migration] = {}
"""By the schema that each starts from."""


def known(found: int) -> bool:
    """Whether there is a way from a schema to the one of this version."""
    return found <= VERSION and all(version in MIGRATIONS for version in range(found, VERSION))


def migrate(env: Any, txn: Any, found: int) -> None:
    """Bring a queue of schema ``found`` to this version's, in a write transaction that the caller commits."""
    meta = env.open_db(b"meta", txn=txn, create=False)
    for version in range(found, VERSION):
        MIGRATIONS[version](env, txn)
        txn.put(META_SCHEMA, b"%d" % (version + 1), db=meta)
