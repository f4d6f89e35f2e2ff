"""Quotas: what a customer has used in a rolling window, and whether one more message fits.

Pure: the caller gives the time and keeps the :class:`Counters` (the LMDB store in one record of its ``usage`` table,
read, checked, charged and written in the transaction that stores the message).

Rates are counted in slots: an hour in 13 of 5 minutes, a day in 25 of an hour.  The slot that is only partly inside
the window counts in full, so in no span of 60 minutes or 24 hours, wherever it begins, is more let through than the
limit.  A clock that steps back by more than a slot takes the slots with it, dated as late as they may be: never is a
charge forgotten early, and none stays longer than two slots beyond its window.
"""

from __future__ import annotations

import math

import msgspec

from ..mail.status import Reply
from .interfaces import Charge, Limits, QuotaExceeded, Usage

HOUR_SLOT, HOUR_SLOTS = 300, 12
DAY_SLOT, DAY_SLOTS = 3600, 24
QUEUED_RETRY = 300.0
"""Seconds after which a customer whose queue is full may try again: nobody knows when it will have drained."""


class Slot(msgspec.Struct, array_like=True):
    """What was charged in one slot; ``number`` is its start divided by its length."""

    number: int
    recipients: int = 0
    messages: int = 0


class Window(msgspec.Struct, array_like=True):
    """Charges of the last ``slots + 1`` slots of ``length`` seconds, oldest first, and their sums."""

    length: int
    slots: int
    charged: list[Slot] = msgspec.field(default_factory=list)
    recipients: int = 0
    messages: int = 0

    def roll(self, now: float) -> int:
        """Forget the slots that have left the window; the number of the slot that ``now`` counts in."""
        current = int(now // self.length)
        charged = self.charged
        if not charged:
            return current
        newest = charged[-1].number
        if newest > current:
            ahead = newest - current - 1
            if ahead:
                for slot in charged:
                    slot.number -= ahead
            current += 1
        oldest = current - self.slots
        while charged and charged[0].number < oldest:
            gone = charged.pop(0)
            self.recipients -= gone.recipients
            self.messages -= gone.messages
        return current

    def add(self, now: float, recipients: int, messages: int) -> None:
        """Count a charge."""
        current = self.roll(now)
        charged = self.charged
        if charged and charged[-1].number == current:
            slot = charged[-1]
        else:
            slot = Slot(current)
            charged.append(slot)
        slot.recipients += recipients
        slot.messages += messages
        self.recipients += recipients
        self.messages += messages

    def wait(self, now: float, excess: int, recipients: bool) -> float:
        """Seconds until so many slots have left the window that ``excess`` is paid off."""
        self.roll(now)
        for slot in self.charged:
            excess -= slot.recipients if recipients else slot.messages
            if excess <= 0:
                return max(1.0, (slot.number + self.slots + 1) * self.length - now)
        return float(self.length * (self.slots + 1))


class Counters(msgspec.Struct, array_like=True, tag=1):
    """All that is counted for one customer."""

    customer: str
    queued_messages: int = 0
    queued_bytes: int = 0
    hour: Window = msgspec.field(default_factory=lambda: Window(HOUR_SLOT, HOUR_SLOTS))
    day: Window = msgspec.field(default_factory=lambda: Window(DAY_SLOT, DAY_SLOTS))

    def check(self, charge: Charge, now: float) -> QuotaExceeded | None:
        """The first limit that the charge would break, or None.  Changes nothing that counts."""
        limits = charge.limits
        if limits.message_bytes is not None and charge.bytes > limits.message_bytes:
            return _too_large(limits.message_bytes)
        exceeded = self._check_rates(charge, now)
        if exceeded is not None:
            return exceeded
        if limits.queued_messages is not None and self.queued_messages + charge.messages > limits.queued_messages:
            return _queue_full("queued_messages", limits.queued_messages, f"{limits.queued_messages} messages")
        if limits.queued_bytes is not None and self.queued_bytes + charge.bytes > limits.queued_bytes:
            if charge.bytes > limits.queued_bytes:
                return _too_large(limits.queued_bytes, "queued_bytes")
            return _queue_full("queued_bytes", limits.queued_bytes, f"{limits.queued_bytes} octets")
        return None

    def _check_rates(self, charge: Charge, now: float) -> QuotaExceeded | None:
        limits, recipients, messages = charge.limits, charge.recipients, charge.messages
        hour, day = self.hour, self.day
        hour.roll(now)
        day.roll(now)
        limit = limits.recipients_per_hour
        if limit is not None and hour.recipients + recipients > limit and recipients:
            return _rate("recipients_per_hour", limit, hour.recipients, recipients, hour, now)
        limit = limits.recipients_per_day
        if limit is not None and day.recipients + recipients > limit and recipients:
            return _rate("recipients_per_day", limit, day.recipients, recipients, day, now)
        limit = limits.messages_per_hour
        if limit is not None and hour.messages + messages > limit and messages:
            return _rate("messages_per_hour", limit, hour.messages, messages, hour, now)
        limit = limits.messages_per_day
        if limit is not None and day.messages + messages > limit and messages:
            return _rate("messages_per_day", limit, day.messages, messages, day, now)
        return None

    def charge(self, charge: Charge, now: float) -> None:
        """Count the recipients and messages of a charge in the windows."""
        self.hour.add(now, charge.recipients, charge.messages)
        self.day.add(now, charge.recipients, charge.messages)

    def queue(self, messages: int, size: int) -> None:
        """Count messages and octets that enter the queue, or with negative numbers leave it."""
        self.queued_messages = max(0, self.queued_messages + messages)
        self.queued_bytes = max(0, self.queued_bytes + size)

    def usage(self, now: float) -> Usage:
        """What is used as of ``now``."""
        self.hour.roll(now)
        self.day.roll(now)
        return Usage(
            customer=self.customer,
            recipients_hour=self.hour.recipients,
            recipients_day=self.day.recipients,
            messages_hour=self.hour.messages,
            messages_day=self.day.messages,
            queued_messages=self.queued_messages,
            queued_bytes=self.queued_bytes,
        )


def check_connections(limits: Limits, open_now: int) -> QuotaExceeded | None:
    """Whether a customer with ``open_now`` sessions may not open another."""
    if limits.connections is None or open_now < limits.connections:
        return None
    text = f"Too many connections at once: your limit is {limits.connections}; close one and try again"
    return QuotaExceeded(Reply(421, "4.7.0", text), "connections", 60.0)


_SPANS = {"hour": "60 minutes", "day": "24 hours"}


def _rate(name: str, limit: int, used: int, cost: int, window: Window, now: float) -> QuotaExceeded:
    what, _, span = name.partition("_per_")
    text = f"Too many {what}: your limit is {limit} in {_SPANS[span]}, and {used} are used"
    if cost > limit:
        return QuotaExceeded(Reply(452, "4.5.3", f"{text}; {cost} at once never fit"), name, None)
    wait = window.wait(now, used + cost - limit, what == "recipients")
    return QuotaExceeded(Reply(452, "4.5.3", f"{text}; try again in {_minutes(wait)}"), name, wait)


def _queue_full(name: str, limit: int, words: str) -> QuotaExceeded:
    if not limit:
        return QuotaExceeded(
            Reply(452, "4.2.2", f"You may not have mail in the queue: your limit is {words}"), name, None
        )
    text = f"Your queue is full: your limit is {words}; try again when some have been delivered"
    return QuotaExceeded(Reply(452, "4.2.2", text), name, QUEUED_RETRY)


def _too_large(limit: int, name: str = "message_bytes") -> QuotaExceeded:
    return QuotaExceeded(Reply(552, "5.3.4", f"The message is too large: your limit is {limit} octets"), name, None)


def _minutes(seconds: float) -> str:
    minutes = max(1, math.ceil(seconds / 60))
    if minutes < 120:
        return f"{minutes} minute{'s' if minutes > 1 else ''}"
    return f"{math.ceil(minutes / 60)} hours"
