"""``mta queue remove`` and ``mta queue removals``: in force at once, and worked off afterwards."""

from __future__ import annotations

import sys
from time import sleep
from typing import Any

import click

from ...queue.interfaces import QueueFilter, Removal
from ..base import Command, pass_context
from ..context import Context, NotFound
from ..describe import filter_words
from ..selection import is_filtered, queue_filter, walk
from ..statusfile import read_status
from ..tables import Cell, Column, age, many, table
from .actions import COUNTED, action_options, ask, check_chosen, confirm_many, perform, stored

PROMPT = 2.0
"""Seconds for which a command works off a removal by itself: what is few is gone by then, and counted."""

NOTICED = 0.1
"""Seconds within which a running service has seen that it may not begin what is removed: more than its scheduler takes
for granted."""

POLL = 0.25
"""Seconds between two looks at a removal that somebody else works off."""


@click.command(cls=Command)
@action_options
@click.option("--wait", is_flag=True, help="Don't end before all is out of the queue's file.")
@pass_context
def remove(context: Context, ids: tuple[str, ...], all_: bool, yes: bool, wait: bool, **options: Any) -> None:
    """Remove deliveries, telling nobody but the history. Asks first, unless IDs or --yes are given.

    When this ends, none of it is sent or listed any more, but for what is being delivered at this very moment. A great
    many are worked off by the service after that: mta queue removals shows how far it is.
    """
    if ids:
        perform(context, "remove", ids, all_, yes, options, stored("remove"))
        return
    check_chosen(ids, all_, options)
    store, match = context.store(), queue_filter(options)
    if not yes and not is_filtered(match):
        stats = store.stats()
        confirm_many("remove", stats.deliveries, stats.recipients)
    else:
        ask("remove", walk(store, match, limit=COUNTED + 1), yes)
    removal = context.done(store.remove(match, context.who, context.now(), PROMPT))
    if wait and removal.ended is None:
        removal = _worked_off(context, removal)
    if removal.ended is not None and not removal.deliveries:
        raise NotFound("nothing in the queue matches")
    running = context.guard(lambda: read_status(context.settings)) is not None
    if running:
        sleep(NOTICED)
    value = {"action": "remove", "deliveries": removal.deliveries, "unchanged": 0, "removal": removal.number}
    context.say(value | {"ended": removal.ended}, lambda: _words(removal, running))


def _words(removal: Removal, running: bool) -> list[str]:
    if removal.ended is not None:
        return [f"{many(removal.deliveries, 'delivery', 'deliveries')} removed."]
    if running:
        then = "the service works off the rest"
    else:
        then = "the rest is worked off once the service runs, or by this command with --wait"
    return [
        f"Removed as of now (removal {removal.number}): none of it is sent or listed any more.",
        f"{many(removal.deliveries, 'delivery is', 'deliveries are')} out of the queue so far; {then}.",
        "How many it was is shown by mta queue removals.",
    ]


def _worked_off(context: Context, removal: Removal) -> Removal:
    """Wait for the end of a removal, with a line on a terminal of how far it is, and work at it where nobody does."""
    store, shown = context.store(), sys.stderr.isatty()
    while removal.ended is None:
        if not context.done(store.work_off(removal.number)):
            sleep(POLL)
        removal = next((it for it in store.removals() if it.number == removal.number), removal)
        if shown:
            click.echo(f"\r{many(removal.deliveries, 'delivery', 'deliveries')} ", nl=False, err=True)
    if shown:
        click.echo(err=True)
    return removal


@click.command(cls=Command)
@pass_context
def removals(context: Context) -> None:
    """Show the removals by filter that are being worked off, and the last ones that are over."""
    found, now = context.store().removals(), context.now()

    def lines() -> list[str]:
        if not found:
            return ["Nothing has been removed by a filter."]
        heads = [
            Column(title="Removal", align="right"),
            Column(title="Begun"),
            Column(title="By"),
            Column(title="What", flexible=True, least=12),
            Column(title="Deliveries", align="right"),
            Column(title="Recipients", align="right"),
            Column(title=""),
        ]
        rows: list[list[Cell | str]] = [
            [
                f"{it.number}",
                f"{age(now - it.began)} ago",
                it.who,
                filter_words(it.match),
                f"{it.deliveries:,}",
                f"{it.recipients:,}",
                Cell("so far", "yellow") if it.ended is None else f"in {age(it.ended - it.began)}",
            ]
            for it in found
        ]
        return table(heads, rows, context.width)

    context.say([_value(it) for it in found], lines)


def _value(removal: Removal) -> dict[str, Any]:
    anything = QueueFilter()
    asked = {name: getattr(removal.match, name) for name in removal.match.__struct_fields__}
    return {
        "removal": removal.number,
        "who": removal.who,
        "began": removal.began,
        "ended": removal.ended,
        "deliveries": removal.deliveries,
        "recipients": removal.recipients,
        "filter": {name: value for name, value in asked.items() if value != getattr(anything, name)},
    }
