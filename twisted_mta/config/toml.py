"""What tomllib leaves out: writing values, and finding the line of a key."""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Mapping

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
_TO_ESCAPE = re.compile('["\\\\\x00-\x1f\x7f]')
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?")
_ASSIGNMENT = re.compile(r"""\s*((?:[A-Za-z0-9_.\s-]|"[^"\\]*"|'[^']*')+?)\s*=""")


def write_string(text: str) -> str:
    """``text`` as a TOML basic string."""
    escaped = _TO_ESCAPE.sub(lambda match: _ESCAPES.get(match[0], f"\\u{ord(match[0]):04x}"), text)
    return f'"{escaped}"'


def write_key(name: str) -> str:
    """One part of a key, quoted where it must be."""
    return name if _BARE_KEY.fullmatch(name) else write_string(name)


def write_path(path: tuple[str, ...]) -> str:
    """A dotted key."""
    return ".".join(map(write_key, path))


def write_value(value: object) -> str:
    """A value that tomllib gave, as TOML on one line; a table becomes an inline table."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return write_string(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(write_value, value))}]"
    if isinstance(value, Mapping):
        inside = ", ".join(f"{write_key(str(name))} = {write_value(item)}" for name, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return hex(value)  # str() of a huge number takes long, and may be refused
    return str(value)


def key_lines(text: str) -> dict[str, int]:
    """The lines, from 1, on which the keys and tables of a valid TOML document stand, by their dotted keys.

    A cheap look at the lines, for messages: a key that it cannot find is left out, and a document with strings over
    several lines gives nothing, for what looks like a key may be inside one.
    """
    lines: dict[str, int] = {}
    if '"""' in text or "'''" in text:
        return lines
    table: tuple[str, ...] | None = ()
    for number, line in enumerate(text.split("\n"), 1):
        if header := _HEADER.fullmatch(line):
            table = _path(header[1])
            _mark(lines, (), table, number)
        elif line.lstrip().startswith("["):
            table = None  # a heading that is beyond us, or inside a list: what follows may be anywhere
        elif table is not None and (assignment := _ASSIGNMENT.match(line)):
            _mark(lines, table, _path(assignment[1]), number)
    return lines


def _mark(lines: dict[str, int], table: tuple[str, ...], path: tuple[str, ...], number: int) -> None:
    """Notes the line of ``path`` in ``table``, and of the tables between them that it is the first to name."""
    for end in range(1, len(path) + 1):
        lines.setdefault(write_path(table + path[:end]), number)


def _path(key: str) -> tuple[str, ...]:
    """The parts of a written key; () when it is none."""
    try:
        document: object = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    parts = []
    while isinstance(document, dict):
        ((name, document),) = document.items()
        parts.append(name)
    return tuple(parts)
