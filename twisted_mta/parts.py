"""The parts of a server, made from the settings and joined.

One place knows what needs what: the service starts these parts with real ports and threads, the test server
(:mod:`twisted_mta.testing`) with a memory clock.  Making them opens nothing but the directory.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.interfaces import IReactorTime

from .config.settings import Listener, Settings
from .delivery.dns import IResolver, Resolver
from .delivery.interfaces import IDeliveryAgent
from .delivery.maildir import InThread, MaildirAgent
from .delivery.router import Router
from .delivery.scheduler import Scheduler
from .delivery.shares import Tell
from .delivery.smtp_agent import LmtpAgent, SmtpAgent
from .directory.auth import CredentialCache, DirectoryChecker, ScramKeys, make_portal
from .directory.interfaces import IDirectory
from .directory.lmdb_directory import LmdbDirectory
from .directory.oauth import AuthorizationServers, TokenChecker
from .directory.outside import OutsideCheckers
from .directory.passwords import Hasher
from .mail.events import AnyEvent, EventSink
from .policy.access import AccessPolicy
from .policy.certificates import RelayCertificatePolicy
from .policy.connections import ConnectionPolicy
from .policy.dns_lists import DnsListPolicy
from .policy.greeting import GreetingPolicy, HelloPolicy
from .policy.greylist import GreylistPolicy
from .policy.interfaces import IPolicy
from .policy.names import NamePolicy
from .policy.null_mx import NullMxPolicy
from .policy.pipeline import Pipeline
from .policy.plugins import configured_policies
from .policy.quotas import QuotaPolicy
from .policy.rates import RatePolicy
from .policy.submission import SubmissionPolicy
from .policy.tally import Tally
from .policy.throttle import AuthThrottle
from .queue.interfaces import IMessageStore
from .queue.lmdb_store import LmdbStore
from .queue.writer import IWriter
from .report.reporter import Reporter
from .smtp.factory import MtaServerFactory
from .smtp.reception import Reception
from .smtp.sessions import Sessions
from .smtp.tls import ServerTls

StageMaker = Callable[[Settings, IDirectory, IMessageStore, IReactorTime], Sequence[IPolicy]]
"""Makes the stages that follow our own, at start and again at each reload."""


def fan_out(*sinks: EventSink) -> EventSink:
    """One sink that hands each event to all of ``sinks`` in turn."""
    if len(sinks) == 1:
        return sinks[0]

    def sink(event: AnyEvent) -> None:
        for one in sinks:
            one(event)

    return sink


@attrs.frozen(kw_only=True)
class Prepared:
    """What of a reload may fail, and has not."""

    stages: Sequence[IPolicy]
    servers: AuthorizationServers


@attrs.define(kw_only=True, slots=True)
class Parts:
    """A whole server.  ``start`` and ``stop`` are the owner's to call; listening with ``factories`` is, too."""

    settings: Settings
    clock: Any
    store: IMessageStore
    directory: LmdbDirectory
    resolver: IResolver
    router: Router
    reporter: Reporter
    agents: Mapping[str, IDeliveryAgent]
    scheduler: Scheduler
    reception: Reception
    hasher: Hasher
    cache: CredentialCache
    outside: OutsideCheckers
    tokens: TokenChecker
    portal: Portal
    throttle: AuthThrottle
    rates: RatePolicy
    greeting: GreetingPolicy
    stages: tuple[IPolicy, ...]
    greylist: GreylistPolicy
    own_stages: tuple[IPolicy, ...]
    sessions: Sessions
    tls: ServerTls | None
    factories: dict[str, MtaServerFactory]
    tallies: Mapping[str, Tally]
    """Counts that processes share, by kind."""
    _stage_maker: StageMaker
    _reconfigurable: tuple[Callable[[Settings], object], ...]
    _delivered: Deferred[None] | None = attrs.field(default=None, init=False)

    async def start(self) -> None:
        """Open the store and begin to deliver; connections may come once this is done.

        Raises :class:`~twisted_mta.queue.interfaces.StoreUnavailable`.
        """
        await self.store.start()
        self.hasher.start()
        self.outside.start()
        self.scheduler.start()

    async def stop(self, grace: float) -> None:
        """End the sessions (``grace`` seconds for a message under way), then deliveries, then the store.

        The listening ports must be closed before.
        """
        await self.sessions.drain(grace)
        with contextlib.suppress(TimedOut):  # the disk does not answer: what is lost there was not acknowledged
            await self.reception.when_idle().addTimeout(grace, self.clock)
        self.reception.runs.stop()
        await self._stop_delivery()
        await self.scheduler.recorded()  # also what came in while it stopped
        self.outside.stop()
        self.tokens.stop()
        self.hasher.stop()
        await self.store.stop()
        self.greylist.close()
        self.directory.close()

    async def retire(self, patience: float, linger: float) -> None:
        """Leave the service to another process that has the same store; :meth:`stop` follows.

        Nothing more is delivered, and what waits in memory is the other's at once.  Sessions go on as they were for
        ``patience`` seconds; then idle ones end, and others after the message they are handing in, or after ``linger``
        seconds.  The listening ports must be closed before.
        """
        stopped = self._stop_delivery()
        await self.sessions.gone(patience)
        await self.sessions.drain(linger)
        await stopped

    def _stop_delivery(self) -> Deferred[None]:
        if self._delivered is None:
            self._delivered = self.scheduler.stop()
        after: Deferred[None] = Deferred()

        def over(result: Any) -> Any:
            after.callback(None)
            return result

        self._delivered.addBoth(over)
        return after

    def reconfigure(self, settings: Settings) -> None:
        """Take over settings that a reload may change.  No session is closed and no delivery interrupted.

        Whatever :meth:`prepare` raises is passed on, and all is as it was.
        """
        self.apply(settings, self.prepare(settings))

    def prepare(self, settings: Settings) -> Prepared:
        """What may fail of a reload: plugins' stages are made anew, and may refuse their settings; files are read.

        Gives what :meth:`apply` wants.
        """
        return Prepared(
            stages=self._stage_maker(settings, self.directory, self.store, self.clock),
            servers=self.tokens.prepare(settings),
        )

    def apply(self, settings: Settings, prepared: Prepared) -> None:
        """Take over settings for which everything is prepared."""
        self.settings = settings
        for apply in self._reconfigurable:
            apply(settings)
        self.cache.seconds = settings.submission.auth_cache
        self.directory.reconfigure(settings.local)
        self.tokens.apply(prepared.servers)
        self.stages = (*self.own_stages, *prepared.stages)
        pipeline = Pipeline(self.stages)
        for factory in self.factories.values():
            factory.configure(settings, pipeline)


def _tls_of(listener: Listener, tls: ServerTls | None) -> ServerTls | None:
    if tls is None or listener.tls == "none":
        return None
    return tls.asking(listener.client_ca) if listener.client_certificates else tls


def assemble(
    settings: Settings,
    reactor: Any,
    events: EventSink,
    *,
    tls: ServerTls | None = None,
    store: IMessageStore | None = None,
    writer: IWriter | None = None,
    resolver: IResolver | None = None,
    hasher: Hasher | None = None,
    rng: random.Random | None = None,
    in_thread: InThread | None = None,
    agents: Mapping[str, IDeliveryAgent] | None = None,
    stage_maker: StageMaker = configured_policies,
    tell: Tell | None = None,
) -> Parts:
    """Make and join the parts.  What is given is used in place of what the service would make.

    ``settings.hostname`` must be set.  ``tell``: see :mod:`.delivery.shares`.  Raises OSError when the directory
    can't be opened, and what plugins raise.
    """
    state = Path(settings.state_dir)
    rng = rng or random.Random()  # noqa: S311 - jitter and the order of equal hosts
    directory = LmdbDirectory(state / "directory", settings.local, reactor)
    store = store or LmdbStore(state / "queue", reactor, settings.queue, writer, events)
    made = resolver is None
    resolver = resolver or Resolver(settings.dns, reactor)
    router = Router(settings, directory)
    reporter = Reporter(settings, store.new_id, router, reactor)
    smtp = SmtpAgent(settings, resolver, reactor, events, rng=rng)
    lmtp = LmtpAgent(settings, resolver, reactor, events, rng=rng)
    maildir = MaildirAgent(settings, settings.hostname, reactor, in_thread)
    all_agents: dict[str, IDeliveryAgent] = {"smtp": smtp, "lmtp": lmtp, "maildir": maildir, **(agents or {})}
    scheduler = Scheduler(store, router, all_agents, settings, events, reactor, reporter, rng, tell)
    reception = Reception(store, router, scheduler, settings, events, reactor)
    hasher = hasher or Hasher(reactor)
    cache = CredentialCache(reactor, settings.submission.auth_cache)
    checker = DirectoryChecker(directory, hasher, cache, settings.submission.scram)
    outside = OutsideCheckers(settings, reactor, directory, cache)
    tokens = TokenChecker(settings, reactor, directory)
    portal = make_portal(directory, hasher, cache, outside, own=checker, others=[tokens])
    throttle = AuthThrottle(settings, reactor)
    connections, access = ConnectionPolicy(settings), AccessPolicy(directory, settings)
    submission, quotas = SubmissionPolicy(directory, settings), QuotaPolicy(store, settings)
    rates, lists = RatePolicy(settings, reactor), DnsListPolicy(resolver, settings, reactor)
    names, greeting, hello = NamePolicy(resolver, settings), GreetingPolicy(settings, reactor), HelloPolicy(settings)
    # What begins to ask stands before what waits; access, which knows the recipients, before what asks about clients.
    grey, certified = GreylistPolicy(settings, reactor), RelayCertificatePolicy(settings)
    no_mail = NullMxPolicy(resolver, settings, reactor)
    own: tuple[IPolicy, ...] = (
        connections,
        certified,
        rates,
        names,
        access,
        lists,
        greeting,
        hello,
        submission,
        quotas,
        grey,
        no_mail,
    )
    stages = (*own, *stage_maker(settings, directory, store, reactor))
    pipeline = Pipeline(stages)
    sessions = Sessions(reactor)
    make = partial(
        MtaServerFactory,
        reception=reception,
        directory=directory,
        pipeline=pipeline,
        throttle=throttle,
        sessions=sessions,
        events=events,
        clock=reactor,
    )
    factories = {
        name: make(
            name,
            listener,
            settings,
            portal=portal if listener.role == "submission" else None,
            keys=ScramKeys(directory, directory.secret),
            tokens=tokens,
            tls=_tls_of(listener, tls),
        )
        for name, listener in settings.listen.items()
    }
    for factory in factories.values():
        factory.gate.pressed, factory.gate.behind = scheduler.pressed, scheduler.behind
    reconfigurable: list[Callable[[Settings], object]] = [
        router.reconfigure,
        reporter.reconfigure,
        smtp.reconfigure,
        lmtp.reconfigure,
        maildir.reconfigure,
        scheduler.reconfigure,
        reception.configure,
        throttle.reconfigure,
        connections.reconfigure,
        certified.reconfigure,
        rates.reconfigure,
        names.reconfigure,
        lists.reconfigure,
        greeting.reconfigure,
        hello.reconfigure,
        grey.reconfigure,
        no_mail.reconfigure,
        access.reconfigure,
        submission.reconfigure,
        quotas.reconfigure,
        checker.reconfigure,
        outside.reconfigure,
    ]
    if made and isinstance(resolver, Resolver):
        own_resolver = resolver
        reconfigurable.append(lambda changed: own_resolver.reconfigure(changed.dns))
    return Parts(
        settings=settings,
        clock=reactor,
        store=store,
        directory=directory,
        resolver=resolver,
        router=router,
        reporter=reporter,
        agents=all_agents,
        scheduler=scheduler,
        reception=reception,
        hasher=hasher,
        cache=cache,
        outside=outside,
        tokens=tokens,
        portal=portal,
        throttle=throttle,
        rates=rates,
        greeting=greeting,
        stages=stages,
        greylist=grey,
        own_stages=own,
        sessions=sessions,
        tls=tls,
        factories=factories,
        tallies={
            "sessions": sessions.tally,
            "addresses": connections.tally,
            "customers": quotas.tally,
            "etrn": reception.runs.asked,
        },
        stage_maker=stage_maker,
        reconfigurable=tuple(reconfigurable),
    )
