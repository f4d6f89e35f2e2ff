"""Signals that steer the running service: SIGHUP reloads, SIGUSR1 reopens logs.

The handler itself only puts the call into the reactor's queue; the work runs in a turn of its own.  SIGTERM and SIGINT
are the reactor's: they stop it, and with it the services.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from types import FrameType

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger

log = Logger()

Handler = Callable[[int, FrameType | None], object] | int | None


class Signals(Service):
    """Calls functions of the reactor thread on signals, from start to stop.

    A handler that was there and is a function is called too: twistd has one for SIGUSR1, with which it rotates its own
    log.  What a function raises is logged; it never reaches the reactor.
    """

    def __init__(self, reactor: IReactorFromThreads, actions: Mapping[int, Callable[[], object]]) -> None:
        self.name = "signals"
        self._reactor = reactor
        self._actions = dict(actions)
        self._former: dict[int, Handler] = {}

    def startService(self) -> None:  # noqa: N802 - Twisted's name
        """Puts the handlers in place.  Must run in the main thread."""
        super().startService()  # type: ignore[no-untyped-call]
        for number in self._actions:
            self._former[number] = signal.signal(number, self._caught)

    def stopService(self) -> None:  # noqa: N802 - Twisted's name
        """Puts the former handlers back; where there was none the signal is ignored, for its default would kill us
        in the midst of finishing."""
        super().stopService()  # type: ignore[no-untyped-call]
        while self._former:
            number, former = self._former.popitem()
            signal.signal(number, signal.SIG_IGN if former is signal.SIG_DFL else former)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        former = self._former.get(number)
        if callable(former):
            former(number, frame)
        self._reactor.callFromThread(self._act, number)

    def _act(self, number: int) -> None:
        if not self.running:
            return
        try:
            self._actions[number]()
        except Exception:
            log.failure("What {name} asks for failed", name=signal.Signals(number).name)
