"""What systemd is told, seen from the socket's other end."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.runtime.sdnotify import Notifier, Systemd, watchdog_seconds


class Listening(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # a socket's path is short
        self.addCleanup(folder.cleanup)
        self.path = str(Path(folder.name) / "notify")
        self.socket = self.listen(self.path)
        self.notifier = Notifier({"NOTIFY_SOCKET": self.path})

    def listen(self, address: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(sock.close)
        sock.bind(address)
        sock.setblocking(False)
        return sock

    def heard(self) -> list[list[str]]:
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return messages


class Telling(Listening):
    def test_states(self) -> None:
        self.notifier.ready("Taking mail")
        self.notifier.stopping()
        self.notifier.status("a\nREADY=1")
        self.notifier.more_time(1.5)
        self.assertEqual(
            self.heard(),
            [
                ["READY=1", "STATUS=Taking mail"],
                ["STOPPING=1", "STATUS=Stopping"],
                ["STATUS=a READY=1"],
                ["EXTEND_TIMEOUT_USEC=1500000"],
            ],
        )

    def test_reload(self) -> None:
        """systemd compares the time with its own: microseconds of CLOCK_MONOTONIC."""
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.notifier.reloading()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        ((state, stamp, _),) = self.heard()
        self.assertEqual(state, "RELOADING=1")
        name, _, value = stamp.partition("=")
        self.assertEqual(name, "MONOTONIC_USEC")
        self.assertTrue(before <= int(value) <= after)

    def test_abstract_socket(self) -> None:
        name = f"twisted-mta-test-{os.getpid()}"
        self.socket = self.listen(f"\0{name}")
        self.assertTrue(Notifier({"NOTIFY_SOCKET": f"@{name}"}).send(READY=1))
        self.assertEqual(self.heard(), [["READY=1"]])

    def test_nobody_listens(self) -> None:
        for environ in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "relative"}):
            notifier = Notifier(environ)
            self.assertFalse(notifier.enabled)
            self.assertFalse(notifier.send(READY=1))

    def test_gone(self) -> None:
        self.assertFalse(Notifier({"NOTIFY_SOCKET": "/no/such/socket"}).send(READY=1))

    def test_full(self) -> None:
        """A supervisor that does not read holds nobody up."""
        while self.notifier.send(STATUS="x" * 100):
            pass
        self.assertTrue(self.heard())


class Watchdog(Listening):
    def test_environment(self) -> None:
        self.assertEqual(watchdog_seconds({}), 0.0)
        self.assertEqual(watchdog_seconds({"WATCHDOG_USEC": "30000000"}), 30.0)
        self.assertEqual(watchdog_seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}), 30.0)
        self.assertEqual(watchdog_seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}), 0.0)
        self.assertEqual(watchdog_seconds({"WATCHDOG_USEC": "soon"}), 0.0)

    def test_fed_twice_in_its_time(self) -> None:
        clock = Clock()
        service = Systemd(clock, self.notifier, watchdog=10.0, status=lambda: "7 queued")
        service.startService()
        clock.pump([5, 5])
        service.stopService()
        fed = ["WATCHDOG=1", "STATUS=7 queued"]
        self.assertEqual(
            self.heard(), [["READY=1", "STATUS=7 queued"], fed, fed, fed, ["STOPPING=1", "STATUS=Stopping"]]
        )

    def test_not_fed_when_unhealthy(self) -> None:
        clock = Clock()
        well = True
        service = Systemd(clock, self.notifier, watchdog=10.0, healthy=lambda: well)
        service.startService()
        self.assertEqual(self.heard(), [["READY=1"], ["WATCHDOG=1"]])
        well = False
        clock.pump([5, 5])
        self.assertEqual(self.heard(), [])

    def test_none_asked_for(self) -> None:
        clock = Clock()
        Systemd(clock, self.notifier).startService()
        self.assertEqual(self.heard(), [["READY=1"]])
        self.assertEqual(clock.getDelayedCalls(), [])
