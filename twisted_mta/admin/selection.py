"""Which deliveries a command is about: ids, filters, or both; and walking through them page by page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import click
import msgspec

from ..config.units import UnitError, parse_duration
from ..mail.envelope import Delivery, Message
from ..mail.ids import ID_CHARS, id_key
from ..queue.interfaces import IMessageStore, QueueFilter
from .context import NotFound, result

PAGE = 1000

LOOK = 1.0
"""Seconds for which a page is looked for: a read transaction keeps what is removed meanwhile from being used again."""

_AGENT = re.compile(r"[a-z][a-z0-9-]*:")


class Age(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.2
    """A duration such as "2h" or "90s"."""

    name = "AGE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        try:
            return parse_duration(value)
        except UnitError as error:
            self.fail(f'"{value}" {error}')


class Words(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.2
    """What a filter looks for.  A script's empty variable is an error: it would choose more than was meant."""

    name = "TEXT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The same."""
        text = str(value).strip()
        if not text:
            self.fail("it is empty; leave the option out, or say what to look for")
        return text


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose deliveries; they arrive as ``destination``, ``customer`` and so on."""
    options = [
        click.option("--destination", metavar="DEST", type=Words(), default=None,
                     help='Where it goes: a domain, or as listed ("smtp:example.org").'),
        click.option("--customer", metavar="NAME", default=None, help='Whose it is; "" for nobody\'s.'),
        click.option("--sender", metavar="ADDRESS", type=Words(), default=None,
                     help='The sender; "@domain" for a whole domain, "<>" for reports.'),
        click.option("--recipient", metavar="ADDRESS", type=Words(), default=None, help='A recipient, or "@domain".'),
        click.option("--older-than", type=Age(), default=None, help='In the queue for longer, such as "2h".'),
        click.option("--reason", metavar="TEXT", type=Words(), default=None, help="What the last reply contains."),
        click.option("--state", type=click.Choice(["queued", "held"]), default=None, help="On hold, or not."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def queue_filter(options: dict[str, Any], id_: str = "") -> QueueFilter:
    """The filter that the options of :func:`filter_options` ask for."""
    destination = options["destination"] or ""
    if destination and not _AGENT.match(destination):
        destination = f"smtp:{destination.lower()}"
    sender = options["sender"]
    return QueueFilter(
        id=id_,
        destination=destination,
        customer=options["customer"],
        sender="" if sender == "<>" else sender,
        recipient=options["recipient"] or "",
        state=options["state"],
        older_than=options["older_than"],
        reason=options["reason"] or "",
    )


def is_filtered(match: QueueFilter) -> bool:
    """Whether a filter asks for anything."""
    return match != QueueFilter()


def check_id(text: str) -> str:
    """A message id as the queue knows it.  Raises :class:`NotFound`."""
    wanted = text.strip().lower()
    try:
        id_key(wanted)
    except ValueError as error:
        raise NotFound(str(error)) from None
    return wanted


def check_place(text: str) -> tuple[str, str]:
    """An "id" or "id/destination", as ``mta queue list`` prints it.  Raises :class:`NotFound`."""
    name, _, destination = text.strip().partition("/")
    return check_id(name), destination


def walk(
    store: IMessageStore, match: QueueFilter, after: str = "", limit: int | None = None
) -> Iterator[tuple[Message, Delivery]]:
    """The deliveries that match, in order, page by page: what happens to them meanwhile does no harm."""
    left = limit
    while left is None or left > 0:
        page = result(store.page(match, after, PAGE if left is None else min(PAGE, left), LOOK))
        for name in page.damaged:
            click.echo(f"mta: {name} is passed, for it can't be read; mta queue verify tells more", err=True)
        yield from page.found
        if not page.more:
            return
        after = page.more
        if left is not None:
            left -= len(page.found)


def check_after(text: str) -> str:
    """--after: where the last page ended.  Raises UsageError."""
    if text:
        try:
            id_key(text[:ID_CHARS].lower())
        except ValueError:
            raise click.UsageError('--after takes the "id/destination" or the id that the last page named.') from None
    return text


def selected(
    store: IMessageStore, places: tuple[str, ...], options: dict[str, Any]
) -> Callable[[], Iterator[tuple[Message, Delivery]]]:
    """What ids (or "id/destination") and filters choose together: a function, to be walked more than once.

    Raises :class:`NotFound` for an id that is not in the queue.
    """
    match = queue_filter(options)
    if not places:
        return lambda: walk(store, match)
    wanted = []
    for id_, destination in map(check_place, places):
        if store.message(id_) is None:
            raise NotFound(f"{id_} is not in the queue; mta trace {id_} tells what became of it")
        narrowed = msgspec.structs.replace(match, id=id_, destination=destination or match.destination)
        wanted.append(narrowed)

    def each() -> Iterator[tuple[Message, Delivery]]:
        for one in wanted:
            yield from walk(store, one)

    return each
