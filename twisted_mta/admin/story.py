"""What became of a message, from its history and from what of it is still queued: the matter of ``mta trace``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from ..mail.envelope import Delivery, Message
from ..mail.events import (
    Accepted,
    Bounced,
    Deferred,
    Delayed,
    Delivered,
    Done,
    HistoryEvent,
    Operator,
    Outcome,
    Reported,
    Routed,
)

Fate = Literal["delivered", "bounced", "expired", "removed", "deferred", "held", "queued"]
ENDS: frozenset[Fate] = frozenset(("delivered", "bounced", "expired", "removed"))


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How it stands with one recipient.  ``report`` is the id of the DSN about it; ``when`` the last event's time."""

    address: str
    fate: Fate
    original: str = ""
    destination: str = ""
    relay: str = ""
    reply: str = ""
    file: str = ""
    report: str = ""
    attempts: int = 0
    when: float | None = None
    next_attempt: float | None = None


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of one message.  ``message`` is None once it has left the queue."""

    id: str
    events: tuple[HistoryEvent, ...]
    message: Message | None = None
    deliveries: tuple[Delivery, ...] = ()

    @property
    def accepted(self) -> Accepted | None:
        """Its reception, if that is on record."""
        return next((event for event in self.events if isinstance(event, Accepted)), None)

    @property
    def about(self) -> Reported | None:
        """What it reports, if it is a report of our own."""
        return next((event for event in self.events if isinstance(event, Reported) and event.id == self.id), None)

    @property
    def reports(self) -> tuple[str, ...]:
        """The ids of the reports about it."""
        found = [
            event.report for event in self.events if isinstance(event, Delivered | Bounced | Delayed) and event.report
        ]
        return tuple(dict.fromkeys(found))

    @property
    def finished(self) -> bool:
        """Whether no recipient of it is left in the queue."""
        return self.message is None and any(isinstance(event, Done) for event in self.events)

    def ends(self) -> list[End]:
        """How it stands with each recipient, in the order in which they first appear."""
        found: dict[str, End] = {}
        for event in self.events:
            if isinstance(event, Routed):
                for destination, addresses in event.destinations.items():
                    for address in addresses:
                        found.setdefault(address, End(address=address, fate="queued", destination=destination))
            elif isinstance(event, Delivered | Deferred | Bounced):
                found[event.recipient] = _end(event, found.get(event.recipient))
            elif isinstance(event, Operator) and event.action == "remove":
                for address in event.recipients:
                    known = found.get(address, End(address=address, fate="queued"))
                    found[address] = msgspec.structs.replace(
                        known, fate="removed", reply=f"by {event.who}", when=event.time, next_attempt=None
                    )
        for delivery in self.deliveries:
            for recipient in delivery.recipients:
                found[recipient.address] = _waiting(delivery, recipient.address, recipient.original)
        return list(found.values())


def _end(event: Outcome, known: End | None) -> End:
    fate: Fate = "delivered" if isinstance(event, Delivered) else "deferred"
    if isinstance(event, Bounced):
        fate = "expired" if event.expired else "bounced"
    return End(
        address=event.recipient,
        fate=fate,
        original=event.original or (known.original if known else ""),
        destination=event.destination,
        relay=event.relay,
        reply=event.reply,
        file=event.file if isinstance(event, Delivered) else "",
        report=event.report if isinstance(event, Delivered | Bounced) else "",
        attempts=event.attempt,
        when=event.time,
        next_attempt=event.next_attempt if isinstance(event, Deferred) else None,
    )


def _waiting(delivery: Delivery, address: str, original: str) -> End:
    fate: Fate = "queued"
    if delivery.state == "held":
        fate = "held"
    elif delivery.last_reply:
        fate = "deferred"
    return End(
        address=address,
        fate=fate,
        original="" if original == address else original,
        destination=delivery.destination,
        reply=delivery.last_reply,
        attempts=delivery.attempts,
        when=delivery.last_attempt or None,
        next_attempt=delivery.next_attempt if delivery.state == "queued" else None,
    )


def tally(ends: Iterable[End]) -> dict[Fate, int]:
    """How many recipients met each fate."""
    order: tuple[Fate, ...] = ("delivered", "bounced", "expired", "removed", "deferred", "held", "queued")
    fates = [end.fate for end in ends]
    return {fate: fates.count(fate) for fate in order if fate in fates}


def alike(events: Sequence[HistoryEvent]) -> list[tuple[HistoryEvent, list[str]]]:
    """Events in order, those that say the same of several recipients as one with all of their addresses."""
    told: list[tuple[HistoryEvent, list[str]]] = []
    for event in events:
        if isinstance(event, Outcome) and told:
            last, addresses = told[-1]
            if type(last) is type(event) and isinstance(last, Outcome) and _same(last, event):
                addresses.append(event.recipient)
                continue
        told.append((event, [event.recipient] if isinstance(event, Outcome) else []))
    return told


def _same(one: Outcome, other: Outcome) -> bool:
    # each mailbox has a file of its own, and an end that differs in anything else is told by itself
    return (
        one.time == other.time
        and one.relay == other.relay
        and one.reply == other.reply
        and getattr(one, "file", "") == getattr(other, "file", "")
        and getattr(one, "report", "") == getattr(other, "report", "")
    )
