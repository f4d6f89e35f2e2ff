"""One process that serves: the parts, with ports, event log and metrics around them.

It is the whole service where ``workers`` is 0, and what each worker does where it is not.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ..admin.eventlog import EventLog
from ..admin.metrics import Metrics, ReactorLag
from ..admin.statusfile import WorkerStatus
from ..config.settings import Settings
from ..delivery.shares import Tell
from ..mail.events import EventSink
from ..parts import Parts, Prepared, assemble, fan_out
from ..queue.damage import Damaged, words
from ..queue.interfaces import StoreUnavailable
from ..runtime import sockets
from ..runtime.quick import quicken
from ..smtp.tls import ServerTls
from .commands import Report
from .upkeep import Upkeep

GRACE = 30.0
"""Seconds that a message under way has to be handed in once the service is stopping."""
PATIENCE = 30.0
"""Seconds for which idle sessions are left in peace once a new version has taken over."""
LINGER = 3600.0
"""Seconds that a message under way has after that; ``smtp.timeout`` ends those that do not move."""

PairBytes = tuple[bytes, bytes] | None
"""A certificate with its chain, and its key, as PEM; None where no listener has TLS."""


class Serving:
    """The whole server in this process.

    ``settings.hostname`` must be set.  ``tell``: see :mod:`twisted_mta.delivery.shares`.  ``fair``: one of several
    processes that accept from the same sockets.  Raises OSError, TlsError, and what plugins raise.
    """

    _log = Logger()

    def __init__(
        self, settings: Settings, reactor: Any, pair: PairBytes, *, tell: Tell | None = None, fair: bool = False
    ) -> None:
        self._reactor = reactor
        self._fair = fair
        self._ports: list[Any] = []
        self._prepared: tuple[Settings, Callable[[], None] | None, Prepared] | None = None
        self.metrics = Metrics()
        self.tls = ServerTls(*pair, settings.tls) if pair is not None else None
        self.event_log = EventLog(settings.log, settings.hostname, reactor=reactor)
        self.events: EventSink = fan_out(self.event_log, self.metrics)
        self.parts: Parts = assemble(settings, reactor, self.events, tls=self.tls, tell=tell)
        self._lag = ReactorLag(self.metrics, reactor)
        self._upkeep = Upkeep(self.parts, reactor)

    async def start(self, bound: Sequence[tuple[str, socket.socket]]) -> None:
        """Open the store, deliver, and take connections from these sockets, which stay the caller's.

        Raises :class:`~twisted_mta.queue.interfaces.StoreUnavailable`.
        """
        parts = self.parts
        await parts.start()
        self.metrics.watch_store(parts.store)
        self.metrics.watch_scheduler(parts.scheduler)
        quicken(self._reactor)
        for name, one in bound:
            factory: Any = parts.factories[name].listening()
            gate = parts.factories[name].gate
            self._ports.append(sockets.adopt(self._reactor, one.dup(), factory, fair=self._fair, gate=gate))
        self._upkeep.start()
        self._lag.startService()

    async def prepare(self, settings: Settings, pair: PairBytes) -> None:
        """Everything of a reload that may fail; raises what it does.  :meth:`commit` or :meth:`abandon` follows."""
        certificate: Callable[[], None] | None = None
        if pair is not None and self.tls is not None:
            certificate = self.tls.prepare(*pair, settings.tls)
        self._prepared = (settings, certificate, self.parts.prepare(settings))

    async def commit(self) -> None:
        """Take over what was prepared.  No session is closed."""
        if self._prepared is None:
            return
        (settings, certificate, prepared), self._prepared = self._prepared, None
        self.parts.apply(settings, prepared)
        self.event_log.reconfigure(settings.log)
        if certificate is not None:
            certificate()

    async def abandon(self) -> None:
        """Forget what was prepared."""
        self._prepared = None

    def reopen(self) -> None:
        """Open the event log again."""
        self.event_log.reopen()

    async def retire(self) -> None:
        """Leave the service to a new version, as :meth:`~twisted_mta.parts.Parts.retire` says."""
        self._upkeep.stop()
        await self._close_ports()
        await self.parts.retire(PATIENCE, LINGER)

    async def stop(self) -> None:
        """Stop taking mail, finish what is under way, close the store; the event log stays open."""
        await self._close_ports()
        self._upkeep.stop()
        if self._lag.running:
            self._lag.stopService()
        await self.parts.stop(GRACE)

    async def _close_ports(self) -> None:
        ports, self._ports = self._ports, []
        for port in ports:
            stopped = port.stopListening()
            if isinstance(stopped, Deferred):
                await stopped

    def close(self) -> None:
        """Write the last events."""
        self.event_log.close()

    # How it is

    def report(self) -> Report:
        """In numbers."""
        parts = self.parts
        messages, trouble, lost = 0, parts.store.problem(), parts.store.lost()
        try:
            messages = parts.store.stats().messages
        except StoreUnavailable as error:
            trouble = trouble or (words(error.how) if isinstance(error, Damaged) else "the queue is not open")
        except Exception as error:  # it may pass, and what can be done without is done
            self._log.failure("The service's health could not be told")
            trouble = trouble or f"the queue can't be counted: {error}"
        gates = [factory.gate for factory in parts.factories.values()]
        return Report(
            refused=sum(gate.refused for gate in gates),
            refused_last=max((gate.last for gate in gates), default=0.0),
            sessions=len(parts.sessions),
            under_way=parts.scheduler.under_way,
            messages=messages,
            trouble=trouble,
            lost=lost,
        )

    def problem(self) -> str:
        """What is wrong, in words; "" if nothing is."""
        return self.report().trouble

    def workers(self) -> tuple[WorkerStatus, ...]:
        """There are none."""
        return ()

    gather: Callable[[], Deferred[CollectorRegistry]] | None = None
    """The metrics are those of this process."""
