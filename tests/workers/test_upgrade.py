"""A new version takes over: no connection is refused, and no session is dropped."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.peers import wait_for
from tests.peers.mta import CommandFailed, Mta
from tests.peers.rawsmtp import RawSmtp
from tests.workers.test_processes import QUICK, Load, ProcessCase, alive

pytestmark = pytest.mark.slow


class Upgrades(ProcessCase):
    """Of one process."""

    settings: dict[str, Any] = {"workers": 0, **QUICK}

    def started(self) -> int:
        """The process id in the status file."""
        return self.mta.json("status")["service"]["pid"]

    @pytest.mark.peer
    def test_under_load(self) -> None:
        load = Load(self.mta)
        load.wait(30)
        old = self.started()
        idle = RawSmtp(self.mta.mx)
        self.addCleanup(idle.socket.close)
        idle.ehlo()
        with RawSmtp(self.mta.mx) as session:
            session.ehlo()
            session.send(b"MAIL FROM:<late@source.test>\r\nRCPT TO:<late@d1.example>\r\nDATA\r\n")
            self.assertEqual([session.answer().code for _ in range(3)], [250, 250, 354])
            session.send(b"X-Tag: late\r\n")
            self.assertIn("took over", self.mta.cli("upgrade"))
            self.assertNotEqual(self.started(), old)
            load.wait(60)
            session.send(b"\r\nx\r\n.\r\n")
            self.assertEqual(session.answer().code, 250)
        load.promised.add("late")
        self.assertEqual(idle.cmd("NOOP").code, 250, "idle sessions are left in peace for a while")
        idle.cmd("QUIT")
        load.wait(30)
        wait_for("the old one's end", lambda: not alive(old), 30)
        load.wait(30)
        self.balance(load, under_way=0)
        self.assertEqual(self.mta.http("/healthz").strip(), "ok")
        new = self.started()
        os.kill(new, signal.SIGTERM)
        wait_for("the new one's end", lambda: not alive(new), 30)

    def test_twice_at_once_and_a_reload_beside(self) -> None:
        """One takes over; what comes after that to the old one is told that it is not the service any more."""
        old = self.started()
        self.mta.write_config({"smtp": {"banner": "changed"}})
        for number in (signal.SIGUSR2, signal.SIGUSR2, signal.SIGHUP):
            os.kill(old, number)
        self.mta.wait_event("service", 60, what="took-over")
        wait_for("the old one's end", lambda: not alive(old), 60)
        new = self.started()
        self.assertNotEqual(new, old)
        self.assertEqual(len(self.mta.events("service", what="took-over")), 1)
        with RawSmtp(self.mta.mx) as session:
            self.assertTrue(session.greeting.text.endswith("changed"), session.greeting.text)
        wait_for("health", self.mta.healthy)
        os.kill(new, signal.SIGTERM)
        wait_for("the new one's end", lambda: not alive(new), 30)

    def test_one_that_fails_changes_nothing(self) -> None:
        old = self.started()
        good = self.mta.config.read_text()
        self.mta.config.write_text("workers = 'many'\n")
        os.kill(old, signal.SIGUSR2)
        failed = self.mta.wait_event("service", 30, what="upgrade-failed")
        self.assertIn("workers", failed["detail"])
        self.mta.config.write_text(good + '\n[listen.other]\naddress = ["192.0.2.1"]\nport = 2599\nrole = "mx"\n')
        with self.assertRaises(CommandFailed) as caught:
            self.mta.cli("upgrade")
        self.assertIn("192.0.2.1", str(caught.exception))
        self.mta.config.write_text(good)
        with RawSmtp(self.mta.mx) as session:
            self.assertEqual(session.greeting.code, 220)
        self.assertEqual(self.started(), old)
        self.mta.check_alive()
        self.mta.stop_cleanly()


class WorkersUpgrade(Upgrades):
    """Of a parent with workers."""

    settings: dict[str, Any] = {"workers": 2, **QUICK}


class Background(SynchronousTestCase):
    """As a daemon, with twistd's pid file."""

    def test_the_pid_file_goes_over(self) -> None:
        mta = Mta({"workers": 0})
        self.addCleanup(mta.close)
        argv = [word for word in mta.argv() if word not in ("--nodaemon", "--pidfile=")]
        mta.argv = lambda: [argv[0], "--pidfile=mta.pid", "--logfile=twistd.log", *argv[1:]]  # type: ignore[method-assign]
        mta.check_alive = lambda: None  # type: ignore[method-assign]
        mta.start()
        pidfile = mta.folder / "mta.pid"
        old = int(pidfile.read_text())
        self.addCleanup(lambda: [os.kill(pid, signal.SIGKILL) for pid in (old, new) if alive(pid)])
        new = 0
        mta.cli("upgrade")
        wait_for("the old one's end", lambda: not alive(old), 30)
        new = int(pidfile.read_text())
        self.assertNotEqual(new, old)
        self.assertTrue(alive(new))
        with RawSmtp(mta.mx) as session:
            self.assertEqual(session.greeting.code, 220)
        os.kill(new, signal.SIGTERM)
        wait_for("its end", lambda: not alive(new), 30)
        self.assertFalse(pidfile.exists())
