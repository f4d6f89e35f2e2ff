"""Delivers into Maildirs.

A thread of a small pool writes each message to ``tmp``, syncs it, links it into ``new`` and syncs that: only then is it
delivered.  Lines end with LF on disk, as everywhere on Unix; IMAP servers give CRLF back.  A binary message (RFC 3030
§3) is written as it is.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from ..config.settings import Settings
from ..mail.status import MailError, Reply
from . import maildir_files as files
from .interfaces import IDeliveryAgent, Job, Result

THREADS = 16
"""Threads that write mailboxes."""

MOST_THREADS = 64
"""The same where some hang in a file system that does not answer, as a network's may."""

WRITE_TIME = 900.0
"""Seconds after which a write that does not end is given up.  Its thread can't be: another takes its place."""

FILES = 16
"""Copies of one large message that are written at once."""

DELIVERED = Reply(250, "2.0.0", "Delivered to the mailbox")
UNREADABLE = Reply(451, "4.3.0", "The content of the message could not be read; delivery will be tried again")
STOPPING = Reply(451, "4.3.2", "The service is stopping; delivery will be tried again")

InThread = Callable[..., "Deferred[Any]"]
"""Calls a function with arguments in a thread; fires on the reactor thread with its result."""


class _Thread(threading.Thread):
    """Keeps no process alive whose file system hangs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, daemon=True)


class _Pool(ThreadPool):
    threadFactory = _Thread  # noqa: N815 - Twisted's name


@implementer(IDeliveryAgent)
class MaildirAgent:
    """The :class:`IDeliveryAgent` of "maildir:domain" destinations.

    ``hostname`` becomes part of file names.  ``reactor`` runs the pool and tells the time; tests give ``in_thread``
    instead of the pool.
    """

    name = "maildir"
    _log = Logger()

    def __init__(
        self, settings: Settings, hostname: str, reactor: IReactorTime, in_thread: InThread | None = None
    ) -> None:
        self._clock = reactor
        self._names = files.Names(hostname, reactor.seconds)
        self._pool: ThreadPool | None = None
        self._in_thread = in_thread or self._in_pool
        self._under_way = 0
        self._hung = 0
        self._stopping: Deferred[None] | None = None
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings."""
        self._template = settings.local.mailbox
        self._state_dir = settings.state_dir
        self._delimiter = settings.local.detail_delimiter

    async def deliver(self, job: Job) -> Sequence[Result]:
        """See :class:`IDeliveryAgent`."""
        recipients = job.delivery.recipients
        if self._stopping is not None:
            return [Result(recipient=recipient, reply=STOPPING, relay=self.name) for recipient in recipients]
        self._under_way += 1
        began = self._clock.seconds()
        try:
            outcomes: dict[int, str | Reply | OSError] = {}
            boxes: list[tuple[int, files.Box]] = []
            for index, recipient in enumerate(recipients):
                try:
                    wanted = files.box(
                        self._template,
                        self._state_dir,
                        recipient,
                        job.message.sender,
                        self._delimiter,
                        job.message.body == "BINARYMIME",
                    )
                except MailError as error:
                    outcomes[index] = error.reply
                else:
                    boxes.append((index, wanted))
            try:
                outcomes.update(await self._write(job, boxes))
            except TimeoutError as error:
                outcomes.update({index: error for index, _ in boxes})
            took = self._clock.seconds() - began
            return [self._result(job, index, outcomes[index], took) for index in range(len(recipients))]
        finally:
            self._under_way -= 1
            self._check_idle()

    def stop(self) -> Deferred[None]:
        """See :class:`IDeliveryAgent`.  Ends the pool's threads too."""
        if self._stopping is None:
            self._stopping = Deferred()
            self._check_idle()
        done: Deferred[None] = Deferred()
        self._stopping.addCallback(lambda _: done.callback(None))
        return done

    async def _write(self, job: Job, boxes: list[tuple[int, files.Box]]) -> dict[int, str | Reply | OSError]:
        outcomes: dict[int, str | Reply | OSError] = {}
        whole = job.content.whole
        if whole is not None:
            wanted = [it for _, it in boxes]
            written = await self._in_thread(files.deliver_whole, wanted, [self._names() for _ in wanted], whole)
            return dict(zip((index for index, _ in boxes), written, strict=True))
        for start in range(0, len(boxes), FILES):
            outcomes.update(await self._stream(job, boxes[start : start + FILES]))
        return outcomes

    async def _stream(self, job: Job, boxes: list[tuple[int, files.Box]]) -> dict[int, str | Reply | OSError]:
        """Deliver a content chunk by chunk: as much of it is in memory as one chunk has."""
        outcomes: dict[int, str | Reply | OSError] = {}
        copies: dict[int, files.Copy] = {}

        async def each(step: Callable[..., Any], *args: Any) -> None:
            for index, made in (await self._in_thread(_each, dict(copies), step, *args)).items():
                if made is not None:
                    outcomes[index] = made
                    del copies[index]

        try:
            data = await job.content.read(0)
            for index, wanted in boxes:
                copy = await self._in_thread(files.begin, wanted, self._names(), data)
                if isinstance(copy, files.Copy):
                    copies[index] = copy
                else:
                    outcomes[index] = copy
            await each(files.Copy.write, files.without_return_path(data))
            for chunk in range(1, job.content.chunks):
                if not copies:
                    break
                await each(files.Copy.write, await job.content.read(chunk))
            await each(files.Copy.finish)
        except BaseException as error:
            for copy in copies.values():
                self._in_thread(copy.abort)
            if not isinstance(error, (MailError, KeyError)):
                raise
            self._log.warn("the content of {id} can't be read: {error}", id=job.message.id, error=error)
            for index, _ in boxes:
                outcomes.setdefault(index, UNREADABLE)
        return outcomes

    def _result(self, job: Job, index: int, outcome: str | Reply | OSError, took: float) -> Result:
        recipient = job.delivery.recipients[index]
        file = ""
        if isinstance(outcome, str):
            reply, file = DELIVERED, outcome
        elif isinstance(outcome, Reply):
            reply = outcome
        else:
            reply = files.reply_to(outcome)
            self._log.warn(
                "{id} can't be delivered to {recipient}: {error}",
                id=job.message.id,
                recipient=recipient.address,
                error=outcome,
            )
        return Result(recipient=recipient, reply=reply, relay=self.name, file=file, seconds=took)

    def _in_pool(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        if self._pool is None:
            self._pool = _Pool(minthreads=0, maxthreads=THREADS, name="maildir")
            self._pool.start()
        given_up: list[None] = []

        def run() -> Any:
            return None if given_up else function(*args)  # it may have waited for its turn until then

        def hangs(result: object, seconds: float) -> NoReturn:
            given_up.append(None)
            self._hangs(seconds)

        written: Deferred[Any] = deferToThreadPool(self._clock, self._pool, run)  # type: ignore[arg-type]
        return written.addTimeout(WRITE_TIME, self._clock, hangs)

    def _hangs(self, seconds: float) -> NoReturn:
        self._hung += 1
        if self._pool is not None:
            self._pool.adjustPoolsize(0, min(THREADS + self._hung, MOST_THREADS))
        raise TimeoutError(errno.ETIMEDOUT, f"the file system has not answered for {seconds:g} s")

    def _check_idle(self) -> None:
        if self._stopping is None or self._under_way or self._stopping.called:
            return
        pool, self._pool = self._pool, None
        if pool is not None and not self._hung:
            pool.stop()  # nothing is under way: its threads end at once
        self._stopping.callback(None)


def _each(copies: dict[int, files.Copy], step: Callable[..., Any], *args: Any) -> dict[int, Any]:
    """Do something to each copy, in a thread."""
    return {index: files.guarded(copy, lambda it: step(it, *args)) for index, copy in copies.items()}
