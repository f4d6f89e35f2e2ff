"""Values in pieces of a page each.

LMDB keeps a value that is larger than a page in pages that lie one behind the other.  In the file of a queue that is
large, or old, what is free are single pages here and there: for each such value LMDB would look through all of them in
vain, write the list of them anew with the commit, and make the file larger.  Ten millions queued and 140,000 pages
free made a commit of fifty messages of 4 KiB take 30 ms of processor time instead of two.  So what can be long, content
and history, is stored in pieces, and any free page will do.

The first piece stands under the key itself, the others under the key and their number.  A value of an earlier schema is
one piece, however long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from .environment import Db

PIECE: Final = 4080
"""Octets that a page of 4 KiB takes beside its header; where pages are larger, more than one piece has room in one."""

_NUMBER: Final = 2

Row = tuple[bytes, bytes | memoryview]


def in_pieces(key: bytes, value: bytes | memoryview) -> list[Row]:
    """The rows of a value."""
    size = len(value)
    if size <= PIECE:
        return [(key, value)]
    view = memoryview(value)
    rows: list[Row] = [(key, view[:PIECE])]
    rows += [
        (key + number.to_bytes(_NUMBER, "big"), view[at : at + PIECE])
        for number, at in enumerate(range(PIECE, size, PIECE), 1)
    ]
    return rows


def whole(txn: Any, table: Db, key: bytes) -> bytes | None:
    """The value under a key; None: there is none."""
    first: bytes | None = txn.get(key, db=table)
    if first is None or len(first) != PIECE:
        return first
    parts = [first]
    with txn.cursor(table) as cursor:
        more = cursor.set_range(key + b"\0")
        while more:
            there, part = cursor.item()
            if not there.startswith(key):
                break
            parts.append(part)
            more = cursor.next()
    return b"".join(parts)


def joined(rows: Iterable[tuple[bytes, bytes]], size: int) -> Iterator[bytes]:
    """The values of rows in order whose keys have ``size`` octets."""
    parts: list[bytes] = []
    for key, value in rows:
        if len(key) == size and parts:
            yield b"".join(parts)
            parts = []
        parts.append(value)
    if parts:
        yield b"".join(parts)
