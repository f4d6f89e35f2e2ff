"""What is wrong with a configuration, said so that the operator can mend it at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import attrs

from .toml import write_value

Severity = Literal["error", "warning"]

_SHOWN = 80


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()
"""The value of a problem that is not about a value, since None would be one."""


@attrs.frozen(kw_only=True)
class Problem:
    """One thing that is wrong: where, with which value, what, and how to mend it."""

    file: str = ""
    """The file as the operator named it; "" when there is none."""
    line: int | None = None
    """The line, from 1, when it is known."""
    key: str = ""
    """The dotted key as in the file, such as "relay.networks"; "" when the whole file is meant."""
    value: object = ABSENT
    """The value, or the one item of a list, that is meant; ABSENT when none is."""
    wrong: str
    """What is wrong; reads after the key and the value."""
    mend: str
    """What to do; reads after a semicolon."""
    severity: Severity = "error"
    """An "error" stops the start or the reload; a "warning" is only said."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.file and self.line else self.file
        marks = [mark for mark in (where, self.key, "warning" if self.severity == "warning" else "") if mark]
        value = "" if self.value is ABSENT else f"{_shown(self.value)} "
        return ": ".join([*marks, f"{value}{self.wrong}; {self.mend}"])


def error(key: str, value: object, wrong: str, mend: str) -> Problem:
    """What stops the start, without file and line."""
    return Problem(key=key, value=value, wrong=wrong, mend=mend)


def warning(key: str, value: object, wrong: str, mend: str) -> Problem:
    """What is only said, without file and line."""
    return Problem(key=key, value=value, wrong=wrong, mend=mend, severity="warning")


def _shown(value: object) -> str:
    text = write_value(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class ConfigError(Exception):
    """A configuration that must not be used.  ``problems`` has every error found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))
