"""The shape of the settings: which table has which options.  Everything here is read off :mod:`.settings`."""

from __future__ import annotations

import functools
from typing import Any, get_args, get_origin

import attrs

from .settings import Settings

Table = type[Any]
"""A class of :mod:`.settings`."""

_FREE_NAMES = {"listen": "NAME", "quota": "default", "checker": "NAME", "oauth": "NAME", "sni": "NAME"}
"""What stands for the last name of a table whose last name is free."""


def fields_of(table: Table) -> tuple[attrs.Attribute[Any], ...]:
    """The fields of one class, their types resolved, in the order of the class."""
    fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(attrs.resolve_types(table))
    return fields


def named_tables(annotation: Any) -> Table | None:
    """The class of the tables in a ``dict[str, Class]``; None for any other annotation."""
    return get_args(annotation)[1] if get_origin(annotation) is dict else None


def options(table: Table) -> tuple[attrs.Attribute[Any], ...]:
    """The fields of ``table`` that are single values or lists: what stands behind a "key =" in the file."""
    return tuple(field for field in fields_of(table) if not _is_table(field))


def _is_table(field: attrs.Attribute[Any]) -> bool:
    return attrs.has(field.type) if isinstance(field.type, type) else named_tables(field.type) is not None


@functools.cache
def tables() -> dict[str, Table]:
    """Headings to classes, in the order of the file: "" the top, "tls", "listen.NAME" where the name is free."""
    found: dict[str, Table] = {"": Settings}
    for field in fields_of(Settings):
        if (named := named_tables(field.type)) is not None:
            found[f"{field.name}.{_FREE_NAMES[field.name]}"] = named
        elif _is_table(field):
            found[field.name] = field.type  # type: ignore[assignment]
    return found


def owners(option: str) -> list[str]:
    """The headings of the tables that have an option of this name."""
    return [heading for heading, table in tables().items() if any(field.name == option for field in options(table))]
