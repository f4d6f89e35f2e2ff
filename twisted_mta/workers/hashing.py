"""Which worker a destination belongs to: rendezvous hashing.

Each worker draws a number for a destination, and the highest has it.  When one of N workers goes, only what it had
moves, spread over the others; when it comes back exactly that comes back.  The hash is the same in every process and
every version of Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

REMEMBERED = 20_000
"""Destinations whose owner is kept at hand."""


def owner(destination: str, slots: Sequence[int]) -> int:
    """The worker, one of ``slots``, that a destination belongs to."""
    name = destination.encode("utf-8", "surrogatepass")
    return max(slots, key=lambda slot: blake2b(name, digest_size=8, salt=slot.to_bytes(16, "big")).digest())


class Division:
    """Destinations divided over ``slots``; never changes."""

    def __init__(self, slots: Sequence[int]) -> None:
        if not slots:
            raise ValueError("there must be a worker")
        self.slots = tuple(sorted(slots))
        self._owners: dict[str, int] = {}

    def owner(self, destination: str) -> int:
        """Whose a destination is."""
        owners = self._owners
        found = owners.get(destination)
        if found is None:
            if len(owners) >= REMEMBERED:
                owners.clear()
            found = owners[destination] = owner(destination, self.slots)
        return found


class Mine:
    """Says of a destination whether it is that of the worker ``slot``."""

    __slots__ = ("_division", "_slot")

    def __init__(self, division: Division, slot: int) -> None:
        self._division = division
        self._slot = slot

    def __call__(self, destination: str) -> bool:
        return self._division.owner(destination) == self._slot
