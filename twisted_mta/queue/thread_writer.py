"""The service's writer: a thread that commits while the reactor runs.

py-lmdb gives up the interpreter lock around every put, and a thread that waits for that lock beside a busy reactor
starves.  So the :class:`ThreadWriter` makes its puts while the reactor's thread waits for it, a few microseconds for a
message and a few milliseconds at most; only the commit with its sync, which needs no lock, runs beside the reactor.
While one does, the reactor sleeps for an instant each millisecond, so that the writer can come back.
See ``docs/architecture.md``.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any, ParamSpec, TypeVar, cast

import lmdb
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from ..mail.events import EventSink
from .environment import Disk, Environment
from .interfaces import Commit
from .operations import Operation
from .rules import stopping
from .work import Work, carry_out
from .writer import Writer

SLICE = 0.003
"""Seconds for which the reactor waits while puts are made."""

PATIENCE = 0.0015
"""Seconds for which the reactor waits for another process to give up LMDB's write lock."""

INTERVAL = 0.001
"""Seconds between two yields of the interpreter lock while the writer is at work."""

YIELD = 0.00001
"""Seconds that a yield lasts."""

EARLY = 0.7
"""The part of a usual commit's time that passes before the reactor begins to yield to its end."""

REST = 2.0
"""For how many times as long as a commit took operations are gathered after it, before the next begins."""

GATHER = 0.005
"""Seconds at most for which they are."""

LAZY = 0.5
"""Seconds after which what waits for the next commit makes one of its own."""

READERS = 4
"""Threads that read content."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _ReaderThread(threading.Thread):
    """Like the writer's thread, it keeps no process alive that ends without having closed the store."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, daemon=True)


class _Readers(ThreadPool):
    threadFactory = _ReaderThread  # noqa: N815


class ThreadWriter(Writer):
    """Commits in a thread of its own, as the module says; a reactor must run, by default the global one."""

    def __init__(self, reactor: Any = None) -> None:
        super().__init__()
        if reactor is None:
            from twisted.internet import reactor
        self._reactor = reactor
        self._thread: threading.Thread | None = None
        self._pool: ThreadPool | None = None
        self._reads = 0
        self._at_work = False
        self._start_call: IDelayedCall | None = None
        self._start_soon = False
        self._gathering = False
        self._breath_call: IDelayedCall | None = None
        self._breath = 0.0
        self._closing: Deferred[None] | None = None
        # The rendezvous.  An offer is a loan that the reactor makes by itself and may take back; an ask is one that
        # the writer asked for.  Whoever pops the token owns the decision.  `go` starts the writer on a batch, `granted`
        # answers an ask, and `back` is released by the writer when the reactor may go on.
        self._offers: deque[None] = deque()
        self._asks: deque[None] = deque()
        self._go = _locked()
        self._granted = _locked()
        self._back = _locked()
        self._has_loan = False
        # When the reactor was last given back, and how long a commit takes from then on: yielding sooner is in vain.
        self._given = 0.0
        self._commit_time = 0.0

    def open(self, environment: Environment, disk: Disk, clock: IReactorTime, events: EventSink) -> None:
        """Start the thread."""
        super().open(environment, disk, clock, events)
        self._closing = None
        self._thread = threading.Thread(target=self._main, name="queue-writer", daemon=True)
        self._thread.start()

    # On the reactor's thread

    def submit(self, operation: Operation, *, lazily: bool = False) -> Deferred[Any]:
        """Have an operation applied with the others of this turn, or when the commit that is under way is over."""
        refusal = self._refusal()
        if refusal is not None:
            operation.deferred.errback(refusal)
            return operation.deferred
        self._waiting.add(operation)
        if self._at_work:
            self.breathe()
        elif self._start_call is None:
            self._start_call = self._reactor.callLater(LAZY if lazily else 0, self._start)
            self._start_soon = not lazily
            self._gathering = False
        elif not lazily and (not self._start_soon or (self._gathering and self._waiting.enough)):
            self._start_call.reset(0)
            self._start_soon = True
            self._gathering = False
        return operation.deferred

    def _gather(self, commit: Commit | None) -> None:
        """Begin with what waits, as soon as there is enough of it or enough time has passed.

        A commit costs about a millisecond for itself, whatever is in it, and other processes want the write lock, too.
        """
        rest = 0.0 if commit is None else min(REST * (commit.locked + commit.took), GATHER)
        if self._waiting.enough or self._closed or not rest:
            self._start()
        elif self._start_call is None:
            self._start_call = self._reactor.callLater(rest, self._start)
            self._start_soon = self._gathering = True

    def _start(self) -> None:
        if self._start_call is not None and self._start_call.active():
            self._start_call.cancel()
        self._start_call = None
        if not self._waiting or self._at_work:
            return
        self._at_work = True
        self._breath = monotonic()
        self._offers.append(None)
        self._go.release()
        if not self._back.acquire(timeout=PATIENCE):
            try:
                self._offers.pop()
            except IndexError:  # it has begun: the slice is soon over
                self._back.acquire()
        if self._breath_call is None:
            self._breath_call = self._reactor.callLater(INTERVAL, self._breathe_again)

    def _answer(self) -> None:
        """Lend the reactor to a writer that asked for it."""
        try:
            self._asks.pop()
        except IndexError:  # it was answered already
            return
        self._granted.release()
        self._back.acquire()

    def breathe(self) -> None:
        """Let the writer, or a reader, have the interpreter lock for an instant, now and then."""
        if not self._at_work and not self._reads:
            return
        if self._asks:
            self._answer()
        now = monotonic()
        if now - self._breath < INTERVAL or (not self._reads and now - self._given < self._commit_time):
            return
        sleep(YIELD)
        self._breath = monotonic()

    def rest(self) -> None:
        """Bulk operations give way by themselves."""

    def _breathe_again(self) -> None:
        # A reactor that is busy with other things than the store must not starve the writer either.
        self._breath_call = None
        if self._at_work or self._reads:
            self._breath_call = self._reactor.callLater(INTERVAL, self._breathe_again)
            self.breathe()

    def _finished(self, work: Work) -> None:
        self._at_work = False
        if self._waiting and work.broken is None:
            self._gather(work.commit)
        self._tell(work)
        if self._closing is not None:
            self._close_if_idle()

    def read(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Deferred[_T]:
        """Run something in one of a few threads."""
        if self._closed:
            return cast("Deferred[_T]", maybeDeferred(_raise, stopping()))
        if self._pool is None:
            self._pool = _Readers(0, READERS, "queue-reader")
            self._pool.start()
        self._reads += 1
        if self._breath_call is None:
            self._breath_call = self._reactor.callLater(INTERVAL, self._breathe_again)
        try:
            reading = deferToThreadPool(self._reactor, self._pool, function, *args, **kwargs)
        except BaseException:  # no thread is to be had, and none is to be waited for at the end
            self._reads -= 1
            raise
        return reading.addBoth(self._was_read)

    def _was_read(self, result: _T) -> _T:
        self._reads -= 1
        if self._closing is not None:
            self._close_if_idle()
        return result

    def close(self) -> Deferred[None]:
        """Finish, and end the threads."""
        if self._thread is None:
            return succeed(None)
        self._closed = True
        closing: Deferred[None] = Deferred()
        self._closing = closing
        if self._start_call is not None:
            self._start_call.reset(0)
        self._close_if_idle()
        return closing

    def _close_if_idle(self) -> None:
        if self._at_work or self._waiting or self._reads or self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._go.release()
        thread.join()
        for call in (self._start_call, self._breath_call):
            if call is not None:
                call.cancel()
        self._start_call = self._breath_call = None
        if self._pool is not None:
            self._pool.stop()
            self._pool = None
        closing, self._closing = self._closing, None
        assert closing is not None
        closing.callback(None)

    # On the writer's thread

    def _main(self) -> None:
        while True:
            self._go.acquire()
            if not self._at_work:
                break
            work = self._work()
            carry_out(work, self._environment, self._disk, self)
            self._commit_time += (EARLY * (monotonic() - self._given) - self._commit_time) / 8
            self._reactor.callFromThread(self._finished, work)
        with contextlib.suppress(lmdb.Error):
            self._environment.sync()

    def take(self) -> None:
        """Wait until the reactor's thread waits for us."""
        if self._has_loan:
            return
        try:
            self._offers.pop()
        except IndexError:
            self._asks.append(None)
            self._reactor.callFromThread(self._answer)
            self._granted.acquire()
        self._has_loan = True

    def give(self) -> None:
        """Let the reactor go on."""
        if self._has_loan:
            self._has_loan = False
            self._given = monotonic()
            self._back.release()

    def deadline(self) -> float:
        """Until when the reactor is ours."""
        return monotonic() + SLICE


def _locked() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


def _raise(error: Exception) -> Any:
    raise error
