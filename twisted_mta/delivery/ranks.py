"""Who goes first where several priorities wait (RFC 6710 §5).  Pure.

The highest goes first; but one turn in :data:`YIELD` is for one of the lower ones, each of them in rotation: however
much waits above them, none of the 19 is left out, and the next one down gets an eighth at least.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from .lanes import WaitingLane

YIELD = 8
"""One turn in so many is a lower priority's."""

_Level = TypeVar("_Level", bound=Sized)


class Ranks(Generic[_Level]):
    """Something that may be empty for each priority; ``make`` makes it.  ``usual`` is that of priority 0; while
    ``others`` is empty it is all there is, and nothing is compared."""

    __slots__ = ("_alone", "_make", "_rotation", "_since", "others", "usual")

    def __init__(self, make: Callable[[], _Level]) -> None:
        self._make = make
        self.usual = make()
        self._alone = (self.usual,)
        self.others: dict[int, _Level] = {}
        self._since = 0
        self._rotation = 0

    def __bool__(self) -> bool:
        return bool(self.usual) or (bool(self.others) and any(self.others.values()))

    def level(self, priority: int) -> _Level:
        """That of a priority, to add to."""
        if not priority:
            return self.usual
        level = self.others.get(priority)
        if level is None:
            level = self.others[priority] = self._make()
        return level

    def order(self) -> Sequence[_Level]:
        """Those to be asked for the next turn, one after the other until one has something to give."""
        if not self.others:
            return self._alone
        self.others = {priority: level for priority, level in self.others.items() if level}
        ranked = dict(self.others)
        if self.usual:
            ranked[0] = self.usual
        levels = [ranked[priority] for priority in sorted(ranked, reverse=True)]
        if len(levels) > 1:
            self._since += 1
            if self._since >= YIELD:
                self._since = 0
                self._rotation += 1
                levels.insert(0, levels.pop(1 + self._rotation % (len(levels) - 1)))
        return levels

    def all(self) -> Iterator[_Level]:
        """All of them, in no order."""
        yield self.usual
        yield from self.others.values()


class LaneQueue:
    """Lanes that wait in line, those of a higher priority before others."""

    __slots__ = ("_ranks",)

    def __init__(self) -> None:
        # There are two of these for each of thousands of destinations, and in nearly all of them nobody waits.
        self._ranks: Ranks[deque[WaitingLane]] | None = None

    def __bool__(self) -> bool:
        return self._ranks is not None and bool(self._ranks)

    def push(self, lane: WaitingLane) -> None:
        """A lane takes its place at the end of those of its priority."""
        if self._ranks is None:
            self._ranks = Ranks(deque)
        self._ranks.level(lane.priority).append(lane)

    def pop(self) -> WaitingLane:
        """The lane whose turn it is.  Raises IndexError where none waits."""
        ranks = self._ranks
        if ranks is not None:
            for lanes in ranks.order():
                if lanes:
                    lane = lanes.popleft()
                    if not (lanes or ranks.others):  # else it knows whose turn is next
                        self._ranks = None
                    return lane
        raise IndexError("no lane waits")

    def drain(self) -> list[WaitingLane]:
        """All of them, which leave."""
        ranks, self._ranks = self._ranks, None
        return [] if ranks is None else [lane for lanes in ranks.all() for lane in lanes]
