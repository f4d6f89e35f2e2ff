"""What a reload may change, and what holds until the next start."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from . import schema
from .problems import ABSENT, Problem
from .settings import Settings

AT_START: tuple[str, ...] = (
    "state_dir",
    "workers",
    "worker_timeout",
    "user",
    "group",
    "listen",
    "queue.sync",
    "queue.map_size",
    "queue.disk_reserve",
    "admin.listen",
    "admin.public",
)
"""Settings, and tables, that are used once: folders, accounts, sockets and logs are as they were at the start."""


def changed(old: Settings, new: Settings) -> list[str]:
    """The dotted keys of all settings that differ; for listeners, the names of their tables."""
    return list(_changed(old, new))


def _changed(old: Settings, new: Settings) -> Iterator[str]:
    for field in schema.fields_of(Settings):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if isinstance(before, dict):
            for name in {**before, **after}:
                if before.get(name) != after.get(name):
                    yield f"{field.name}.{name}"
        elif attrs.has(type(before)):
            for option in schema.options(type(before)):
                if getattr(before, option.name) != getattr(after, option.name):
                    yield f"{field.name}.{option.name}"
        elif before != after:
            yield field.name


def for_reload(running: Settings, loaded: Settings) -> tuple[Settings, list[Problem]]:
    """The settings that hold after a reload of ``loaded``: those of :data:`AT_START` stay as in ``running``.

    Gives a warning for each that would have changed, so that an operator is not left believing that it did.
    """
    kept = loaded
    for key in AT_START:
        table, _, option = key.rpartition(".")
        if table:
            section = attrs.evolve(getattr(kept, table), **{option: getattr(getattr(running, table), option)})
            kept = attrs.evolve(kept, **{table: section})
        else:
            kept = attrs.evolve(kept, **{key: getattr(running, key)})
    mend = "restart the service to make it hold"
    warnings = [
        Problem(key=key, value=ABSENT, wrong="was changed, which a reload does not do", mend=mend, severity="warning")
        for key in changed(kept, loaded)
    ]
    return kept, warnings
