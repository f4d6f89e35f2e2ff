"""Messages and deliveries in words, and as the plain values that --json prints.  Shared by several commands."""

from __future__ import annotations

from typing import Any

import msgspec

from ..mail.envelope import Delivery, Handling, Message, Recipient
from ..queue.interfaces import QueueFilter
from .tables import Cell, age, clean, due, many, moment, size


def sender_of(address: str) -> str:
    """A sender as people read it; the null sender is "<>"."""
    return address or "<>"


def some(addresses: list[str] | tuple[str, ...], most: int = 3) -> str:
    """The first few of some addresses, and how many more."""
    shown = ", ".join(addresses[:most])
    return f"{shown} and {len(addresses) - most:,} more" if len(addresses) > most else shown


def recipient_text(recipient: Recipient) -> str:
    """A recipient, and what the sender wrote if that was an alias."""
    if recipient.original and recipient.original != recipient.address:
        return f"{recipient.address} (as {recipient.original})"
    return recipient.address


def progress(delivery: Delivery, now: float) -> Cell:
    """How far a delivery has come: "held", "new, due now", "tried 3 times, next in 12m"."""
    tried = f"tried {many(delivery.attempts, 'time')}"
    if delivery.state == "held":
        return Cell(f"held, {tried if delivery.attempts else 'not tried yet'}", "magenta")
    when = due(delivery.next_attempt, now)
    if delivery.put_off(now):
        return Cell(f"put off by the sender until {moment(delivery.next_attempt)}, {when}", "cyan")
    if not delivery.attempts:
        return Cell(f"new, due {when}")
    if not delivery.last_reply:
        return Cell(f"attempt {delivery.attempts} begun, next {when}", "cyan")
    return Cell(f"deferred, {tried}, next {when}", "yellow")


def wishes(handling: Handling | None, now: float) -> list[tuple[str, Cell | str]]:
    """What the sender asks of the queue, name by name."""
    if handling is None:
        return []
    found: list[tuple[str, Cell | str]] = []
    if handling.release:
        found.append(("Release", f"{moment(handling.release)} ({due(handling.release, now)}), as the sender asked"))
    if handling.deliver_by:
        after = "else returned" if handling.by_mode == "R" else "else the sender is told"
        traced = ", traced" if handling.trace else ""
        when = due(handling.deliver_by, now) if handling.deliver_by > now else "over"
        found.append(("Deliver by", f"{moment(handling.deliver_by)} ({when}), {after}{traced}"))
    if handling.priority:
        found.append(("Priority", str(handling.priority)))
    return found


def came_from(message: Message) -> str:
    """Where a message came from, in words."""
    if message.kind == "dsn":
        return "a report of our own"
    if not message.client:
        return "this machine (mta send)" if message.kind == "local" else "this machine"
    name = f"{message.client} ({message.helo})" if message.helo else message.client
    return ", ".join(filter(None, [name, message.protocol, f"listener {message.listener}" if message.listener else ""]))


def tls_wish(requiretls: str) -> str:
    """What a sender says of TLS (RFC 8689), in words; "" where it says nothing."""
    return {"required": "required (REQUIRETLS)", "optional": "optional (TLS-Required: No)"}.get(requiretls, "")


def message_facts(message: Message, now: float) -> list[tuple[str, Cell | str]]:
    """What is known of a message, name by name."""
    customer = message.customer
    if customer and message.user:
        customer += f", user {message.user}"
    return [
        ("From", sender_of(message.sender)),
        ("Message-ID", message.message_id),
        ("Size", size(message.size)),
        ("Customer", customer),
        ("Came from", came_from(message)),
        ("Arrived", f"{moment(message.arrived)} ({age(now - message.arrived)} ago)"),
        *wishes(message.handling, now),
        ("Expires", f"{moment(message.expires)} ({due(message.expires, now)})"),
        ("TLS", tls_wish(message.requiretls)),
        ("Body", message.body if message.body == "BINARYMIME" else ""),
    ]


def delivery_value(message: Message, delivery: Delivery) -> dict[str, Any]:
    """A delivery and its message as --json prints them."""
    return {
        "id": message.id,
        "destination": delivery.destination,
        "customer": delivery.customer,
        "state": delivery.state,
        "sender": message.sender,
        "recipients": [
            {"address": r.address, "original": r.original or r.address, "notify": r.notify, "orcpt": r.orcpt}
            for r in delivery.recipients
        ],
        "size": message.size,
        "arrived": message.arrived,
        "expires": message.expires,
        "attempts": delivery.attempts,
        "last_attempt": delivery.last_attempt or None,
        "next_attempt": delivery.next_attempt,
        "last_reply": delivery.last_reply,
        "last_status": delivery.last_status,
        "last_host": delivery.last_host,
        "message_id": message.message_id,
        "priority": delivery.priority,
        "release": delivery.release,
        "overdue": delivery.overdue,
    }


def message_value(message: Message) -> dict[str, Any]:
    """A message as --json prints it."""
    names = ("id", "arrived", "sender", "recipients", "size", "expires", "body", "customer", "user", "client", "helo",
             "protocol", "listener", "message_id", "kind", "ret", "envid", "utf8", "requiretls")  # fmt: skip
    asked = None if message.handling is None else msgspec.structs.asdict(message.handling)
    return {name: getattr(message, name) for name in names} | {"handling": asked}


def filter_words(match: QueueFilter) -> str:
    """What a filter asks for, in the words of the options."""
    words = []
    if match.destination:
        words.append(f"destination {match.destination}")
    if match.customer is not None:
        words.append(f"customer {match.customer or 'nobody'}")
    if match.sender is not None:
        words.append(f"sender {match.sender or '<>'}")
    if match.recipient:
        words.append(f"recipient {match.recipient}")
    if match.older_than is not None:
        words.append(f"older than {age(match.older_than)}")
    if match.reason:
        words.append(f'reason "{match.reason}"')
    if match.state is not None:
        words.append(f"state {match.state}")
    return clean(", ".join(words)) if words else "all"
