"""What the sources of passwords share."""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


class NoAnswer(Exception):
    """Whether a password is right can't be known now; the words are for the operator."""


def one_of_many(waiting: list[Deferred[T]]) -> Deferred[T]:
    """One more that waits for the same; leaves the list when it is cancelled."""
    one: Deferred[T] = Deferred(waiting.remove)
    waiting.append(one)
    return one
