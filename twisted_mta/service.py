"""The service that ``twistd mta`` runs: ports, privileges, start, reload and stop around the :mod:`.parts`.

The order at start: files that root alone may read and ports that root alone may bind, then privileges are dropped,
then the state is opened by whoever we have become, and only when the store is ready is the first connection accepted.
At stop the ports close first, sessions and deliveries under way finish within a bound, and the store is last.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Any, NoReturn

import attrs
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from . import config
from .admin.eventlog import EventLog
from .admin.http import admin_site
from .admin.metrics import Metrics, ReactorLag
from .admin.statusfile import AlreadyRunning, ListenerStatus, StatusFile, version, write_status
from .config.settings import Settings
from .mail.events import Service as ServiceEvent
from .mail.status import MailError
from .parts import Parts, assemble, fan_out
from .runtime import certificates, limits, names, privileges, sockets
from .runtime.sdnotify import Notifier, Systemd, watchdog_seconds
from .runtime.signals import Signals
from .smtp.tls import ServerTls, TlsError

GRACE = 30.0
"""Seconds that a message under way has to be handed in once the service is stopping."""
SWEEP = 60.0
"""Seconds between two looks at history that has grown too old."""
SWEEP_LIMIT = 1000
"""Messages whose history one look forgets."""


def make_service(settings: Settings, config_path: str | None = None, reactor: Any = None) -> MtaService:
    """The whole service.  ``config_path`` (absolute) is read again at each reload; None: there is nothing to reload."""
    if reactor is None:
        from twisted.internet import reactor as running  # installing it at import would take it from twistd

        reactor = running
    return MtaService(settings, config_path, reactor)


class MtaService(MultiService):
    """``twistd mta`` as one service; ``parts`` is there while it runs."""

    _log = Logger()

    def __init__(self, settings: Settings, config_path: str | None, reactor: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._hostname = settings.hostname or names.machine_name()
        self.settings = self._complete(settings)
        self._config_path = config_path
        self._reactor = reactor
        self._notifier = Notifier()
        self._watchdog = watchdog_seconds()
        self._bound: list[tuple[str, socket.socket]] = []
        self._ports: list[Any] = []
        self._pair: certificates.Pair | None = None
        self._tls: ServerTls | None = None
        self._status_file: StatusFile | None = None
        self._event_log: EventLog | None = None
        self._sweep: LoopingCall | None = None
        self._starting: Deferred[None] | None = None
        self._metrics = Metrics()
        self._known: list[ListenerStatus] = []
        self.parts: Parts | None = None
        self.trouble = "starting"
        """What is wrong, in words; "" while mail is taken."""

    def _complete(self, settings: Settings) -> Settings:
        return settings if settings.hostname else attrs.evolve(settings, hostname=self._hostname)

    # Start

    def privilegedStartService(self) -> None:  # noqa: N802 - Twisted's name
        """Bind the ports and read the key, as root if need be; then be root no longer."""
        settings = self.settings
        try:
            account = privileges.find_account(settings.user, settings.group)
            too_few = limits.raise_descriptors(settings)
            if too_few is not None:
                self._log.warn("{problem}", problem=str(too_few))
            privileges.make_folder(settings.state_dir, account)
            if any(listener.tls != "none" for listener in settings.listen.values()):
                self._pair = certificates.load_pair(settings, self._hostname, account)
            self._bind()
            privileges.drop(account)
        except (config.ConfigError, privileges.PrivilegeError, sockets.BindError, OSError) as error:
            self._refuse(error)
        super().privilegedStartService()  # type: ignore[no-untyped-call]

    def _bind(self) -> None:
        for name, listener in self.settings.listen.items():
            for address in listener.address:
                self._bound.append((name, sockets.bind(address, listener.port)))
        if self.settings.admin.listen:
            address, _, port = self.settings.admin.listen.rpartition(":")
            self._bound.append(("", sockets.bind(address.strip("[]"), int(port))))

    def _refuse(self, error: BaseException) -> NoReturn:
        """End the start with words instead of a traceback: what went wrong is the machine's state, not a defect."""
        for _, bound in self._bound:
            bound.close()
        sys.stderr.write(f"{error}\ntwistd mta: not started\n")
        raise SystemExit(1) from error

    def startService(self) -> None:  # noqa: N802 - Twisted's name
        """Make the parts; the rest of the start waits for the store."""
        super().startService()  # type: ignore[no-untyped-call]
        settings = self.settings
        try:
            self._status_file = write_status(settings, self._listeners(), self._reactor.seconds)
            self._event_log = EventLog(settings.log, settings.hostname, reactor=self._reactor)
            if self._pair is not None:
                self._tls = ServerTls(self._pair.certificate, self._pair.key, settings.tls.minimum)
                self._pair = None
            self._events = fan_out(self._event_log, self._metrics)
            self.parts = assemble(settings, self._reactor, self._events, tls=self._tls)
        except (AlreadyRunning, TlsError, OSError, ValueError) as error:
            self._refuse(error)
        self._starting = Deferred.fromCoroutine(self._run(self.parts))
        self._starting.addErrback(self._failed)

    async def _run(self, parts: Parts) -> None:
        self._event("start", f"twisted-mta {version()}, process {os.getpid()}, state in {self.settings.state_dir}")
        await parts.start()
        self._watch(parts)
        for name, bound in self._bound:
            factory: Any = parts.factories[name].listening() if name else self._site(parts)
            self._ports.append(sockets.adopt(self._reactor, bound, factory))
        self._bound = []
        self._sweep = LoopingCall(self._forget, parts)
        self._sweep.clock = self._reactor
        self._sweep.start(SWEEP).addErrback(lambda failure: self._log.failure("History is no longer swept", failure))
        self._add(Signals(self._reactor, {signal.SIGHUP: self.reload, signal.SIGUSR1: self._reopen}))
        self._add(ReactorLag(self._metrics, self._reactor))
        self.trouble = ""
        self._event("ready", ", ".join(f"{one.name} on {one.address}:{one.port}" for one in self._listeners()))
        self._add(Systemd(self._reactor, self._notifier, watchdog=self._watchdog, status=self._words))

    def _add(self, service: Any) -> None:
        service.setServiceParent(self)

    def _failed(self, failure: Any) -> None:
        """The start failed after the reactor began: say so and end the process with a status that says so, too."""
        if failure.check(MailError):
            self._log.critical("Not started: {why}", why=failure.value.reply.text)
        else:
            self._log.failure("Not started", failure)
        self.trouble = "the start failed"
        self._event("start-failed", failure.getErrorMessage())
        if self._reactor.running:
            self._reactor.addSystemEventTrigger("after", "shutdown", self._exit, 1)
            self._reactor.stop()

    def _exit(self, status: int) -> None:
        # twistd ends with status 0 whenever its reactor has stopped; a supervisor must see that this was no success.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    # What others see

    def _site(self, parts: Parts) -> Any:
        return admin_site(self._metrics, parts.store, lambda: self.trouble)

    def _watch(self, parts: Parts) -> None:
        metrics = self._metrics
        metrics.watch_store(parts.store)
        metrics.watch_scheduler(parts.scheduler)

    def _listeners(self) -> list[ListenerStatus]:
        """What is listened on; a port of 0 in the settings shows as the one that was found."""
        found = []
        bound = [(name, one.getsockname()) for name, one in self._bound if name]
        if not bound:
            return self._known
        for name, (address, port, *_) in bound:
            listener = self.settings.listen[name]
            found.append(ListenerStatus(name=name, role=listener.role, tls=listener.tls, address=address, port=port))
        self._known = found
        return found

    def _words(self) -> str:
        parts = self.parts
        if parts is None or self.trouble:
            return self.trouble or "starting"
        stats = parts.store.stats()
        return (
            f"{len(parts.sessions)} sessions, {stats.messages} messages queued, {parts.scheduler.under_way} going out"
        )

    def _event(self, what: str, detail: str = "") -> None:
        self._events(ServiceEvent(time=self._reactor.seconds(), what=what, detail=detail))

    async def _forget_old(self, parts: Parts) -> None:
        before = self._reactor.seconds() - parts.settings.queue.history
        while await parts.store.expire_history(before, SWEEP_LIMIT) == SWEEP_LIMIT and self.running:
            pass

    def _forget(self, parts: Parts) -> Deferred[None]:
        return Deferred.fromCoroutine(self._forget_old(parts)).addErrback(
            lambda failure: self._log.warn("Old history stays for now: {why}", why=failure.getErrorMessage())
        )

    # Reload

    def reload(self) -> bool:
        """Read the settings and the certificate again; says whether they hold now.

        What is wrong with them is logged, and all stays as it was.  No session is closed.
        """
        self._notifier.reloading()
        try:
            loaded, warnings = config.load_checked(self._config_path)
            settings, unchanged = config.for_reload(self.settings, self._complete(loaded))
            self._apply(settings)
        except Exception as error:
            expected = isinstance(error, config.ConfigError | TlsError | OSError | ValueError)
            if not expected:
                self._log.failure("The settings could not be reloaded")
            self._event("reload-failed", f"the former settings stay in force: {error}")
            self._notifier.ready(f"Reload failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            return False
        for problem in (*warnings, *unchanged):
            self._log.warn("{problem}", problem=str(problem))
        self._event("reload", self._config_path or "no file: only the certificate was read again")
        self._notifier.ready(self._words())
        return True

    def _apply(self, settings: Settings) -> None:
        """Everything that may fail comes first, so that a reload is whole or not at all."""
        assert self.parts is not None
        pair = certificates.load_pair(settings, self._hostname) if self._tls is not None else None
        if pair is not None:
            ServerTls(pair.certificate, pair.key, settings.tls.minimum)
        self.parts.reconfigure(settings)
        if self._event_log is not None:
            self._event_log.reconfigure(settings.log)
        if self._tls is not None and pair is not None:
            self._tls.load(pair.certificate, pair.key, settings.tls.minimum)
        self.settings = settings

    def _reopen(self) -> None:
        if self._event_log is not None:
            self._event_log.reopen()

    # Stop

    def stopService(self) -> Deferred[None]:  # noqa: N802 - Twisted's name
        """Stop taking mail, finish what is under way, close.  Fires when nothing is left to lose."""
        stopped = super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop(stopped))

    async def _stop(self, children: Deferred[Any] | None) -> None:
        self.trouble = "stopping"
        parts = self.parts
        if parts is not None:
            self._event("stop")
        if self._starting is not None:
            await self._starting
        for _, bound in self._bound:
            bound.close()
        for port in self._ports:
            await _maybe(port.stopListening())
        if self._sweep is not None and self._sweep.running:
            self._sweep.stop()
        if parts is not None:
            await parts.stop(GRACE)
            self._event("stopped")
        if children is not None:
            await children
        if self._event_log is not None:
            self._event_log.close()
        if self._status_file is not None:
            self._status_file.close()
        self.parts = None


async def _maybe(result: Any) -> None:
    if isinstance(result, Deferred):
        await result
