"""What settlements, operators and filters mean, as pure functions: every engine of the store follows these."""

from __future__ import annotations

from collections.abc import Container, Iterable

import msgspec

from ..mail.envelope import Delivery, Message, Recipient
from ..mail.events import Accepted, HistoryEvent
from ..mail.ids import ID_CHARS
from ..mail.status import Reply
from .interfaces import CHUNK, NewDelivery, NewMessage, QueueFilter, Settlement, StoreUnavailable
from .terms import says

replace = msgspec.structs.replace

ACTIONS = ("retry", "run", "hold", "release", "remove")

DEATHS = 3
"""How many processes may die with a delivery in memory before it waits as long as it is armed for."""


def unavailable(
    enhanced: str = "4.3.0", text: str = "The mail queue can't be written now; try again later"
) -> StoreUnavailable:
    """A fault of ours that may pass."""
    return StoreUnavailable(Reply(451, enhanced, text))


def disk_full() -> StoreUnavailable:
    """No room on the disk."""
    return StoreUnavailable(Reply(452, "4.3.1", "There is not enough disk space for more mail; try again later"))


def stopping() -> StoreUnavailable:
    """The service ends."""
    return StoreUnavailable(Reply(421, "4.3.2", "The service is stopping; try again in a few minutes"))


def never_busy(delivery: Delivery) -> None:
    """Says of every delivery that it is not in memory."""


def chunks(size: int) -> int:
    """How many chunks so many octets are."""
    return -(-size // CHUNK)


def deliveries_of(new: NewMessage, owner: int = 0) -> list[Delivery]:
    """The deliveries that a new message begins with; ``owner`` has those that are armed in its memory."""
    message = new.message
    owner = owner if new.armed else 0
    release = None if message.handling is None else message.handling.release or None
    return [
        Delivery(
            id=message.id,
            destination=part.destination,
            customer=new.lane_customer,
            recipients=part.recipients,
            next_attempt=new.next_attempt,
            owner=owner,
            priority=message.priority,
            release=release,
            overdue=message.came_late,
        )
        for part in _merged(new)
    ]


def _merged(new: NewMessage) -> Iterable[NewDelivery]:
    destinations = {part.destination for part in new.deliveries}
    if len(destinations) == len(new.deliveries):
        return new.deliveries
    merged: dict[str, tuple[Recipient, ...]] = {}
    for part in new.deliveries:
        merged[part.destination] = _union(merged.get(part.destination, ()), part.recipients)
    return [NewDelivery(destination, recipients) for destination, recipients in merged.items()]


def _union(one: tuple[Recipient, ...], other: tuple[Recipient, ...]) -> tuple[Recipient, ...]:
    """Each address once, whatever it was called when it came: one copy is enough."""
    if not one:
        return other
    known = {recipient.address for recipient in one}
    return (*one, *(recipient for recipient in other if recipient.address not in known))


def joined(there: Delivery, coming: Delivery) -> Delivery:
    """Two deliveries of one message to one destination as one: it keeps its history and is due at the earlier time.

    One that is in a process' memory is not due earlier for that: what comes is due when the attempt has ended.
    """
    return replace(
        there,
        recipients=_union(there.recipients, coming.recipients),
        next_attempt=there.next_attempt if there.owner else min(there.next_attempt, coming.next_attempt),
    )


def waits(there: Delivery | None, known: Delivery, dead: Container[int] = ()) -> bool:
    """Whether a delivery still waits, for all that an operator knew of, and in no memory but that of the ``dead``.

    What a living process has in memory may be on its way out now: only that process knows what becomes of it.
    """
    if there is None or (there.owner and there.owner not in dead):
        return False
    return there.recipients == known.recipients or set(known.recipients) <= set(there.recipients)


def left_over(there: Delivery, claimed: Delivery, now: float) -> Delivery | None:
    """What of a delivery was not part of the attempt: recipients that another route brought here meanwhile."""
    if there.recipients == claimed.recipients:
        return None
    tried = set(claimed.recipients)
    rest = tuple([recipient for recipient in there.recipients if recipient not in tried])
    return replace(there, recipients=rest, next_attempt=now, owner=0, deaths=0) if rest else None


def remaining(there: Delivery, settlement: Settlement, now: float) -> list[Delivery]:
    """The deliveries to be put in place of ``there``, at most one for each destination.

    A hold that an operator put on it during the attempt outlasts the attempt.
    """
    rest = left_over(there, settlement.delivery, now)
    if rest is None and len(settlement.remaining) <= 1 and there.state == "queued":
        return list(settlement.remaining)
    result: dict[str, Delivery] = {} if rest is None else {rest.destination: rest}
    for delivery in settlement.remaining:
        coming = delivery if there.state == "queued" else replace(delivery, state="held")
        present = result.get(coming.destination)
        result[coming.destination] = coming if present is None else joined(present, coming)
    return list(result.values())


def orphaned(delivery: Delivery, now: float) -> Delivery:
    """A delivery whose owner has died: due at once, unless it may be what they die of."""
    deaths = delivery.deaths + 1
    when = delivery.next_attempt if deaths > DEATHS else min(delivery.next_attempt, now)
    return replace(delivery, owner=0, deaths=deaths, next_attempt=when)


def acted(delivery: Delivery, action: str, now: float) -> Delivery | None:
    """A delivery after an operator's action: None where it is removed, itself where nothing changes.

    As with Postfix, a retry leaves what is on hold on hold.  It releases what its sender has put off (RFC 4865), which
    the end of a hold does not.  A run, which somebody else asks for (RFC 1985), leaves that alone, and what is in
    a process' memory.
    """
    if action == "remove":
        return None
    if action == "hold":
        return delivery if delivery.state == "held" else replace(delivery, state="held")
    if action == "release":
        if delivery.state != "held":
            return delivery
        return replace(delivery, state="queued", next_attempt=max(now, delivery.release or 0.0))
    if action == "retry":
        return delivery if delivery.state == "held" else replace(delivery, next_attempt=now, release=None)
    if action == "run":
        late = delivery.next_attempt <= now or delivery.owner or delivery.state == "held" or delivery.put_off(now)
        return delivery if late else replace(delivery, next_attempt=now)
    raise ValueError(f"no such action: {action!r}")


def came_with(story: Iterable[HistoryEvent], message_id: str) -> bool:
    """Whether a reception among these events had this Message-ID."""
    return any(isinstance(event, Accepted) and event.message_id == message_id for event in story)


def matches(match: QueueFilter, message: Message, delivery: Delivery, now: float) -> bool:
    """Whether a delivery is what the filter asks for."""
    return matches_delivery(match, delivery) and matches_message(match, message, now)


def matches_message(match: QueueFilter, message: Message, now: float) -> bool:
    """What a filter asks of a delivery's message."""
    return (match.older_than is None or now - message.arrived >= match.older_than) and (
        match.sender is None or _address_matches(match.sender, message.sender)
    )


def matches_delivery(match: QueueFilter, delivery: Delivery) -> bool:
    """What a filter asks of a delivery, whatever its message is."""
    return (
        (not match.id or delivery.id == match.id)
        and (not match.destination or delivery.destination == match.destination)
        and (match.customer is None or delivery.customer == match.customer)
        and (match.state is None or delivery.state == match.state)
        and (
            not match.recipient
            or any(_address_matches(match.recipient, recipient.address) for recipient in delivery.recipients)
            or any(_address_matches(match.recipient, recipient.original) for recipient in delivery.recipients)
        )
        and (not match.reason or says(delivery.last_reply, match.reason))
    )


def _address_matches(wanted: str, address: str) -> bool:
    address = address.lower()
    wanted = wanted.lower()
    if wanted.startswith("@"):
        return address.rpartition("@")[2] == wanted[1:]
    return address == wanted


def split_after(after: str) -> tuple[str, str]:
    """The id and destination of a page's ``after``; of the first page, two empty strings."""
    return after[:ID_CHARS], after[ID_CHARS + 1 :]
