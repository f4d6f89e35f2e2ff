"""``mta check``: is the configuration fit to be served?"""

from __future__ import annotations

import click

from ..base import Command, pass_context
from ..context import CONFIG, Context
from ..tables import many, paint


@click.command(cls=Command)
@click.argument("file", required=False, type=click.Path())
@pass_context
def check(context: Context, file: str | None) -> None:
    """Check the configuration without starting.

    FILE stands for --config FILE. Each problem names the file, the line, the key, the value and the mend. Ends with 0
    if the service would start (there may be warnings), with 78 if not. Whether the service's user can write the state,
    the log and postmaster's mailbox is tried, as root or as that user; nothing is made or left behind.
    """
    from ...config import ConfigError, check, load
    from ...config.load import placed
    from ...config.problems import ABSENT, Problem
    from ..places import check_places

    path = file or context.config
    try:
        settings = load(path)
        problems: list[Problem] = [*check(settings, path), *placed(check_places(settings), path)]
    except ConfigError as error:
        problems = list(error.problems)
    errors = [problem for problem in problems if problem.severity == "error"]

    def lines() -> list[str]:
        shown = [paint(str(problem), "red" if problem.severity == "error" else "yellow") for problem in (*problems,)]
        name = path or "The defaults (no file)"
        warnings = len(problems) - len(errors)
        if errors:
            verdict = paint(f"{name}: {many(len(errors), 'error')}", "bold")
        else:
            verdict = f"{name}: {paint('ok', 'green')}"
        return [*shown, verdict + (f", {many(warnings, 'warning')}" if warnings else "")]

    value = {
        "file": path,
        "ok": not errors,
        "problems": [
            {
                "severity": problem.severity,
                "file": problem.file,
                "line": problem.line,
                "key": problem.key,
                "value": None if problem.value is ABSENT else problem.value,
                "wrong": problem.wrong,
                "mend": problem.mend,
            }
            for problem in problems
        ],
    }
    context.say(value, lines)
    if errors:
        raise click.exceptions.Exit(CONFIG)
