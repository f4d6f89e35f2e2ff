"""Writes down how attempts ended, many in one commit, and does not forget what could not be written yet."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..mail.events import AnyEvent, EventSink, Service
from ..mail.status import MailError
from ..queue.interfaces import IMessageStore, Settlement
from .lanes import Entry

FIRST_WAIT, LAST_WAIT = 1.0, 30.0
"""Seconds until a settlement that failed is tried again; doubles up to the last."""

BATCH = 1000
"""Settlements in one call."""

FAULTY_WAIT = 60.0
"""Seconds until a settlement that a fault of ours kept from being written is tried again."""

NO_ROOM = 452
"""The code of a store that has no room: a smaller transaction may find some."""


@attrs.define(slots=True)
class Ended:
    """One attempt's end: what to write, what to tell once that is committed, and what it was about."""

    settlement: Settlement
    events: Iterable[AnyEvent]
    entry: Entry


class Settler:
    """What ends in one turn of the reactor goes to the store in one call.

    While the store can't take it, :attr:`stuck` is true: then nothing new should be begun, because whatever is
    delivered and not on record is delivered twice should the process die.  What a fault of ours keeps from being
    written is kept as well, lest it be delivered again, but holds up nobody else; an event tells of it.  ``done`` is
    called with each entry once its settlement is committed.  ``pending`` counts what is not written yet, ``failures``
    the calls that failed.
    """

    _log = Logger()

    def __init__(
        self, store: IMessageStore, clock: IReactorTime, events: EventSink, done: Callable[[Entry], None]
    ) -> None:
        self._store = store
        self._done = done
        self._clock = clock
        self._events = events
        self._fresh: list[Ended] = []
        self._writing: dict[int, list[Ended]] = {}
        self._again: deque[list[Ended]] = deque()
        self._faulty: list[Ended] = []
        self._faulty_call: IDelayedCall | None = None
        self._flush_call: IDelayedCall | None = None
        self._retry_call: IDelayedCall | None = None
        self._wait = FIRST_WAIT
        self._idle: list[Deferred[None]] = []
        self.pending = 0
        self.failures = 0
        self.stuck = False

    def add(self, ended: Ended) -> None:
        """Have a settlement written with the others of this turn."""
        self.pending += 1
        ended.entry.concluded = True
        self._fresh.append(ended)
        if self._flush_call is None:
            self._flush_call = self._clock.callLater(0, self._flush)

    def write_about(self) -> None:
        """A settlement will be added once its reports are written: it is pending already."""
        self.pending += 1

    def written_about(self, result: object, entry: Entry) -> None:
        """It was added.  A failure is logged: then the delivery is tried again when it is next due."""
        if isinstance(result, Failure):
            self._log.failure("an attempt's end could not be put together", result)
            self._done(entry)
        self.pending -= 1
        self._check_idle()

    def when_idle(self) -> Deferred[None]:
        """Fires once nothing is left to be written, or the store can't be written before it is opened anew.

        What waited for a second try is tried at once.
        """
        idle: Deferred[None] = Deferred()
        self._idle.append(idle)
        if self._retry_call is not None:
            self._retry_call.reset(0)
        if self._faulty_call is not None:
            self._faulty_call.cancel()
            self._retry_faulty()
        self._check_idle()
        return idle

    def _flush(self) -> None:
        self._flush_call = None
        fresh, self._fresh = self._fresh, []
        for start in range(0, len(fresh), BATCH):
            self._write(fresh[start : start + BATCH])

    def _write(self, batch: list[Ended]) -> None:
        self._writing[id(batch)] = batch
        try:
            written = self._store.settle([ended.settlement for ended in batch])
        except Exception:
            self._refused(Failure(), batch)  # type: ignore[no-untyped-call]
            return
        written.addCallbacks(self._written, self._refused, callbackArgs=(batch,), errbackArgs=(batch,))

    def _written(self, _: None, batch: list[Ended]) -> None:
        del self._writing[id(batch)]
        self._wait = FIRST_WAIT
        self.stuck = False
        if self._again and self._retry_call is not None:
            self._retry_call.reset(0)  # the store takes mail again
        tell = self._events
        for ended in batch:
            self.pending -= 1
            try:
                for event in ended.events:
                    tell(event)
                self._done(ended.entry)
            except Exception:  # a fault with one must not leave the others unsaid
                self._log.failure("what came of {id} is written down, and then failed", id=ended.settlement.delivery.id)
        self._check_idle()

    def _refused(self, failure: Failure, batch: list[Ended]) -> None:
        del self._writing[id(batch)]
        self.failures += 1
        if isinstance(failure.value, MailError):
            self._log.error(
                "{count} settlements could not be written, next try in {wait} s: {reason}",
                count=len(batch),
                wait=self._wait,
                reason=failure.getErrorMessage(),
            )
            self.stuck = True
            half = len(batch) // 2 if failure.value.reply.code == NO_ROOM else 0
            self._again.extend([batch[:half], batch[half:]] if half else [batch])
            if self._retry_call is None:
                self._retry_call = self._clock.callLater(self._wait, self._retry)
                self._wait = min(self._wait * 2, LAST_WAIT)
            self._check_idle()
        elif len(batch) > 1:
            # One of them is at fault: it must not take the others with it.
            self._log.failure("settling {count} deliveries failed", failure, count=len(batch))
            for ended in batch:
                self._write([ended])
        else:
            self._keep(batch[0], failure)

    def _keep(self, ended: Ended, failure: Failure) -> None:
        delivery = ended.settlement.delivery
        words = f"{delivery.id} to {delivery.destination}: {failure.getErrorMessage() or failure.type.__name__}"  # type: ignore[union-attr]
        self._log.failure("what came of {words} can't be written; it is kept", failure, words=words)
        self._events(Service(time=self._clock.seconds(), what="settlement-failed", detail=words))
        self._faulty.append(ended)
        if self._faulty_call is None:
            self._faulty_call = self._clock.callLater(FAULTY_WAIT, self._retry_faulty)
        self._check_idle()

    def _retry_faulty(self) -> None:
        self._faulty_call = None
        faulty, self._faulty = self._faulty, []
        for ended in faulty:
            self._write([ended])

    def close(self) -> None:
        """The process ends: what could not be written is lost with it, and what it tells of may be delivered again.

        An event tells of each attempt that is: which message, where to, and by which process.
        """
        for call in (self._retry_call, self._faulty_call):
            if call is not None:
                call.cancel()
        self._retry_call = self._faulty_call = None
        if self.pending:
            self._log.error(
                "{count} deliveries that ended could not be written down; they may be made again", count=self.pending
            )
        now = self._clock.seconds()
        for ended in (*self._fresh, *chain(*self._writing.values(), *self._again), *self._faulty):
            if ended.events:  # else it was not attempted
                delivery = ended.settlement.delivery
                words = f"process {os.getpid()}: {delivery.id} to {delivery.destination}"
                self._events(Service(time=now, what="settlement-lost", detail=words))

    def _retry(self) -> None:
        self._retry_call = None
        batches, self._again = self._again, deque()
        for batch in batches:
            self._write(batch)

    def _check_idle(self) -> None:
        if self._idle and (self.pending == len(self._faulty) or self._store.problem()):
            waiting, self._idle = self._idle, []
            for idle in waiting:
                idle.callback(None)
