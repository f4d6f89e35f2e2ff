"""``mta usage``: how much of its quotas a customer has used."""

from __future__ import annotations

from typing import Any

import click

from ..base import Command, pass_context
from ..context import Context, NotFound
from ..tables import Cell, Column, bar, count, paint, size, table

_ROWS = (
    ("recipients_per_hour", "recipients_hour", "Recipients in 60 minutes"),
    ("recipients_per_day", "recipients_day", "Recipients in 24 hours"),
    ("messages_per_hour", "messages_hour", "Messages in 60 minutes"),
    ("messages_per_day", "messages_day", "Messages in 24 hours"),
    ("queued_messages", "queued_messages", "Messages in the queue"),
    ("queued_bytes", "queued_bytes", "Octets in the queue"),
)


@click.command(cls=Command)
@click.argument("name")
@pass_context
def usage(context: Context, name: str) -> None:
    """Show what a customer has used of its quotas, now."""
    from ...policy.limits import limits_for

    customer = context.done(context.directory().customer(name))
    if customer is None:
        raise NotFound(f"there is no customer {name}")
    limits = limits_for(context.settings, customer)
    used = context.store(make=True).usage(customer.name)
    values: dict[str, Any] = {}
    rows: list[list[Cell | str]] = []
    for limit_name, used_name, title in _ROWS:
        limit, number = getattr(limits, limit_name), getattr(used, used_name)
        own = limit_name in customer.limits
        values[limit_name] = {"used": number, "limit": limit, "own": own}
        rows.append(_row(title, number, limit, own, sized=limit_name.endswith("bytes")))
    most = context.settings.smtp.message_bytes  # holds whatever a customer's own limit is
    largest = min(most, limits.message_bytes) if limits.message_bytes is not None else most
    fixed = {"message_bytes": largest, "connections": limits.connections}

    def lines() -> list[str]:
        state = f"  {paint('suspended', 'yellow')}" if customer.suspended else ""
        heads = [
            Column(),
            Column(title="Used", align="right"),
            Column(title="Limit", align="right"),
            Column(),
            Column(align="right"),
            Column(),
        ]
        return [
            paint(f"Customer {customer.name}", "bold") + state,
            *table(heads, rows, context.width, indent="  "),
            "",
            f"  Largest message {size(largest)}; sessions at once {count(limits.connections)}.",
        ]

    context.say({"customer": customer.name, "suspended": customer.suspended, "usage": values, "limits": fixed}, lines)


def _row(title: str, used: int, limit: int | None, own: bool, sized: bool) -> list[Cell | str]:
    shown = (size(used), "none" if limit is None else size(limit)) if sized else (count(used), count(limit))
    if limit is None:
        return [title, *shown, "", "", Cell("its own" if own else "", "dim")]
    share = used / limit if limit else 1.0
    colour = "red" if share >= 1 else "yellow" if share >= 0.8 else "green"
    percent = "<1%" if 0 < share < 0.01 else f"{share:.0%}"
    return [title, *shown, Cell(bar(share), colour), percent, Cell("its own" if own else "", "dim")]
