"""The metrics: what the events add up to, and how big the queue is when somebody asks.

Names and units follow Prometheus' rules (seconds, bytes, ``_total``).  Labels are listeners, agents, stages, and
classes of codes: words of ours, never a peer's.  ``python -m twisted_mta.admin.metrics`` prints ``docs/metrics.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from twisted.application.service import Service as TwistedService
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..mail import events as ev
from ..queue.interfaces import Commit, IMessageStore, QueueStats
from .instruments import Counter, Gauge, Histogram
from .statusfile import version

DELAYS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400, 432000)
TIMES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
COMMITS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
BATCHES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)
LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

QUEUE_GAUGES: tuple[tuple[str, str, Callable[[QueueStats], float | None]], ...] = (
    ("mta_queue_messages", "Messages in the queue.", lambda s: s.messages),
    ("mta_queue_deliveries", "Deliveries in the queue: one for each destination of a message.", lambda s: s.deliveries),
    ("mta_queue_recipients", "Recipients in the queue.", lambda s: s.recipients),
    ("mta_queue_bytes", "Content in the queue, in bytes.", lambda s: s.bytes),
    ("mta_queue_held", "Deliveries that an operator holds.", lambda s: s.held),
    ("mta_queue_destinations", "Destinations that mail waits for.", lambda s: s.destinations),
    (
        "mta_queue_oldest_timestamp_seconds",
        "When the oldest message in the queue arrived; absent when the queue is empty.",
        lambda s: s.oldest,
    ),
    ("mta_store_map_bytes", "Size of the store's map.", lambda s: s.map_size),
    ("mta_store_map_used_bytes", "What of the store's map is in use.", lambda s: s.map_used),
    ("mta_store_disk_free_bytes", "Free disk where the store lives.", lambda s: s.disk_free),
)


class IWatchedScheduler(Protocol):
    """What of a scheduler is shown."""

    @property
    def under_way(self) -> int:
        """Attempts that agents are making now."""

    @property
    def unsettled(self) -> int:
        """Attempts that ended and are not on record yet."""

    @property
    def settle_failures(self) -> int:
        """Commits of results that had to be repeated."""

    def snapshot(self) -> Sequence[Any]:
        """Its destinations, each with ``waiting`` and ``dead``."""


SCHEDULER_GAUGES: tuple[tuple[str, str, Callable[[IWatchedScheduler], float]], ...] = (
    ("mta_deliveries_under_way", "Attempts that agents are making now.", lambda s: s.under_way),
    ("mta_deliveries_unsettled", "Attempts that ended and are not on record yet.", lambda s: s.unsettled),
    (
        "mta_deliveries_waiting",
        "Deliveries in memory that wait for their turn.",
        lambda s: sum(one.waiting for one in s.snapshot()),
    ),
    (
        "mta_destinations_dead",
        "Destinations that are not tried for a while because connections failed.",
        lambda s: sum(1 for one in s.snapshot() if one.dead),
    ),
    (
        "mta_settle_failures_total",
        "How often the store could not record how attempts ended, and it had to be repeated.",
        lambda s: s.settle_failures,
    ),
)

ALARMS = (
    "disk-low",
    "queue-damaged",
    "reload-failed",
    "settlement-failed",
    "settlement-lost",
    "store-failed",
    "upgrade-failed",
    "worker-died",
)
"""Events of the service that are shown before the first of them: an alert on an increase never sees a series begin."""


class Metrics(Collector):
    """An :data:`~twisted_mta.mail.events.EventSink` that counts.  For use on the reactor thread, scrapes included.

    ``registry`` is the registry to appear in, None for one of its own; :attr:`registry` is what to expose.
    """

    _log = Logger(namespace="twisted_mta.admin.metrics")

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._store: IMessageStore | None = None
        self._watched: dict[str, tuple[str, Callable[[], float | Mapping[str, float] | None], str]] = {
            name: (help_, lambda: None, "") for name, help_, _ in SCHEDULER_GAUGES
        }
        self._instruments: list[Counter | Histogram] = []
        self._define()
        self._count: dict[type[Any], Callable[[Any], None]] = {
            ev.Connected: self._connected,
            ev.Disconnected: self._disconnected,
            ev.Authenticated: lambda e: self.auth.add((e.listener, "ok")),
            ev.AuthFailed: lambda e: self.auth.add((e.listener, "unavailable" if e.temporary else "failed")),
            ev.Rejected: self._rejected,
            ev.TlsFailed: lambda e: self.tls_failures.add((e.listener,)),
            ev.Overloaded: lambda e: self.overload_refusals.add((e.listener,), e.refused),
            ev.Accepted: self._accepted,
            ev.Delivered: self._delivered,
            ev.Deferred: self._deferred,
            ev.Bounced: self._bounced,
            ev.Reported: lambda e: self.reports.add((e.kind,)),
            ev.Operator: lambda e: self.operator.add((e.action,)),
            ev.Done: lambda e: self.done.add(()),
            ev.Service: lambda e: self.service.add((e.what,)),
        }
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def _define(self) -> None:
        by = ("listener",)
        self.connections = self._counter("mta_connections_total", "Sessions that clients opened.", by)
        self.sessions = self._gauge("mta_sessions_open", "Sessions open now.", by)
        self.disconnects = self._counter(
            "mta_disconnects_total",
            "Sessions that ended, by reason: quit, lost, timeout, refused, tls, shutdown, overload, xclient or error.",
            (*by, "reason"),
        )
        self.tls_failures = self._counter(
            "mta_tls_handshake_failures_total", "TLS handshakes with clients that broke.", by
        )
        self.overload_refusals = self._counter(
            "mta_overload_refusals_total",
            "Connections refused with 421, without a session, because they had waited too long to be accepted.",
            by,
        )
        self.auth = self._counter(
            "mta_authentications_total", "Authentications, by result: ok, failed, unavailable.", (*by, "result")
        )
        self.rejects = self._counter(
            "mta_rejects_total",
            "Commands refused, by stage (connect, helo, mail, rcpt, data, content, etrn) and class of the code (4xx, "
            "5xx).",
            (*by, "stage", "code"),
        )
        self.limits = self._counter("mta_quota_rejects_total", "Refusals because of a quota, by its name.", ("limit",))
        self.accepted = self._counter("mta_messages_accepted_total", "Messages committed to the queue.", by)
        self.accepted_recipients = self._counter("mta_recipients_accepted_total", "Recipients of those messages.", by)
        self.accepted_bytes = self._counter("mta_accepted_bytes_total", "Content of those messages, in bytes.", by)
        self.requiretls = self._counter(
            "mta_messages_requiretls_total",
            "Messages whose sender says of TLS that it is required (REQUIRETLS) or optional (TLS-Required: No).",
            (*by, "requiretls"),
        )
        self.asked = self._counter(
            "mta_messages_with_wishes_total",
            "Messages whose sender asked something of the queue: futurerelease, deliverby, mt-priority.",
            (*by, "extension"),
        )
        self.accept_time = self._histogram("mta_accept_seconds", "From MAIL until the message was on disk.", TIMES, by)
        agent = ("agent",)
        self.delivered = self._counter(
            "mta_recipients_delivered_total",
            "Recipients delivered, by agent and whether TLS was used.",
            (*agent, "tls"),
        )
        self.deferred = self._counter(
            "mta_recipients_deferred_total", "Attempts that failed for now, counted for each recipient.", agent
        )
        self.bounced = self._counter(
            "mta_recipients_bounced_total",
            "Recipients given up, by cause: refused (a permanent answer), expired (the lifetime was over), requiretls "
            "(the way on has not the TLS that the message requires).",
            (*agent, "cause"),
        )
        self.delay = self._histogram(
            "mta_delivery_delay_seconds", "From arrival to delivery, for each recipient.", DELAYS, agent
        )
        self.attempt_time = self._histogram(
            "mta_delivery_attempt_seconds", "How long attempts took, for each recipient, whatever came of them.", TIMES,
            agent,
        )  # fmt: skip
        self.reports = self._counter("mta_reports_total", "Reports of our own (DSNs) queued, by kind.", ("kind",))
        self.done = self._counter("mta_messages_done_total", "Messages that left the queue.")
        self.operator = self._counter(
            "mta_operator_actions_total",
            "Deliveries that an operator acted on, or that ETRN had tried (run).",
            ("action",),
        )
        self.service = self._counter(
            "mta_service_events_total", "Steps of the service: ready, reload and so on.", ("what",)
        )
        for what in ALARMS:
            self.service.add((what,), 0)
        self.commit_operations = self._histogram(
            "mta_store_commit_operations", "Operations (messages taken in, results, and so on) that one commit shared.",
            BATCHES,
        )  # fmt: skip
        self.commit_queued = self._histogram(
            "mta_store_commit_queued_seconds", "How long a commit's first operation waited for the commit before it.",
            COMMITS,
        )  # fmt: skip
        self.commit_locked = self._histogram(
            "mta_store_commit_locked_seconds",
            "How long a commit waited for the write lock, which other processes had.",
            COMMITS,
        )
        self.commit_time = self._histogram(
            "mta_store_commit_seconds", "How long a commit took to be written and synced.", COMMITS
        )
        self.lag = self._histogram("mta_reactor_lag_seconds", "How late the reactor turned, sampled each second.", LAGS)

    def _counter(self, name: str, help_: str, labels: tuple[str, ...] = ()) -> Counter:
        made = Counter(name, help_, labels)
        self._instruments.append(made)
        return made

    def _gauge(self, name: str, help_: str, labels: tuple[str, ...] = ()) -> Gauge:
        made = Gauge(name, help_, labels)
        self._instruments.append(made)
        return made

    def _histogram(self, name: str, help_: str, bounds: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
        made = Histogram(name, help_, bounds, labels)
        self._instruments.append(made)
        return made

    def __call__(self, event: ev.AnyEvent) -> None:
        """Take an event."""
        count = self._count.get(type(event))
        if count is not None:
            count(event)

    def watch_store(self, store: IMessageStore) -> None:
        """Show the size of this store's queue, and its commits."""
        self._store = store
        store.watch_commits(self._committed)

    def watch_scheduler(self, scheduler: IWatchedScheduler) -> None:
        """Show what this scheduler is doing."""
        for name, help_, read in SCHEDULER_GAUGES:
            self.watch(name, help_, partial(read, scheduler))

    def watch(
        self, name: str, help_: str, read: Callable[[], float | Mapping[str, float] | None], label: str = ""
    ) -> None:
        """Show what ``read`` gives at each scrape as a gauge: a number, or with ``label`` one for each of its values
        (words of ours, bounded in number).  None shows nothing.  With a name ending in "_total" it is a counter."""
        self._watched[name] = (help_, read, label)

    def collect(self) -> Iterable[Metric]:
        """What a scrape gets; see :class:`prometheus_client.registry.Collector`."""
        build = GaugeMetricFamily("mta_build_info", "Always 1; the label says which version runs.", labels=("version",))
        build.add_metric((version(),), 1)
        yield build
        for instrument in self._instruments:
            yield instrument.collect()
        yield from self._queue_gauges()
        for name, (help_, read, label) in self._watched.items():
            yield self._read(name, help_, read, label)

    def describe(self) -> Iterable[Metric]:
        """The families without numbers; see :class:`prometheus_client.registry.Collector`."""
        return []

    def _queue_gauges(self) -> Iterable[Metric]:
        stats = None
        if self._store is not None:
            try:
                stats = self._store.stats()
            except Exception:
                self._log.failure("The size of the queue could not be read")
        for name, help_, read in QUEUE_GAUGES:
            yield GaugeMetricFamily(name, help_, value=None if stats is None else read(stats))

    def _read(self, name: str, help_: str, read: Callable[[], Any], label: str) -> Metric:
        kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        family = kind(name, help_, labels=(label,) if label else ())
        try:
            value = read()
        except Exception:
            self._log.failure("The metric {name} could not be read", name=name)
            return family
        if isinstance(value, Mapping):
            for key, number in value.items():
                family.add_metric((key,), number)
        elif value is not None:
            family.add_metric((), value)
        return family

    def _committed(self, commit: Commit) -> None:
        self.commit_operations.observe((), commit.operations)
        self.commit_queued.observe((), commit.queued)
        self.commit_locked.observe((), commit.locked)
        self.commit_time.observe((), commit.took)

    def _connected(self, e: ev.Connected) -> None:
        key = (e.listener,)
        self.connections.add(key)
        self.sessions.add(key)

    def _disconnected(self, e: ev.Disconnected) -> None:
        self.sessions.add((e.listener,), -1)
        self.disconnects.add((e.listener, e.reason))

    def _rejected(self, e: ev.Rejected) -> None:
        self.rejects.add((e.listener, e.stage, "4xx" if e.reply[:1] == "4" else "5xx"))
        if e.limit:
            self.limits.add((e.limit,))

    def _accepted(self, e: ev.Accepted) -> None:
        key = (e.listener,)
        self.accepted.add(key)
        self.accepted_recipients.add(key, len(e.recipients))
        self.accepted_bytes.add(key, e.size)
        self.accept_time.observe(key, e.seconds)
        if e.requiretls:
            self.requiretls.add((e.listener, e.requiretls))
        if e.release:
            self.asked.add((e.listener, "futurerelease"))
        if e.deliver_by:
            self.asked.add((e.listener, "deliverby"))
        if e.priority:
            self.asked.add((e.listener, "mt-priority"))

    def _delivered(self, e: ev.Delivered) -> None:
        agent = e.destination.partition(":")[0]
        key = (agent,)
        self.delivered.add((agent, "yes" if e.tls else "no"))
        self.delay.observe(key, e.delay)
        self.attempt_time.observe(key, e.seconds)

    def _deferred(self, e: ev.Deferred) -> None:
        key = (e.destination.partition(":")[0],)
        self.deferred.add(key)
        self.attempt_time.observe(key, e.seconds)

    def _bounced(self, e: ev.Bounced) -> None:
        agent = e.destination.partition(":")[0]
        unmet = e.status in ("5.7.10", "5.7.30")  # RFC 8689 §4.2.1
        self.bounced.add((agent, "expired" if e.expired else "requiretls" if unmet else "refused"))
        self.attempt_time.observe((agent,), e.seconds)


class ReactorLag(TwistedService):
    """Samples once a second how late the reactor turns, into ``metrics.lag``."""

    def __init__(self, metrics: Metrics, reactor: IReactorTime) -> None:
        self._metrics = metrics
        self._reactor = reactor
        self._due = 0.0
        self._loop = LoopingCall(self._sample)
        self._loop.clock = reactor

    def startService(self) -> None:  # noqa: N802 - Twisted's name
        """Begin."""
        super().startService()  # type: ignore[no-untyped-call]
        self._due = self._reactor.seconds() + 1
        self._loop.start(1, now=False).addErrback(self._failed)

    def stopService(self) -> None:  # noqa: N802 - Twisted's name
        """End."""
        if self._loop.running:
            self._loop.stop()
        super().stopService()  # type: ignore[no-untyped-call]

    def _failed(self, failure: Failure) -> None:
        Metrics._log.failure("The reactor's lag is no longer sampled", failure=failure)

    def _sample(self) -> None:
        now = self._reactor.seconds()
        self._metrics.lag.observe((), max(0.0, now - self._due))
        self._due = now + 1


def markdown(metrics: Metrics) -> str:
    """``docs/metrics.md``: every metric, its kind, its labels and what it says."""
    rows = []
    labels = {i.name: i.labels for i in metrics._instruments} | {"mta_build_info": ("version",)}
    labels |= {name: (label,) for name, (_, _, label) in metrics._watched.items() if label}
    for family in metrics.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        shown = ", ".join(f"`{label}`" for label in labels.get(name, ()))
        rows.append(f"| `{name}` | {family.type} | {shown} | {family.documentation} |")
    head = """# Metrics

What `/metrics` shows, in Prometheus' text form. Beside these there are the usual `process_*` metrics.
Made by `python -m twisted_mta.admin.metrics`: don't edit.

| name | kind | labels | meaning |
|---|---|---|---|
"""
    return head + "\n".join(rows) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown(Metrics()))
