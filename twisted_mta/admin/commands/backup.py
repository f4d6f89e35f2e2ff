"""``mta backup``: consistent copies of the queue and of the directory, while the service runs."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ..base import Command, pass_context
from ..context import CommandError, Context, NotFound
from ..tables import facts, size

PARTS = ("queue", "directory")


@click.command(cls=Command)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--only", type=click.Choice(PARTS), default=None, help="Only the queue, or only the directory.")
@pass_context
def backup(context: Context, folder: Path, only: str | None) -> None:
    """Copy the queue and the directory of customers and users into the new folder DIR.

    The service may run: each copy is of one moment, synced, and without the room that is free in its file. DIR appears
    once all is in it; the user of the service must be able to make it. To restore, stop the service and put the copies
    in place of the folders of these names in state_dir. A queue that is restored sends again what has left it since.
    """
    from ...queue.copying import DATA, copy_environment, sync

    folder = folder.absolute()
    context.become_owner()
    if folder.exists():
        raise CommandError(f"{folder} is there already: name a folder that is not")
    if not folder.parent.is_dir():
        raise CommandError(f"{folder.parent} is no folder: make it first, owned by the user of the service")
    names = [name for name in PARTS if only in (None, name)]
    there = [name for name in names if context.guard(lambda: (context.state_dir / name / DATA).exists())]  # noqa: B023
    if not there:
        raise NotFound(f"there is nothing to back up in {context.state_dir} (state_dir)")
    making = folder.with_name(f".{folder.name}.{os.getpid()}")
    copies: dict[str, int] = {}
    try:
        making.mkdir(mode=0o700)
        for name in there:
            copies[name] = copy_environment(context.state_dir / name, making / name)
        sync(making)
        making.rename(folder)
        sync(folder.parent)
    except OSError as error:
        _forget(making)
        raise CommandError(f"{folder} could not be written: {error.strerror or error}") from None
    except BaseException:
        _forget(making)
        raise
    context.say(
        {"folder": str(folder), "copies": copies},
        lambda: [f"Copied to {folder}:", *facts([(name, size(octets)) for name, octets in copies.items()], None)],
    )


def _forget(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
