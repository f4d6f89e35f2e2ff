"""``mta trace``: where is this message?"""

from __future__ import annotations

from typing import Any

import click
import msgspec

from ...config.units import format_duration
from ...queue.interfaces import IMessageStore
from ..base import Command, pass_context
from ..context import Context, NotFound
from ..describe import message_value
from ..selection import check_id
from ..story import Story
from ..timeline import render

_ROWS = 20_000
"""Entries of the history looked through at once: the store keeps what was freed meanwhile for whoever looks."""


@click.command(cls=Command)
@click.argument("id_", metavar="ID")
@pass_context
def trace(context: Context, id_: str) -> None:
    """Tell the whole story of a message: how it came, and what became of each recipient.

    ID is the one in the log and in "250 2.0.0 queued as ID". Messages that have left are known for as long as
    queue.history says. A Message-ID from a header, '<…@…>', does as well, of all that came with it; the whole
    history is looked through for it, about a million entries in a second or two.
    """
    store = context.store()
    wanted = _by_message_id(context, store, id_.strip()) if "@" in id_ else [check_id(id_)]
    stories = [_known(context, store, one) for one in wanted]
    if context.json:
        values = [_value(story) for story in stories]
        context.answer(values[0] if len(values) == 1 else values)
        return
    for number, story in enumerate(stories):
        reports = {report: read(store, report) for report in story.reports}
        told = {report: known for report, known in reports.items() if known.events or known.message is not None}
        context.print([""] * bool(number) + render(story, told, context.now(), context.width))


def read(store: IMessageStore, id_: str) -> Story:
    """All that the store knows of a message."""
    return Story(
        id=id_,
        # in the order of commits, which is nearly that of time
        events=tuple(sorted(store.history(id_), key=lambda event: event.time)),
        message=store.message(id_),
        deliveries=tuple(store.deliveries(id_)),
    )


def _known(context: Context, store: IMessageStore, id_: str) -> Story:
    story = read(store, id_)
    if story.events or story.message is not None:
        return story
    kept = format_duration(context.settings.queue.history)
    raise NotFound(f"{id_} is not known: never here, or gone for longer than {kept} (queue.history)")


def _by_message_id(context: Context, store: IMessageStore, text: str) -> list[str]:
    wanted = text if text.startswith("<") else f"<{text}>"
    found, before = store.recall(wanted, "", _ROWS)
    while before:
        more, before = store.recall(wanted, before, _ROWS)
        found += more
    if not found:
        kept = format_duration(context.settings.queue.history)
        raise NotFound(
            f"no message came with the Message-ID {wanted}, or it is gone for longer than {kept} (queue.history)"
        )
    return found[::-1]


def _value(story: Story) -> dict[str, Any]:
    return {
        "id": story.id,
        "in_queue": story.message is not None,
        "message": message_value(story.message) if story.message is not None else None,
        "recipients": msgspec.to_builtins(story.ends()),
        "reports": list(story.reports),
        "about": story.about.about if story.about is not None else None,
        "events": msgspec.to_builtins(story.events),
    }
