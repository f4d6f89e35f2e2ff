"""``mta queue compact``: give what is free in the queue's file back to the disk."""

from __future__ import annotations

import click

from ..base import Command, pass_context
from ..context import Context, NotFound, Unavailable
from ..statusfile import read_status
from ..tables import size


@click.command(cls=Command)
@click.option("--dry-run", is_flag=True, help="Only say how much there is to give back; the service may run.")
@pass_context
def compact(context: Context, dry_run: bool) -> None:
    """Give the room that is free in the queue's file back to the disk. The service must be stopped.

    What is free is used again for new mail, so this is for a queue that was much larger than it will be. The disk needs
    room for a copy of what is in the queue; whatever happens on the way, the queue is as it was, or compacted.
    """
    from ...queue.access import InUse
    from ...queue.compacting import Room, room
    from ...queue.compacting import compact as compacted
    from ...queue.copying import DATA

    folder = context.state_dir / "queue"
    context.become_owner()
    if not context.guard((folder / DATA).exists):
        raise NotFound(f"there is no queue in {context.state_dir} (state_dir)")

    def use() -> Room:
        try:
            return room(folder) if dry_run else compacted(folder)
        except InUse as error:
            raise Unavailable(f"the queue in {folder} can't be compacted now: {error}; {_advice(context)}") from None

    found = context.guard(use)
    if dry_run:
        free = max(0, found.file - found.used)
        words = f"Compacted, the queue's file would have {size(found.used)} instead of {size(found.file)}"
        words += f", {size(free)} less. Nothing was changed." if free else ": it is not worth it. Nothing was changed."
        context.say({"file": found.file, "used": found.used}, lambda: words)
    else:
        words = f"The queue's file has {size(found.used)} instead of {size(found.file)}."
        context.say({"before": found.file, "after": found.used}, lambda: words)


def _advice(context: Context) -> str:
    if read_status(context.settings) is None:
        return "try again when that has ended"
    return "stop the service for it (systemctl stop twisted-mta); with --dry-run it is said whether that is worth it"
