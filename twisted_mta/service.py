"""The service that ``twistd mta`` runs: ports, privileges, start, reload, upgrade and stop around those who serve.

The order at start: files that root alone may read and ports that root alone may bind, then privileges are dropped,
then the state is opened by whoever we have become, and only when the store is ready is the first connection accepted.
At stop the ports close first, sessions and deliveries under way finish within a bound, and the store is last.

Who serves is this process itself (:class:`~.workers.serving.Serving`), or workers that it starts and watches
(:class:`~.workers.pool.Pool`); both are asked the same.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import attrs
import msgspec
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from . import config
from .admin.http import admin_site
from .admin.statusfile import AlreadyRunning, ListenerStatus, Status, StatusFile, open_status, status_of, version
from .config.settings import Settings
from .config.units import UNIX
from .mail.events import Service as ServiceEvent
from .mail.status import MailError
from .runtime import certificates, limits, names, privileges, sockets, tuning, unix_sockets
from .runtime.pidfile import PidFile
from .runtime.sdnotify import Notifier, Systemd, watchdog_seconds
from .runtime.signals import Signals
from .smtp.tls import ServerTls, TlsError
from .workers.commands import Refused
from .workers.handover import Inheritance, Launch, Successor, UpgradeFailed, inheritance
from .workers.pool import Pool
from .workers.serving import PairBytes, Serving

STATUS = 1.0
"""Seconds between two looks at whether the status file is out of date."""


def make_service(
    settings: Settings, config_path: str | None = None, reactor: Any = None, launch: Launch | None = None
) -> MtaService:
    """The whole service.  ``config_path`` (absolute) is read again at each reload; None: there is nothing to reload.

    ``launch`` is how to start a new version; None: it can't be.
    """
    if reactor is None:
        from twisted.internet import reactor as running  # installing it at import would take it from twistd

        reactor = running
    return MtaService(settings, config_path, reactor, launch)


class MtaService(MultiService):
    """``twistd mta`` as one service."""

    _log = Logger()

    def __init__(self, settings: Settings, config_path: str | None, reactor: Any, launch: Launch | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._hostname = settings.hostname or names.machine_name()
        self.settings = self._complete(settings)
        self._config_path = config_path
        self._reactor = reactor
        self._launch = launch
        self._inherited: Inheritance | None = inheritance() if launch is not None else None
        self._pidfile = PidFile(launch.pidfile if launch is not None else "")
        self._notifier = Notifier()
        self._watchdog = watchdog_seconds()
        self._bound: list[tuple[str, str, int, socket.socket]] = []
        self._admin: list[Any] = []
        self._watch: LoopingCall | None = None
        self._pair: PairBytes = None
        self._status_file: StatusFile | None = None
        self._status: Status | None = None
        self._shown: Status | None = None
        self._server: Serving | Pool | None = None
        self._starting: Deferred[None] | None = None
        self._turns = DeferredLock()
        self._left = False
        self._took_over = False
        self._ended = False
        self.on_refusal: Callable[[str], object] | None = None
        """Is given the words when the service can't start."""
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
            privileges.make_state(settings.state_dir, account)
            if any(listener.tls != "none" for listener in settings.listen.values()):
                self._pair = _bytes(certificates.load_pair(settings, self._hostname, account))
            log_file = "" if settings.log.file == "-" else settings.log.file
            if log_file:
                privileges.make_log(log_file, account)
            self._bind(account)
            if self._inherited is not None:
                self._pidfile.inherit(self._inherited.pidfile)
            else:
                self._pidfile.open()
            privileges.drop(account)
            if log_file:
                privileges.check_log(log_file)
            if settings.workers:
                privileges.check_program(sys.executable)
        except (config.ConfigError, privileges.PrivilegeError, unix_sockets.BindError, OSError) as error:
            self._refuse(error)
        super().privilegedStartService()  # type: ignore[no-untyped-call]

    def _bind(self, account: privileges.Account | None) -> None:
        wanted = [
            (name, address, 0 if address.startswith(UNIX) else it.port)
            for name, it in self.settings.listen.items()
            for address in it.address
        ]
        if self.settings.admin.listen:
            address, _, port = self.settings.admin.listen.rpartition(":")
            wanted.append(("", address.strip("[]"), int(port)))
        for name, address, number in wanted:
            inherited = self._inherited.take(address, number) if self._inherited is not None else None
            self._bound.append((name, address, number, inherited or self._open(name, address, number, account)))

    def _open(self, name: str, address: str, port: int, account: privileges.Account | None) -> socket.socket:
        if address.startswith(UNIX):
            return unix_sockets.bind_for(self.settings, name, address.removeprefix(UNIX), account)
        return sockets.bind(address, port)

    def _refuse(self, error: BaseException) -> NoReturn:
        """End the start with words instead of a traceback: what went wrong is the machine's state, not a defect."""
        self._unbind()
        if self._inherited is not None:
            self._inherited.failed(str(error))
        sys.stderr.write(f"{error}\ntwistd mta: not started\n")
        if self.on_refusal is not None:
            self.on_refusal(str(error))
        raise SystemExit(1) from error

    def startService(self) -> None:  # noqa: N802 - Twisted's name
        """Make the parts; the rest of the start waits for the store."""
        super().startService()  # type: ignore[no-untyped-call]
        settings = self.settings
        try:
            self._status = status_of(settings, self._listeners(), self._reactor.seconds())
            if self._inherited is not None:
                self._status_file = StatusFile.inherited(settings, self._inherited.status)
            else:
                self._status_file = open_status(settings)
                self._status_file.update(self._status)
            self._server = server = (
                Pool(settings, self._reactor, self._pair, self._give_up)
                if settings.workers
                else Serving(settings, self._reactor, self._pair)
            )
        except (AlreadyRunning, TlsError, OSError, ValueError) as error:
            self._refuse(error)
        actions: dict[int, Callable[[], object]] = {
            signal.SIGHUP: self.reload,
            signal.SIGUSR1: server.reopen,
            signal.SIGUSR2: self.upgrade,
        }
        self._add(Signals(self._reactor, actions))
        self._starting = Deferred.fromCoroutine(self._run(server))
        self._starting.addErrback(self._failed)

    async def _run(self, server: Serving | Pool) -> None:
        self._event("start", f"twisted-mta {version()}, process {os.getpid()}, state in {self.settings.state_dir}")
        tuning.settle()
        await server.start([(name, one) for name, _, _, one in self._bound if name])
        for name, _, _, one in self._bound:
            if not name:
                site = admin_site(server.metrics, None, self._health, server.gather)
                self._admin.append(sockets.adopt(self._reactor, one.dup(), site))
        self.trouble = ""
        assert self._status_file is not None
        assert self._status is not None
        self._event("ready", ", ".join(f"{one.name} on {one.place}" for one in self._listeners()))
        if self._inherited is not None:
            self._status_file.update(self._status)
            self._pidfile.write()
            self._inherited.ready()
            self._took_over = True
            self._event("took-over", f"from process {self._inherited.pid}")
        self._add(Systemd(self._reactor, self._notifier, watchdog=self._watchdog, status=self._words))
        self._watch = LoopingCall(self._show)
        self._watch.clock = self._reactor
        self._watch.start(STATUS).addErrback(lambda failure: self._log.failure("The status is out of date", failure))

    def _add(self, service: Any) -> None:
        service.setServiceParent(self)

    def _failed(self, failure: Any) -> None:
        """The start failed after the reactor began: say so and end the process with a status that says so, too."""
        words = failure.getErrorMessage()
        if failure.check(MailError, Refused):
            words = failure.value.reply.text if failure.check(MailError) else words
            self._log.critical("Not started: {why}", why=words)
        else:
            self._log.failure("Not started", failure)
        self.trouble = "the start failed"
        self._event("start-failed", words)
        if self._inherited is not None:
            self._inherited.failed(words)
            self._left = True  # the file and the lock are still the older version's
        self._end(1)

    def _give_up(self, words: str) -> None:
        self._log.critical("The service ends: {words}", words=words)
        self._event("failed", words)
        self._end(1)

    def _end(self, status: int) -> None:
        if not self._reactor.running:  # a start that fails at once, before there is a reactor to be stopped
            self._reactor.addSystemEventTrigger("after", "startup", self._end, status)
        elif not self._ended:
            self._ended = True
            self._reactor.addSystemEventTrigger("after", "shutdown", self._exit, status)
            self._reactor.stop()

    def _exit(self, status: int) -> None:
        # twistd ends with status 0 whenever its reactor has stopped, and removes the pid file, be it another's.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    # What others see

    def _health(self) -> str:
        return self.trouble or (self._server.problem() if self._server is not None else "starting")

    def _listeners(self) -> list[ListenerStatus]:
        """What is listened on; a port of 0 in the settings shows as the one that was found."""
        found = []
        for name, _, _, one in self._bound:
            if name:
                listener, place = self.settings.listen[name], one.getsockname()
                address, port = (f"{UNIX}{place}", 0) if isinstance(place, str) else place[:2]
                found.append(
                    ListenerStatus(name=name, role=listener.role, tls=listener.tls, address=address, port=port)
                )
        return found

    def _words(self) -> str:
        if self._server is None or self.trouble:
            return self.trouble or "starting"
        report = self._server.report()
        words = f"{report.sessions} sessions, {report.messages} messages queued, {report.under_way} going out"
        problem = self._server.problem()
        return f"{words}; {problem}" if problem else words

    def _show(self, **changes: Any) -> None:
        """Keep the status file up to date."""
        if self._status is not None and self._status_file is not None and self._server is not None and not self._left:
            report = self._server.report()
            changes |= {"refused": report.refused, "refused_last": report.refused_last}
            self._status = msgspec.structs.replace(self._status, workers=self._server.workers(), **changes)
            if self._status == self._shown:
                return
            try:
                self._status_file.update(self._status)
            except OSError as error:  # the disk is full, say: the next turn tries again
                if self._shown is not None:
                    self._log.warn("The status can't be written: {error}", error=error)
                self._shown = None
            else:
                self._shown = self._status

    def _event(self, what: str, detail: str = "") -> None:
        if self._server is not None:
            self._server.events(ServiceEvent(time=self._reactor.seconds(), what=what, detail=detail))

    # Reload

    def reload(self) -> Deferred[bool]:
        """Read the settings and the certificate again; says whether they hold now.

        What is wrong with them is logged, and all stays as it was.  No session is closed.
        """
        return self._in_turn(self._reload())

    def _in_turn(self, coroutine: Any) -> Deferred[Any]:
        """Do it when what was begun before is over."""
        done: Deferred[Any] = self._turns.run(Deferred.fromCoroutine, coroutine)
        return done.addErrback(lambda failure: self._log.failure("What a signal asks for failed", failure))

    async def _reload(self) -> bool:
        server = self._server
        if server is None or self.trouble:
            self._event("reload-failed", f"the service is {self.trouble}")
            return False
        self._notifier.reloading()
        try:
            loaded, warnings = config.load_checked(self._config_path)
            settings, unchanged = config.for_reload(self.settings, self._complete(loaded))
            pair = _bytes(certificates.load_pair(settings, self._hostname)) if self._pair is not None else None
            if pair is not None:
                ServerTls(*pair, settings.tls)
            try:
                await server.prepare(settings, pair)
            except BaseException:
                await server.abandon()
                raise
        except Exception as error:
            expected = isinstance(error, config.ConfigError | TlsError | Refused | OSError | ValueError)
            if not expected:
                self._log.failure("The settings could not be reloaded")
            self._event("reload-failed", f"the former settings stay in force: {error}")
            self._notifier.ready(f"Reload failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            return False
        await server.commit()
        self.settings, self._pair = settings, pair
        for problem in (*warnings, *unchanged):
            self._log.warn("{problem}", problem=str(problem))
        self._event("reload", self._config_path or "no file: only the certificate was read again")
        self._notifier.ready(self._words())
        return True

    # Upgrade

    def upgrade(self) -> Deferred[bool]:
        """Start the program anew with our sockets, and leave the service to it once it is ready; says whether it is.

        If it never is, all stays as it was, and the log and the status file say why.
        """
        return self._in_turn(self._upgrade())

    async def _upgrade(self) -> bool:
        try:
            if self.trouble or self._launch is None or self._status_file is None:
                raise UpgradeFailed(f"the service is {self.trouble or 'not one that can be started again'}")
            self._event("upgrade")
            sockets_ = [(address, port, one) for _, address, port, one in self._bound]
            descriptors = (self._status_file.descriptor, self._pidfile.descriptor)
            pid = await Successor(self._launch, sockets_, descriptors, self._reactor).ready
        except (OSError, UpgradeFailed) as error:
            self._event("upgrade-failed", f"this process goes on: {error}")
            self._show(upgrade=f"{self._reactor.seconds():.3f} {error}")
            return False
        self._left = True
        self._notifier.send(MAINPID=pid)
        self._notifier.send(READY=1)
        self._notifier.mute()  # what this process has to say from now on is not about the service
        self._event("hand-over", f"process {pid} serves from now on; this one ends when its sessions have")
        Deferred.fromCoroutine(self._leave()).addErrback(
            lambda failure: self._log.failure("Leaving the service failed", failure)
        ).addBoth(lambda _: self._end(0))
        return True

    async def _leave(self) -> None:
        self.trouble = "replaced by a new version"
        assert self._status_file is not None
        self._status_file.leave()
        await self._close_ports()
        assert self._server is not None
        await self._server.retire()

    # Stop

    def stopService(self) -> Deferred[None]:  # noqa: N802 - Twisted's name
        """Stop taking mail, finish what is under way, close.  Fires when nothing is left to lose."""
        stopped = super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop(stopped))

    async def _stop(self, children: Deferred[Any] | None) -> None:
        self.trouble = "stopping"
        server = self._server
        self._event("stop")
        if self._starting is not None:
            await self._starting
        if self._watch is not None and self._watch.running:
            self._watch.stop()
        await self._close_ports()
        if server is not None:
            await server.stop()
            self._event("stopped")
        if children is not None:
            await children
        if server is not None:
            server.close()
        if self._status_file is not None:
            if self._left:
                self._status_file.leave()
            else:
                self._status_file.close()
                self._pidfile.leave()
        self._server = None

    async def _close_ports(self) -> None:
        ports, self._admin = self._admin, []
        self._unbind()
        for port in ports:
            stopped = port.stopListening()
            if isinstance(stopped, Deferred):
                await stopped

    def _unbind(self) -> None:
        for _, address, _, one in self._bound:
            one.close()
            # After an upgrade, or before one that fails, another process listens there.
            if address.startswith(UNIX) and not self._left and (self._inherited is None or self._took_over):
                unix_sockets.remove(address.removeprefix(UNIX))
        self._bound = []


def _bytes(pair: certificates.Pair) -> tuple[bytes, bytes]:
    return pair.certificate, pair.key
