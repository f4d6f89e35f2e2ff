"""A server with everything behind it in memory and under the test's hand."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.cred.portal import Portal
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_mta.config.settings import Listener, Local, Settings
from twisted_mta.directory.interfaces import Customer, IDirectory, Resolution, User
from twisted_mta.mail.address import domain_of, local_of
from twisted_mta.mail.ids import IdMaker
from twisted_mta.mail.status import MailError, Reply
from twisted_mta.policy.interfaces import IAuthThrottle, Peer, Policy
from twisted_mta.policy.pipeline import Pipeline
from twisted_mta.queue.incoming import HELD_CHUNKS
from twisted_mta.queue.interfaces import (
    CHUNK,
    IIncoming,
    IMessageStore,
    IRouter,
    IScheduler,
    NewDelivery,
    NewMessage,
    Routing,
)
from twisted_mta.smtp.factory import MtaServerFactory
from twisted_mta.smtp.reception import Reception
from twisted_mta.smtp.server import MtaServer
from twisted_mta.smtp.sessions import Sessions

NOW = 1_790_000_000.0
HOSTNAME = "mx.isp.example"


class Incoming:
    """One message of a :class:`Store`."""

    def __init__(self, store: Store, id: str) -> None:  # noqa: A002
        self._store = store
        self.id = id
        self.size = 0
        self.data = b""
        self.aborted = 0

    def write(self, data: bytes) -> Deferred[None] | None:
        self.size += len(data)
        self.data += data
        if self._store.slow:
            waiting: Deferred[None] = Deferred()
            self._store.writes.append(waiting)
            return waiting
        return None

    @property
    def whole(self) -> bytes | None:
        return self.data if self.size <= HELD_CHUNKS * CHUNK else None

    def commit(self, new: NewMessage) -> Deferred[None]:
        store = self._store
        if store.failure is not None:
            return fail(store.failure)
        store.messages.append((new, self.data))
        if store.slow_commit:
            waiting: Deferred[None] = Deferred()
            store.commits.append(waiting)
            return waiting
        return succeed(None)

    def abort(self) -> None:
        self.aborted += 1


@implementer(IMessageStore)
class Store:
    """As much of a store as reception asks for.  ``slow``: writes wait in ``writes``; so commits in ``commits``."""

    def __init__(self) -> None:
        self.messages: list[tuple[NewMessage, bytes]] = []
        self.begun: list[Incoming] = []
        self.slow = self.slow_commit = False
        self.writes: list[Deferred[None]] = []
        self.commits: list[Deferred[None]] = []
        self.failure: MailError | None = None
        self.full: MailError | None = None
        self._ids = IdMaker(7, lambda: NOW)

    def incoming(self) -> IIncoming:
        if self.full is not None:
            raise self.full
        incoming = Incoming(self, self._ids())
        self.begun.append(incoming)
        return incoming  # type: ignore[return-value]


@implementer(IRouter)
class Router:
    """Everybody has a destination of their domain's; ``refused`` are addresses that have none."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.failure: MailError | None = None

    async def route(self, recipients: Any, lane_customer: str) -> Routing:
        if self.failure is not None:
            raise self.failure
        reply = Reply(550, "5.4.6", "The aliases of this address lead back to themselves")
        taken: dict[str, list[Any]] = {}
        for one in recipients:
            if one.address not in self.refused:
                taken.setdefault(f"smtp:{domain_of(one.address)}", []).append(one)
        return Routing(
            tuple(NewDelivery(name, tuple(members)) for name, members in taken.items()),
            {},
            tuple((one, reply) for one in recipients if one.address in self.refused),
        )


@implementer(IScheduler)
class Scheduler:
    """Has room as long as ``armed`` says so."""

    def __init__(self) -> None:
        self.armed: float | None = NOW + 60
        self.offered: list[tuple[NewMessage, bytes | None]] = []
        self.announced: list[NewMessage] = []

    def room(self, deliveries: Any) -> float | None:
        return self.armed

    def announce(self, new: NewMessage) -> None:
        """It is due in the store."""
        self.announced.append(new)

    def offer(self, new: NewMessage, content: bytes | None) -> None:
        self.offered.append((new, content))


@implementer(IDirectory)
class Directory:
    """isp.example is ours: ann, bob and postmaster live there, list stands for them."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[None]] = []
        self.slow = False
        self.failure: MailError | None = None

    async def resolve(self, address: str) -> Resolution:
        if self.failure is not None:
            raise self.failure
        if self.slow:
            waiting: Deferred[None] = Deferred()
            self.waiting.append(waiting)
            await waiting
        if domain_of(address) != "isp.example":
            return Resolution(kind="remote")
        local = local_of(address).lower()
        if local in ("ann", "bob", "postmaster"):
            return Resolution(kind="mailbox", mailbox=f"{local}@isp.example", customer="isp")
        if local == "list":
            return Resolution(kind="alias", targets=("ann@isp.example",), customer="isp")
        return Resolution(kind="unknown", customer="isp")


@implementer(IAuthThrottle)
class Throttle:
    """Delays by ``seconds``, and ends a session after three failures."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.good: list[str] = []

    def delay(self, peer: Peer, user: str) -> float:
        return self.seconds

    def failed(self, peer: Peer, user: str) -> Reply | None:
        return Reply(421, "4.7.0", "Too many failed logins") if peer.auth_failures >= 3 else None

    def succeeded(self, peer: Peer, user: str) -> None:
        self.good.append(user)


@attrs.frozen
class Account:
    user: User
    customer: Customer


def account(**limits: int | None) -> Account:
    """ann's account, as the realm would make it."""
    return Account(
        User(address="ann@isp.example", customer="isp", password_hash="-"), Customer(name="isp", limits=dict(limits))
    )


class Transport(StringTransport):
    """A transport that can be aborted, and that remembers how often it was written to."""

    def __init__(self, address: str = "192.0.2.7") -> None:
        super().__init__(peerAddress=IPv4Address("TCP", address, 4025))
        self.writes = 0
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.writes += 1
        super().write(data)

    def abortConnection(self) -> None:
        self.aborted = True
        self.loseConnection()


class World:
    """A factory with all it needs.  :meth:`session` opens one."""

    def __init__(
        self,
        role: str = "mx",
        stages: Any = (),
        portal: Portal | None = None,
        tls: Any = None,
        listener_tls: str = "starttls",
        clock: Any = None,
        listener: Listener | None = None,
        **smtp: Any,
    ) -> None:
        settings = Settings(hostname=HOSTNAME, local=Local(domains=("isp.example",)))
        self.settings = attrs.evolve(settings, smtp=attrs.evolve(settings.smtp, **smtp))
        self.clock = clock
        if clock is None:
            self.clock = Clock()
            self.clock.advance(NOW)
        self.store, self.router, self.scheduler = Store(), Router(), Scheduler()
        self.directory, self.throttle = Directory(), Throttle()
        self.events: list[Any] = []
        self.sessions = Sessions(self.clock)
        self.reception = Reception(
            self.store, self.router, self.scheduler, self.settings, self.events.append, self.clock
        )
        self.factory = MtaServerFactory(
            role,
            listener or Listener(role=role, tls=listener_tls),  # type: ignore[arg-type]
            self.settings,
            reception=self.reception,
            directory=self.directory,
            pipeline=Pipeline(stages),
            throttle=self.throttle,
            sessions=self.sessions,
            events=self.events.append,
            clock=self.clock,
            portal=portal,
            tls=tls,
        )

    def session(self, address: str = "192.0.2.7") -> Client:
        server = self.factory.buildProtocol(None)
        transport = Transport(address)
        server.makeConnection(transport)
        return Client(server, transport)

    def of(self, kind: type) -> list[Any]:
        """The events of a kind."""
        return [event for event in self.events if type(event) is kind]


class Client:
    """The other end of a session."""

    def __init__(self, server: MtaServer, transport: Transport) -> None:
        self.server = server
        self.transport = transport

    def read(self) -> bytes:
        """What the server has said since the last time."""
        said = self.transport.value()
        self.transport.clear()
        return said

    def say(self, *lines: bytes | str) -> bytes:
        """Send lines in one segment, and read."""
        self.server.dataReceived(
            b"".join((line.encode() if isinstance(line, str) else line) + b"\r\n" for line in lines)
        )
        return self.read()

    def codes(self, *lines: bytes | str) -> list[int]:
        """The codes of the replies to lines sent in one segment."""
        return codes(self.say(*lines))

    def send(self, content: bytes, recipient: str = "ann@isp.example", sender: str = "joe@far.example") -> bytes:
        """Send a message, dots stuffed by the caller; the last reply."""
        before = codes(self.say(f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "DATA"))
        assert before == [250, 250, 354], before
        self.server.dataReceived(content + b"\r\n.\r\n" if not content.endswith(b"\r\n") else content + b".\r\n")
        return self.read()


def codes(said: bytes) -> list[int]:
    """The codes in what a server said, one for each reply."""
    return [int(line[:3]) for line in said.split(b"\r\n") if line and line[3:4] == b" "]


HELLO = "EHLO far.example"
MAIL = "MAIL FROM:<joe@far.example>"
RCPT = "RCPT TO:<ann@isp.example>"
GONE = Failure(ConnectionDone())


class Waits(Policy):
    """Answers a hook when the test says so."""

    def __init__(self, *hooks: str) -> None:
        self.waiting: list[Deferred[Reply | None]] = []
        self.peers: list[Any] = []
        for hook in hooks:
            setattr(self, hook, self._wait)

    async def _wait(self, peer: Any, *rest: Any) -> Reply | None:
        answer: Deferred[Reply | None] = Deferred()
        self.waiting.append(answer)
        return await answer

    def closed(self, peer: Any) -> None:
        self.peers.append(peer)


class Says(Policy):
    """Answers one hook with a reply, or raises it."""

    def __init__(self, hook: str, reply: Reply | Exception) -> None:
        async def answer(*rest: Any) -> Reply:
            if isinstance(reply, Exception):
                raise reply
            return reply

        setattr(self, hook, answer)
