"""The durable queue in LMDB.

How it is laid out: :mod:`.records`.  How it is written: :mod:`.work` and :mod:`.writer`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from math import inf
from time import monotonic
from typing import ParamSpec, TypeVar

import lmdb
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from ..config.settings import Queue
from ..mail.envelope import Delivery, Lane, Message
from ..mail.events import EventSink, HistoryEvent, Service, no_events
from ..mail.ids import IdMaker, id_key, time_floor
from . import damage, salvage
from .environment import Disk, Environment
from .incoming import Incoming, Moving
from .indexing import Indexer
from .interfaces import (
    Charge,
    Claim,
    Commit,
    IIncoming,
    IMessageStore,
    Page,
    QueueFilter,
    QueueStats,
    QuotaExceeded,
    Removal,
    Settlement,
    Usage,
)
from .operations import Act, Enter, Expire, GiveUp, Orphan, Reclaim, Remember, Settle, TakeDue, Tell
from .owners import OWNERS, Owners
from .reading import Reader
from .removing import Begin, ForgetNote, Release, Remover
from .rules import ACTIONS, disk_full, never_busy, stopping
from .summing import Summarizer
from .thread_writer import ThreadWriter
from .verify import Mend, Verifier
from .writer import IWriter

MENDS = 2000
"""Discrepancies that are mended in one operation."""

RECLAIMED = 200
"""Deliveries that are taken from the dead in one operation, between which others have their turn."""

LOOKED_AT = 5000
"""Deliveries of its own that a process looks for in its memory at once."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


@implementer(IMessageStore)
class LmdbStore:
    """See :class:`~twisted_mta.queue.interfaces.IMessageStore`.

    ``path`` is a directory of its own, made with mode 0700.  ``clock`` gives the time.  ``writer`` is a
    :class:`~twisted_mta.queue.thread_writer.ThreadWriter` on the global reactor unless given; an
    :class:`~twisted_mta.queue.writer.InlineWriter` needs no reactor at all.  Any number of processes may have the same
    path open; one process opens it once.  ``readahead``: the disk is to be read in larger pieces, for who looks through
    much of a queue that is not in memory.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        clock: IReactorTime,
        settings: Queue | None = None,
        writer: IWriter | None = None,
        events: EventSink = no_events,
        readahead: bool = False,
    ) -> None:
        self._path = path
        self._clock = clock
        self._settings = settings if settings is not None else Queue()
        self._events = events
        self._readahead = readahead
        self._writer: IWriter = writer if writer is not None else ThreadWriter()
        self._environment: Environment | None = None
        self._ids: IdMaker | None = None
        self._owner = 0
        self._moving = Moving()
        self._reclaiming = False
        self._overdue: set[bytes] = set()  # by their keys in ``owned``, as the last look found them
        self._stops: list[Deferred[None]] = []
        self._told: dict[Tell, list[HistoryEvent]] = {}
        self._stopping = True

    # Life

    def start(self) -> Deferred[None]:
        """Open it and begin to remove what dead processes left."""
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        if self._environment is not None:
            raise RuntimeError("the store is open already")
        settings = self._settings
        environment = Environment(
            self._path, settings.map_size, sync=settings.sync == "always", readahead=self._readahead
        )
        self._environment = environment
        self._disk = Disk(environment.path, settings.disk_reserve, self._clock.seconds, self._events)
        self._reader = Reader(environment, self._disk)
        self._indexer = Indexer(environment, self._clock.seconds)
        self._summarizer = Summarizer(environment)
        self._owners = Owners(environment.path / OWNERS)
        self._writer.open(environment, self._disk, self._clock, self._events)
        try:
            self._owner, environment.generation = await self._writer.submit(Enter())
            self._owners.enter(self._owner)
            self._ids = IdMaker(self._owner, self._clock.seconds)
            self._remover = Remover(
                self._reader, self._owners, self._owner, self._in_thread, self._writer.submit, self._events
            )
            await self._writer.submit(Orphan(self._owners.alive))
        except BaseException:
            await self._close()
            raise
        self._stopping = False

    def stop(self) -> Deferred[None]:
        """Finish what is being committed and close.  Whoever asks while that goes on waits for the same end."""
        if self._environment is None:
            return succeed(None)
        self._stopping = True
        self._indexer.stop()
        self._summarizer.stop()
        stopped: Deferred[None] = Deferred()
        self._stops.append(stopped)
        if len(self._stops) == 1:
            Deferred.fromCoroutine(self._close()).addBoth(self._stopped)
        return stopped

    def _stopped(self, result: Failure | None) -> None:
        stops, self._stops = self._stops, []
        for stopped in stops:
            stopped.callback(result)

    async def _close(self) -> None:
        await self._writer.close()
        if self._environment is not None:
            environment, self._environment = self._environment, None
            self._owners.leave()
            environment.close()

    # Mail in

    def incoming(self) -> IIncoming:
        """Begin a message."""
        if self._stopping:
            raise stopping()
        if self._disk.low:
            raise disk_full()
        if self._writer.broken is not None:
            raise self._writer.broken.anew()
        return Incoming(self.new_id(), self._owner, self._writer, self._moving)

    def problem(self) -> str:
        """Why nothing more can be written."""
        if self._writer.broken:
            return "the queue can't be written since its disk failed; restart the service"
        return damage.words(self._writer.damage) if self._writer.damage else ""

    def lost(self) -> bool:
        """Whether nothing can be written before it is opened anew."""
        return self._writer.broken is not None

    def watch_commits(self, tell: Callable[[Commit], None]) -> None:
        """Have each commit told."""
        self._writer.observe(tell)

    def new_id(self) -> str:
        """A new message id."""
        if self._ids is None:
            raise stopping()
        return self._ids()

    def usage(self, customer: str) -> Usage:
        """What a customer has used."""
        return self._reader.usage(customer, self._clock.seconds())

    def check(self, charge: Charge) -> QuotaExceeded | None:
        """Whether a charge would be refused."""
        return self._reader.check(charge, self._clock.seconds())

    # Mail out

    def due(self, now: float, limit: int, mine: Callable[[str], bool] | None = None) -> list[Lane]:
        """The lanes that are due."""
        self._writer.breathe()
        return self._reader.due(now, limit) if mine is None else self._reader.due_of(now, limit, mine)

    def next_due(self) -> float | None:
        """When the next delivery is due."""
        return self._reader.next_due()

    def claim(
        self,
        lane: Lane,
        now: float,
        limit: int,
        rearm: Callable[[Delivery], float],
        busy: Callable[[Delivery], float | None] = never_busy,
    ) -> Deferred[list[Claim]]:
        """Take what is due in a lane.  ``rearm`` is given the delivery with the attempt counted in."""
        return self._writer.submit(TakeDue(lane, now, limit, rearm, busy, self._owner))

    def reclaim(self, busy: Callable[[Delivery], float | None] = never_busy) -> Deferred[int]:
        """Make due what the dead had in memory, and what this process has forgotten.  Every process may ask."""
        return Deferred.fromCoroutine(self._reclaim(busy))

    async def _reclaim(self, busy: Callable[[Delivery], float | None]) -> int:
        if self._environment is None or self._reclaiming:
            return 0
        self._reclaiming = True
        try:
            # Not at the first look: what was committed just now may be on its way to the memory yet.
            found = self._reader.owned(self._owner, LOOKED_AT, self._clock.seconds())
            again = [key for key in found if key in self._overdue]
            self._overdue = set(found).difference(again)
            for at in range(0, len(again), RECLAIMED):
                await self._writer.submit(Remember(again[at : at + RECLAIMED], busy))
            with self._owners.dead() as files:
                dead = files.union(it for it in self._reader.owners() if it not in files and not self._owners.alive(it))
                count = 0
                for owner in dead:
                    while keys := self._reader.owned(owner, RECLAIMED):
                        count += await self._writer.submit(Reclaim(keys, self._clock.seconds()))
        finally:
            self._reclaiming = False
        if count:
            detail = f"{count} deliveries in the memory of {len(dead)} processes that died are due at once"
            self._events(Service(time=self._clock.seconds(), what="reclaim", detail=detail))
        return count

    def settle(self, settlements: Sequence[Settlement]) -> Deferred[None]:
        """Write how attempts ended."""
        try:
            operation = Settle(settlements)
        except Exception:
            return fail()
        return self._writer.submit(operation)

    def give_up(self, settlements: Sequence[Settlement]) -> Deferred[list[bool]]:
        """Settle what waits, and is in no living process' memory."""
        owners = {settlement.delivery.owner for settlement in settlements} - {0}
        dead = {owner for owner in owners if not self._owners.alive(owner)}  # numbers are never given again
        try:
            operation = GiveUp(settlements, dead)
        except Exception:
            return fail()
        return self._writer.submit(operation)

    def read(self, id: str, chunk: int) -> Deferred[bytes]:  # noqa: A002
        """One chunk of content."""
        return self._in_thread(self._reader.chunk, id, chunk)

    def _in_thread(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Deferred[_T]:
        """Have a question answered in another thread."""

        def again(failure: Failure) -> Deferred[_T]:
            failure.trap(lmdb.MapResizedError)  # type: ignore[no-untyped-call]
            if self._environment is None:
                return fail(stopping())
            self._environment.adopt()
            return self._writer.read(function, *args, **kwargs)

        if self._environment is None:
            return fail(stopping())
        return self._writer.read(function, *args, **kwargs).addErrback(again)

    # Looking

    def message(self, id: str) -> Message | None:  # noqa: A002
        """A message."""
        return self._reader.message(id)

    def deliveries(self, id: str) -> list[Delivery]:  # noqa: A002
        """What is queued of a message."""
        return self._reader.deliveries(id)

    def page(
        self, match: QueueFilter, after: str = "", limit: int = 100, seconds: float | None = None
    ) -> Deferred[Page]:
        """One page of deliveries."""
        if self._environment is None:
            return fail(stopping())
        return self._in_thread(self._reader.page, match, after, limit, self._clock.seconds(), seconds)

    def ids(self) -> list[str]:
        """The ids of all messages that can be found, even where pages of the file are damaged."""
        assert self._environment is not None
        return salvage.ids(self._environment)

    def stats(self) -> QueueStats:
        """The size of the queue."""
        if self._environment is None:
            raise stopping()
        return self._reader.stats()

    def recall(self, message_id: str, before: str, limit: int) -> tuple[list[str], str]:
        """The ids of messages that came with this Message-ID."""
        return self._reader.recall(message_id, before, limit)

    def history(self, id: str) -> list[HistoryEvent]:  # noqa: A002
        """What became of a message."""
        waiting = [event for events in self._told.values() for event in events if event.id == id]
        return self._reader.history(id) + waiting

    # On record

    def tell(self, events: Iterable[HistoryEvent]) -> None:
        """Add to the history with whatever is committed next."""
        told = list(events)
        operation = Tell(told)
        self._told[operation] = told
        # The words of a store that fails are in the log of the writer, and with whoever wanted mail to be written.
        operation.deferred.addBoth(lambda _: self._told.pop(operation, None) and None)
        self._writer.submit(operation, lazily=True)

    def tend(self) -> Deferred[bool]:
        """Make segments of what has none, and mend what a removal of schema 3 that was cut short has left."""
        return Deferred.fromCoroutine(self._tend())

    async def _tend(self) -> bool:
        if any(not self._owners.alive(owner) for owner in self._reader.removing()):
            found = await self._verify(True)
            detail = f"a removal was cut short; {len(found)} discrepancies that it left are mended"
            self._events(Service(time=self._clock.seconds(), what="repair", detail=detail))
        return await self._indexer.step(self._in_thread, self._writer.submit) or await self._summarizer.step(
            self._in_thread, self._writer.submit
        )

    def expire_history(self, before: float, limit: int) -> Deferred[int]:
        """Forget old histories."""
        return Deferred.fromCoroutine(self._expire(id_key(time_floor(before)), limit))

    async def _expire(self, end: bytes, limit: int) -> int:
        count = 0
        position: bytes | None = b""
        while position is not None and count < limit:
            forgotten, position = await self._writer.submit(Expire(position, end, limit - count))
            count += forgotten
        return count

    # Operators

    def act(self, action: str, deliveries: Sequence[tuple[str, str]], who: str, now: float) -> Deferred[int]:
        """An operator's action."""
        if action not in ACTIONS:
            return fail(ValueError(f"no such action: {action!r}"))
        return self._writer.submit(Act(action, deliveries, who, now))

    def remove(self, match: QueueFilter, who: str, now: float, seconds: float | None = None) -> Deferred[Removal]:
        """An operator's removal of all that matches.  See :mod:`.pending` and :mod:`.removing`."""
        return Deferred.fromCoroutine(self._remove(match, who, now, seconds))

    async def _remove(self, match: QueueFilter, who: str, now: float, seconds: float | None) -> Removal:
        end = monotonic() + seconds if seconds is not None else inf
        number = await self._writer.submit(Begin(match, self._owner, who, now))
        try:
            while monotonic() < end and await self._remover.step(number):
                self._rest()
        finally:
            await self._writer.submit(Release(number))
        return next(removal for removal in self._reader.removals() if removal.number == number)

    def removals(self) -> list[Removal]:
        """Those that are over and those under way."""
        return self._reader.removals()

    def work_off(self, number: int | None = None) -> Deferred[bool]:
        """A commit's part of a removal."""
        if self._environment is None:
            return fail(stopping())
        return Deferred.fromCoroutine(self._remover.step(number))

    def _rest(self) -> None:
        if self._owners.others():
            self._writer.rest()

    def changes(self) -> int:
        """The count of operators' actions."""
        return self._reader.changes()

    def verify(self, repair: bool) -> Deferred[list[str]]:
        """Recount everything."""
        return Deferred.fromCoroutine(self._verify(repair))

    async def _verify(self, repair: bool) -> list[str]:
        assert self._environment is not None
        removing = self._reader.removing()
        verifier = Verifier(self._environment, self._owners.alive)
        found = await self._writer.read(verifier.run)
        lines = dict.fromkeys(found.lines)
        while repair and found.mends:
            for at in range(0, len(found.mends), MENDS):
                await self._writer.submit(Mend(found.mends[at : at + MENDS]))
            if found.complete:
                break
            found = await self._writer.read(verifier.run)
            lines.update(dict.fromkeys(found.lines))
        if not found.complete:
            lines["there is more: the count ended here"] = None
        elif repair:
            for owner in removing:
                if not self._owners.alive(owner):
                    await self._writer.submit(ForgetNote(owner))
        return list(lines)
