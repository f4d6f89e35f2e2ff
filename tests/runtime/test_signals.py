"""Signals become calls in the reactor, and the former handlers come back."""

from __future__ import annotations

import os
import signal

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.runtime.signals import Signals


class Reactor(MemoryReactorClock):
    """A reactor that runs at :meth:`turn` what a signal handler has put into its queue."""

    def __init__(self) -> None:
        super().__init__()
        self.queued: list[tuple[object, tuple[object, ...]]] = []

    def callFromThread(self, f: object, *args: object) -> None:
        self.queued.append((f, args))

    def turn(self) -> None:
        queued, self.queued = self.queued, []
        for f, args in queued:
            f(*args)  # type: ignore[operator]


class SignalsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.calls: list[str] = []
        for number in (signal.SIGHUP, signal.SIGUSR1):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
            signal.signal(number, signal.SIG_DFL)
        self.service = Signals(
            self.reactor,
            {signal.SIGHUP: lambda: self.calls.append("reload"), signal.SIGUSR1: lambda: self.calls.append("reopen")},
        )

    def test_called_in_a_turn_of_the_reactor(self) -> None:
        self.service.startService()
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(self.calls, [])
        self.reactor.turn()
        self.assertEqual(self.calls, ["reload"])
        os.kill(os.getpid(), signal.SIGUSR1)
        self.reactor.turn()
        self.assertEqual(self.calls, ["reload", "reopen"])

    def test_former_handlers(self) -> None:
        former = []
        signal.signal(signal.SIGUSR1, lambda number, frame: former.append(number))
        handler = signal.getsignal(signal.SIGUSR1)
        self.service.startService()
        os.kill(os.getpid(), signal.SIGUSR1)
        self.reactor.turn()
        self.assertEqual((former, self.calls), ([signal.SIGUSR1], ["reopen"]))
        self.service.stopService()
        self.assertIs(signal.getsignal(signal.SIGUSR1), handler)

    def test_a_late_hangup_does_not_kill(self) -> None:
        """Between the end of the service and of the process a SIGHUP has nothing to do, and must not end it at once."""
        self.service.startService()
        self.service.stopService()
        self.assertEqual(signal.getsignal(signal.SIGHUP), signal.SIG_IGN)
        self.assertEqual(signal.getsignal(signal.SIGUSR1), signal.SIG_IGN)

    def test_not_after_the_stop(self) -> None:
        self.service.startService()
        os.kill(os.getpid(), signal.SIGHUP)
        self.service.stopService()
        self.reactor.turn()
        self.assertEqual(self.calls, [])

    def test_what_is_raised_is_logged(self) -> None:
        service = Signals(self.reactor, {signal.SIGHUP: lambda: 1 // 0})
        service.startService()
        os.kill(os.getpid(), signal.SIGHUP)
        self.reactor.turn()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        service.stopService()
