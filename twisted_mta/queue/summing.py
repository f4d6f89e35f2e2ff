"""Making the summaries of :mod:`.summary`, as segments are made: a mark, a snapshot, and an entry in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import Any

from ..mail.ids import ID_BYTES
from .batch import Batch
from .environment import Environment
from .operations import Operation
from .summary import GROUP, Bits, Header, pages_for
from .terms import Segment, is_segment

PASSES = 4096
"""Segments that are passed at once to find some without a summary."""

WORN = GROUP // 4
"""Segments of which a summary says nothing any more, and is given up."""

WORK = 0.001
PAUSE = 0.002
"""Seconds of work in a thread, and of waiting, in turns: whoever needs the interpreter is not held up."""

SLICE = 128
"""Terms between two looks at the clock."""

_SHORT = 64
"""Octets of which an interval without a segment has less."""


class Announce(Operation):
    """Say that a summary is being made."""

    __slots__ = ("_end", "_row")

    def __init__(self, header: Header) -> None:
        super().__init__()
        self._end = header.ends[-1]
        self._row = header.row()

    def apply(self, batch: Batch) -> None:
        batch.txn.put(self._end, self._row, db=batch.tables.summary)


class Sum(Operation):
    """Enter a summary, if it is still being made by who announced it."""

    __slots__ = ("_bits", "_header", "_there", "weight")

    def __init__(self, header: Header, there: list[bytes], bits: Bits) -> None:
        super().__init__()
        self._header = header
        self._there = there
        self._bits = bits
        self.weight = bits.pages * 4096

    def apply(self, batch: Batch) -> None:
        table, end = batch.tables.summary, self._header.ends[-1]
        raw = batch.txn.get(end, db=table)
        now = Header.read(raw) if raw is not None else None
        if now is None or now.ready or now.token != self._header.token:
            return
        for one in self._header.ends:
            if one not in self._there or batch.is_spoilt(one):
                now.strike(one)
        now.ready, now.pages = True, self._bits.pages
        batch.txn.put(end, now.row(), db=table)
        with batch.txn.cursor(table) as cursor:
            cursor.putmulti(self._bits.rows(end))


class GiveUp(Operation):
    """Remove a summary."""

    __slots__ = ("_end",)
    bulk = True

    def __init__(self, end: bytes) -> None:
        super().__init__()
        self._end = end

    def apply(self, batch: Batch) -> None:
        give_up(batch, self._end)


def give_up(batch: Batch, end: bytes) -> None:
    """Remove the summary whose last segment ends, or ended, there."""
    with batch.txn.cursor(batch.tables.summary) as cursor:
        more = cursor.set_range(end)
        while more and cursor.key().startswith(end):
            more = cursor.delete()


class Summarizer:
    """Finds segments without a summary, and has one made of them.  Used by one task at a time."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._tables = environment.tables
        self._position = b""
        self._stopped = False

    def stop(self) -> None:
        """Give up what is being made."""
        self._stopped = True

    async def step(self, read: Callable[..., Any], submit: Callable[[Operation], Any]) -> bool:
        """Make one summary, or remove one that is worn out; false: there was nothing to do."""
        wanted = await read(self._wanted)
        if wanted is None or self._stopped:
            return False
        if isinstance(wanted, bytes):
            await submit(GiveUp(wanted))
            return not self._stopped
        header = Header.new(*wanted)
        await submit(Announce(header))
        gathered = await read(self._gather, header)
        if gathered is not None:
            await submit(Sum(header, *gathered))
        return not self._stopped

    # In a thread

    def _wanted(self) -> tuple[bytes, list[bytes]] | bytes | None:
        """The end before segments that are to have a summary, and theirs; or that of a summary that is to go."""
        run: list[bytes] = []
        with (
            self._environment.read_in_thread(buffers=True) as txn,
            txn.cursor(self._tables.segment) as cursor,
            txn.cursor(self._tables.summary) as summaries,
        ):
            more = cursor.set_range(self._position + b"\0") if self._position else cursor.first()
            end, ends = b"", frozenset[bytes]()
            before = self._position
            for _ in range(PASSES):
                if not more:
                    break
                last, raw = bytes(cursor.key()), cursor.value()
                if last > end:
                    end, ends = b"\xff" * ID_BYTES, frozenset()
                    if summaries.set_range(last):
                        end, header = bytes(summaries.key()), Header.read(summaries.value())
                        if not header.ready or header.struck.bit_count() > WORN:
                            return end
                        ends = frozenset(header.ends)
                if last in ends:
                    run, before = [], end
                    more = cursor.set_range(end + b"\0")
                    continue
                if len(raw) < _SHORT and not is_segment(raw):
                    run, before = [], last
                else:
                    run.append(last)
                    if len(run) == GROUP:
                        self._position = before
                        return before, run
                more = cursor.next()
            self._position = before if more else b""
        return None

    def _gather(self, header: Header) -> tuple[list[bytes], Bits] | None:
        """The segments that are there, and what they have; None: it is given up."""
        pause = monotonic() + WORK
        with self._environment.read_in_thread(buffers=True) as txn:
            segments = [(number, end, txn.get(end, db=self._tables.segment)) for number, end in enumerate(header.ends)]
            there = [
                (number, end, Segment(raw)) for number, end, raw in segments if raw is not None and is_segment(raw)
            ]
            most = 0
            for _, _, segment in there:
                most = max(most, len(segment.different()))
                sleep(PAUSE)
            bits = Bits(pages_for(most))
            for number, _, segment in there:
                for terms in _sliced(segment.different()):
                    if self._stopped or self._environment.gate.wanted:
                        return None
                    bits.add(number, terms)
                    if monotonic() >= pause:
                        sleep(PAUSE)
                        pause = monotonic() + WORK
        return [end for _, end, _ in there], bits


def _sliced(terms: list[int]) -> Iterator[list[int]]:
    for at in range(0, len(terms), SLICE):
        yield terms[at : at + SLICE]
