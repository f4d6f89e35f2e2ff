"""What is open in each worker, and so in all others: the parent's book of counts."""

from __future__ import annotations

from collections.abc import Iterable

Key = tuple[str, str]
"""The kind of what is counted ("sessions", "addresses", "customers", "etrn") and which one."""
Entry = tuple[str, str, int]


class Ledger:
    """Counts by worker.  Pure: what is to be told to whom is taken with :meth:`news`."""

    def __init__(self) -> None:
        self._own: dict[int, dict[Key, int]] = {}
        self._totals: dict[Key, int] = {}
        self._news: dict[int, set[Key]] = {}

    def join(self, slot: int) -> tuple[Entry, ...]:
        """A worker begins, with nothing open; what the others have."""
        self.leave(slot)
        self._own[slot] = {}
        self._news[slot] = set()
        return tuple((kind, key, count) for (kind, key), count in self._totals.items())

    def leave(self, slot: int) -> None:
        """A worker has ended, and with it all that it had open."""
        own = self._own.pop(slot, {})
        self._news.pop(slot, None)
        for key, count in own.items():
            self._change(slot, key, -count)

    def say(self, slot: int, entries: Iterable[Entry]) -> None:
        """A worker says how many it has."""
        own = self._own.get(slot)
        if own is None:
            return
        for kind, name, count in entries:
            key = (kind, name)
            before = own.get(key, 0)
            if count:
                own[key] = count
            else:
                own.pop(key, None)
            if count != before:
                self._change(slot, key, count - before)

    def _change(self, slot: int, key: Key, difference: int) -> None:
        total = self._totals.get(key, 0) + difference
        if total:
            self._totals[key] = total
        else:
            self._totals.pop(key, None)
        for other, news in self._news.items():
            if other != slot:
                news.add(key)

    def news(self) -> dict[int, list[Entry]]:
        """For each worker what has changed in the others since the last time: how many they have now."""
        found: dict[int, list[Entry]] = {}
        for slot, news in self._news.items():
            if news:
                own = self._own[slot]
                found[slot] = [
                    (kind, name, self._totals.get((kind, name), 0) - own.get((kind, name), 0)) for kind, name in news
                ]
                news.clear()
        return found
