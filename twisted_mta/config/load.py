"""A TOML file to :class:`~.settings.Settings`; all that is wrong with it is collected and said at once."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
from cattrs.errors import BaseValidationError, ClassValidationError, ForbiddenExtraKeysError, IterableValidationError

from . import checks, schema
from .problems import ConfigError, Problem
from .settings import Settings
from .structure import NotATable, Wrong, converter
from .toml import key_lines, write_path

Keys = tuple[str, ...]
"""A path into the file."""

_LISTENER_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")

_ALIASES = {
    "listener": "listen", "listeners": "listen", "interfaces": "listen", "bind": "address", "addresses": "address",
    "ssl": "tls", "cert": "certificate", "certfile": "certificate", "keyfile": "key", "private_key": "key",
    "quotas": "quota", "limits": "quota", "myhostname": "hostname", "server_name": "hostname",
    "mynetworks": "networks", "relayhost": "smarthost", "relay_host": "smarthost", "mydestination": "domains",
    "message_size_limit": "message_bytes", "max_size": "message_bytes", "resolvers": "servers",
    "nameservers": "servers", "recipient_delimiter": "detail_delimiter", "maildir": "mailbox",
}  # fmt: skip
"""What an operator may have called it elsewhere, for mends."""


def load(path: str | None) -> Settings:
    """The settings of the file at ``path``; with None, the defaults.

    Raises :class:`~.problems.ConfigError` with every wrong key, type and text.  Whether the settings make sense
    together is another question: :func:`load_checked` asks both.
    """
    if path is None:
        return Settings()
    return parse(_read(path), path)


def load_checked(path: str | None) -> tuple[Settings, list[Problem]]:
    """The settings of the file at ``path``, fit to be served, and the warnings about them.

    Raises :class:`~.problems.ConfigError` with every error of the file, or of the settings together.
    """
    settings = load(path)
    problems = check(settings, path)
    if errors := [problem for problem in problems if problem.severity == "error"]:
        raise ConfigError(errors)
    return settings, problems


def check(settings: Settings, path: str | None = None) -> list[Problem]:
    """Everything unsafe, impossible or doubtful about ``settings``; errors and warnings.

    Looks at the certificate and other files that are named.  ``path`` is the file they came from, to name it and the
    line.  No error among them means that they may be served.
    """
    return placed(checks.check(settings), path)


def placed(problems: Iterable[Problem], path: str | None = None) -> list[Problem]:
    """Problems with the file that their settings came from, and the line."""
    lines: dict[str, int] = {}
    if path is not None:
        try:
            lines = key_lines(Path(path).read_text("utf-8"))
        except (OSError, UnicodeDecodeError):
            lines = {}  # they are a courtesy; the settings are read already
    return [attrs.evolve(problem, file=path or "", line=_line(lines, problem.key)) for problem in problems]


def parse(text: str, file: str = "") -> Settings:
    """The settings that a TOML document says; ``file`` names it in errors.  Raises :class:`~.problems.ConfigError`."""
    try:
        raw = tomllib.loads(text)
    except RecursionError:
        raise ConfigError([Problem(file=file, wrong="nests too deep", mend="write tables one below another")]) from None
    except ValueError as error:  # TOMLDecodeError, or int() refusing a number of thousands of digits
        raise ConfigError([_syntax(str(error), file, text)]) from None
    problems = list(_names(raw))
    settings = Settings()
    try:
        settings = converter.structure(_with_defaults(raw), Settings)
    except BaseValidationError as error:
        problems += _flatten(error, ())
    if problems:
        lines = key_lines(text)
        placed = [attrs.evolve(problem, file=file, line=_line(lines, problem.key)) for problem in problems]
        raise ConfigError(sorted(placed, key=lambda problem: problem.line or 0))
    return settings


def _line(lines: Mapping[str, int], key: str) -> int | None:
    """The line of ``key``; that of its table when the file has only the table."""
    return lines.get(key) or lines.get(key.rpartition(".")[0])


def _read(path: str) -> str:
    mend = "name a readable file with --config or MTA_CONFIG"
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = f"is not UTF-8 at octet {error.start}"
        raise ConfigError([Problem(file=path, wrong=wrong, mend="save the file as UTF-8")]) from None
    except OSError as error:
        raise ConfigError([Problem(file=path, wrong=f"cannot be read: {error.strerror}", mend=mend)]) from None
    except ValueError:
        raise ConfigError([Problem(file=path, wrong="is no name of a file", mend=mend)]) from None


def _syntax(message: str, file: str, text: str) -> Problem:
    what, _, place = message.rstrip(")").partition(" (at ")
    numbers = [int(number) for number in re.findall(r"\d+", place)]
    line = numbers[0] if numbers else text.count("\n") + 1 if place else None
    where = f" at column {numbers[1]}" if numbers else ""
    mend = "text goes in quotes, lists in [ ], a table begins with [name]; see https://toml.io"
    if "Cannot declare" in what or "overwrite" in what:
        mend = "write each key and each [table] once"
    return Problem(file=file, line=line, wrong=f"is not valid TOML{where}: {what[:120]}", mend=mend)


def _with_defaults(raw: dict[str, Any]) -> dict[str, Any]:
    """``raw`` with the quota that every customer has, when the file does not speak of it."""
    quota = raw.get("quota")
    return {**raw, "quota": {"default": {}} | quota} if isinstance(quota, dict) else raw


def _names(raw: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with names that are free as far as types go."""
    for heading, check_name in (("listen", _listener_name), ("quota", _quota_name)):
        table = raw.get(heading)
        for name, value in table.items() if isinstance(table, dict) else ():
            if isinstance(value, dict) and (problem := check_name(name)) is not None:
                yield problem


def _listener_name(name: str) -> Problem | None:
    if _LISTENER_NAME.fullmatch(name):
        return None
    mend = "use up to 32 letters, digits, - and _; it appears in logs and metrics"
    return Problem(key=write_path(("listen", name)), wrong="is no name for a listener", mend=mend)


def _quota_name(name: str) -> Problem | None:
    if name == "default":
        return None
    mend = "write [quota.default] for all customers; one customer's own values are kept in the directory: "
    mend += f'"mta customer add {name} --recipients-per-day N"'
    return Problem(key=write_path(("quota", name)), wrong="is not a table of the file", mend=mend)


# --- cattrs' errors to problems --------------------------------------------------------------------------------------


def _flatten(error: Exception, path: Keys) -> Iterator[Problem]:
    """The problems inside what the converter raised at ``path``, outermost first."""
    if isinstance(error, (ClassValidationError, IterableValidationError)):
        noted, others = error.group_exceptions()
        for inner, note in noted:
            step = note.name if isinstance(error, ClassValidationError) else note.index  # type: ignore[union-attr]
            yield from _flatten(inner, (*path, step) if isinstance(step, str) else path)
        for inner in others:
            yield from _flatten(inner, path)
    elif isinstance(error, ForbiddenExtraKeysError):
        for name in sorted(error.extra_fields):
            yield _unknown(path, name, error.cl)
    elif isinstance(error, NotATable):
        yield _not_a_table(error, path)
    elif isinstance(error, Wrong):
        yield Problem(key=write_path(path), value=error.value, wrong=error.wrong, mend=error.mend)
    else:  # a fault of ours
        raise error


def _not_a_table(error: NotATable, path: Keys) -> Problem:
    mend = f"write its settings below a line [{write_path(path)}]"
    if path == ("listen",):
        mend = "write each listener below a line of its own, such as [listen.mx]"
    elif path[0] == "quota":
        mend = "write it below a line [quota.default]"
    return Problem(key=write_path(path), value=error.value, wrong=error.wrong, mend=mend)


def _unknown(path: Keys, name: str, table: schema.Table) -> Problem:
    known = [field.name for field in schema.fields_of(table)]
    alias = _ALIASES.get(name.lower(), "")
    near = [alias] if alias in known else difflib.get_close_matches(name.lower(), known, 1)
    homes = schema.owners(name) or ([] if near else schema.owners(alias))
    if homes:
        places = [f"in [{home}]" if home else "at the top of the file, before the first [table]" for home in homes]
        mend = f'"{alias or name}" belongs {" or ".join(places)}'
    elif near:
        mend = f'did you mean "{near[0]}"?'
    else:
        mend = f"the settings here are {', '.join(known)}"
    return Problem(key=write_path((*path, name)), wrong="is not a setting", mend=mend)
