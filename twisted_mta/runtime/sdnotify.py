"""Telling systemd how the service is doing: sd_notify(3) without libsystemd.

Source: sd_notify(3), systemd.service(5) (Type=notify, Type=notify-reload), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

log = Logger()


class Notifier:
    """Sends state to the socket that $NOTIFY_SOCKET names; does nothing where there is none."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{name[1:]}" if name.startswith("@") else name

    @property
    def enabled(self) -> bool:
        """Whether somebody listens."""
        return self._address.startswith(("/", "\0"))

    def mute(self) -> None:
        """Say no more."""
        self._address = ""

    def send(self, **state: str | int) -> bool:
        """Sends assignments such as ``READY=1``; says whether they went out.

        A line break in a value becomes a space.  Never raises and never waits: a supervisor that is gone or slow
        must not stop mail.
        """
        if not self.enabled:
            return False
        lines = (f"{name}={' '.join(str(value).splitlines())}" for name, value in state.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
                sock.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError as error:
            log.warn("systemd could not be told {state}: {error}", state=state, error=error)
            return False
        return True

    def ready(self, status: str = "") -> None:
        """The service is up, or a reload is over."""
        self.send(READY=1, **_status(status))

    def reloading(self, status: str = "Reloading") -> None:
        """A reload has begun; :meth:`ready` ends it.  The time is what Type=notify-reload asks for."""
        self.send(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000, **_status(status))

    def stopping(self, status: str = "Stopping") -> None:
        """The service is on its way down."""
        self.send(STOPPING=1, **_status(status))

    def status(self, text: str) -> None:
        """One line about the state, for ``systemctl status``."""
        self.send(STATUS=text)

    def more_time(self, seconds: float) -> None:
        """Asks that start or stop may take ``seconds`` longer."""
        self.send(EXTEND_TIMEOUT_USEC=int(seconds * 1_000_000))


def _status(text: str) -> dict[str, str]:
    return {"STATUS": text} if text else {}


def watchdog_seconds(environ: Mapping[str, str] = os.environ) -> float:
    """How long systemd waits for a sign of life from this process; 0.0 when it asks for none."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return max(int(environ.get("WATCHDOG_USEC", "0")), 0) / 1_000_000
    except ValueError:
        return 0.0


class Systemd(Service):
    """Says READY when it starts, STOPPING when it stops, and keeps the watchdog fed in between.

    Add it as the last child, so that it starts after all others: READY then means that mail is taken.  The watchdog is
    fed from the reactor, twice in its time: a reactor that hangs is noticed.  ``healthy`` may veto a sign of life.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        notifier: Notifier,
        *,
        watchdog: float = 0.0,
        healthy: Callable[[], bool] = lambda: True,
        status: Callable[[], str] = lambda: "",
    ) -> None:
        self.name = "systemd"
        self._notifier = notifier
        self._watchdog = watchdog
        self._healthy = healthy
        self._status = status
        self._loop = LoopingCall(self._feed)
        self._loop.clock = reactor

    def startService(self) -> None:  # noqa: N802 - Twisted's name
        """Says that the service is ready."""
        super().startService()  # type: ignore[no-untyped-call]
        self._notifier.ready(self._status())
        if self._watchdog > 0 and self._notifier.enabled:
            self._loop.start(self._watchdog / 2, now=True).addErrback(
                lambda failure: log.failure("The watchdog is not fed any more", failure)
            )

    def stopService(self) -> None:  # noqa: N802 - Twisted's name
        """Says that the service stops; the watchdog is fed on, for finishing may take a while."""
        self._notifier.stopping()
        super().stopService()  # type: ignore[no-untyped-call]

    def _feed(self) -> None:
        if self._healthy():
            self._notifier.send(WATCHDOG=1, **_status(self._status()))
