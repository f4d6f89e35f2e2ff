"""What systemd hears of the whole service, from start to stop, and by which process."""

from __future__ import annotations

import os
import signal
import socket
import struct
import tempfile
import threading
from pathlib import Path

import attrs
import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.peers import wait_for
from tests.peers.mta import Mta
from tests.workers.test_processes import alive, workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@attrs.frozen
class Word:
    """One assignment, and who made it."""

    pid: int
    name: str
    value: str


class Manager:
    """systemd's end of the socket of Type=notify."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.address = str(Path(self._folder.name) / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(self.address)
        os.chmod(self.address, 0o777)
        self._words: list[Word] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            data, ancillary, *_ = self._socket.recvmsg(4096, 1024)
            if data == b"END":
                return
            pid = next(
                struct.unpack("3i", value[:12])[0]
                for level, kind, value in ancillary
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
            )
            self._words += [Word(pid, *line.split("=", 1)) for line in data.decode().split("\n")]

    def heard(self, name: str, pid: int = 0) -> list[Word]:
        """The assignments of a name, of one process if given."""
        return [word for word in list(self._words) if word.name == name and pid in (0, word.pid)]

    def wait(self, name: str, count: int = 1, pid: int = 0) -> Word:
        """The last of so many."""
        return wait_for(f"{count} {name}", lambda: self.heard(name, pid)[count - 1 :], 20)[0]

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.sendto(b"END", self.address)
        self._thread.join()
        self._socket.close()
        self._folder.cleanup()


class WatchedMta(Mta):
    """With a manager."""

    def __init__(self, manager: Manager, count: int) -> None:
        self.manager = manager
        super().__init__({"workers": count})

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "NOTIFY_SOCKET": self.manager.address, "WATCHDOG_USEC": "1000000"}


class NotifyTests(SynchronousTestCase):
    """Of one process."""

    workers = 0

    def test_a_life(self) -> None:
        manager = Manager()
        self.addCleanup(manager.close)
        mta = WatchedMta(manager, self.workers)
        self.addCleanup(mta.close)
        mta.start()
        old = mta.pid
        manager.wait("READY", pid=old)
        manager.wait("WATCHDOG", 3, old)
        mta.signal(signal.SIGHUP)
        stamp = manager.wait("MONOTONIC_USEC", pid=old)
        self.assertGreater(int(stamp.value), 0)
        manager.wait("READY", 2, old)
        self.assertEqual(len(manager.heard("RELOADING", old)), 1)
        self.assertEqual(manager.heard("MAINPID"), [])
        (served, before) = workers(mta), len(manager.heard("READY", old))
        self.assertIn("took over", mta.cli("upgrade"))
        main = manager.wait("MAINPID")
        new = mta.json("status")["service"]["pid"]
        self.addCleanup(lambda: alive(new) and os.kill(new, signal.SIGKILL))
        self.assertEqual(main, Word(old, "MAINPID", str(new)))
        manager.wait("READY", before + 1, old)  # systemd believes the new one only from then on
        wait_for("the old one's end", lambda: not alive(old), 40)
        self.assertEqual(manager.heard("STOPPING"), [], "the unit goes on")
        fed = len(manager.heard("WATCHDOG", new))
        manager.wait("WATCHDOG", fed + 3, new)
        os.kill(new, signal.SIGTERM)
        self.assertEqual(manager.wait("STOPPING").pid, new)
        wait_for("the end", lambda: not alive(new), 40)
        speakers = {word.pid for word in manager._words}
        self.assertEqual(speakers, {old, new})
        self.assertEqual(speakers & set(served.values()), set())


class WorkersNotifyTests(NotifyTests):
    """Of a parent with workers, who say nothing."""

    workers = 2

    def test_a_parent_that_hangs_feeds_no_watchdog(self) -> None:
        manager = Manager()
        self.addCleanup(manager.close)
        mta = WatchedMta(manager, self.workers)
        self.addCleanup(mta.close)
        mta.start()
        manager.wait("WATCHDOG", 2)
        mta.signal(signal.SIGSTOP)
        fed = len(manager.heard("WATCHDOG"))
        threading.Event().wait(1.5)  # longer than it may be silent
        self.assertLessEqual(len(manager.heard("WATCHDOG")), fed + 1)
        mta.signal(signal.SIGCONT)
        manager.wait("WATCHDOG", fed + 2)
