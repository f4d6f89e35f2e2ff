"""``mta upgrade``: hand the service over to the version that is installed now."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import click

from ...queue import schema
from ..base import Command, pass_context
from ..context import Context, Unavailable
from ..statusfile import read_status

_TIME = 150.0
"""Seconds to wait; the service itself gives a new version two minutes."""
_PAUSE = 0.05


@click.command(cls=Command)
@pass_context
def upgrade(context: Context) -> None:
    """Hand the service over to the version that is installed now, without dropping a session.

    The running service starts the program anew with its listening sockets, and leaves when that one is ready: messages
    under way are taken, idle sessions end after half a minute. If the new one fails to start, the old one goes on.
    Settings that a reload does not change are taken over, too. Where the new version keeps the queue in another form,
    both cannot run at once: then this says so, and changes nothing.
    """
    context.become_owner()
    found = context.guard(lambda: schema.schema_of(Path(context.settings.state_dir) / "queue"))
    before = context.guard(lambda: read_status(context.settings))
    if before is None:
        raise Unavailable("the service does not run; there is nothing to hand over")
    if found is not None and found != schema.VERSION:
        raise Unavailable(f"process {before.pid} goes on, for the queue can't be handed over: {schema.runs(found)}")
    context.guard(lambda: os.kill(before.pid, signal.SIGUSR2))
    end = time.monotonic() + _TIME
    while time.monotonic() < end:
        time.sleep(_PAUSE)
        now = read_status(context.settings)
        if now is None:
            raise Unavailable("the service has ended; its log says why")
        if now.pid != before.pid:
            value = {"pid": now.pid, "version": now.version, "former": before.pid}
            lines = [f"twisted-mta {now.version}, process {now.pid}, took over from process {before.pid}."]
            context.say(value, lines.copy)
            return
        if now.upgrade != before.upgrade:
            raise Unavailable(f"process {before.pid} goes on: {now.upgrade.partition(' ')[2]}")
    raise Unavailable(f"nothing has happened in {_TIME:g} s; the service's log may say why")
