"""The writers: whoever applies operations and commits them, many at once.

The service's is in :mod:`.thread_writer`; here is what it shares with the one of the command line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import lmdb
from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ..mail.events import EventSink, Service
from ..mail.status import MailError
from .environment import Disk, Environment
from .interfaces import Commit
from .operations import Operation, Sweep
from .rules import stopping
from .work import Waiting, Work, carry_out

MOST_SAID = 1000
"""Different damages that a process tells of."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class IWriter(Protocol):
    """What the store asks of a writer."""

    commits: int
    damage: str
    """What of the file's keeps commits from being made, the last one at least."""
    broken: MailError | None
    """Why it writes no more, until it is opened anew."""

    def open(self, environment: Environment, disk: Disk, clock: IReactorTime, events: EventSink) -> None:
        """Be ready to write into this environment."""

    def submit(self, operation: Operation, *, lazily: bool = False) -> Deferred[Any]:
        """Have an operation applied and committed.  ``lazily``: with whatever is committed next."""

    def read(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Deferred[_T]:
        """Run something that may wait for the disk."""

    def observe(self, tell: Callable[[Commit], None]) -> None:
        """Have ``tell`` called after each commit that reached the disk."""

    def breathe(self) -> None:
        """Called often: an opportunity to yield."""

    def rest(self) -> None:
        """Called between the parts of a long work: an opportunity for other processes to write."""

    def close(self) -> Deferred[None]:
        """Finish what was submitted, then refuse more.  Fires when no thread of it is left."""


class Writer:
    """What the writers share: whether they take operations, and telling what became of them."""

    _log = Logger()

    def __init__(self) -> None:
        self._waiting = Waiting()
        self._closed = True
        self.broken: MailError | None = None
        self.commits = 0
        self.damage = ""
        self._said: set[str] = set()
        self._observe: Callable[[Commit], None] | None = None

    def observe(self, tell: Callable[[Commit], None]) -> None:
        """Have ``tell`` called after each commit that reached the disk."""
        self._observe = tell

    def open(self, environment: Environment, disk: Disk, clock: IReactorTime, events: EventSink) -> None:
        """Be ready to write into this environment."""
        self._environment = environment
        self._disk = disk
        self._clock = clock
        self._events = events
        self._closed = False
        self.broken = None

    def _refusal(self) -> MailError | None:
        return stopping() if self._closed else self.broken

    def _work(self) -> Work:
        return Work(self._clock.seconds(), self._waiting)

    def _tell(self, work: Work) -> None:
        if work.broken is not None:
            self.broken = work.broken
            self._log.failure(
                "the queue can't be written any more; restart the service once the disk is well again", work.reason
            )
        elif work.commit is not None:
            self.commits += 1
            if self._observe is not None:
                self._observe(work.commit)
        self.damage = work.damage
        for event in work.events:
            if not (isinstance(event, Service) and self._was_said(event)):
                self._events(event)
        if not self._closed:
            for key in work.sweep:
                self._sweep(key)
        work.tell()
        if self.broken is not None:
            for operation in self._waiting.drain():
                operation.deferred.errback(self.broken)

    def _was_said(self, event: Service) -> bool:
        """Whether the same damage has been told of, which may be met each second."""
        if event.what != "queue-damaged":
            return False
        if event.detail in self._said or len(self._said) >= MOST_SAID:
            return True
        self._said.add(event.detail)
        return False

    def _sweep(self, key: bytes) -> None:
        sweep = Sweep(key)
        sweep.deferred.addCallbacks(self._swept, lambda failure: None, callbackArgs=(key,))  # else at the next start
        self.submit(sweep)

    def _swept(self, more: bool, key: bytes) -> None:
        if more and not self._closed:
            self._sweep(key)

    def submit(self, operation: Operation, *, lazily: bool = False) -> Deferred[Any]:
        """See :class:`IWriter`."""
        raise NotImplementedError


class NoLoan:
    """The loan of who has no reactor to share; see :class:`~.work.ILoan`."""

    def take(self) -> None: ...

    def give(self) -> None: ...

    def deadline(self) -> float:
        return float("inf")


class InlineWriter(Writer):
    """Does everything at once, in the thread that asks: for the command line, and for tests on a memory clock."""

    def __init__(self) -> None:
        super().__init__()
        self._running = False
        self._took = 0.0

    def submit(self, operation: Operation, *, lazily: bool = False) -> Deferred[Any]:
        """Apply and commit an operation, with those that were submitted lazily."""
        refusal = self._refusal()
        if refusal is not None:
            operation.deferred.errback(refusal)
            return operation.deferred
        self._waiting.add(operation)
        if not lazily:
            self._run()
        return operation.deferred

    def _run(self) -> None:
        # What a callback submits is done after this, not in it, lest a long sweep recurse.
        if self._running:
            return
        self._running = True
        try:
            while self._waiting:
                work, began = self._work(), monotonic()
                carry_out(work, self._environment, self._disk, NoLoan())
                self._took = monotonic() - began
                self._tell(work)
        finally:
            self._running = False

    def read(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Deferred[_T]:
        """Run something at once."""
        return cast("Deferred[_T]", execute(function, *args, **kwargs))

    def breathe(self) -> None:
        """Nothing waits for us."""

    def rest(self) -> None:
        """Sleep for as long as the last commit took, with all that was done for it."""
        sleep(self._took)

    def close(self) -> Deferred[None]:
        """Commit what was submitted lazily."""
        if not self._closed:
            self._run()
            self._closed = True
            with contextlib.suppress(lmdb.Error):
                self._environment.sync()
        return succeed(None)
