"""What becomes of a delivery after an attempt.  Pure: results in, recipients that stay and events out.

Source: RFC 5321 §4.5.4 (retry, give up), §6.1 (notify the sender), RFC 3463 (status codes),
RFC 3461 §5.2 (who is told of a success), RFC 2852 §4.1 (what is to be delivered by a time).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from ..mail.envelope import Delivery, Message, Recipient
from ..mail.events import Bounced, Deferred, Delivered, HistoryEvent, Outcome
from ..mail.status import Reply, printable
from ..report.dsn import Failure
from ..wire.starttls import NO_TLS_NOW
from .interfaces import Result
from .retry import RetryPolicy

EXPIRED = "5.4.7"
"""RFC 3463 §3.5: delivery time expired."""

SITE_STATUS = frozenset(("4.3.1", "4.3.2", "4.3.5"))
"""Beside the network's (X.4.Z) and TLS's (X.7.Z): the whole place is full, takes no mail now, or is set up wrongly
(RFC 3463 §3.4)."""

_Event = TypeVar("_Event", bound=Outcome)


class Verdict(msgspec.Struct, frozen=True):
    """What an attempt led to.

    ``remaining`` is the delivery that stays queued, None if no recipient does.  ``events`` are those of the recipients
    that were delivered or deferred; ``failed`` are the others, whose events must name the report about them.
    ``warn``: the sender should hear that the deferred recipients are late; ``late`` says it of each.  ``succeeded`` and
    ``relayed`` are those of whom the sender wants to hear that they have it, or that it went beyond such reports.
    """

    remaining: Delivery | None
    events: tuple[HistoryEvent, ...]
    failed: tuple[tuple[Result, Failure], ...] = ()
    warn: bool = False
    late: tuple[Failure, ...] = ()
    succeeded: tuple[Failure, ...] = ()
    relayed: tuple[Failure, ...] = ()


def judge(
    message: Message,
    delivery: Delivery,
    results: Sequence[Result],
    *,
    began: float,
    now: float,
    retry: RetryPolicy,
    delay_warning: float,
    not_before: float = 0.0,
) -> Verdict:
    """Sort the results of one attempt.

    ``began`` is when it began, ``now`` when it ended.  ``not_before``: a deferred delivery is not tried again earlier,
    for destinations that are known to be dead; the lifetime's end holds all the same.
    """
    handling = message.handling
    # Nearly always:
    if len(results) == 1 and handling is None and results[0].reply.positive and not results[0].recipient.notify:
        return Verdict(None, (delivered(message, delivery, results[0], now),))
    events: list[HistoryEvent] = []
    failed: list[tuple[Result, Failure]] = []
    deferred: list[Result] = []
    succeeded: dict[str, list[Failure]] = {"delivered": [], "relayed": [], "passed": []}
    for result in results:
        if result.reply.positive:
            events.append(delivered(message, delivery, result, now))
            wanted = bool(message.sender and result.recipient.notify and result.recipient.wants("SUCCESS"))
            if wanted:
                succeeded[result.action].append(_failure(result, now))
            if _traced(message, result) and not (wanted and result.action == "relayed"):
                succeeded["relayed"].append(_failure(result, now, unasked=True))
        elif result.reply.permanent:
            failed.append((result, _failure(result, now)))
        else:
            deferred.append(result)
    told = (tuple(succeeded["delivered"]), tuple(succeeded["relayed"]))
    if not deferred:
        return Verdict(None, tuple(events), tuple(failed), False, (), *told)
    due = retry.next_attempt(delivery.attempts, now, message.expires)
    if due is None:
        failed.extend((result, _failure(result, now, expired=True)) for result in deferred)
        return Verdict(None, tuple(events), tuple(failed), False, (), *told)
    due = min(max(due, not_before), message.expires)
    over = False
    if handling is not None and handling.by_mode == "N" and not delivery.overdue:
        over = now >= handling.deliver_by
        due = due if over else min(due, handling.deliver_by)
    events.extend(_outcome(Deferred, message, delivery, result, now, next_attempt=due) for result in deferred)
    last = deferred[-1]
    late = bool(delay_warning) and not delivery.warned and message.age(now) >= delay_warning
    warn = bool(
        (late or over)
        and message.sender
        and message.kind != "dsn"
        and any(result.recipient.wants("DELAY") for result in deferred)
    )
    remaining = msgspec.structs.replace(
        delivery,
        recipients=tuple(result.recipient for result in deferred),
        next_attempt=due,
        last_attempt=began,
        last_reply=str(last.reply),
        last_status=last.reply.status,
        last_host=last.host,
        warned=delivery.warned or warn,
        deaths=0,
        overdue=delivery.overdue or over,
    )
    tardy = tuple(_failure(result, now, late=over) for result in deferred) if warn else ()
    return Verdict(remaining, tuple(events), tuple(failed), warn, tardy, *told)


def delivered(message: Message, delivery: Delivery, result: Result, now: float) -> Delivered:
    """The event of a recipient that has it."""
    return _outcome(Delivered, message, delivery, result, now, file=result.file, converted=result.converted)


def bounced(
    message: Message, delivery: Delivery, result: Result, failure: Failure, now: float, report: str, fate: str
) -> Bounced:
    """The event of a recipient that failed for good."""
    event = _outcome(
        Bounced, message, delivery, result, now, expired=failure.expired, report=report, fate="" if report else fate
    )
    return msgspec.structs.replace(event, status=EXPIRED) if failure.expired else event


def named(events: tuple[HistoryEvent, ...], those: Sequence[Failure], report: str) -> tuple[HistoryEvent, ...]:
    """The events, with ``report`` as the one about the deliveries to ``those``."""
    addresses = {one.recipient.address for one in those}
    return tuple(
        msgspec.structs.replace(event, report=report)
        if isinstance(event, Delivered) and event.recipient in addresses
        else event
        for event in events
    )


def connection_failed(results: Sequence[Result]) -> str:
    """Why, if it was the destination that failed and not a recipient or a message; "" if it is alive.

    So a closed port, a name that does not resolve, a broken handshake or a 421 count; what a remote says about a
    recipient, a mailbox that is full, or TLS that this message alone requires, does not.
    """
    reason = ""
    for result in results:
        reply = result.reply
        if not reply.temporary:
            return ""
        if reply.code != 421:
            enhanced = reply.enhanced
            if (
                result.remote
                or enhanced == NO_TLS_NOW
                or not (enhanced[2:4] in ("4.", "7.") or enhanced in SITE_STATUS)
            ):
                return ""
        reason = str(reply)
    return reason


def all_recipients(recipients: Sequence[Recipient], reply: Reply, relay: str = "") -> list[Result]:
    """The same word of ours for each recipient."""
    return [Result(recipient=recipient, reply=reply, relay=relay) for recipient in recipients]


def suspended(reason: str) -> Reply:
    """What is said of deliveries that are not tried because their destination is dead."""
    words = printable(reason, 300) or "no connection could be made"
    return Reply(451, "4.4.1", f"Delivery suspended after repeated failures, the last: {words}")


def must_return(message: Message, now: float) -> bool:
    """Whether a message is to be returned, and not tried any more, because its time is over (RFC 2852 §4.1)."""
    handling = message.handling
    return handling is not None and handling.by_mode == "R" and now >= handling.deliver_by


def out_of_time(delivery: Delivery) -> Reply:
    """What is said of a delivery that has waited beyond RFC 2852's time."""
    last = f"; the last answer: {printable(delivery.last_reply, 300)}" if delivery.last_reply else ""
    return Reply(451, "4.4.7", f"The time by which it had to be delivered is over{last}")


def _traced(message: Message, result: Result) -> bool:
    """Whether the sender hears that a message was relayed, by RFC 2852 §4.1.4 and §4.2: of each relay where it asked
    for that, and of those that do not see to its time."""
    handling = message.handling
    if handling is None or not message.sender or message.kind == "dsn" or result.action == "delivered":
        return False
    return handling.trace or (handling.by_mode == "N" and not result.timed)


def _failure(
    result: Result, now: float, *, expired: bool = False, late: bool = False, unasked: bool = False
) -> Failure:
    return Failure(
        recipient=result.recipient,
        reply=result.reply,
        host=result.host,
        remote=result.remote,
        expired=expired,
        late=late,
        unasked=unasked,
        last_attempt=now,
    )


def _outcome(
    kind: type[_Event], message: Message, delivery: Delivery, result: Result, now: float, **more: Any
) -> _Event:
    recipient = result.recipient
    original = recipient.original
    return kind(
        time=now,
        id=message.id,
        recipient=recipient.address,
        destination=delivery.destination,
        relay=result.relay,
        status=result.reply.status,
        reply=str(result.reply),
        attempt=delivery.attempts,
        delay=message.age(now),
        original="" if original == recipient.address else original,
        seconds=result.seconds,
        tls=result.tls,
        sender=message.sender,
        customer=delivery.customer,
        size=message.size,
        **more,
    )
