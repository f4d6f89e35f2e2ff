"""Started by root on ports that root alone may have, served by workers that are nobody."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
from pathlib import Path
from typing import Any, ClassVar

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.peers import peer_dir, wait_for
from tests.peers.mta import Mta
from tests.peers.process import LOOPBACK, require_root
from tests.peers.python import TWISTD, public_python
from tests.peers.rawsmtp import RawSmtp
from tests.workers.test_processes import alive, workers
from twisted_mta.runtime.pidfile import GONE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

USER = "nobody"


def privileged_port() -> int:
    """A port below 1024 on which nobody listens."""
    for port in random.sample(range(200, 1024), 100):
        with socket.socket() as tried:
            try:
                tried.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise AssertionError("no port below 1024 is free")


def status_of(pid: int) -> dict[str, list[str]]:
    """What /proc says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


class PublicMta(Mta):
    """Run by a Python that all may run."""

    python = ""
    extra: ClassVar[dict[str, str]] = {}
    daemon = False

    def argv(self) -> list[str]:
        words = ["--pidfile=mta.pid", "--logfile=twistd.log"] if self.daemon else ["--nodaemon", "--pidfile="]
        return [self.python, "-P", "-c", TWISTD, *words, "mta", "--config", str(self.config)]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self.extra}

    def check_alive(self) -> None:
        if not self.daemon:
            super().check_alive()


class UserTests(SynchronousTestCase):
    """``user = "nobody"``."""

    folder: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        require_root("ports below 1024, and becoming another user,")
        cls.folder = peer_dir("python")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        PublicMta.python, PublicMta.extra = public_python(cls.folder)

    def start(self, **settings: Any) -> PublicMta:
        port = privileged_port()
        mta = PublicMta({"user": USER, "listen": {"mx": {"port": port}}, **settings})
        mta.mx = port
        self.addCleanup(mta.close)
        log = mta.folder / "twistd.log"  # an heir must be able to write it
        log.touch()
        shutil.chown(log, USER)
        return mta.start()

    def is_nobody(self, pid: int) -> None:
        """For good: no saved id, no capability, no group of root's."""
        status = status_of(pid)
        for name in ("Uid", "Gid"):
            self.assertEqual(set(status[name]), {"65534"}, name)
        self.assertEqual(set(status["Groups"]) - {"65534"}, set())
        for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
            self.assertEqual(int(status[name][0], 16), 0, name)

    def takes_mail(self, mta: Mta) -> None:
        before = len(mta.mailbox("ann@demo.example"))
        with RawSmtp(mta.mx) as session:
            session.ehlo()
            session.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<ann@demo.example>\r\nDATA\r\n")
            self.assertEqual([session.answer().code for _ in range(3)], [250, 250, 354])
            session.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
            self.assertEqual(session.answer().code, 250)
        mta.wait_mailbox("ann@demo.example", before + 1)

    def test_workers(self) -> None:
        mta = self.start(workers=2)
        self.assertLess(mta.mx, 1024)
        first = workers(mta)
        for pid in (mta.pid, *first.values()):
            self.is_nobody(pid)
        self.takes_mail(mta)
        # A worker that is started anew has the port from its parent, who could not bind it any more.
        os.kill(first[0], signal.SIGKILL)
        wait_for("a new worker", lambda: workers(mta).get(0, first[0]) != first[0], 20)
        self.is_nobody(workers(mta)[0])
        self.takes_mail(mta)
        mta.signal(signal.SIGHUP)
        mta.wait_event("service", what="reload")
        self.assertIn("took over", mta.cli("upgrade"))
        mta.daemon = True  # the process that we started ends, as it should
        second = workers(mta)
        new = mta.json("status")["service"]["pid"]
        self.assertNotEqual(new, mta.pid)
        for pid in (new, *second.values()):
            self.is_nobody(pid)
        self.assertEqual(set(second.values()) & set(first.values()), set())
        self.takes_mail(mta)
        owners = {path.stat().st_uid for path in mta.state.rglob("*")}
        self.assertEqual(owners, {65534})
        os.kill(new, signal.SIGTERM)
        wait_for("the end", lambda: not any(alive(pid) for pid in (new, mta.pid, *second.values())), 40)

    def test_a_python_that_the_user_may_not_run(self) -> None:
        locked = peer_dir("locked")
        self.addCleanup(shutil.rmtree, locked)
        os.symlink(PublicMta.python, locked / "python")
        locked.chmod(0o700)
        mta = PublicMta({"user": USER, "workers": 2})
        self.addCleanup(mta.close)
        mta.python = str(locked / "python")
        self.assertRaises(AssertionError, mta.start)
        self.assertIn(f'user: "{USER}" cannot run {locked / "python"}, which workers need', mta.output())
        assert mta.process is not None
        self.assertEqual(mta.process.returncode, 1)

    def test_a_daemon_leaves_no_pid_file_that_names_a_process(self) -> None:
        for count in (0, 2):
            with self.subTest(workers=count):
                PublicMta.daemon = True
                self.addCleanup(setattr, PublicMta, "daemon", False)
                mta = self.start(workers=count)
                pidfile = mta.folder / "mta.pid"
                pid = int(pidfile.read_text())
                self.addCleanup(lambda pid=pid: alive(pid) and os.kill(pid, signal.SIGKILL))
                self.is_nobody(pid)
                self.takes_mail(mta)
                self.assertIn("took over", mta.cli("upgrade"))
                wait_for("the old one's end", lambda pid=pid: not alive(pid), 40)
                new = int(pidfile.read_text())
                self.addCleanup(lambda pid=new: alive(pid) and os.kill(pid, signal.SIGKILL))
                self.assertNotEqual(new, pid)
                self.is_nobody(new)
                self.takes_mail(mta)
                for running in (new, 0):
                    if not running:  # what was left behind stands in nobody's way
                        mta.start()
                        running = int(pidfile.read_text())
                    os.kill(running, signal.SIGTERM)
                    wait_for("its end", lambda pid=running: not alive(pid), 40)
                    # Root's folder: the file cannot be removed, and names no process that there could be.
                    self.assertEqual(int(pidfile.read_text()), GONE)
