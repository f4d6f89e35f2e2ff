"""``docs/commands.md``: the command line's manual, made from the commands themselves.

``python -m twisted_mta.admin.manual`` prints it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

import click

from .cli import cli

_HEAD = """# The command line

`mta` works whether or not the service runs: it opens the queue and the directory themselves. Run by root it becomes
the owner of `state_dir` first, so that it never leaves a file there that the service can't touch.

- `--config FILE` (or `MTA_CONFIG`) and `--json` may stand before or after a command's name. `--json` prints one JSON
  document; times are seconds since the epoch, sizes octets.
- On a terminal, tables are fitted to its width and coloured (`NO_COLOR` turns that off); in a pipe nothing is cut.
- What peers have written is shown with control characters escaped.
- `MTA_DEBUG=1` shows the program's own diagnostics.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed; the words on standard error say why |
| 2 | wrong usage |
| 3 | not found: no such message, customer, user, or nothing that matches |
| 4 | unavailable for now, try again later; for `mta status`: the service does not run |
| 78 | the configuration is wrong |

Made by `python -m twisted_mta.admin.manual`: don't edit.
"""


_COMMON = frozenset(("config", "json", "help"))


def pages(command: click.Command, name: str) -> Iterator[str]:
    """A command and all below it.  Written from the commands' values, so that it is the same with every click."""
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from pages(found, f"{name} {below}")
        return
    arguments = [_argument(param) for param in command.params if isinstance(param, click.Argument)]
    options = [param for param in command.params if isinstance(param, click.Option) and param.name not in _COMMON]
    usage = " ".join([name, *(["[OPTIONS]"] if options else []), *arguments])
    text = " ".join(inspect.cleandoc(command.help or "").replace("\n\n", "\0").split()).replace("\0", "\n\n")
    yield f"## {name}\n\n    {usage}\n\n{text}\n"
    if options:
        yield "| option | |\n|---|---|\n" + "\n".join(map(_option, options)) + "\n"


def _argument(param: click.Argument) -> str:
    shown = param.metavar or (param.name or "").upper()
    return shown if param.required or shown.startswith("[") else f"[{shown}]"


def _option(param: click.Option) -> str:
    names = "`, `".join((*param.opts, *param.secondary_opts))
    value = ""
    if not param.is_flag:
        choices = "\\|".join(param.type.choices) if isinstance(param.type, click.Choice) else ""
        value = " " + (choices or param.metavar or (param.type.name or "").upper()).replace("INTEGER RANGE", "N")
    default = f" Default: {param.default}." if param.show_default else ""
    return f"| `{names}{value}` | {param.help or ''}{default} |"


def manual() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *pages(cli, "mta")])


if __name__ == "__main__":
    sys.stdout.write(manual())
