"""Times by which entries in memory have to be delivered (RFC 2852): none is overlooked while it waits its turn."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count

from .lanes import Entry

SLACK = 100
"""Entries that are over may be remembered beyond the number of those that are not."""


class Deadlines:
    """Entries by the time at which something is to be done about them; empty where nobody has asked for a time.

    ``waits`` says of an entry whether it still waits for its turn.
    """

    __slots__ = ("_heap", "_number", "_waits")

    def __init__(self, waits: Callable[[Entry], bool]) -> None:
        self._heap: list[tuple[float, int, Entry]] = []
        self._number = count()
        self._waits = waits

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, entry: Entry, most: int) -> None:
        """An entry begins to wait.  ``most`` is how many can wait at all: others are forgotten when they are more."""
        handling = entry.message.handling
        if handling is None or not handling.deliver_by or (handling.by_mode == "N" and entry.delivery.overdue):
            return
        heapq.heappush(self._heap, (handling.deliver_by, next(self._number), entry))
        if len(self._heap) > 2 * most + SLACK:
            self._heap = [item for item in self._heap if self._waits(item[2])]
            heapq.heapify(self._heap)

    def over(self, now: float) -> Iterator[Entry]:
        """Those whose time is over and that still wait, each once."""
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)[2]
            if self._waits(entry):
                yield entry
