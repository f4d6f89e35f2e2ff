"""What every command shares: the settings, the store and the directory opened as the right user, output, exit codes."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ..config.settings import Settings

if TYPE_CHECKING:
    from ..directory.interfaces import IDirectoryAdmin
    from ..queue.interfaces import IMessageStore
    from .eventlog import CommandLog

T = TypeVar("T")

OK, FAILED, USAGE, NOT_FOUND, UNAVAILABLE, CONFIG = 0, 1, 2, 3, 4, 78

EXIT_CODES = """Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 unavailable for now (try again later),
78 the configuration is wrong."""


class CommandError(click.ClickException):
    """A command that could not do what it was asked, in words for the operator."""

    exit_code = FAILED

    def show(self, file: Any = None) -> None:
        """Say it on standard error."""
        click.echo(f"mta: {self.message}", err=True)


class NotFound(CommandError):
    """What was asked for is not there."""

    exit_code = NOT_FOUND


class Unavailable(CommandError):
    """The store or the directory can't be used now; trying again later may help."""

    exit_code = UNAVAILABLE


class WrongConfig(CommandError):
    """The configuration can't be used."""

    exit_code = CONFIG


class WallClock:
    """Tells the time.  Nothing is ever called later: a command is over before later."""

    def seconds(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kw: Any) -> NoReturn:  # noqa: A002, N802
        """Not here."""
        raise NotImplementedError("a command does not wait")

    def getDelayedCalls(self) -> list[Any]:  # noqa: N802 - Twisted's name
        """None."""
        return []


def result(waiting: Deferred[T] | Coroutine[Any, Any, T]) -> T:
    """What a Deferred or coroutine of a store with an inline writer, which has fired by now, came to; raises what it
    failed with."""
    deferred = waiting if isinstance(waiting, Deferred) else Deferred.fromCoroutine(waiting)
    outcome: list[Any] = []
    deferred.addBoth(outcome.append)
    if not outcome:
        raise RuntimeError("the store has not answered at once")
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    answer: T = outcome[0]
    return answer


_MODULES = (
    ".bounce",
    ".eventlog",
    ".local_mail",
    "..directory.lmdb_directory",
    "..directory.passwords",
    "..policy.limits",
    "..queue.compacting",
    "..queue.copying",
    "..queue.lmdb_store",
    "..queue.writer",
)
"""What commands import when they need it.  Root does so before it becomes another, who may not be able to read where
Python is installed."""


def operator_name() -> str:
    """Who types: for the record of what operators did."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    behind = os.environ.get("SUDO_USER") or os.environ.get("DOAS_USER") or ""
    return f"{behind} as {name}" if behind and behind != name else name


class Context:
    """One run of the command line.  ``clock`` tells the time; ``width`` is the terminal's, None for its own.

    The store and the directory are opened when first asked for and closed by :meth:`close`.  Before that root becomes
    the owner of ``state_dir``, so that nothing in it is ever made that the service can't touch.
    """

    def __init__(self, config: str | None = None, clock: Any = None, width: int | None = None) -> None:
        self.config = config
        self.json = False
        self.clock: Any = clock or WallClock()
        self.who = operator_name()
        self._width = width
        self._store: IMessageStore | None = None
        self._directory: Any = None
        self._dropped = False

    # Settings

    @cached_property
    def settings(self) -> Settings:
        """The settings.  Raises :class:`WrongConfig`."""
        from ..config import ConfigError, load

        try:
            return load(self.config)
        except ConfigError as error:
            raise WrongConfig(str(error)) from None

    @property
    def state_dir(self) -> Path:
        """Where the service keeps its state."""
        return Path(self.settings.state_dir)

    def now(self) -> float:
        """Seconds since the epoch."""
        when: float = self.clock.seconds()
        return when

    # Store and directory

    def store(self, make: bool = False) -> IMessageStore:
        """The queue, open.  ``make``: also where there is none yet."""
        if self._store is None:
            from ..queue.lmdb_store import LmdbStore
            from ..queue.writer import InlineWriter

            path = self._place("queue", make)
            store = LmdbStore(
                path, self.clock, self.settings.queue, writer=InlineWriter(), events=self.events, readahead=True
            )
            self.guard(lambda: result(store.start()))
            self._store = store
        return self._store

    @cached_property
    def events(self) -> CommandLog:
        """Where what a command does is told."""
        from .eventlog import CommandLog

        return CommandLog(self.settings.log, self.settings.hostname or socket.gethostname())

    def directory(self, make: bool = False) -> IDirectoryAdmin:
        """The directory, open.  ``make``: also where there is none yet."""
        if self._directory is None:
            from ..directory.lmdb_directory import LmdbDirectory
            from ..directory.passwords import scram_keys

            path = self._place("directory", make)
            keys = scram_keys if self.settings.submission.scram else None
            self._directory = self.guard(lambda: LmdbDirectory(path, self.settings.local, self.clock, make_keys=keys))
        directory: IDirectoryAdmin = self._directory
        return directory

    def close(self) -> None:
        """Close what was opened."""
        if self._store is not None:
            result(self._store.stop())
            self._store = None
        if self._directory is not None:
            self._directory.close()
            self._directory = None
        if "events" in self.__dict__:
            self.events.close()

    def become_owner(self, make: bool = False) -> None:
        """As root, become the owner of ``state_dir`` for good; where it is not there yet, ``user`` of the settings.

        ``make``: then make it.
        """
        if self._dropped or os.geteuid() != 0:
            return
        from ..runtime.privileges import Account, PrivilegeError, drop, find_account, make_folder

        for module in _MODULES:
            import_module(module, __package__)
        try:
            account = find_account(self.settings.user, self.settings.group)
            if self.state_dir.exists():
                stat = self.state_dir.stat()
                owner = pwd.getpwuid(stat.st_uid)
                account = Account(name=owner.pw_name, uid=owner.pw_uid, gid=stat.st_gid, home=owner.pw_dir)
            elif make:
                make_folder(str(self.state_dir), account)
            drop(account)
        except KeyError:
            raise CommandError(f"{self.state_dir} belongs to a user that this machine does not know") from None
        except (PrivilegeError, OSError) as error:
            raise CommandError(str(error)) from None
        self._dropped = True

    def _place(self, name: str, make: bool) -> Path:
        path = self.state_dir / name
        self.become_owner(make)
        try:
            there = (path / "data.mdb").exists()
        except PermissionError:
            raise self._denied(path) from None
        what = "queue" if name == "queue" else "directory of customers and users"
        source = self.config or "the defaults; name the configuration with --config or MTA_CONFIG"
        if make and not there and not self.config:
            click.echo(f"mta: making a {what} in {self.state_dir} (state_dir, from {source})", err=True)
        if there or make:
            return path
        raise NotFound(f"there is no {what} in {self.state_dir} yet (state_dir, from {source})")

    def guard(self, use: Callable[[], T]) -> T:
        """What ``use`` gives; its failures in words for the operator."""
        from ..mail.status import MailError

        try:
            return use()
        except PermissionError:
            raise self._denied(self.state_dir) from None
        except (MailError, OSError, ValueError) as error:
            cause = error.__cause__ or error
            if "ermission denied" in f"{error} {cause}":
                raise self._denied(self.state_dir) from None
            told = in_words(error)
            if told is not error:
                raise told from None
            kind = Unavailable if isinstance(error, (MailError, OSError)) else CommandError
            words = str(error)
            raise kind(words if str(cause) in words else f"{words} ({cause})") from None

    def _denied(self, path: Path) -> CommandError:
        try:
            owner = pwd.getpwuid(self.state_dir.stat().st_uid).pw_name
            words = "run as root" if owner == "root" else f"run as root or as {owner}"
        except (OSError, KeyError):
            words = "run as root or as the user of the service"
        return CommandError(f"no permission for {path}: {words}")

    def done(self, waiting: Deferred[T] | Coroutine[Any, Any, T]) -> T:
        """What the store or directory answers; its failures in words for the operator."""
        return self.guard(lambda: result(waiting))

    # Output

    @property
    def width(self) -> int | None:
        """Columns to fill; None where the output is no terminal, so that what reads it gets everything."""
        if self._width is not None:
            return self._width
        if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
            return None
        return max(40, shutil.get_terminal_size().columns)

    def print(self, lines: str | Iterable[str] = "") -> None:
        """Say something, in colours only where the output is a terminal that wants them (https://no-color.org)."""
        text = lines if isinstance(lines, str) else "\n".join(lines)
        colour = False if os.environ.get("NO_COLOR") else None
        click.echo(text, color=colour)

    def answer(self, value: Any) -> None:
        """Print a value as one JSON document."""
        from .eventlog import safe_json

        plain = msgspec.to_builtins(value)
        click.echo(safe_json(msgspec.json.format(msgspec.json.encode(plain), indent=2)))

    def say(self, value: Any, lines: Callable[[], str | Iterable[str]]) -> None:
        """The result of a command: ``value`` with --json, else ``lines()``."""
        if self.json:
            self.answer(value)
        else:
            self.print(lines())


def in_words(error: Exception) -> Exception:
    """What is to be raised in place of an error: that the queue is damaged, and what to do; or the error itself."""
    from ..queue.damage import Damaged, words

    return CommandError(words(error.how)) if isinstance(error, Damaged) else error


def confirm(question: str, yes: bool) -> None:
    """Ask, where there is somebody to ask.  Raises :class:`click.Abort`, or UsageError where there is nobody."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody is there to answer: add --yes.")
    click.confirm(question, abort=True, err=True)
