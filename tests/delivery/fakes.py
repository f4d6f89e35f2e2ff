"""A store, a directory and an agent of the tests' own: small, strict, and under the test's control."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import attrs
import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from twisted_mta.config.settings import Local, Queue, Relay, Settings
from twisted_mta.delivery.interfaces import IDeliveryAgent, Job, Result
from twisted_mta.delivery.router import Router
from twisted_mta.delivery.scheduler import Scheduler
from twisted_mta.directory.interfaces import Resolution, User
from twisted_mta.mail.address import detail_split, domain_of, local_of
from twisted_mta.mail.envelope import Delivery, Lane, Message, Recipient
from twisted_mta.mail.events import AnyEvent, Done, HistoryEvent
from twisted_mta.mail.ids import IdMaker
from twisted_mta.mail.status import Reply
from twisted_mta.queue.interfaces import CHUNK, Claim, NewDelivery, NewMessage, Removal, Settlement, StoreUnavailable
from twisted_mta.queue.rules import deliveries_of, never_busy
from twisted_mta.report.reporter import Reporter

NOW = 1_800_000_000.0
OK = Reply(250, "2.0.0", "Ok: queued as 12345")
BUSY = Reply(450, "4.2.0", "Mailbox busy")
UNKNOWN = Reply(550, "5.1.1", "No such user")
REFUSED = Reply(451, "4.4.1", "connection refused")
CONTENT = b"From: a@isp.example\r\nSubject: Hello\r\n\r\nHello there\r\n"


class FakeStore:
    """The parts of an IMessageStore that delivery uses.  Writes are done at once and fire ``delay`` seconds later."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.new_id = IdMaker(1, clock.seconds)
        self.messages: dict[str, Message] = {}
        self.contents: dict[str, bytes] = {}
        self.queue: dict[tuple[str, str], Delivery] = {}
        self.stories: dict[str, list[HistoryEvent]] = {}
        self.settlements: list[Settlement] = []
        self.calls: Counter[str] = Counter()
        self.broken: Exception | None = None
        self.changed = 0
        self.delay = 0.0
        self.trouble = ""
        self.untold: list[AnyEvent] = []
        self.events: Callable[[AnyEvent], None] = lambda event: None

    def _later(self, value: object) -> Deferred:
        done: Deferred = Deferred()
        self.clock.callLater(self.delay, done.callback, value)
        return done

    def put(self, new: NewMessage, content: bytes) -> NewMessage:
        size, chunks = len(content), -(-len(content) // CHUNK)
        message = msgspec.structs.replace(new.message, size=size, chunks=chunks)
        self.messages[message.id] = message
        self.contents[message.id] = content
        for delivery in deliveries_of(new):
            self.queue[message.id, delivery.destination] = delivery
        self._tell(new.story)
        return msgspec.structs.replace(new, message=message)

    def _tell(self, story: Sequence[HistoryEvent]) -> None:
        for event in story:
            self.stories.setdefault(event.id, []).append(event)

    def due(self, now: float, limit: int, mine: Callable[[str], bool] | None = None) -> list[Lane]:
        self.calls["due"] += 1
        earliest: dict[Lane, float] = {}
        for it in self.queue.values():
            if it.state == "queued" and it.next_attempt <= now and (mine is None or mine(it.destination)):
                earliest[it.lane] = min(earliest.get(it.lane, it.next_attempt), it.next_attempt)
        return sorted(earliest, key=lambda lane: (earliest[lane], lane))[:limit]

    def next_due(self) -> float | None:
        return min((it.next_attempt for it in self.queue.values() if it.state == "queued"), default=None)

    def problem(self) -> str:
        return self.trouble

    def reclaim(self, busy: Callable[[Delivery], float | None] = never_busy) -> Deferred:
        self.calls["reclaim"] += 1
        return succeed(0)

    def claim(
        self,
        lane: Lane,
        now: float,
        limit: int,
        rearm: Callable[[Delivery], float],
        busy: Callable[[Delivery], float | None] = never_busy,
    ) -> Deferred:
        self.calls["claim"] += 1
        if self.broken is not None:
            return fail(self.broken)
        due = [d for d in self.queue.values() if d.lane == lane and d.state == "queued" and d.next_attempt <= now]
        due.sort(key=lambda d: (d.next_attempt, d.id))
        claims = []
        for it in due[:limit]:
            later = busy(it)
            if later is not None:
                self.queue[it.id, it.destination] = msgspec.structs.replace(it, next_attempt=later)
                continue
            begun = msgspec.structs.replace(it, attempts=it.attempts + 1, last_attempt=now)
            armed = msgspec.structs.replace(begun, next_attempt=rearm(begun))
            self.queue[it.id, it.destination] = armed
            content = self.contents[it.id]
            claims.append(Claim(self.messages[it.id], armed, content if len(content) <= CHUNK else None))
        return self._later(claims)

    def settle(self, settlements: Sequence[Settlement]) -> Deferred:
        self.calls["settle"] += 1
        if self.broken is not None:
            return fail(self.broken)
        for it in settlements:
            self.settlements.append(it)
            self._tell(it.story)
            there = self.queue.pop((it.delivery.id, it.delivery.destination), None)
            if there is None:
                continue
            for left in it.remaining:
                key = (left.id, left.destination)
                present = self.queue.get(key)
                recipients = (*(present.recipients if present is not None else ()), *left.recipients)
                self.queue[key] = msgspec.structs.replace(left, state=there.state, recipients=recipients)
            for new, content in it.reports:
                self.put(new, content)
            self._clean(it.delivery.id)
        return self._later(None).addCallback(lambda _: self._emit())

    def _emit(self) -> None:
        told, self.untold = self.untold, []
        for event in told:
            self.events(event)

    def _clean(self, message: str) -> None:
        if message in self.messages and not any(key[0] == message for key in self.queue):
            gone = self.messages.pop(message)
            now = self.clock.seconds()
            done = Done(time=now, id=message, seconds=now - gone.arrived)
            self._tell((done,))
            self.untold.append(done)
            self.contents.pop(message, None)

    def read(self, message: str, chunk: int) -> Deferred:
        self.calls["read"] += 1
        if message not in self.contents:
            return fail(KeyError(message))
        return succeed(self.contents[message][chunk * CHUNK : (chunk + 1) * CHUNK])

    def message(self, message: str) -> Message | None:
        return self.messages.get(message)

    def deliveries(self, message: str) -> list[Delivery]:
        self.calls["deliveries"] += 1
        return [it for it in self.queue.values() if it.id == message]

    def changes(self) -> int:
        return self.changed

    def removals(self) -> list[Removal]:
        return []

    def act(self, action: str, key: tuple[str, str]) -> None:
        self.changed += 1
        if action == "remove":
            del self.queue[key]
            self._clean(key[0])
        elif action == "hold":
            self.queue[key] = msgspec.structs.replace(self.queue[key], state="held")
        else:
            self.queue[key] = msgspec.structs.replace(
                self.queue[key], state="queued", next_attempt=self.clock.seconds()
            )


class FakeDirectory:
    """Mailboxes and aliases of "isp.example", or of whatever ``domains`` says."""

    def __init__(self) -> None:
        self.domains = {"isp.example"}
        self.mailboxes: set[str] = {"ann@isp.example"}
        self.aliases: dict[str, tuple[str, ...]] = {}
        self.broken: Exception | None = None
        self.asked = 0

    async def resolve(self, address: str) -> Resolution:
        self.asked += 1
        if self.broken is not None:
            raise self.broken
        address = address.lower()
        if domain_of(address) not in self.domains:
            return Resolution(kind="remote")
        if address in self.aliases:
            return Resolution(kind="alias", targets=self.aliases[address])
        user, detail = detail_split(local_of(address))
        mailbox = f"{user}@{domain_of(address)}"
        if mailbox in self.mailboxes:
            return Resolution(kind="mailbox", mailbox=mailbox, detail=detail)
        return Resolution(kind="unknown")

    async def user(self, address: str) -> User | None:
        if address.lower() not in self.mailboxes:
            return None
        return User(address=address.lower(), customer="", password_hash="")


@implementer(IDeliveryAgent)
class FakeAgent:
    """Answers by ``answer(job, recipient)`` at once; or, when ``holding``, when the test lets a job go."""

    name = "smtp"

    def __init__(self) -> None:
        self.answer: Callable[[Job, Recipient], Reply] = lambda job, recipient: OK
        self.holding = False
        self.remote = True
        self.jobs: list[Job] = []
        self.held: list[tuple[Job, Deferred]] = []
        self.most: Counter[str] = Counter()
        self.contents: list[bytes] = []
        self.stopped = False
        self.fault: Exception | None = None

    async def deliver(self, job: Job) -> Sequence[Result]:
        self.jobs.append(job)
        destination = job.delivery.destination
        if self.holding:
            gate: Deferred = Deferred()
            self.held.append((job, gate))
            self.most[destination] = max(self.most[destination], self.busy(destination))
            await gate
        if self.fault is not None:
            raise self.fault
        self.contents.append(b"".join([await job.content.read(n) for n in range(job.content.chunks)]))
        return [self._result(job, recipient) for recipient in job.delivery.recipients]

    def _result(self, job: Job, recipient: Recipient) -> Result:
        reply = self.answer(job, recipient)
        remote = self.remote and not reply.enhanced.startswith("4.4")
        return Result(
            recipient=recipient,
            reply=reply,
            relay="mx.example.org[192.0.2.1]:25",
            host="mx.example.org" if remote else "",
            remote=remote,
            seconds=0.25,
        )

    def busy(self, destination: str = "") -> int:
        return sum(1 for job, _ in self.held if not destination or job.delivery.destination == destination)

    def let_go(self, count: int = 1, destination: str = "") -> None:
        for item in [it for it in self.held if not destination or it[0].delivery.destination == destination][:count]:
            self.held.remove(item)
            item[1].callback(None)

    def stop(self) -> Deferred:
        self.stopped = True
        return succeed(None)


class Harness(SynchronousTestCase):
    """A scheduler with all that it needs, on a clock."""

    queue: dict[str, object] = {}
    relay: dict[str, object] = {}
    local: dict[str, object] = {}

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = NOW
        self.store = FakeStore(self.clock)
        self.directory = FakeDirectory()
        self.agent = FakeAgent()
        self.mailboxes = FakeAgent()
        self.mailboxes.name = "maildir"
        self.events: list[AnyEvent] = []
        self.store.events = self.events.append
        self.settings = Settings(
            hostname="mx1.isp.example",
            queue=Queue(**self.queue),
            relay=Relay(**self.relay),
            local=Local(**self.local),
        )
        self.scheduler = self.make()
        self.scheduler.start()

    def make(self) -> Scheduler:
        router = Router(self.settings, self.directory)
        reporter = Reporter(self.settings, self.store.new_id, router, self.clock)
        return Scheduler(
            self.store,
            router,
            {"smtp": self.agent, "maildir": self.mailboxes},
            self.settings,
            self.events.append,
            self.clock,
            reporter,
            random.Random(7),
        )

    def turns(self, count: int = 20) -> None:
        """Let the reactor turn, in no time."""
        for _ in range(count):
            self.clock.advance(0)

    def run_for(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass."""
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.clock.advance(min(step, end - self.clock.seconds()))
            self.turns(5)

    def message(self, *recipients: str, sender: str = "bob@isp.example", customer: str = "c1", **more) -> NewMessage:
        """A new message for remote recipients, grouped by domain as the router does it."""
        now = self.clock.seconds()
        parts: dict[str, list[Recipient]] = {}
        for address in recipients or ("carl@example.org",):
            kind = "maildir" if domain_of(address) == "isp.example" else "smtp"
            parts.setdefault(f"{kind}:{domain_of(address)}", []).append(Recipient(address, address))
        values = {
            "id": self.store.new_id(),
            "arrived": now,
            "sender": sender,
            "recipients": len(recipients),
            "size": 0,
            "chunks": 0,
            "expires": now + self.settings.queue.lifetime,
            "message_id": "<m1@isp.example>",
        } | more
        return NewMessage(
            message=Message(**values),
            deliveries=tuple(NewDelivery(name, tuple(them)) for name, them in parts.items()),
            next_attempt=now,
            lane_customer=customer,
        )

    def send(self, *recipients: str, content: bytes = CONTENT, **more) -> NewMessage:
        """Commit a message and offer it, as the reception does."""
        new = self.message(*recipients, **more)
        armed = self.scheduler.room(new.deliveries)
        if armed is not None:
            new = msgspec.structs.replace(new, next_attempt=armed)
        stored = self.store.put(new, content)
        if armed is not None:
            self.scheduler.offer(new, content if len(content) <= CHUNK else None)
        return stored

    def store_only(self, *recipients: str, content: bytes = CONTENT, **more) -> NewMessage:
        """Commit a message that is due now, without an offer."""
        return self.store.put(self.message(*recipients, **more), content)

    def of(self, kind: type) -> list:
        """The events of one kind so far."""
        return [event for event in self.events if type(event) is kind]


def unavailable() -> StoreUnavailable:
    return StoreUnavailable(Reply(451, "4.3.0", "The disk is gone"))


def with_relay(settings: Settings, **relay: object) -> Settings:
    """The settings with others for ``relay``."""
    return attrs.evolve(settings, relay=attrs.evolve(settings.relay, **relay))
