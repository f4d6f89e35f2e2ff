"""How many of something are open now, by key: here, and in the other processes of the service."""

from __future__ import annotations

from collections.abc import Callable


class Tally:
    """Counts that several processes share.

    Each process counts its own and is told how many the others have, a few milliseconds late: a limit may be passed by
    as many as come to different processes at the same instant.  ``changed`` is called with a key whose own count has
    changed, and that count.
    """

    __slots__ = ("changed", "others", "own")

    def __init__(self) -> None:
        self.own: dict[str, int] = {}
        self.others: dict[str, int] = {}
        self.changed: Callable[[str, int], object] | None = None

    def total(self, key: str) -> int:
        """How many there are, in all processes."""
        return self.own.get(key, 0) + self.others.get(key, 0)

    def add(self, key: str) -> None:
        """One more, here."""
        self.own[key] = count = self.own.get(key, 0) + 1
        if self.changed is not None:
            self.changed(key, count)

    def remove(self, key: str) -> None:
        """One less, here."""
        count = self.own[key] - 1
        if count:
            self.own[key] = count
        else:
            del self.own[key]
        if self.changed is not None:
            self.changed(key, count)

    def elsewhere(self, key: str, count: int) -> None:
        """So many there are in the others."""
        if count:
            self.others[key] = count
        else:
            self.others.pop(key, None)
