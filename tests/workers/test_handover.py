"""What goes from an old version to a new one."""

from __future__ import annotations

import os
import socket
from typing import Any

import msgspec
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.runtime import sockets
from twisted_mta.workers.handover import TIME, VARIABLE, Launch, Successor, UpgradeFailed, inheritance


class Heirs(SynchronousTestCase):
    """The new version's side."""

    def setUp(self) -> None:
        self.bound = sockets.bind("127.0.0.1", 0)
        self.addCleanup(self.bound.close)
        self.reader, ready = os.pipe()
        self.addCleanup(os.close, self.reader)
        status = os.dup(self.reader)
        self.addCleanup(os.close, status)
        letter = {
            "pid": 7,
            "ready": ready,
            "status": status,
            "sockets": [["127.0.0.1", 25, os.dup(self.bound.fileno())]],
        }
        self.environ = {VARIABLE: msgspec.json.encode(letter).decode()}
        heir = inheritance(self.environ)
        assert heir is not None
        self.heir = heir

    def test_it_is_taken_once(self) -> None:
        self.assertEqual(self.environ, {})
        self.assertIsNone(inheritance(self.environ))
        self.heir.ready()

    def test_a_socket_that_was_taken_never_blocks(self) -> None:
        """Neither it nor its copies, nor those of the version that gave it: they are one in the kernel."""
        taken = self.heir.take("127.0.0.1", 25)
        assert taken is not None
        with taken, taken.dup() as copy:
            self.assertIsNone(self.heir.take("127.0.0.1", 25))
            for one in (taken, copy, self.bound):
                self.assertFalse(os.get_blocking(one.fileno()))
                self.assertRaises(BlockingIOError, one.accept)
            self.assertFalse(os.get_inheritable(taken.fileno()))
        self.heir.ready()

    def test_what_it_says(self) -> None:
        self.heir.failed("no\nway")
        self.heir.ready()  # too late
        self.assertEqual(os.read(self.reader, 100), b"failed no way\n")


class FakeReactor(Clock):
    """Starts nothing."""

    def spawnProcess(self, protocol: Any, *arguments: Any, **named: Any) -> FakeReactor:
        self.spawned = (arguments, named)
        self.signals: list[Any] = []
        return self

    def signalProcess(self, number: Any) -> None:
        self.signals.append(number)


class Successors(SynchronousTestCase):
    """The old version's side."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        with socket.socket() as one:
            environ = {"NOTIFY_SOCKET": "/n", "WATCHDOG_PID": "1", "WATCHDOG_USEC": "5", "A": "b"}
            launch = Launch(["python", "twistd"], "/here")
            self.successor = Successor(launch, [("::", 25, one)], (99, 98), self.reactor, environ)
            self.fileno = one.fileno()

    def test_what_it_gets(self) -> None:
        (program, argv, environ, folder), named = self.reactor.spawned
        self.assertEqual((program, argv, folder), ("python", ["python", "twistd"], "/here"))
        self.assertEqual(named["childFDs"], {0: 0, 1: 1, 2: 2, 3: "r", 4: 99, 5: 98, 6: self.fileno})
        letter = msgspec.json.decode(environ.pop(VARIABLE))
        self.assertEqual(
            letter, {"pid": os.getpid(), "ready": 3, "status": 4, "sockets": [["::", 25, 6]], "pidfile": 5}
        )
        self.assertEqual(environ, {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "5", "A": "b"})

    def test_it_is_ready(self) -> None:
        self.successor.childDataReceived(3, b"ready 4")
        self.assertNoResult(self.successor.ready)
        self.successor.processExited(Failure(ProcessDone(0)))  # it has gone into the background
        self.successor.childDataReceived(3, b"2\n")
        self.assertEqual(self.successResultOf(self.successor.ready), 42)
        self.successor.processEnded(Failure(ProcessDone(0)))
        self.reactor.advance(TIME)
        self.assertEqual(self.reactor.signals, [])

    def why(self) -> str:
        return self.failureResultOf(self.successor.ready, UpgradeFailed).getErrorMessage()

    def test_it_says_that_it_failed(self) -> None:
        self.successor.childDataReceived(3, b"failed port 25: taken\n")
        self.assertEqual(self.why(), "port 25: taken")

    def test_it_dies(self) -> None:
        reason = Failure(ProcessTerminated(78))
        self.successor.processExited(reason)
        self.successor.processEnded(reason)
        self.assertIn("status 78", self.why())

    def test_it_takes_too_long(self) -> None:
        self.reactor.advance(TIME)
        self.assertIn("not ready", self.why())
        self.assertEqual(self.reactor.signals, ["KILL"])
