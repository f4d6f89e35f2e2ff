"""Writes docs/configuration.md and conf/mta.toml from the docstrings of :mod:`.settings`.

``python -m twisted_mta.config.reference`` in the project's folder writes both; a test fails when they are stale.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import attrs

from . import schema
from .changes import AT_START
from .dump import write_option
from .kinds import Kind, Range
from .settings import Duration, Listener, Settings, Size
from .toml import write_key, write_value

MANUAL = Path("docs/configuration.md")
SAMPLE = Path("conf/mta.toml")

_WIDTH = 110

_HEAD = """\
<!-- Made by "python -m twisted_mta.config.reference" from twisted_mta/config/settings/; edit its docstrings. -->
# Configuration

One TOML file, named by `twistd mta --config FILE` or `$MTA_CONFIG`, has all settings. Every setting has a default:
without a file the service listens on loopback alone and relays for nobody.

- `mta check --config FILE` says everything that is wrong with a file, and how to mend it, without starting anything.
  The same problems stop the start (exit status 78). A warning is said and stops nothing.
- **Reload**: `systemctl reload twisted-mta`, or SIGHUP. Sessions under way go on. A file with an error changes nothing,
  and the log says why.
  These hold from the next start on, and a reload says so when one was changed: {AT_START}.
- An unknown key, a wrong type or a text of a wrong form is an error: nothing is guessed, and nothing is passed over.
- [conf/mta.toml](../conf/mta.toml) is a sample with every setting and its default; `conf/isp.toml`,
  `conf/company.toml` and `conf/newsletter.toml` are starting points for three kinds of operator.

## How values are written

| type | written | |
|---|---|---|
| duration | `"90s"`, `"5m"`, `"4h"`, `"5d"`, `"1w"`, `"250ms"`, `"1h30m"` | always in quotes, always with a unit |
| size | `"512KiB"`, `"50MiB"`, `"1GiB"`, `"10MB"`, `1048576` | KiB to TiB: powers of 1024; kB to TB: of 1000 |
| IP address or unix:/path | `"0.0.0.0"`, `"2001:db8::1"`, `"unix:/run/twisted-mta/lmtp"` | a path is absolute |
| file mode | `"0660"`, `"600"` | octal, in quotes |
| network | `"192.0.2.0/24"`, `"2001:db8::/32"`, `"192.0.2.7"` | no bits set behind the prefix |
| domain | `"isp.example"` | lower case or not, `"bücher.example"` or its A-label |
| host:port | `"relay.example:587"`, `"[2001:db8::1]:25"` | an IPv6 address in brackets |
| list | `["a", "b"]` | in brackets, also when there is one |

Relative paths begin at the folder in which the service was started.
"""

_SAMPLE_HEAD = """\
# twisted-mta's settings: all of them, with their defaults.
# Made from the program by "python -m twisted_mta.config.reference"; docs/configuration.md has the same at length.
#
# A line that begins with # and a name is a setting at its default: take the # away and change it.
# "mta check --config FILE" says whether a file is right; "systemctl reload twisted-mta" makes it hold.
"""

_SAMPLE_LISTEN = """\
# Where mail comes in.  These three listeners are what there is without any [listen.NAME] in the file; the first that is
# written here replaces them all.  A setting that one leaves out is as documented: 127.0.0.1, port 25, "mx", "starttls".
"""


# --- what the source says --------------------------------------------------------------------------------------------


def docstrings() -> dict[str, dict[str, str]]:
    """Class -> field -> its docstring, on one line; the class's own docstring is under ""."""
    return {table.__name__: dict(_documented(table)) for table in schema.tables().values()}


def _documented(table: schema.Table) -> Iterator[tuple[str, str]]:
    (node,) = ast.parse(inspect.getsource(table)).body
    assert isinstance(node, ast.ClassDef)
    yield "", _one_line(ast.get_docstring(node) or "")
    for field, following in zip(node.body, node.body[1:], strict=False):
        match field, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, _one_line(text)


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


def type_name(annotation: Any) -> str:
    """What the manual calls a type of the settings."""
    if get_origin(annotation) is Annotated:
        plain, mark = get_args(annotation)[:2]
        return mark.name if isinstance(mark, Kind) else str(mark) if isinstance(mark, Range) else type_name(plain)
    if get_origin(annotation) is tuple:
        return f"list of {type_name(get_args(annotation)[0])}"
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{write_value(choice)}`" for choice in get_args(annotation))
    if type(None) in get_args(annotation):
        (plain,) = (arg for arg in get_args(annotation) if arg is not type(None))
        return f'{type_name(plain)}, or `"none"`'
    names = {str: "text", bool: "true or false", int: "whole number", Duration: "duration", Size: "size"}
    return names[annotation]


def _default(table: schema.Table, field: attrs.Attribute[Any]) -> str:
    return write_option(field, getattr(table(), field.name))


# --- the manual ------------------------------------------------------------------------------------------------------


def manual() -> str:
    """The text of docs/configuration.md."""
    documents = docstrings()
    at_start = ", ".join(f"`{key}`" for key in AT_START)
    parts = [_HEAD.replace("{AT_START}", at_start)]
    for heading, table in schema.tables().items():
        said = documents[table.__name__]
        parts.append(f"## {f'`[{heading}]`' if heading else 'At the top of the file'}\n")
        if heading:
            parts.append(f"{_linked(said[''])}\n")
        if heading.startswith("listen."):
            parts.append(_listeners())
        if heading.startswith("quota."):
            parts.append(f"{_linked(documents['Settings']['quota'])}\n")
        parts.append("| setting | type | default | meaning |\n|---|---|---|---|")
        parts += [_row(table, field, said[field.name]) for field in schema.options(table)]
        parts.append("")
    return "\n".join(parts)


def _row(table: schema.Table, field: attrs.Attribute[Any], meaning: str) -> str:
    cells = (f"`{field.name}`", type_name(field.type), f"`{_default(table, field)}`", _linked(meaning))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _listeners() -> str:
    names = ", ".join(
        f"`{name}` (port {listener.port}, {listener.role}, {listener.tls})"
        for name, listener in Settings().listen.items()
    )
    return f"Without any such table in the file there are three on loopback: {names}. The first replaces them all.\n"


def _linked(text: str) -> str:
    """``text`` with its RFCs as links."""
    site = "https://www.rfc-editor.org/rfc/rfc"
    return re.sub(
        r"RFC (\d+)( §([\d.]*\d))?",
        lambda match: f"[{match[0]}]({site}{match[1]}{f'#section-{match[3]}' if match[3] else ''})",
        text,
    )


# --- the sample ------------------------------------------------------------------------------------------------------


def sample() -> str:
    """The text of conf/mta.toml: every setting, commented out at its default."""
    documents = docstrings()
    parts = [_SAMPLE_HEAD]
    for heading, table in schema.tables().items():
        said = documents[table.__name__]
        if heading == "listen.NAME":
            parts.append(_sample_listeners(said))
            continue
        # a table with a free name would be one more of its kind
        mark = "#" if heading.endswith(".NAME") else ""
        lines = [_comment(said[""]), f"{mark}[{heading}]"] if heading else []
        for field in schema.options(table):
            lines += [_comment(said[field.name]), f"#{field.name} = {_default(table, field)}"]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _sample_listeners(said: dict[str, str]) -> str:
    lines = [_SAMPLE_LISTEN.rstrip()]
    lines += [_comment(f"{field.name}: {said[field.name]}") for field in schema.options(Listener)]
    for name, listener in Settings().listen.items():
        lines.append(f"#[listen.{write_key(name)}]")
        for field in schema.options(Listener):
            lines.append(f"#{field.name} = {write_option(field, getattr(listener, field.name))}")
    return "\n".join(lines) + "\n"


def _comment(text: str) -> str:
    return textwrap.fill(
        text.replace("`", ""), _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )


def main() -> None:
    """Writes both files below the current folder."""
    for path, text in ((MANUAL, manual()), (SAMPLE, sample())):
        path.write_text(text, "utf-8")
        sys.stdout.write(f"{path} written\n")


if __name__ == "__main__":
    main()
