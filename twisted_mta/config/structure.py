"""What TOML may hold for each type of the settings: a cattrs converter whose every refusal knows its mend.

Strict: nothing is converted that the operator did not write (no 1 for true, no "25" for 25, no text for a list).
"""

from __future__ import annotations

import difflib
import functools
import operator
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import BaseValidationError, IterableValidationError, IterableValidationNote
from cattrs.gen import make_dict_structure_fn

from . import units
from .kinds import Kind, Range
from .settings import Duration, Size
from .toml import write_value

Hook = Callable[[Any, Any], Any]
_T = TypeVar("_T")


class Wrong(ValueError):
    """A value is refused.  ``value`` is what was refused; the rest is as in :class:`~.problems.Problem`."""

    def __init__(self, value: object, wrong: str, mend: str) -> None:
        super().__init__(wrong)
        self.value = value
        self.wrong = wrong
        self.mend = mend


def _refuse_type(value: object, wanted: str, mend: str) -> NoReturn:
    raise Wrong(value, f"is {_name_of(value)}, not {wanted}", mend)


def _name_of(value: object) -> str:
    for kind, name in ((bool, "true or false"), (str, "text"), (int, "a number"), (float, "a number with a fraction")):
        if isinstance(value, kind):
            return name
    if isinstance(value, Mapping):
        return "a table"
    return "a list" if isinstance(value, list) else "a date or time"


# --- single values ---------------------------------------------------------------------------------------------------


def _string(value: object, _: object = None) -> str:
    if not isinstance(value, str):
        number = isinstance(value, int) and not isinstance(value, bool)
        mend = f"write {write_value(str(value))}" if number else "write a text in quotes"
        _refuse_type(value, "text", mend)
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise Wrong(value, "has control characters in it", "write it on one line, with plain characters")
    return value


def _boolean(value: object, _: object = None) -> bool:
    if not isinstance(value, bool):
        _refuse_type(value, "true or false", "write true or false, without quotes")
    return value


def _integer(value: object, _: object = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        text = value.strip() if isinstance(value, str) else ""
        plain = text.isascii() and text.isdigit() and len(text) < 10
        _refuse_type(value, "a whole number", f"write {int(text)}" if plain else "write a whole number, without quotes")
    return value


def _duration(value: object, _: object = None) -> Duration:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        _refuse_type(value, "a duration", 'write it as "90s", "5d" or "1h30m"')
    if isinstance(value, int):
        mend = f'write "{value}s" for seconds' if 0 <= value < 10**9 else 'write it as "90s", "5d" or "1h30m"'
        raise Wrong(value, "has no unit", mend)
    return Duration(_parsed(value, units.parse_duration))


def _size(value: object, _: object = None) -> Size:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        _refuse_type(value, "a size", 'write it as "50MiB"')
    if isinstance(value, int):
        if not 0 <= value <= 1 << 60:
            raise Wrong(value, "is not a size", 'write it as "50MiB"')
        return Size(value)
    return Size(_parsed(value, units.parse_size))


def _parsed(value: str, parse: Callable[[str], _T]) -> _T:
    try:
        return parse(value)
    except units.UnitError as error:
        raise Wrong(value, error.wrong, error.mend) from None


def _annotated_hook(of: Any) -> Hook:
    plain, *marks = get_args(of)
    inner = converter.get_structure_hook(plain)

    def structure(value: object, _: object) -> object:
        result = inner(value, plain)
        for mark in marks:
            if isinstance(mark, Kind):
                result = _parsed(result, mark.parse)
            elif isinstance(mark, Range) and not mark.low <= result <= mark.high:
                raise Wrong(value, "is out of range", f"write a {mark}")
        return result

    return structure


def _literal_hook(of: Any) -> Hook:
    choices: tuple[str, ...] = get_args(of)

    def structure(value: object, _: object) -> str:
        text = _string(value)
        if text in choices:
            return text
        near = difflib.get_close_matches(text.lower(), choices, 1)
        mend = f'did you mean "{near[0]}"?' if near else "write one of them"
        raise Wrong(value, f"is not {one_of(choices)}", mend)

    return structure


def one_of(choices: tuple[str, ...]) -> str:
    """'"a", "b" or "c"'."""
    *most, last = map(write_value, choices)
    return f"{', '.join(most)} or {last}" if most else last


# --- what holds several ----------------------------------------------------------------------------------------------


def _optional_hook(of: Any) -> Hook:
    (plain,) = (arg for arg in get_args(of) if arg is not type(None))
    inner = converter.get_structure_hook(plain)

    def structure(value: object, _: object) -> object:
        if value == "none":
            return None
        if isinstance(value, str) and value.lower() in ("", "none", "unlimited", "no", "off"):
            raise Wrong(value, "is not a limit", 'write "none" for no limit')
        return inner(value, plain)

    return structure


def _tuple_hook(of: Any) -> Hook:
    plain = get_args(of)[0]
    inner = converter.get_structure_hook(plain)

    def structure(value: object, _: object) -> tuple[object, ...]:
        if not isinstance(value, list):
            mend = f"write [{write_value(value)}]" if isinstance(value, str) else "write a list in brackets"
            _refuse_type(value, "a list", mend)
        return tuple(_each(of, enumerate(value), lambda item: inner(item, plain)).values())

    return structure


def _dict_hook(of: Any) -> Hook:
    plain = get_args(of)[1]
    inner = converter.get_structure_hook(plain)

    def structure(value: object, _: object) -> dict[object, object]:
        if not isinstance(value, Mapping):
            raise NotATable(value)
        return _each(of, value.items(), lambda item: inner(item, plain))

    return structure


def _each(
    of: Any, items: Iterable[tuple[int | str, object]], structure: Callable[[object], object]
) -> dict[object, object]:
    """Structures all items; raises one error with all that failed, as cattrs does for the types that it knows."""
    results: dict[object, object] = {}
    errors: list[Exception] = []
    for index, item in items:
        try:
            results[index] = structure(item)
        except (Wrong, BaseValidationError) as error:
            error.add_note(IterableValidationNote(f"{of} @ {index}", index, of))
            errors.append(error)
    if errors:
        raise IterableValidationError(f"While structuring {of}", errors, of)
    return results


class NotATable(Wrong):
    """A value stands where a table is wanted."""

    def __init__(self, value: object) -> None:
        super().__init__(value, f"is {_name_of(value)}, not a table", "write its settings below a line with its name")


def _table_hook(of: Any) -> Hook:
    inner = make_dict_structure_fn(of, converter, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=True)

    def structure(value: object, _: object) -> object:
        if not isinstance(value, Mapping):
            raise NotATable(value)
        return inner(value, of)

    return structure


def _make_converter() -> cattrs.Converter:
    made = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for builtin, hook in ((str, _string), (bool, _boolean), (int, _integer)):
        made.register_structure_hook(builtin, hook)
    made.register_structure_hook_func(functools.partial(operator.is_, Duration), _duration)
    made.register_structure_hook_func(functools.partial(operator.is_, Size), _size)
    for origin, factory in (
        (Annotated, _annotated_hook),
        (Literal, _literal_hook),
        (types.UnionType, _optional_hook),
        (Union, _optional_hook),
        (tuple, _tuple_hook),
        (dict, _dict_hook),
    ):
        made.register_structure_hook_factory(functools.partial(_has_origin, origin), factory)
    made.register_structure_hook_factory(attrs.has, _table_hook)
    return made


def _has_origin(origin: object, of: Any) -> bool:
    return get_origin(of) is origin


converter = _make_converter()
"""Makes :class:`~.settings.Settings` of what tomllib gave; raises cattrs' errors with :class:`Wrong` inside."""
