"""What the command line prints: aligned, no wider than the terminal, with sizes and ages that people read.

All text from outside goes through :func:`clean`: a peer's words never reach the terminal as they came.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

import click
import msgspec

from ..mail.status import printable

Colour = str
GAP = "  "


class Cell(msgspec.Struct, frozen=True):
    """Text with a colour of :func:`click.style`; "dim" and "bold" are colours too."""

    text: str
    colour: Colour = ""


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """A column.  ``flexible`` ones are cut when the table is too wide, the widest first, never below ``least``."""

    title: str = ""
    align: Literal["left", "right"] = "left"
    flexible: bool = False
    least: int = 8


def clean(text: object, limit: int = 2000) -> str:
    """Text fit for a terminal, on one line."""
    return printable(str(text), limit)


def width_of(text: str) -> int:
    """Columns that a text takes on a terminal: wide characters two, combining ones none (Unicode UAX #11)."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def take(text: str, width: int) -> str:
    """The start of a text that fits into ``width`` columns."""
    if text.isascii():
        return text[:width]
    used = 0
    for n, c in enumerate(text):
        used += width_of(c)
        if used > width:
            return text[:n]
    return text


def cut(text: str, width: int) -> str:
    """Text of at most ``width`` columns, with "…" where something is missing."""
    if width_of(text) <= width:
        return text
    return take(text, width - 1) + "…" if width > 0 else ""


def pad(text: str, width: int, align: str = "left") -> str:
    """Text filled up to ``width`` columns."""
    fill = " " * (width - width_of(text))
    return fill + text if align == "right" else text + fill


def paint(text: str, colour: Colour) -> str:
    """Text in a colour; click takes it away again where there is no terminal."""
    if not colour or not text:
        return text
    if colour == "bold":
        return click.style(text, bold=True)
    if colour == "dim":
        return click.style(text, dim=True)
    return click.style(text, fg=colour)


def table(
    columns: Sequence[Column], rows: Iterable[Sequence[Cell | str]], width: int | None = None, indent: str = ""
) -> list[str]:
    """A table as lines, headed if any column has a title.  ``width`` is the terminal's, None for as wide as it is."""
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    texts = [[clean(cell.text) for cell in row] for row in cells]
    headed = any(column.title for column in columns)
    widths = [max([width_of(column.title), *(width_of(row[n]) for row in texts)]) for n, column in enumerate(columns)]
    if width is not None:
        _shrink(widths, columns, width - len(indent) - len(GAP) * (len(columns) - 1))
    lines = []
    if headed:
        titles = _laid_out([column.title for column in columns], widths, columns)
        titles = [paint(text, "bold") if text.strip() else text for text in titles]
        lines.append((indent + GAP.join(titles)).rstrip())
    for row, text in zip(cells, texts, strict=True):
        shown = _laid_out(text, widths, columns)
        painted = [paint(part, cell.colour) for part, cell in zip(shown, row, strict=True)]
        lines.append((indent + GAP.join(painted)).rstrip())
    return lines


def _laid_out(texts: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> list[str]:
    laid = [pad(cut(text, w), w, c.align) for text, w, c in zip(texts, widths, columns, strict=True)]
    if columns[-1].align == "left":
        laid[-1] = laid[-1].rstrip()
    return laid


def _shrink(widths: list[int], columns: Sequence[Column], room: int) -> None:
    """Cut flexible columns until all fit: always the widest of them by one, so that they end up alike."""
    while sum(widths) > room:
        over = [n for n, column in enumerate(columns) if column.flexible and widths[n] > column.least]
        if not over:
            return
        widths[max(over, key=lambda n: widths[n])] -= 1


def facts(pairs: Iterable[tuple[str, Cell | str]], width: int | None = None, indent: str = GAP) -> list[str]:
    """Names and values, one pair a line, those without a value left out; long values are wrapped under themselves."""
    shown = [(name, value if isinstance(value, Cell) else Cell(value)) for name, value in pairs]
    shown = [(name, value) for name, value in shown if value.text]
    if not shown:
        return []
    left = max(width_of(name) for name, _ in shown)
    lines = []
    for name, value in shown:
        room = None if width is None else max(20, width - len(indent) - left - len(GAP))
        first, *rest = wrap(clean(value.text), room)
        lines.append(f"{indent}{paint(pad(name, left), 'dim')}{GAP}{paint(first, value.colour)}".rstrip())
        lines += [f"{indent}{' ' * left}{GAP}{paint(more, value.colour)}" for more in rest]
    return lines


def wrap(text: str, width: int | None) -> list[str]:
    """A text as lines of at most ``width`` columns, broken at spaces.  A longer word, such as a path, stays whole: the
    terminal wraps it, and it can be copied."""
    if width is None or width_of(text) <= width:
        return [text]
    lines: list[str] = []
    line, *words = text.split(" ")
    for word in words:
        joined = f"{line} {word}"
        if width_of(joined) <= width or not line.strip():
            line = joined
        else:
            lines.append(line)
            line = word
    return [*lines, line]


def size(octets: float) -> str:
    """ "4.1 KiB": three digits at most, so that columns stay narrow."""
    if octets < 1024:
        return f"{int(octets)} B"
    value = float(octets)
    unit = "KiB"
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):  # noqa: B007
        value /= 1024
        if value < 999.5:
            break
    return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.1f} {unit}"


def count(number: int | None) -> str:
    """ "12,345"; "none" for no limit."""
    return "none" if number is None else f"{number:,}"


def many(number: int, one: str, several: str = "") -> str:
    """ "1 message", "2 messages"."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def age(seconds: float) -> str:
    """ "12s", "5m", "2h10m", "3d4h": two units at most."""
    total = int(max(0.0, seconds))
    if total < 60:
        return f"{total}s"
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if minutes < 10 and total % 60:
        return f"{minutes}m{total % 60:02d}s"
    if hours < 1:
        return f"{minutes}m"
    if days < 1:
        return f"{hours}h{minutes % 60:02d}m" if minutes % 60 else f"{hours}h"
    return f"{days}d{hours % 24}h" if hours % 24 and days < 100 else f"{days}d"


def lapse(seconds: float) -> str:
    """A short time with its fraction: "12 ms", "1.4 s", then as :func:`age`."""
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 59.95 else age(seconds)


def due(when: float, now: float) -> str:
    """ "in 5m", or "now"."""
    return f"in {age(when - now)}" if when - now >= 1 else "now"


def moment(when: float) -> str:
    """ "2026-11-23 12:00:00", local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


def clock_time(when: float) -> str:
    """ "12:00:00.123", local time."""
    # as an integer first: the fraction must not be rounded up into another second
    milliseconds = int(when * 1000)
    return f"{time.strftime('%H:%M:%S', time.localtime(milliseconds // 1000))}.{milliseconds % 1000:03d}"


def bar(share: float, width: int = 20) -> str:
    """A share of one as a bar."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    if share > 0 and eighths == 0:
        eighths = 1
    full, part = divmod(eighths, 8)
    return pad("█" * full + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[part], width)
