"""``mta queue retry``, ``hold``, ``release``, ``bounce``, ``verify``: acting on the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import click

from ...mail.envelope import Delivery, Message
from ...queue.rules import acted
from ..base import Command, pass_context
from ..context import FAILED, Context, NotFound, confirm
from ..selection import PAGE, filter_options, is_filtered, queue_filter, selected
from ..tables import many

_DONE = {
    "retry": "will be tried again now",
    "hold": "put on hold",
    "release": "released from hold",
    "remove": "removed",
    "bounce": "returned to the sender",
}
_AS_IT_WAS = {
    "retry": "on hold and stays so until released",
    "hold": "on hold already",
    "release": "not on hold",
    "bounce": "being delivered now, or changed meanwhile, and left alone",
}
"""What is said of deliveries that an action leaves as they are."""

_MAY_BE_SO = frozenset(_AS_IT_WAS) - {"bounce"}
"""Actions of which is seen beforehand what they leave as it is."""

COUNTED = 5000
"""Deliveries that are counted before it is asked whether to remove them."""

_CAREFUL = frozenset({"remove", "bounce"})

Act = Callable[[Context, list[tuple[Message, Delivery]]], int]


def action_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """IDs, filters, --all and --yes."""
    command = click.option("--yes", is_flag=True, help="Don't ask.")(command)
    command = click.option("--all", "all_", is_flag=True, help="All that is in the queue.")(command)
    return click.argument("ids", metavar="[ID|ID/DEST]...", nargs=-1)(filter_options(command))


def perform(context: Context, action: str, ids: tuple[str, ...], all_: bool, yes: bool, options: dict[str, Any],
            act: Act) -> None:  # fmt: skip
    """Do ``action`` to what is chosen, page by page, and say to how many; ``act`` says to how many of a page."""
    check_chosen(ids, all_, options)
    chosen = selected(context.store(), ids, options)
    if action in _CAREFUL and not ids:
        ask(action, chosen(), yes)
    count = unchanged = 0
    walking = iter(chosen())
    while page := list(islice(walking, PAGE)):
        if action in _MAY_BE_SO:
            concerned = [(m, d) for m, d in page if acted(d, action, context.now()) is not d]
            unchanged += len(page) - len(concerned)
            page = concerned
        done = act(context, page) if page else 0
        count += done
        if action == "bounce":
            unchanged += len(page) - done
    _say(context, action, count, unchanged)


def check_chosen(ids: tuple[str, ...], all_: bool, options: dict[str, Any]) -> None:
    """Raises UsageError unless it is said what is chosen, and only once."""
    filtered = is_filtered(queue_filter(options))
    if not ids and not filtered and not all_:
        raise click.UsageError("Say which: IDs, filters such as --destination, or --all.")
    if all_ and (ids or filtered):
        raise click.UsageError("--all is everything: give neither IDs nor filters with it.")


def _say(context: Context, action: str, count: int, unchanged: int = 0) -> None:
    if not count + unchanged:
        raise NotFound("nothing in the queue matches")
    lines = []
    if count:
        lines.append(f"{many(count, 'delivery', 'deliveries')} {_DONE[action]}.")
    if unchanged:
        is_so = "is" if unchanged == 1 else "are"
        lines.append(f"{many(unchanged, 'delivery', 'deliveries')} {is_so} {_AS_IT_WAS[action]}.")
    context.say({"action": action, "deliveries": count, "unchanged": unchanged}, lambda: lines)


def ask(action: str, chosen: Iterable[tuple[Message, Delivery]], yes: bool) -> None:
    """Ask, with how many they are, where somebody should be asked."""
    if yes:
        return
    deliveries = recipients = 0
    for _, delivery in chosen:
        deliveries += 1
        recipients += len(delivery.recipients)
        if action == "remove" and deliveries > COUNTED:
            confirm(f"{action.capitalize()} more than {COUNTED:,} deliveries?", False)
            return
    confirm_many(action, deliveries, recipients)


def confirm_many(action: str, deliveries: int, recipients: int) -> None:
    """Ask about so many.  Raises :class:`NotFound` where there are none."""
    if not deliveries:
        raise NotFound("nothing in the queue matches")
    what = f"{many(deliveries, 'delivery', 'deliveries')} with {many(recipients, 'recipient')}"
    confirm(f"{action.capitalize()} {what}?", False)


def stored(action: str) -> Act:
    """What the store does by itself."""

    def act(context: Context, page: list[tuple[Message, Delivery]]) -> int:
        pairs = [(message.id, delivery.destination) for message, delivery in page]
        return context.done(context.store().act(action, pairs, context.who, context.now()))

    return act


@click.command(cls=Command)
@action_options
@pass_context
def retry(context: Context, ids: tuple[str, ...], all_: bool, yes: bool, **options: Any) -> None:
    """Try deliveries again now. What is on hold stays on hold; what its sender has put off goes."""
    perform(context, "retry", ids, all_, yes, options, stored("retry"))


@click.command(cls=Command)
@action_options
@pass_context
def hold(context: Context, ids: tuple[str, ...], all_: bool, yes: bool, **options: Any) -> None:
    """Put deliveries on hold: they are not tried until released, and don't expire meanwhile."""
    perform(context, "hold", ids, all_, yes, options, stored("hold"))


@click.command(cls=Command)
@action_options
@pass_context
def release(context: Context, ids: tuple[str, ...], all_: bool, yes: bool, **options: Any) -> None:
    """Release deliveries from hold, to be tried now, or when their sender wants it."""
    perform(context, "release", ids, all_, yes, options, stored("release"))


@click.command(cls=Command)
@action_options
@click.option("--text", metavar="WORDS", default="", help="What the report says was the reason.")
@pass_context
def bounce(context: Context, ids: tuple[str, ...], all_: bool, yes: bool, text: str, **options: Any) -> None:
    """Give deliveries up and send their senders a report. Asks first, unless IDs or --yes are given.

    What the service is about to deliver is left alone, and counted, for it may reach its recipient at this very moment:
    hold it, and give it up once the attempt has ended.
    """
    from ..bounce import Bouncer

    bouncer = Bouncer(context, text)
    try:
        perform(context, "bounce", ids, all_, yes, options, lambda _, page: bouncer.bounce(page))
    finally:
        bouncer.close()


@click.command(cls=Command)
@click.option("--repair", is_flag=True, help="Mend what is found.")
@pass_context
def verify(context: Context, repair: bool) -> None:
    """Recount everything in the queue. Ends with 1 if something was wrong and is not mended."""
    wrong = context.done(context.store().verify(repair))

    def lines() -> list[str]:
        if not wrong:
            return ["The queue is in order."]
        mended = "mended" if repair else "found; --repair mends them"
        return [*wrong, f"{many(len(wrong), 'discrepancy', 'discrepancies')} {mended}."]

    context.say({"discrepancies": wrong, "repaired": repair and bool(wrong)}, lines)
    if wrong and not repair:
        raise click.exceptions.Exit(FAILED)
