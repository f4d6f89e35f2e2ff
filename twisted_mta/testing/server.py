"""A whole server in memory: the real parts on a clock that tests move, with other hosts, DNS and clients to play with.

Only what reaches outside the process is replaced: the network, DNS, threads and time.  The queue is in LMDB and the
mailboxes are Maildirs, in a temporary folder.  See ``docs/testing.md``.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ..config import Settings
from ..delivery.interfaces import IDeliveryAgent
from ..delivery.maildir_files import mailbox_path
from ..directory.interfaces import Alias, Customer, Domain, IDirectory, User
from ..mail.envelope import Delivery, Message
from ..mail.events import AnyEvent, Event, HistoryEvent
from ..parts import Parts, assemble
from ..policy.interfaces import IPolicy, IPolicyFactory
from ..queue.interfaces import IMessageStore, Page, QueueFilter
from ..queue.lmdb_store import LmdbStore
from ..queue.memory import MemoryStore
from ..queue.writer import InlineWriter
from ..runtime.certificates import Pair, load_pair
from ..smtp.tls import ServerTls
from .accounting import Accounting, Books
from .client import MESSAGE, MemoryClient
from .dns import FakeResolver
from .peer import Behaviour
from .reactor import START, MemoryReactor
from .remote import Remote
from .settings import layered
from .threads import call_inline, cheap_hash, inline_hasher

T = TypeVar("T")
E = TypeVar("E", bound=Event)

TICK = 1.0
"""Seconds after which the scheduler has noticed what an operator did."""
PATIENCE = 300.0
"""Seconds on the clock that a stop may take."""


class TestServer:
    """The server.  It runs once it is made; whoever made it calls :meth:`close`, or uses it in a ``with`` statement.

    ``config``: layers of TOML over :data:`~.settings.DEFAULTS`.  ``folder`` holds the state, a temporary one unless
    given.  ``store``: "lmdb", or "memory" for one that is quicker and forgets.  ``policies``: stages, or factories of
    them, that follow our own; plugins that are installed are left out.  ``agents``: further delivery agents by name.
    ``seed`` is that of all that is random.

    ``clock`` is the reactor, ``resolver`` the DNS, ``events`` everything that was told, ``settings`` the settings in
    force, ``parts`` the parts of the running server.
    """

    __test__ = False  # for pytest, which would take it for a test case

    def __init__(
        self,
        *config: str,
        folder: str | Path | None = None,
        store: Literal["lmdb", "memory"] = "lmdb",
        policies: Sequence[IPolicy | IPolicyFactory] = (),
        agents: Mapping[str, IDeliveryAgent] | None = None,
        seed: int = 0,
        now: float = START,
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="mta-test-") if folder is None else None
        self.folder = Path(self._temporary.name if self._temporary is not None else folder or "")
        self._layers = config
        self._policies = tuple(policies)
        self._agents = agents
        self._rng = random.Random(seed)
        self._kind = store
        self._memory: MemoryStore | None = None
        self._pair: Pair | None = None
        self._passwords: dict[str, str] = {}
        self._addresses = iter(range(1, 255))
        self._parts: Parts | None = None
        self._port = 49152
        self.clock = MemoryReactor(now)
        self.resolver = FakeResolver({})
        self.events: list[AnyEvent] = []
        self.settings: Settings = layered(self.folder, *config)
        self.start()

    # Life

    @property
    def parts(self) -> Parts:
        """The parts.  RuntimeError while the server is stopped."""
        if self._parts is None:
            raise RuntimeError("the server is stopped")
        return self._parts

    @property
    def running(self) -> bool:
        """Whether it is started."""
        return self._parts is not None

    @property
    def store(self) -> IMessageStore:
        """The queue."""
        return self.parts.store

    def start(self) -> None:
        """Start, if it is stopped."""
        if self._parts is not None:
            return
        settings = self.settings
        if self._pair is None and any(listener.tls != "none" for listener in settings.listen.values()):
            self._pair = load_pair(settings, settings.hostname)
        tls = ServerTls(self._pair.certificate, self._pair.key, settings.tls) if self._pair else None
        self._parts = assemble(
            settings,
            self.clock,
            self.events.append,
            tls=tls,
            store=self._make_store(),
            resolver=self.resolver,
            hasher=inline_hasher(),
            rng=self._rng,
            in_thread=call_inline,
            agents=self._agents,
            stage_maker=self._stages,
        )
        self.wait(self._parts.start())
        self.clock.flush()

    def _make_store(self) -> IMessageStore:
        queue = self.settings.queue
        store: IMessageStore
        if self._kind == "memory":
            if self._memory is None:
                self._memory = MemoryStore(self.clock, queue, self.events.append)
            store = self._memory
        else:
            path = Path(self.settings.state_dir) / "queue"
            store = LmdbStore(path, self.clock, queue, InlineWriter(), self.events.append)
        return store

    def _stages(self, settings: Settings, directory: IDirectory, store: IMessageStore, clock: Any) -> Sequence[IPolicy]:
        stages: list[IPolicy] = []
        for one in self._policies:
            if IPolicyFactory.providedBy(one):
                stages += one.make(settings, directory, store, clock)
            else:
                stages.append(one)
        return stages

    def begin_stop(self, grace: float = 30.0) -> Deferred[None]:
        """Begin to stop as the service does: sessions have ``grace`` seconds, deliveries under way are finished."""
        return Deferred.fromCoroutine(self._stop(self.parts, grace))

    async def _stop(self, parts: Parts, grace: float) -> None:
        await parts.stop(grace)
        self._parts = None

    def stop(self, grace: float = 30.0) -> None:
        """Stop, and wait for it: see :meth:`begin_stop`.

        Raises AssertionError when that leaves anything in the reactor that is yet to happen.
        """
        self.wait(self.begin_stop(grace), PATIENCE)
        self.clock.flush()
        if left := self.clock.getDelayedCalls():
            raise AssertionError(f"calls that are left after the stop: {', '.join(map(str, left))}")

    def restart(self, *config: str) -> None:
        """Stop, and start on the same state; with ``config`` in place of the former layers if given."""
        self.stop()
        if config:
            self._layers = config
            self.settings = layered(self.folder, *config)
        self.start()

    def reload(self, *config: str) -> None:
        """Take over other settings without a restart: ``config`` in layers over those there were."""
        layers = (*self._layers, *config)
        settings = layered(self.folder, *layers)
        self.parts.reconfigure(settings)
        self._layers, self.settings = layers, settings

    def close(self) -> None:
        """Stop, and remove a temporary folder."""
        try:
            if self._parts is not None:
                self.stop()
        finally:
            if self._temporary is not None:
                self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # Time

    def advance(self, seconds: float = 0.0) -> None:
        """Let time pass: all that falls due on the way happens in its own time.

        Days take milliseconds: moments at which the scheduler has nothing to do are left out.
        """
        begun = self.clock.seconds()
        self.clock.run(begun + seconds, lambda: self._following(begun))

    def _following(self, begun: float) -> float:
        clock, parts = self.clock, self._parts
        if parts is None or clock.seconds() <= begun + TICK:
            return clock.following()
        scheduler = parts.scheduler
        due = parts.store.next_due()
        busy = due is not None and due <= clock.seconds()
        if busy or scheduler.under_way or any(one.waiting for one in scheduler.snapshot()):
            return clock.following()
        tick = scheduler._tick
        times = [call.getTime() for call in clock.getDelayedCalls() if call.func != tick]  # type: ignore[attr-defined]
        return min(times if due is None else [*times, due], default=float("inf"))

    def wait(self, waiting: Deferred[T] | Coroutine[Any, Any, T], seconds: float = 0.0) -> T:
        """What a Deferred or coroutine comes to, which may take up to ``seconds`` on the clock.

        Raises what it failed with, or AssertionError when it takes longer.
        """
        deferred = waiting if isinstance(waiting, Deferred) else Deferred.fromCoroutine(waiting)
        outcome: list[Any] = []
        deferred.addBoth(outcome.append)
        end = self.clock.seconds() + seconds
        self.clock.flush()
        while not outcome and (following := self.clock.following()) <= end:
            self.clock.jump(following)
        if not outcome:
            raise AssertionError(f"nothing has come of it in {seconds} seconds")
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        result: T = outcome[0]
        return result

    # Clients

    def connect(self, listener: str = "mx", address: str = "192.0.2.1") -> MemoryClient:
        """A client at ``address``, "unix" for one that comes through a Unix socket, connected to a listener; with TLS
        up already where that is implicit."""
        factory = self.parts.factories[listener]
        client = MemoryClient(self.clock.flush, lmtp=factory.listener.role == "lmtp")
        self._port = self._port + 1 if self._port < 65535 else 49152
        self.clock.accept(client, factory.listening(), (address, self._port), factory.listener.port)
        if factory.listener.tls == "implicit":
            client.begin_tls()
        else:
            self.clock.flush()
        return client

    def send(
        self,
        sender: str,
        recipients: str | Sequence[str],
        content: str | bytes = MESSAGE,
        auth: str | tuple[str, str] | None = None,
        params: str = "",
    ) -> str:
        """Hand a message in, on a connection of its own; its id.  Raises :class:`~.client.Refused`.

        By the listener "mx"; with ``auth``, a user of :meth:`add_user` or a pair of a user and a password, by
        "submission", over STARTTLS.  ``params`` are MAIL's.
        """
        pair = (auth, self._passwords[auth]) if isinstance(auth, str) else auth
        client = self.connect("mx" if auth is None else "submission")
        try:
            return client.mail(sender, recipients, content, pair, params)
        finally:
            if not client.closed:
                client.quit()

    # Other hosts

    def remote(
        self,
        domain: str = "",
        host: str = "",
        addresses: Sequence[str] = (),
        preference: int = 10,
        port: int = 25,
        failure: str = "",
        tls: bool = False,
        **behaviour: Any,
    ) -> Remote:
        """Another host, which takes mail.

        ``host`` (by default "mx." and the domain) gets ``addresses`` (by default one of 198.51.100.0/24) in DNS, and
        ``domain``, unless empty, an MX record for it, beside those it has.  ``behaviour`` is that of
        :class:`~.peer.Behaviour`; ``tls`` has it offer STARTTLS.  ``failure`` is one of :data:`~.remote.FAILURES`.
        """
        host = host or f"mx.{domain}"
        addresses = addresses or [f"198.51.100.{next(self._addresses)}"]
        self.resolver.records[host] = {
            "A": [address for address in addresses if ":" not in address],
            "AAAA": [address for address in addresses if ":" in address],
        }
        if domain:
            self.resolver.records.setdefault(domain, {}).setdefault("MX", []).append(f"{preference} {host}.")
        if tls:
            pair = self._pair or load_pair(self.settings, self.settings.hostname)
            behaviour["tls"] = ServerTls(pair.certificate, pair.key)
        places = [(address, port) for address in addresses]
        remote = Remote(self.clock, host, places, Behaviour(**{"name": host, **behaviour}))
        if failure:
            remote.fail(failure)
        return remote

    def remote_socket(self, path: str, **behaviour: Any) -> Remote:
        """A server at a Unix socket; ``lmtp=True`` for one that speaks LMTP."""
        return Remote(self.clock, path, [path], Behaviour(**behaviour))

    # The directory

    def add_customer(self, name: str, **limits: int | None) -> Customer:
        """A customer, with limits by the names of ``[quota.default]``."""
        return self.parts.directory.add_customer(name, limits)

    def add_domain(self, name: str, customer: str) -> Domain:
        """A domain of ours."""
        return self.parts.directory.add_domain(name, customer)

    def add_user(self, address: str, password: str = "secret", senders: tuple[str, ...] = ()) -> User:
        """A user of a domain of ours; the password is hashed cheaply."""
        directory = self.parts.directory
        user = directory.add_user(address, "", senders)
        directory.replace_hash(user.address, "", cheap_hash(password))
        self._passwords[address] = password
        return user

    def add_alias(self, address: str, *targets: str) -> Alias:
        """An alias."""
        return self.parts.directory.add_alias(address, targets)

    # What became of it

    def maildir(self, user: str, folder: str = "") -> list[bytes]:
        """The messages in a user's Maildir, or in a folder of it ("detail" of user+detail), in order of delivery."""
        local = self.settings.local
        path = Path(mailbox_path(local.mailbox, self.settings.state_dir, user, local.detail_delimiter)[0])
        if folder:
            path /= f".{folder}"
        files = [file for part in ("new", "cur") if (path / part).is_dir() for file in (path / part).iterdir()]
        return [file.read_bytes() for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)]

    def told(self, kind: type[E], id: str = "") -> list[E]:  # noqa: A002
        """The events of a kind, in order; of one message if an id is given."""
        return [event for event in self.events if isinstance(event, kind) and id in ("", getattr(event, "id", ""))]

    def history(self, id: str) -> list[HistoryEvent]:  # noqa: A002
        """What ``mta trace`` knows of a message."""
        return self.store.history(id)

    def queue(self, **match: Any) -> list[tuple[Message, Delivery]]:
        """What is queued; ``match`` is as in :class:`~twisted_mta.queue.interfaces.QueueFilter`."""
        page: Page = self.wait(self.store.page(QueueFilter(**match), limit=10000))
        return page.found

    def operate(self, action: str, who: str = "operator", **match: Any) -> int:
        """Have an operator "retry", "hold", "release" or "remove" what matches, and the scheduler notice it.

        How many deliveries it were.
        """
        places = [(message.id, delivery.destination) for message, delivery in self.queue(**match)]
        count = self.wait(self.store.act(action, places, who, self.clock.seconds()))
        self.advance(TICK)
        return count

    def accounting(self) -> Accounting:
        """How many recipients were accepted, and what became of them."""
        return Books(self.events, self.store).sum()

    def assert_balanced(self) -> Accounting:
        """Every accepted recipient has exactly one end or is queued, and the store's counters agree (promise 2).

        Raises AssertionError with what does not balance.
        """
        books = Books(self.events, self.store)
        problems = books.problems()
        if self._kind == "lmdb":
            found: list[str] = self.wait(self.store.verify(False))
            problems += found
        if problems:
            raise AssertionError("\n".join(["the books do not balance:", *problems]))
        return books.sum()
