"""The classes of our commands: all take --config and --json, wherever they are written."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import click

from .context import EXIT_CODES, Context, in_words

_SENTENCE = 500
"""Letters, more than any first sentence of a help has."""

pass_context: Callable[[Any], Any] = click.make_pass_decorator(Context)


def _set_config(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value:
        ctx.ensure_object(Context).config = value


def _set_json(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Context).json = True


def common_options(outermost: bool = False) -> list[click.Parameter]:
    """--config and --json, fresh for one command.  MTA_CONFIG is read by the ``outermost`` alone: what is written on
    the command line, anywhere, goes before it."""
    return [
        click.Option(
            ["--config"],
            metavar="FILE",
            envvar="MTA_CONFIG" if outermost else None,
            expose_value=False,
            is_eager=True,
            callback=_set_config,
            help="The configuration; else MTA_CONFIG says it.",
        ),
        click.Option(
            ["--json"], is_flag=True, expose_value=False, is_eager=True, callback=_set_json, help="Print JSON."
        ),
    ]


class Command(click.Command):
    """A command."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += common_options()

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; a queue that is damaged is told in words, wherever that shows."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            raise in_words(error) from error.__cause__


class Group(click.Group):
    """A group of commands.  ``lazy`` names commands that are imported when called: name -> "module:attribute".

    Commands appear in help in the order in which they were added, which is the order that reads well.
    """

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, lazy: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy or {}
        self.params += common_options(outermost=lazy is not None)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in order."""
        return [*self.lazy, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name."""
        place = self.lazy.get(cmd_name)
        if place is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each command with the whole first sentence of its help, where click would cut it at 45 letters."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, it.get_short_help_str(_SENTENCE)) for name, it in found if it is not None and not it.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What comes after the commands: the exit codes."""
        formatter.write_paragraph()
        formatter.write_text(EXIT_CODES)
