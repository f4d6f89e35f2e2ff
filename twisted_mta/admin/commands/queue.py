"""``mta queue``: look at the queue.  What changes it is in :mod:`.actions`."""

from __future__ import annotations

import sys
from typing import Any

import click

from ...mail.envelope import Delivery, Message
from ...mail.status import printable
from ..base import Group, pass_context
from ..context import Context, NotFound
from ..describe import delivery_value, message_facts, message_value, progress, recipient_text, sender_of
from ..selection import check_after, check_id, filter_options, is_filtered, queue_filter, walk
from ..tables import Cell, Column, age, clean, cut, facts, many, moment, paint, size, table

_HERE = "twisted_mta.admin.commands"
_ACTIONS = f"{_HERE}.actions"
_FILES = f"{_HERE}.files"


class QueueGroup(Group):
    """Looking comes first, then changing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in order."""
        return [*self.commands, *self.lazy]


@click.group(
    cls=QueueGroup,
    lazy={name: f"{_ACTIONS}:{name}" for name in ("retry", "hold", "release", "bounce")}
    | {name: f"{_HERE}.removal:{name}" for name in ("remove", "removals")}
    | {"verify": f"{_ACTIONS}:verify"}
    | {"compact": f"{_HERE}.compact:compact"}
    | {"export": f"{_FILES}:export", "import": f"{_FILES}:import_"},
)
def queue() -> None:
    """The queue: look at it, and act on what waits in it."""


@queue.command("list")
@filter_options
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="How many deliveries.")
@click.option("--after", metavar="ID/DEST", default="", help="Where the last page ended.")
@pass_context
def queue_list(context: Context, limit: int, after: str, **options: Any) -> None:
    """List deliveries, the oldest first: one for each destination of a message.

    With --json an array of objects; the last one's "id" and "destination" make the next page's --after.
    """
    store = context.store()
    match = queue_filter(options)
    found = list(walk(store, match, check_after(after), limit + 1))
    more, found = len(found) > limit, found[:limit]

    def lines() -> list[str]:
        if not found:
            return ["Nothing in the queue matches." if is_filtered(match) else "The queue is empty."]
        shown = listing(found, context)
        if more:
            last = f"{found[-1][0].id}/{found[-1][1].destination}"
            total = f" of {store.stats().deliveries:,}" if not is_filtered(match) else ""
            shown += ["", f"{many(len(found), 'delivery', 'deliveries')}{total}. The next page: --after {clean(last)}"]
        elif len(found) > 1:
            shown += ["", many(len(found), "delivery", "deliveries")]
        return shown

    context.say([delivery_value(message, delivery) for message, delivery in found], lines)


def listing(found: list[tuple[Message, Delivery]], context: Context) -> list[str]:
    """Two lines a delivery: what it is, and how it stands."""
    now, width = context.now(), context.width
    heads = [
        Column(title="ID"),
        Column(title="Age", align="right"),
        Column(title="Size", align="right"),
        Column(title="From", flexible=True, least=10),
        Column(title="To", flexible=True, least=10),
    ]
    rows: list[list[Cell | str]] = []
    for message, delivery in found:
        first, *others = delivery.recipients
        to = f"{first.address} +{len(others)}" if others else first.address
        rows.append([Cell(message.id, "cyan"), age(now - message.arrived), size(message.size),
                     sender_of(message.sender), to])  # fmt: skip
    head, *body = table(heads, rows, width)
    lines = [head]
    indent = " " * 18
    for line, (_, delivery) in zip(body, found, strict=True):
        lines.append(line)
        state = progress(delivery, now)
        place = clean(delivery.destination)
        said = f": {clean(delivery.last_reply)}" if delivery.last_reply else ""
        room = None if width is None else width - len(indent) - len(place) - 2 - len(state.text)
        if room is not None and room < 24 and said:
            lines.append(f"{indent}{paint(cut(place, (width or 80) - len(indent)), 'dim')}")
            lines.append(f"{indent}{_stated(state, said, None if width is None else width - len(indent))}")
        else:
            where = place if width is None else cut(place, max(10, width - len(indent) - 2 - len(state.text)))
            rest = None if width is None else width - len(indent) - len(where) - 2
            lines.append(f"{indent}{paint(where, 'dim')}  {_stated(state, said, rest)}")
    return lines


def _stated(state: Cell, said: str, room: int | None) -> str:
    rest = said if room is None else cut(said, max(0, room - len(state.text)))
    return paint(state.text, state.colour) + paint(rest, "dim")


@queue.command("show")
@click.argument("id_", metavar="ID")
@pass_context
def queue_show(context: Context, id_: str) -> None:
    """Show a message that is in the queue, with each of its deliveries."""
    id_ = check_id(id_)
    store = context.store()
    message = store.message(id_)
    if message is None:
        raise NotFound(f"{id_} is not in the queue; mta trace {id_} tells what became of it")
    found, deliveries = message, store.deliveries(id_)

    def lines() -> list[str]:
        now, width = context.now(), context.width
        shown = [paint(f"Message {found.id}", "bold"), *facts(message_facts(found, now), width)]
        for delivery in deliveries:
            shown += ["", paint(clean(delivery.destination), "bold")]
            host = (
                f" ({delivery.last_host})"
                if delivery.last_host and delivery.last_host not in delivery.last_reply
                else ""
            )
            pairs: list[tuple[str, Cell | str]] = [
                ("State", progress(delivery, now)),
                ("Last attempt", moment(delivery.last_attempt) if delivery.last_attempt else ""),
                ("Next attempt", moment(delivery.next_attempt) if delivery.state == "queued" else ""),
                ("Last reply", f"{delivery.last_reply}{host}" if delivery.last_reply else ""),
            ]
            to = [recipient_text(recipient) for recipient in delivery.recipients]
            pairs += [("To" if n == 0 else "", address) for n, address in enumerate(to)]
            shown += facts(pairs, width)
        return shown

    value = message_value(found) | {"deliveries": [delivery_value(found, delivery) for delivery in deliveries]}
    context.say(value, lines)


@queue.command("cat")
@click.argument("id_", metavar="ID")
@click.option("--header", "header_only", is_flag=True, help="Only the header section.")
@pass_context
def queue_cat(context: Context, id_: str, header_only: bool) -> None:
    """Print a message's content, octet by octet; on a terminal what it might obey is shown escaped."""
    id_ = check_id(id_)
    store = context.store()
    message = store.message(id_)
    if message is None:
        raise NotFound(f"{id_} is not in the queue")
    terminal = sys.stdout.isatty()
    out = sys.stdout.buffer
    tail = b""
    for number in range(message.chunks):
        data = context.done(store.read(id_, number))
        end = (tail + data).find(b"\r\n\r\n") if header_only else -1
        if end >= 0:
            data = data[: max(0, end + 4 - len(tail))]
        tail = (tail + data)[-3:]
        if terminal:
            lines = data.decode("utf-8", "backslashreplace").split("\n")
            text = "\n".join(printable(line.removesuffix("\r").replace("\t", "    "), 1 << 20) for line in lines)
            click.echo(text, nl=False)
        else:
            out.write(data)
        if end >= 0:
            break
    out.flush()
