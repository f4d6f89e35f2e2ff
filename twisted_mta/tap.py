"""``twistd mta``: its options, and from them the service."""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from twisted.application.service import IService
from twisted.python import usage

from . import config

EX_CONFIG = 78
"""The exit status of a configuration that must not be used (sysexits.h); the systemd unit does not restart after it."""


class Options(usage.Options):
    """The options behind ``twistd mta``."""

    synopsis = "[options]"
    longdesc = (
        "Serves mail: takes it in by SMTP, keeps it in a durable queue, delivers it to mailboxes and relays it. "
        "With no file at all it serves loopback on ports 2525, 2587 (submission) and 2465 (submission, TLS), shows "
        "metrics on 8025, keeps its state under ./var and makes its own certificate. "
        "SIGHUP reloads the file and the certificates, SIGUSR1 reopens the event log, "
        "SIGUSR2 hands over to a new version. "
        'Give "--nodaemon" before "mta" to stay in the foreground; "mta check" says what is wrong with a file.'
    )
    optParameters = [  # noqa: N815 - Twisted's name
        ["config", "c", None, "The TOML file with the settings.  Default: $MTA_CONFIG; without that, no file."],
    ]
    compData = usage.Completions(  # type: ignore[no-untyped-call]  # noqa: N815 - Twisted's name
        optActions={"config": usage.CompleteFiles("*.toml", descr="settings")}  # type: ignore[no-untyped-call]
    )

    pidfile = ""
    """twistd's pid file; of an heir it is no business of twistd's, which would take it for another service's."""

    def postOptions(self) -> None:  # noqa: N802 - Twisted's name
        """Look at what twistd itself was told."""
        if self.parent is not None:
            from .workers.handover import VARIABLE  # not for "--help"

            self.pidfile = self.parent.get("pidfile") or ""
            if VARIABLE in os.environ:
                self.parent["pidfile"] = ""

    def opt_version(self) -> NoReturn:
        """Display the versions of twisted-mta and Twisted, and exit."""
        sys.stdout.write(f"twisted-mta {metadata.version('twisted-mta')}, Twisted {metadata.version('twisted')}\n")
        raise SystemExit(0)

    @property
    def config_path(self) -> str | None:
        """The file to read: what the option says, else $MTA_CONFIG, else none.  An empty name is none."""
        return self["config"] or os.environ.get("MTA_CONFIG") or None


def makeService(options: Options) -> IService:  # noqa: N802 - Twisted's name
    """The whole service, not yet started; nothing is opened or bound here, for twistd forks after this.

    A configuration that must not be used ends the process with status 78 and its errors on standard error: twistd
    would show a traceback for anything raised.
    """
    path = options.config_path
    from .workers import handover  # the options alone, as in "twistd --help", need none of it

    try:
        settings, warnings = config.load_checked(path)
    except config.ConfigError as error:
        if handover.VARIABLE in os.environ:  # an older version waits for us
            handover.tell_failure(str(error))
        _give_up(error)
    for warning in warnings:
        print(warning, file=sys.stderr)  # noqa: T201 - nothing logs yet, and whoever starts it should see this
    from .service import make_service

    # twistd changes its folder before it starts the service; a reload must find the same file again.
    parent = options.parent
    launch = handover.Launch.ours(options.pidfile)
    service = make_service(settings, str(Path(path).absolute()) if path else None, launch=launch)
    if parent is not None:
        service.on_refusal = partial(_tell_starter, parent)
    return service


def _tell_starter(parent: usage.Options, words: str) -> None:
    """Where twistd went into the background: end the process that waits in the foreground, and drop the pid file.

    twistd does both for exceptions alone, whose traceback it shows; for a SystemExit its parent would wait for ever.
    """
    pipe = parent.get("statusPipe")
    if pipe is None:
        return
    os.write(pipe, b"1 " + words.encode("ascii", "replace")[:98])  # it reads a hundred octets, and shows all but two
    if parent.get("pidfile"):
        Path(parent["pidfile"]).unlink(missing_ok=True)


def _give_up(error: config.ConfigError) -> NoReturn:
    count = len(error.problems)
    sys.stderr.write(f"{error}\ntwistd mta: not started, {count} error{'s' * (count > 1)} in the settings\n")
    raise SystemExit(EX_CONFIG)
