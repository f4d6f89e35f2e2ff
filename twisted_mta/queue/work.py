"""One batch of operations on its way to the disk: applied, committed, and told what became of it.

Both writers do this; they differ in the thread, and in how they come by the time of the reactor (:class:`ILoan`).
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from time import monotonic
from types import GeneratorType
from typing import Any, NoReturn, Protocol

import lmdb
from msgspec.structs import replace
from twisted.python.failure import Failure

from ..mail.events import AnyEvent, Service
from ..mail.status import MailError
from . import damage
from .batch import Batch
from .environment import Disk, Environment, Txn, failure_of
from .interfaces import Commit
from .operations import Operation

MAX_BYTES = 4 << 20
"""Octets after which a batch takes no more operations, so that its sync stays short."""

MAX_BULK = 1 << 20
"""The same for bulk operations: a large message takes part of a batch, and leaves the rest to small ones."""


ENOUGH = 20
"""Operations that need not wait for more."""

ENOUGH_BULK = 8
"""The same of bulk operations: chunks of a message, whose sender waits until they are on the disk."""


class Waiting:
    """The operations that wait for the writer.  ``since`` is when (``time.monotonic``) the first of them came, or the
    batch before theirs was begun, whichever was later."""

    __slots__ = ("_bulk", "_prompt", "since")

    def __init__(self) -> None:
        self.since = 0.0
        self._prompt: deque[Operation] = deque()
        self._bulk: deque[Operation] = deque()

    def __bool__(self) -> bool:
        return bool(self._prompt or self._bulk)

    def __len__(self) -> int:
        return len(self._prompt) + len(self._bulk)

    @property
    def enough(self) -> bool:
        """Whether there is enough for a commit of its own, so that nothing is gained by waiting for more."""
        return len(self) >= ENOUGH or len(self._bulk) >= ENOUGH_BULK

    def add(self, operation: Operation) -> None:
        """Put an operation in line."""
        if not (self._prompt or self._bulk):
            self.since = monotonic()
        (self._bulk if operation.bulk else self._prompt).append(operation)

    def take(self, work: Work) -> Operation | None:
        """The next operation that has a place in the batch; None: it is full, or nothing waits.

        The first of the bulk goes before all others, lest it wait for ever, and the rest of it after them.
        """
        if self._bulk and not work.bulk:
            return self._bulk.popleft()
        if work.weight + work.bulk >= MAX_BYTES:
            return None
        if self._prompt:
            return self._prompt.popleft()
        return self._bulk.popleft() if self._bulk and work.bulk < MAX_BULK else None

    def drain(self) -> Iterator[Operation]:
        """Take them all."""
        while self._prompt:
            yield self._prompt.popleft()
        while self._bulk:
            yield self._bulk.popleft()


class _SpoiledError(Exception):
    """An operation failed as none should: the transaction is begun anew without it."""


class Work:
    """A batch of operations and what became of each.

    It takes them of ``waiting`` while it is applied; a part of another batch has its ``operations``, and takes no more.
    ``commit`` tells of the commit once it is on disk, ``broken`` is why the store may not go on, ``reason`` what caused
    that; ``damage`` is what of the file's kept it from being committed; ``events`` are to be emitted, ``locked`` is how
    many seconds it waited for the write lock.
    """

    __slots__ = ("_batch", "_next", "_operations", "_queued", "_result", "_results", "_spoiled", "_steps", "_waiting",
                 "broken", "bulk", "commit", "damage", "events", "locked", "now", "reason", "sweep",
                 "weight")  # fmt: skip

    def __init__(self, now: float, waiting: Waiting | None, operations: Sequence[Operation] = ()) -> None:
        self._waiting = waiting
        self._queued = 0.0
        if waiting is not None:
            began = monotonic()
            self._queued = began - waiting.since
            waiting.since = began
        self.now = now
        self.locked = 0.0
        self.commit: Commit | None = None
        self._operations = list(operations)
        self._results: list[Any] = []
        self._result: Any = None
        self._spoiled: list[tuple[Operation, Failure]] = []
        self._steps: Iterator[Any] | None = None
        self._next = 0
        self._batch: Batch | None = None
        self.weight = 0
        self.bulk = 0
        self.events: list[AnyEvent] = []
        self.sweep: list[bytes] = []
        self.broken: MailError | None = None
        self.damage = ""
        self.reason: Failure | None = None

    def begin(self, environment: Environment, txn: Txn) -> None:
        """Apply it in this transaction; what an earlier one did is void."""
        self._batch = Batch(environment.tables, txn, self.now, environment.generation)
        self._next = 0
        self._steps = None
        self._results = []

    def run(self, deadline: float) -> bool:
        """Apply operations until the deadline (of ``time.monotonic``) is over.  False: call again, it is not done.

        A batch takes further operations until the deadline of its first slice; those that it has taken it finishes.
        """
        batch = self._batch
        assert batch is not None
        while True:
            if self._steps is not None:
                if not self._step(self._steps, deadline):
                    return False
            else:
                operation = self._operation(deadline)
                if operation is None:
                    break
                self._apply(batch, operation)
                if self._steps is None and self._next < len(self._operations) and monotonic() >= deadline:
                    return False
        batch.flush()
        return True

    def _operation(self, deadline: float) -> Operation | None:
        if self._next < len(self._operations):
            return self._operations[self._next]
        if self._operations and monotonic() >= deadline:
            return None
        if self._waiting is None:
            return None
        operation = self._waiting.take(self)
        if operation is not None:
            self._operations.append(operation)
            if operation.bulk:
                self.bulk += operation.weight or 1
            else:
                self.weight += operation.weight
        return operation

    def _apply(self, batch: Batch, operation: Operation) -> None:
        try:
            result = operation.apply(batch)
        except MailError as refused:
            result = Failure(refused)  # type: ignore[no-untyped-call]
        except damage.PAGES as error:
            self._pass(operation, error)
        except lmdb.Error:
            raise
        except Exception:
            self._spoil(operation)
        if type(result) is GeneratorType:
            self._steps = result
            self._result = None
        else:
            self._results.append(result)
            self._next += 1

    def _step(self, steps: Iterator[Any], deadline: float) -> bool:
        try:
            for self._result in steps:
                if monotonic() >= deadline:
                    return False
        except damage.PAGES as error:
            self._pass(self._operations[self._next], error)
        except lmdb.Error:
            raise
        except Exception:
            self._spoil(self._operations[self._next])
        self._results.append(self._result)
        self._steps = None
        self._next += 1
        return True

    def _pass(self, operation: Operation, error: lmdb.Error) -> NoReturn:
        """It has come upon a damaged page: it may know a way around that, in a transaction that is begun anew."""
        if operation.get_around():
            raise _SpoiledError
        try:
            raise damage.damaged(error) from error
        except damage.Damaged:
            self._spoil(operation)

    def _spoil(self, operation: Operation) -> NoReturn:
        failure = Failure()  # type: ignore[no-untyped-call]
        if isinstance(failure.value, damage.ROWS):
            failure = Failure(damage.damaged(failure.value))  # type: ignore[no-untyped-call]
        if isinstance(failure.value, damage.Damaged):
            self.events.append(damage.event(self.now, failure.value.how))
        self._spoiled.append((operation, failure))
        self._operations.remove(operation)
        raise _SpoiledError

    def committed(self, took: float) -> None:
        """It is on disk, and that took so many seconds."""
        self.commit = Commit(len(self._operations), self._queued, self.locked, took)
        assert self._batch is not None
        self.events.extend(self._batch.events)
        self.sweep = self._batch.sweep
        self._batch = None

    def halves(self, reason: BaseException) -> list[Work]:
        """The same in two parts, where it failed because it did not fit: it may be that one large message does not,
        and all others do.  None where that is no reason, or it is one operation."""
        if len(self._operations) < 2 or failure_of(reason)[1]:
            return []
        middle = len(self._operations) // 2
        parts = [Work(self.now, None, part) for part in (self._operations[:middle], self._operations[middle:])]
        self._batch = None
        self._operations, self._results = [], []
        return parts

    def include(self, part: Work) -> None:
        """What became of a part became of this."""
        self._operations += part._operations
        self._results += part._results
        self._spoiled += part._spoiled
        self.events += part.events
        self.sweep += part.sweep
        self.locked += part.locked
        if part.commit is not None:
            operations = part.commit.operations + (self.commit.operations if self.commit is not None else 0)
            self.commit = replace(part.commit, operations=operations, queued=self._queued, locked=self.locked)
        self.broken, self.reason = part.broken, self.reason or part.reason
        self.damage = part.damage or self.damage

    def skip(self, error: MailError) -> None:
        """Nothing of it is tried, because of what became of another."""
        self._results = [Failure(error)] * len(self._operations)  # type: ignore[no-untyped-call]
        self.broken = error

    def failed(self, reason: BaseException) -> None:
        """Nothing of it is on disk."""
        self._batch = None
        error, fatal = failure_of(reason)
        if isinstance(error, damage.Damaged):
            self.events.append(damage.event(self.now, error.how))
            self.damage = error.how
        self._results = [Failure(error)] * len(self._operations)  # type: ignore[no-untyped-call]
        if fatal:
            self.broken = error
            self.reason = Failure(reason)  # type: ignore[no-untyped-call]
            self.events.append(Service(time=self.now, what="store-failed", detail=f"{type(reason).__name__}: {reason}"))

    @property
    def operations(self) -> int:
        """How many it has."""
        return len(self._operations) + len(self._spoiled)

    def tell(self) -> None:
        """Have every Deferred of it fire."""
        for operation, failure in self._spoiled:
            operation.deferred.errback(failure)
        for operation, result in zip(self._operations, self._results, strict=True):
            if isinstance(result, Failure):
                operation.deferred.errback(result)
            else:
                operation.deferred.callback(result)


class ILoan(Protocol):
    """The time of the reactor's thread.  Both may be called when there is nothing to do."""

    def take(self) -> None:
        """Wait until the reactor's thread waits for us."""

    def give(self) -> None:
        """Let it go on."""

    def deadline(self) -> float:
        """Until when (``time.monotonic``) it should have gone on."""


def carry_out(work: Work, environment: Environment, disk: Disk, loan: ILoan) -> None:
    """Apply and commit a batch.  Raises nothing: what went wrong is in the outcomes.

    One that does not fit on the disk is committed by halves, in the same order, and so on.
    """
    try:
        while (took := _attempt(work, environment, disk, loan)) is None:
            pass
    except BaseException as reason:
        parts = work.halves(reason)
        if not parts:
            work.failed(reason)
        for part in parts:
            if work.broken is None:
                carry_out(part, environment, disk, loan)
            else:
                part.skip(work.broken)
            work.include(part)
    else:
        work.committed(took)
    finally:
        loan.give()


def _attempt(work: Work, environment: Environment, disk: Disk, loan: ILoan) -> float | None:
    """How many seconds the commit took; None: try again."""
    began = monotonic()
    try:
        txn = environment.begin()
    except lmdb.MapResizedError:
        loan.take()
        environment.adopt()
        loan.give()
        return None
    work.locked += monotonic() - began
    try:
        loan.take()
        work.begin(environment, txn)
        while not work.run(loan.deadline()):
            loan.give()
            loan.take()
        loan.give()
        began = monotonic()
        environment.commit(txn)
    except lmdb.MapFullError:
        _abort(txn)
        loan.take()
        size = environment.grow(disk.sample())
        loan.give()
        work.events.append(Service(time=work.now, what="map-grown", detail=f"{size} octets"))
        return None
    except _SpoiledError:
        _abort(txn)
        loan.give()
        return None
    except BaseException:
        _abort(txn)
        raise
    return monotonic() - began


def _abort(txn: Txn) -> None:
    with contextlib.suppress(lmdb.Error):  # a commit that failed has ended it already
        txn.abort()
