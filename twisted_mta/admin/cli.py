"""``mta``: the operator's command line.  It works whether or not the service runs."""

from __future__ import annotations

import os
import sys

import click

from .base import Group
from .context import FAILED, UNAVAILABLE, Context

_HERE = "twisted_mta.admin.commands"

COMMANDS = {
    "status": f"{_HERE}.status:status",
    "check": f"{_HERE}.check:check",
    "queue": f"{_HERE}.queue:queue",
    "trace": f"{_HERE}.trace:trace",
    "send": f"{_HERE}.send:send",
    "usage": f"{_HERE}.usage:usage",
    "backup": f"{_HERE}.backup:backup",
    "upgrade": f"{_HERE}.upgrade:upgrade",
    "customer": f"{_HERE}.customer:customer",
    "domain": f"{_HERE}.domain:domain",
    "user": f"{_HERE}.user:user",
    "alias": f"{_HERE}.alias:alias",
}


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from .statusfile import version

    click.echo(f"twisted-mta {version()}")
    ctx.exit()


@click.group(cls=Group, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version,
              help="Show the version and exit.")  # fmt: skip
@click.pass_context
def cli(ctx: click.Context) -> None:
    """See and steer the mail server: its queue, customers, users, and where a message is.

    Commands work whether or not the service runs. --config and --json may stand before or after a command's name.
    """
    context = ctx.ensure_object(Context)
    ctx.call_on_close(context.close)


def _quiet() -> None:
    """Diagnostics of the program are not for operators: what matters to them is an error of the command.

    With MTA_DEBUG set they go to standard error.
    """
    from twisted.logger import ILogObserver, globalLogBeginner, textFileLogObserver

    observers: list[ILogObserver] = [textFileLogObserver(sys.stderr)] if os.environ.get("MTA_DEBUG") else []
    globalLogBeginner.beginLoggingTo(observers, discardBuffer=True, redirectStandardIO=False)


def main(args: list[str] | None = None) -> None:
    """The entry point of ``mta``."""
    try:
        _quiet()
        cli.main(args, prog_name="mta")
    except KeyboardInterrupt:  # while modules are read; later click says the same
        click.echo("Aborted!", err=True)
        sys.exit(FAILED)
    except MemoryError:
        click.echo("mta: out of memory", err=True)
        sys.exit(UNAVAILABLE)
    except OSError as error:
        if os.environ.get("MTA_DEBUG"):
            raise
        place = error.filename or "the answer could not be written"
        click.echo(f"mta: {place}: {error.strerror or error}", err=True)
        # What is left in the buffer has nowhere to go, and the interpreter would say so in words of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
