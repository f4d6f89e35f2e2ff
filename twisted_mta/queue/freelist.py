"""Which pages of an LMDB file are free, read from the file itself: the library does not say.

It is asked where a file is shorter than the pages it has given out.  LMDB leaves the last of them unwritten where they
were given and taken back in one transaction, and only then the file is sound.  The layout is that of LMDB 0.9 on a
64-bit machine, which has not changed since 2013 (``mdb.c``: MDB_page, MDB_meta, MDB_node, MDB_ID2L).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

_HEADER = 16
_META = struct.Struct("=IIQQ")
_DB = struct.Struct("=IHHQQQQQ")
_END = struct.Struct("=QQ")
_NODE = struct.Struct("=HHHH")
_PAGE = struct.Struct("=QHHHH")
_LEAF, _BRANCH, _OVERFLOW = 2, 1, 4
_BIG = 1
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_NONE = (1 << 64) - 1
_DEEPEST = 32

_Read = Callable[[int, int], bytes]


def free_pages(data: Path, size: int) -> set[int]:
    """The numbers of the free pages of the newer of both states of a file, whose pages have ``size`` octets.

    Raises ValueError where the file does not say.
    """
    with data.open("rb", buffering=0) as file:

        def read(page: int, count: int = 1) -> bytes:
            file.seek(page * size)
            found = file.read(count * size)
            if len(found) != count * size:
                raise ValueError(f"page {page} is not in the file")
            return found

        try:
            found: set[int] = set()
            root = _root(read)
            if root != _NONE:
                _walk(read, root, found, 0)
        except (struct.error, OverflowError) as error:
            raise ValueError(f"a page is damaged: {error}") from error
    return found


def _root(read: _Read) -> int:
    """The root of the table of free pages."""
    states = []
    for number in range(2):
        page = read(number, 1)
        magic, version, _, _ = _META.unpack_from(page, _HEADER)
        if (magic, version) != (_MAGIC, _VERSION):
            raise ValueError(f"page {number} has another format")
        free = _DB.unpack_from(page, _HEADER + _META.size)
        _, transaction = _END.unpack_from(page, _HEADER + _META.size + 2 * _DB.size)
        states.append((transaction, free[-1]))
    return int(max(states)[1])


def _walk(read: _Read, number: int, found: set[int], depth: int) -> None:
    page = read(number, 1)
    itself, _, flags, lower, _ = _PAGE.unpack_from(page)
    if itself != number or depth > _DEEPEST or not flags & (_LEAF | _BRANCH):
        raise ValueError(f"page {number} is damaged")
    for at in range((lower - _HEADER) // 2):
        (offset,) = struct.unpack_from("=H", page, _HEADER + 2 * at)
        low, high, kind, key = _NODE.unpack_from(page, offset)
        if flags & _BRANCH:
            _walk(read, low | high << 16 | kind << 32, found, depth + 1)
            continue
        value = page[offset + _NODE.size + key :][: low | high << 16]
        if kind & _BIG:
            value = _overflow(read, *struct.unpack_from("=Q", page, offset + _NODE.size + key))
        (count,) = struct.unpack_from("=Q", value)
        found.update(struct.unpack_from(f"={count}Q", value, 8))


def _overflow(read: _Read, number: int) -> bytes:
    first = read(number, 1)
    itself, _, flags, count = struct.unpack_from("=QHHI", first)
    if itself != number or not flags & _OVERFLOW:
        raise ValueError(f"page {number} is damaged")
    return read(number, count)[_HEADER:]
