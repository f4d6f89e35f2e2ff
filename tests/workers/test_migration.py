"""A version with another schema of the queue: it never takes over beside the old one, and a restart brings it all."""

from __future__ import annotations

import os
import shutil
import signal
import urllib.error
from pathlib import Path

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.peers import peer_dir
from tests.peers.mta import CommandFailed, Mta
from tests.peers.rawsmtp import RawSmtp
from twisted_mta.queue.schema import VERSION

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

NEWER = """
import os
if os.path.exists({flag!r}):
    from twisted_mta.queue import schema
    from twisted_mta.queue.records import META_SCHEMA
    now = schema.VERSION
    def step(env, txn):
        txn.put(b"steps", b"1", db=env.open_db(b"meta", txn=txn, create=False))
    schema.VERSION = now + 1
    schema.MIGRATIONS = {{**schema.MIGRATIONS, now: step}}
"""


class TwoVersions(Mta):
    """The later version where there is a flag."""

    def __init__(self, path: Path, count: int) -> None:
        self.path = path
        super().__init__({"workers": count, "relay": {"networks": ["127.0.0.0/8"], "smarthost": "127.0.0.1:9"}})

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONPATH": str(self.path)}


class MigrationTests(SynchronousTestCase):
    """Of one process."""

    workers = 0

    def test_upgrade_is_refused_and_restart_migrates(self) -> None:
        path = peer_dir("newer")
        self.addCleanup(shutil.rmtree, path)
        flag = path / "newer"
        (path / "sitecustomize.py").write_text(NEWER.format(flag=str(flag)))
        mta = TwoVersions(path, self.workers)
        self.addCleanup(mta.close)
        mta.start()
        self.send(mta)
        flag.touch()
        # By the command, which belongs to the new version, and by a signal, which the old one hears.
        with self.assertRaises(CommandFailed) as refused:
            mta.cli("upgrade")
        self.assertEqual(mta.events("service", what="upgrade"), [], "nothing was begun")
        os.kill(mta.pid, signal.SIGUSR2)
        failed = mta.wait_event("service", 60, what="upgrade-failed")
        for words in (str(refused.exception), failed["detail"]):
            self.assertIn(f"it has schema {VERSION}, this version of the program writes schema {VERSION + 1}", words)
            self.assertIn("systemctl restart twisted-mta", words)
        mta.check_alive()
        self.assertEqual(mta.http("/healthz").strip(), "ok")
        self.send(mta)
        mta.stop()
        mta.start()  # all workers at once
        self.assertEqual(len(mta.json("queue", "list")), 2)
        self.send(mta)
        self.assertEqual(len(mta.json("queue", "list")), 3)
        self.assertIn("in order", mta.cli("queue", "verify"))
        mta.stop()
        flag.unlink()
        with self.assertRaises((AssertionError, urllib.error.URLError)):
            mta.start()
        self.assertIn(f"its schema is {VERSION + 1}, and this version of the program knows {VERSION}", mta.output())

    def send(self, mta: Mta) -> None:
        with RawSmtp(mta.mx) as session:
            session.ehlo()
            session.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<x@remote.example>\r\nDATA\r\n")
            self.assertEqual([session.answer().code for _ in range(3)], [250, 250, 354])
            session.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
            self.assertEqual(session.answer().code, 250)


class WorkersMigrationTests(MigrationTests):
    """Of a parent with workers."""

    workers = 2
