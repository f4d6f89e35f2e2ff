"""Schema versions of the queue: how one that an earlier version of the program wrote becomes one of this version.

A migration is a function that turns schema ``n`` into ``n + 1`` in a write transaction.  All that are needed run in a
single one: a process that dies halfway leaves the queue as it was.  What a migration may rely on is the tables' layout
at its time, never the records' classes of today: those change, a migration does not.
"""

from __future__ import annotations

import hashlib
import heapq
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


def _join_lanes_and_due(env: Any, txn: Any) -> None:
    """2 to 3: a lane's row stands before its deliveries; what is in the memory of a process is in no lane."""
    delivery, due, lane, wake, meta = [
        env.open_db(name, txn=txn, create=False) for name in (b"delivery", b"due", b"lane", b"wake", b"meta")
    ]
    lanes, owned = [env.open_db(name, txn=txn) for name in (b"lanes", b"owned")]
    away = _take_owned(txn, delivery, due, owned)
    rows: list[tuple[bytes, bytes]] = []
    destinations, last = 0, b""
    with txn.cursor(lane) as cursor, txn.cursor(due) as entries:
        for key, row in heapq.merge(cursor, entries):
            if len(key) == 24:
                if key in away:
                    row = _without(txn, due, wake, key, row, away[key])
                    if not row:
                        continue
                destinations += key[:16] != last
                last = key[:16]
            elif key in away.get(key[:24], ()):
                continue
            rows.append((key, row))
            if len(rows) >= _SLICE:
                _append(txn, lanes, rows)
    _append(txn, lanes, rows)
    totals = txn.get(b"totals", db=meta)
    if totals is not None:
        # (tag, messages, deliveries, recipients, octets, held, destinations)
        fields = msgspec.msgpack.decode(totals)
        fields[6] = destinations
        txn.put(b"totals", msgspec.msgpack.encode(fields), db=meta)
    for table in (due, lane):
        txn.drop(table)


def _take_owned(txn: Any, delivery: Any, due: Any, owned: Any) -> dict[bytes, dict[bytes, tuple[int, bool]]]:
    """Enter what is in the memory of processes.  By lane, its keys in ``due``, each with how many recipients it has and
    whether it is on hold."""
    away: dict[bytes, dict[bytes, tuple[int, bool]]] = {}
    rows: list[tuple[bytes, bytes]] = []
    with txn.cursor(delivery) as cursor:
        for key, row in cursor:
            # (tag, id, destination, customer, recipients, next attempt, state, attempts, last attempt, last reply,
            #  last status, last host, warned, owner, deaths, priority, ...)
            fields = msgspec.msgpack.decode(row)
            owner = fields[13] if len(fields) > 13 else 0
            if owner:
                priority = fields[15] if len(fields) > 15 else 0
                whose = f"{fields[3]}\0{priority}" if priority else fields[3]
                held = fields[6] == "held"
                time = b"\xff" * 8 if held else max(0, round(fields[5] * 1e6)).to_bytes(8, "big")
                lane = key[10:] + hashlib.blake2b(whose.encode("utf-8", "surrogatepass"), digest_size=8).digest()
                entry = lane + time + key[:10]
                rows.append((owner.to_bytes(4, "big") + time + key, b""))
                if txn.get(entry, db=due) is not None:
                    away.setdefault(lane, {})[entry] = len(fields[4]), held
    _put_all(txn, owned, rows, {})
    return away


def _without(
    txn: Any, due: Any, wake: Any, lane: bytes, row: bytes, away: Mapping[bytes, tuple[int, bool]]
) -> bytes | None:
    """The row of a lane without these deliveries, and its entry in ``wake`` made anew; None: it has no other."""
    # (tag, destination, customer, deliveries, recipients, held, wake, priority)
    fields = msgspec.msgpack.decode(row)
    fields[3] -= len(away)
    fields[4] -= sum(recipients for recipients, _ in away.values())
    fields[5] -= sum(held for _, held in away.values())
    first = b""
    with txn.cursor(due) as cursor:
        more = cursor.set_range(lane)
        while more and cursor.key() in away:
            more = cursor.next()
        if more and cursor.key().startswith(lane):
            first = cursor.key()[24:32]
    wakes = b"" if first == b"\xff" * 8 else first
    if wakes != fields[6]:
        if fields[6]:
            txn.delete(fields[6] + lane, db=wake)
        if wakes:
            txn.put(wakes + lane, b"", db=wake)
        fields[6] = wakes
    return msgspec.msgpack.encode(fields) if first else None


def _append(txn: Any, table: Any, rows: list[tuple[bytes, bytes]]) -> None:
    with txn.cursor(table) as cursor:
        cursor.putmulti(rows, append=True)
    rows.clear()


def _add_summaries(env: Any, txn: Any) -> None:
    """3 to 4: long values are stored in pieces of a page, and segments have summaries.  What is stored whole is read as
    it is, and summaries are made by and by."""
    env.open_db(b"summary", txn=txn)


MIGRATIONS: Mapping[int, Migration] = {1: _index_replies_and_holds, 2: _join_lanes_and_due, 3: _add_summaries}
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
