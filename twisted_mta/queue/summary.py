"""Which of the segments of :mod:`.terms` certainly do not have a term, said for 64 of them at once.

To ask ten thousand segments is to read a page or two of each, from anywhere in the file.  A *summary* says beforehand
which of its 64 segments need not be asked: it has a Bloom filter for each, of which it keeps the same bit of all 64
together, as one word, and all words of a term in one page.  So one page tells of 64 segments what few of them have.

A summary is a row of its own, which lists the last ids of its segments, and its pages.  Whoever changes a segment
strikes it from that list, and it is asked again.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, Final

import msgspec

from ..mail.ids import ID_BYTES
from .environment import Tables
from .pieces import PIECE

GROUP: Final = 64
"""Segments of one summary: the bits of a word."""

BITS: Final = 12
"""Bits for each term of the segment that has most of them: one segment of some 200 is asked in vain."""

WORDS: Final = PIECE // 8
"""Words of a page."""

_MARK, _READY = 1, 2
_HEAD = Struct("=BxH8s")  # which of these, pages, and what tells one mark from another
_STRUCK = bytes(ID_BYTES)
_SHIFTS = (55, 46, 37, 28, 19, 10)


class Header(msgspec.Struct):
    """The row of a summary: under the last of its segments, the last ids of all, in order.

    One that is not ``ready`` is being made, and ``token`` says by whom.
    """

    ready: bool
    pages: int
    token: bytes
    ends: list[bytes]

    @classmethod
    def new(cls, ends: Sequence[bytes]) -> Header:
        """One that is to be made."""
        return cls(False, 0, os.urandom(8), list(ends))

    @classmethod
    def read(cls, raw: bytes | memoryview) -> Header:
        """From its row."""
        state, pages, token = _HEAD.unpack_from(raw)
        rest = bytes(raw[_HEAD.size :])
        ends = [rest[at : at + ID_BYTES] for at in range(0, len(rest), ID_BYTES)]
        return cls(state == _READY, pages, token, ends)

    def row(self) -> bytes:
        """As it is stored."""
        return _HEAD.pack(_READY if self.ready else _MARK, self.pages, self.token) + b"".join(self.ends)

    def strike(self, end: bytes) -> bool:
        """Say nothing of a segment any more.  Whether something was said of it."""
        if end not in self.ends:
            return False
        self.ends[self.ends.index(end)] = _STRUCK
        return True

    @property
    def struck(self) -> int:
        """Of how many segments nothing is said any more."""
        return self.ends.count(_STRUCK)


def page_key(end: bytes, number: int) -> bytes:
    """The key of a page of the summary whose last segment ends there."""
    return end + number.to_bytes(2, "big")


def pages_for(terms: int) -> int:
    """Pages of a summary of segments with so many different terms, each, at most."""
    return min(max(1, math.ceil(terms * BITS / WORDS)), 0xFFFF)


def words_of(term: int) -> list[int]:
    """Which words of its page a term has."""
    mixed = term * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    return [(mixed >> shift & 511) % WORDS for shift in _SHIFTS]


class Bits:
    """The pages of a summary in the making."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self._words = array("Q", bytes(8 * WORDS * pages))

    def add(self, number: int, terms: Sequence[int]) -> None:
        """The segment of that number has these terms."""
        words, pages, bit = self._words, self.pages, 1 << number
        for term in terms:
            first = (term * pages >> 32) * WORDS
            mixed = term * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
            for shift in _SHIFTS:
                words[first + (mixed >> shift & 511) % WORDS] |= bit

    def rows(self, end: bytes) -> list[tuple[bytes, bytes]]:
        """As they are stored."""
        raw = self._words.tobytes()
        size = 8 * WORDS
        return [(page_key(end, number), raw[number * size : (number + 1) * size]) for number in range(self.pages)]


def having(header: Header, term: int, page: Callable[[int], bytes | memoryview | None]) -> int:
    """The segments, a bit for each, that may have a term.  ``page`` gives the page of a number."""
    raw = page(term * header.pages >> 32)
    if raw is None or len(raw) != 8 * WORDS:
        return -1
    words = memoryview(raw).cast("Q")
    found = -1
    for number in words_of(term):
        found &= words[number]
    return found


class Sieve:
    """Passes over segments, in order, that do not have all of some terms; in the snapshot of ``txn``."""

    def __init__(self, txn: Any, tables: Tables, terms: Sequence[int]) -> None:
        self._txn = txn
        self._table = tables.summary
        self._terms = terms
        self._end = b""
        self._without: frozenset[bytes] | set[bytes] = frozenset()

    def lacks(self, last: bytes) -> bool:
        """Whether the segment with that last id certainly has nothing; those before it are not asked for again."""
        if last > self._end:
            self._load(last)
        return last in self._without

    def _load(self, last: bytes) -> None:
        self._end, self._without = b"\xff" * ID_BYTES, frozenset()
        with self._txn.cursor(self._table) as cursor:
            if not cursor.set_range(last):
                return
            end = bytes(cursor.key())
            if len(end) != ID_BYTES:
                return
            header = Header.read(cursor.value())
        self._end = end
        if header.ready:
            found = -1
            for term in self._terms:
                found &= having(header, term, lambda number: self._txn.get(page_key(end, number), db=self._table))
            self._without = {it for number, it in enumerate(header.ends) if not found >> number & 1}


def strike(txn: Any, tables: Tables, last: bytes) -> None:
    """A segment is not what it was: no summary may say anything of it."""
    with txn.cursor(tables.summary) as cursor:
        if cursor.set_range(last) and len(cursor.key()) == ID_BYTES:
            header = Header.read(cursor.value())
            if header.strike(last):
                cursor.put(bytes(cursor.key()), header.row())
