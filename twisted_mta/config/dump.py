"""Settings back to TOML: what ``mta check --print`` shows, and what reads back as the same settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from . import schema
from .settings import Duration, Settings, Size
from .toml import write_key, write_path, write_value
from .units import format_duration, format_size


def to_toml(settings: Settings) -> str:
    """Every setting, defaults too, as a TOML document: ``parse(to_toml(settings)) == settings``."""
    blocks = ["\n".join(_assignments(settings))]
    for field in schema.fields_of(Settings):
        value = getattr(settings, field.name)
        if attrs.has(type(value)):
            blocks.append(_table((field.name,), value))
        elif isinstance(value, dict):
            blocks += [_table((field.name, name), table) for name, table in value.items()] or [f"[{field.name}]"]
    return "\n\n".join(blocks) + "\n"


def write_option(field: attrs.Attribute[Any], value: object) -> str:
    """One value as it stands in the file, in the unit that the type of ``field`` asks for."""
    return _write(field.type, value)


def _table(path: tuple[str, ...], table: object) -> str:
    return "\n".join([f"[{write_path(path)}]", *_assignments(table)])


def _assignments(table: object) -> Iterator[str]:
    for field in schema.options(type(table)):
        yield f"{write_key(field.name)} = {write_option(field, getattr(table, field.name))}"


def _write(annotation: Any, value: object) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, tuple):
        item_type = annotation.__args__[0]
        return f"[{', '.join(_write(item_type, item) for item in value)}]"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if _mentions(annotation, Duration):
            return write_value(format_duration(value))
        if _mentions(annotation, Size):
            return write_value(format_size(int(value)))
    return write_value(value)


def _mentions(annotation: Any, unit: object) -> bool:
    return annotation is unit or unit in getattr(annotation, "__args__", ())
