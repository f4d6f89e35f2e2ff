"""What the queue promises, and what it asks of those around it.

Everything that returns a Deferred may be called from the reactor thread only and fires there; nothing here blocks it.
All failures that are not programming errors are :class:`~twisted_mta.mail.status.MailError`, so each has a reply and
knows whether it is temporary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from ..mail.envelope import Delivery, Lane, Message, Recipient, State
from ..mail.events import HistoryEvent
from ..mail.status import MailError, Reply

CHUNK = 65520
"""Octets of content in one chunk: with LMDB's page header, 16 pages to the octet."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """A customer's quotas, all in force at once; None is no limit.  Sizes are octets."""

    recipients_per_hour: int | None = None
    recipients_per_day: int | None = None
    messages_per_hour: int | None = None
    messages_per_day: int | None = None
    queued_messages: int | None = None
    queued_bytes: int | None = None
    message_bytes: int | None = None
    connections: int | None = None


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """What one message costs its customer, and the limits it must fit into when it is committed."""

    customer: str
    recipients: int
    bytes: int
    limits: Limits
    messages: int = 1


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a customer has used, as seen at one moment.  Rates count the 60 minutes and 24 hours before it."""

    customer: str
    recipients_hour: int = 0
    recipients_day: int = 0
    messages_hour: int = 0
    messages_day: int = 0
    queued_messages: int = 0
    queued_bytes: int = 0


class Commit(msgspec.Struct, frozen=True):
    """One commit as the writer saw it.  ``operations`` are those that shared it; times are seconds: ``queued`` is how
    long the first of them had waited for the commit before, ``locked`` how long the writer waited for other processes
    to give up the write lock, and ``took`` how long writing and syncing lasted."""

    operations: int
    queued: float
    locked: float
    took: float


class QuotaExceeded(MailError):
    """A limit is reached.  ``limit`` is its name as in the settings; ``retry_after`` is seconds, None for never."""

    def __init__(self, reply: Reply, limit: str, retry_after: float | None) -> None:
        super().__init__(reply)
        self.limit = limit
        self.retry_after = retry_after


class StoreUnavailable(MailError):
    """The store can't take mail now (no disk space, a failed sync, stopping): always temporary, 451 or 452."""


class NewDelivery(msgspec.Struct, frozen=True):
    """Recipients of a new message that share a destination."""

    destination: str
    recipients: tuple[Recipient, ...]


class NewMessage(msgspec.Struct, frozen=True, kw_only=True):
    """All that is committed at once for a message that arrives, or for a report that we write.

    ``armed``: its deliveries are handed to the scheduler in memory, so ``next_attempt`` is when they are due should
    it forget them; otherwise it is now.  ``story`` goes into the history with the commit.  ``lane_customer`` is the
    customer whose lane the deliveries wait in (the message's own; for incoming mail, the owner of the domain).
    """

    message: Message
    deliveries: tuple[NewDelivery, ...]
    next_attempt: float
    charge: Charge | None = None
    story: tuple[HistoryEvent, ...] = ()
    lane_customer: str = ""
    armed: bool = False


class Claim(msgspec.Struct, frozen=True):
    """One delivery taken to be attempted now.  Its next attempt is already armed in the store.

    ``content`` is the whole content where that is at most :data:`CHUNK` octets, else None: read it chunk by chunk.
    """

    message: Message
    delivery: Delivery
    content: bytes | None


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """How one attempt of one delivery ended.

    ``delivery`` is as it was claimed.  ``remaining`` are the recipients that stay queued, usually none or one entry;
    more, or another destination, where the route has changed.  ``reports`` are messages that must exist exactly if
    this settlement does (DSNs), with their content.  ``story`` is added to the history.
    """

    delivery: Delivery
    remaining: tuple[Delivery, ...] = ()
    reports: tuple[tuple[NewMessage, bytes], ...] = ()
    story: tuple[HistoryEvent, ...] = ()


class QueueFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which deliveries to list or act on; every field given must match.  Ages are seconds.

    ``sender`` and ``recipient`` match a whole address, or with a leading "@" a whole domain.  ``reason`` is part of the
    last reply, in any case; words of it that have four letters or digits and more and one digit at least, such as
    queue ids, are compared only if ``reason`` has such a word itself.
    """

    id: str = ""
    destination: str = ""
    customer: str | None = None
    sender: str | None = None
    recipient: str = ""
    state: State | None = None
    older_than: float | None = None
    reason: str = ""


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's removal of all that matched ``match`` at the time ``began``, as it stands.

    None of it is shown, claimed or acted on from its beginning.  ``deliveries`` and ``recipients`` are those that have
    been worked off: until then they count as queued.  ``ended`` is when all were; None: it is under way.
    """

    number: int
    match: QueueFilter
    who: str
    began: float
    deliveries: int
    recipients: int
    ended: float | None = None


class Page(msgspec.Struct, frozen=True):
    """Some deliveries in the order of ids.  ``more`` is what to give as ``after`` to go on, "" at the end: there may be
    more than are here though there was room for them, and none where ``more`` is given.  ``damaged`` are ids of
    some that can't be read."""

    found: list[tuple[Message, Delivery]] = []
    more: str = ""
    damaged: tuple[str, ...] = ()


class QueueStats(msgspec.Struct, frozen=True, kw_only=True):
    """The size of the queue now.  ``destinations`` are those that mail waits for, beside what is in memory; ``oldest``
    is an arrival time, None when empty.  Sizes are octets."""

    messages: int
    deliveries: int
    recipients: int
    bytes: int
    held: int
    destinations: int
    oldest: float | None
    map_size: int
    map_used: int
    disk_free: int


class IIncoming(Interface):
    """One message on its way in: content goes to the store in chunks while it arrives.

    Whoever made it ends it with exactly one of ``commit`` and ``abort``; a process that dies leaves nothing that is
    ever delivered, and the store removes the remains.
    """

    id: str = Attribute("""The id the message will have.""")
    size: int = Attribute("""Octets written so far.""")
    whole: bytes | None = Attribute(
        """All that was written, while none of it needed to go to the disk before the message: ask before ``commit``."""
    )

    def write(data: bytes) -> Deferred[None] | None:
        """Add content.  None: go on.  A Deferred: pause the producer until it fires, or abort when it fails
        (:class:`StoreUnavailable`).  Of one message at most 18 chunks are held in memory; of many, four
        of each, and of all together 32 more."""

    def commit(new: NewMessage) -> Deferred[None]:
        """Commit and sync the message with all that belongs to it.

        Fires once it is on disk.  Fails with :class:`QuotaExceeded` or :class:`StoreUnavailable`; then nothing of it
        is stored.  ``new.message.size`` and ``.chunks`` are set by the store from what was written.
        """

    def abort() -> None:
        """Forget the message and remove what was written of it."""


class IMessageStore(Interface):
    """The durable queue.  LMDB is the first engine; the in-memory twin serves tests; both keep one contract."""

    def start() -> Deferred[None]:
        """Open the store, clean up after a process that died, and be ready.  Fails with StoreUnavailable."""

    def stop() -> Deferred[None]:
        """Finish what is being committed, refuse more with 421/451, close.  Owned by whoever called ``start``."""

    def incoming() -> IIncoming:
        """Begin a message.  Raises :class:`StoreUnavailable` (452 4.3.1) below the reserve of free disk."""

    def problem() -> str:
        """Why the store takes nothing more, in words; "" where it is well.  A disk that is full is no such problem: it
        passes."""

    def lost() -> bool:
        """Whether it has a problem that is over once it is opened anew, by another process perhaps."""

    def watch_commits(tell: Callable[[Commit], None]) -> None:
        """Have ``tell`` called on the reactor's thread after each commit that reached the disk.  A store that has no
        disk calls it never."""

    def new_id() -> str:
        """A new message id, for a report given to :meth:`settle`."""

    def usage(customer: str) -> Usage:
        """What a customer has used as of now."""

    def check(charge: Charge) -> QuotaExceeded | None:
        """Whether a charge would be refused now; advice only, ``commit`` decides."""

    def due(now: float, limit: int, mine: Callable[[str], bool] | None = None) -> list[Lane]:
        """Up to ``limit`` lanes that have a delivery due by ``now``, the longest due first.

        ``mine`` says of a destination whether its lanes are asked for; its answers must not change as long as the same
        object is given.  Of the lanes of others only a bounded number is passed in one call: fewer than ``limit`` may
        be given while there are more, and the next call goes on from there."""

    def next_due() -> float | None:
        """When the next delivery is due, None when nothing is queued (what is held, or in memory, does not count)."""

    def claim(
        lane: Lane,
        now: float,
        limit: int,
        rearm: Callable[[Delivery], float],
        busy: Callable[[Delivery], float | None] = ...,
    ) -> Deferred[list[Claim]]:
        """Take up to ``limit`` due deliveries of a lane to attempt now.

        In one commit each gets ``attempts + 1``, ``last_attempt = now``, ``next_attempt = rearm(delivery)``, and this
        process as its owner; it is in no lane until it is settled, however long that takes.  One for which ``busy``
        gives a time is in memory here already: it is not taken, and comes up again then.  Fires when all that is
        committed.
        """

    def reclaim(busy: Callable[[Delivery], float | None] = ...) -> Deferred[int]:
        """Make due at once what processes that have died had in memory: mail they had accepted and not attempted, or
        were attempting.  What several have died with waits as long as they had armed it for.  Fires with how many
        deliveries it was.  To be called at start and now and then; costs next to nothing where nobody has died.

        What this process itself is said to have in memory, and had armed for a time that is over, is due too unless
        ``busy`` gives another time until when it has it: once two calls, one after the other, have found it so, for
        what a commit has brought may not have reached the memory yet."""

    def settle(settlements: Sequence[Settlement]) -> Deferred[None]:
        """Write how attempts ended, all in one commit; a message without deliveries leaves the queue with its
        content, and its customer's usage falls.  A settlement whose delivery an operator removed meanwhile adds its
        story and nothing else.  Fires once committed and synced."""

    def give_up(settlements: Sequence[Settlement]) -> Deferred[list[bool]]:
        """Settle deliveries that an operator gives up, all in one commit: those that still wait for all the recipients
        they are said to have, and that no living process has in memory, where an attempt may be under way.  Of the
        others nothing is written, no story either.  Fires, once committed and synced, with whether each was."""

    def read(id: str, chunk: int) -> Deferred[bytes]:
        """One chunk of content, from 0 to ``message.chunks - 1``.  Fails with KeyError when it is gone."""

    def message(id: str) -> Message | None:
        """The message, if it is in the queue."""

    def deliveries(id: str) -> list[Delivery]:
        """What is still queued of a message."""

    def page(match: QueueFilter, after: str = "", limit: int = 100, seconds: float | None = None) -> Deferred[Page]:
        """Up to ``limit`` deliveries in the order of ids, looked for ``seconds`` at most; behind ``after``, which is an
        id (of whose deliveries none is wanted), ``id + "/" + destination``, or what the last page says."""

    def stats() -> QueueStats:
        """The size of the queue, from counters."""

    def history(id: str) -> list[HistoryEvent]:
        """What became of a message, oldest first; kept for ``queue.history`` after it left."""

    def recall(message_id: str, before: str, limit: int) -> tuple[list[str], str]:
        """The ids of messages that came with this Message-ID (in angle brackets), in the queue or gone, newest first.

        Looks through about ``limit`` entries of the history of messages older than the id ``before`` ("": of all), and
        answers with the id to go on from, "" at the end.
        """

    def tell(events: Iterable[HistoryEvent]) -> None:
        """Add to the history, synced with whatever is committed next."""

    def act(action: str, deliveries: Sequence[tuple[str, str]], who: str, now: float) -> Deferred[int]:
        """An operator's ``retry``, ``hold``, ``release`` or ``remove`` on (id, destination) pairs, in one commit with
        an ``Operator`` event each.  Fires with how many were there.  Works from any process: a running service
        notices within a second.  A "run" is a retry that no operator asks for: what is on hold, put off by its sender,
        in memory or due already stays as it is, and :meth:`changes` with it."""

    def remove(match: QueueFilter, who: str, now: float, seconds: float | None = None) -> Deferred[Removal]:
        """The same as ``act("remove", ...)`` for all that matches, however much it is, as of one commit: with it all of
        that is gone for whoever asks or delivers.  It is worked off after it, in small commits: for ``seconds`` (None:
        to the end) by this call, and what is left then by :meth:`work_off`.  Fires with how it stands."""

    def removals() -> list[Removal]:
        """The removals under way and the last ones that are over, in the order of their numbers."""

    def work_off(number: int | None = None) -> Deferred[bool]:
        """Do a little of a removal that nobody works at, of any or of that number; whether anything was done.  To be
        called by one process until it is false, now and then."""

    def changes() -> int:
        """A number that grows with every :meth:`act` of any process: what is held in memory may be out of date."""

    def verify(repair: bool) -> Deferred[list[str]]:
        """Recount everything; one line for each discrepancy, mended if ``repair``."""

    def tend() -> Deferred[bool]:
        """Do a little of the upkeep that makes :meth:`page` quick; whether there is more to do at once.  To be called
        now and then by one process."""

    def expire_history(before: float, limit: int) -> Deferred[int]:
        """Forget the history of up to ``limit`` messages that left the queue and arrived before ``before``."""


class IRouter(Interface):
    """Says where recipients go.  Implemented in ``delivery``, asked at reception and before each attempt."""

    async def route(recipients: Sequence[Recipient], lane_customer: str) -> Routing:
        """Expand aliases and group the recipients by destination.  Fails with MailError when it cannot be known."""


class Routing(msgspec.Struct, frozen=True):
    """The router's answer: deliveries (every recipient in exactly one), what aliases became (alias -> targets), and
    recipients that can't be routed, each with the permanent reply that says why."""

    deliveries: tuple[NewDelivery, ...]
    expanded: dict[str, tuple[str, ...]] = {}
    refused: tuple[tuple[Recipient, Reply], ...] = ()


class IScheduler(Interface):
    """Takes what is due and has it delivered.  Implemented in ``delivery``."""

    def room(deliveries: Sequence[NewDelivery]) -> float | None:
        """Asked before a commit: when a new message's deliveries should be armed for if :meth:`offer` follows (the
        first retry, seconds since the epoch), or None when there is no room in memory: commit it as due now."""

    def offer(new: NewMessage, content: bytes | None) -> None:
        """Told after a commit whose ``room`` was given: attempt these deliveries now."""

    def announce(new: NewMessage) -> None:
        """Told after a commit for which there was no room: its deliveries are due now, so that whoever delivers to
        their destinations, in whichever process, need not find it out by and by."""

    def run(lanes: Iterable[Lane]) -> None:
        """Told that somebody wants what is due in these lanes to be tried, though their destinations seem dead; works
        for those of other processes, too."""
