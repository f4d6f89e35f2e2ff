"""``mta status``: does it run, and how is the queue?"""

from __future__ import annotations

from typing import Any

import click
import msgspec

from ...mail.envelope import Delivery, Message
from ...queue.interfaces import IMessageStore, QueueFilter
from ..base import Command, pass_context
from ..context import Context, NotFound
from ..selection import walk
from ..statusfile import Status, read_status, version
from ..tables import Cell, Column, age, facts, many, paint, size, table

_SAMPLE = 5000
"""Deliveries, the oldest, among which the busiest destinations are found."""
_SHOWN = 8


class Destination(msgspec.Struct, kw_only=True):
    """What waits for one destination."""

    destination: str
    deliveries: int = 0
    recipients: int = 0
    held: int = 0
    oldest: float = 0.0
    next_attempt: float | None = None
    reason: str = ""
    last_attempt: float = 0.0


@click.command(cls=Command)
@pass_context
def status(context: Context) -> None:
    """Show whether the service runs, what it listens on, and how the queue stands.

    Ends with 0 if the service runs, with 4 if not.
    """
    # a folder that root alone may read says so itself; the lock is looked at as who we are to be
    context.become_owner()
    running = context.guard(lambda: read_status(context.settings))
    store: IMessageStore | None = None
    try:
        store = context.store()
    except NotFound:
        if running is None and not context.state_dir.exists():
            raise
    stats = store.stats() if store is not None else None
    removing = [it for it in store.removals() if it.ended is None] if store is not None else []
    found = busiest(walk(store, QueueFilter(), limit=_SAMPLE)) if store is not None else []

    def lines() -> list[str]:
        now, width = context.now(), context.width
        shown = _service(context, running, now)
        if stats is None:
            return [*shown, "", "There is no queue yet."]
        held = f" ({many(stats.held, 'delivery', 'deliveries')} held)" if stats.held else ""
        pairs: list[tuple[str, Cell | str]] = [
            ("Messages", f"{stats.messages:,}{held}"),
            ("Recipients", f"{stats.recipients:,} at {many(stats.destinations, 'destination')}"),
            ("Size", size(stats.bytes)),
            ("Oldest", f"{age(now - stats.oldest)}" if stats.oldest is not None else "-"),
            (
                "Store",
                f"{size(stats.map_used)} of a map of {size(stats.map_size)}, {size(stats.disk_free)} of disk free",
            ),
        ]
        if removing:
            words = f"{many(sum(it.deliveries for it in removing), 'delivery', 'deliveries')} of it so far"
            pairs.append(("Being removed", f"{words}: see mta queue removals"))
        shown += ["", paint("Queue", "bold"), *facts(pairs, width)]
        if found:
            title = "Busiest destinations"
            if stats.deliveries > _SAMPLE:
                title += f", among the oldest {_SAMPLE:,} deliveries"
            shown += ["", paint(title, "bold"), *_destinations(found[:_SHOWN], now, width)]
        return shown

    value: dict[str, Any] = {
        "running": running is not None,
        "service": msgspec.to_builtins(running),
        "uptime": context.now() - running.started if running is not None else None,
        "queue": msgspec.to_builtins(stats),
        "removing": [it.number for it in removing],
        "destinations": [
            {name: getattr(one, name) for name in one.__struct_fields__ if name != "last_attempt"}
            for one in found[:_SHOWN]
        ],
    }
    context.say(value, lines)
    if running is None:
        raise click.exceptions.Exit(4)


def busiest(deliveries: Any) -> list[Destination]:
    """Destinations, the ones with most recipients first; the reason is the last attempt's."""
    found: dict[str, Destination] = {}
    pair: tuple[Message, Delivery]
    for pair in deliveries:
        message, delivery = pair
        one = found.get(delivery.destination)
        if one is None:
            one = found[delivery.destination] = Destination(destination=delivery.destination, oldest=message.arrived)
        one.deliveries += 1
        one.recipients += len(delivery.recipients)
        one.oldest = min(one.oldest, message.arrived)
        if delivery.state == "held":
            one.held += 1
        elif one.next_attempt is None or delivery.next_attempt < one.next_attempt:
            one.next_attempt = delivery.next_attempt
        if delivery.last_reply and delivery.last_attempt >= one.last_attempt:
            one.last_attempt, one.reason = delivery.last_attempt, delivery.last_reply
    return sorted(found.values(), key=lambda one: (-one.recipients, one.destination))


def _service(context: Context, running: Status | None, now: float) -> list[str]:
    name = running.hostname if running is not None else context.settings.hostname
    title = paint(f"twisted-mta {running.version if running is not None else version()}", "bold")
    if name:
        title += f" on {name}"
    if running is None:
        return [f"{title}: {paint('not running', 'red')}"]
    lines = [f"{title}: {paint('running', 'green')} for {age(now - running.started)}, process {running.pid}", ""]
    rows: list[list[Cell | str]] = [
        [one.name, one.place, one.role,
         {"none": "no TLS", "starttls": "STARTTLS", "implicit": "TLS"}.get(one.tls, one.tls)]
        for one in running.listeners
    ]  # fmt: skip
    if running.admin:
        rows.append(["admin", running.admin, "HTTP", ""])
    if running.workers:
        lines += [paint("Workers", "bold"), *_workers(running, now), ""]
    if running.refused:
        words = f"{many(running.refused, 'connection')} refused, the last {age(now - running.refused_last)} ago"
        lines += [paint("Overload", "bold"), f"  {words}", ""]
    lines += [paint("Listening", "bold"), *table([Column(), Column(), Column(), Column()], rows, indent="  ")]
    return lines


def _workers(running: Status, now: float) -> list[str]:
    rows: list[list[Cell | str]] = [
        [f"{one.slot}", Cell(one.state, "green" if one.state == "serving" else "red"), f"process {one.pid or '-'}",
         age(now - one.started), many(one.sessions, "session")]
        for one in running.workers
    ]  # fmt: skip
    return table([Column()] * 5, rows, indent="  ")


def _destinations(found: list[Destination], now: float, width: int | None) -> list[str]:
    heads = [
        Column(title="Destination", flexible=True, least=16),
        Column(title="Recipients", align="right"),
        Column(title="Oldest", align="right"),
        Column(title="Next", align="right"),
        Column(title="Reason", flexible=True, least=16),
    ]
    rows: list[list[Cell | str]] = []
    for one in found:
        when: Cell | str = Cell("held", "magenta")
        if one.next_attempt is not None:
            when = "now" if one.next_attempt <= now else age(one.next_attempt - now)
        rows.append([one.destination, f"{one.recipients:,}", age(now - one.oldest), when,
                     Cell(one.reason, "yellow") if one.reason else Cell("-", "dim")])  # fmt: skip
    return table(heads, rows, width, indent="  ")
