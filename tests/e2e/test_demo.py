"""``make demo``: the first thing that a newcomer sees."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.conftest import ROOT
from tests.peers import peer_dir, require, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


class DemoTests(SynchronousTestCase):
    """The demonstration in a folder of its own."""

    def setUp(self) -> None:
        self.folder = peer_dir("demo")
        self.addCleanup(shutil.rmtree, self.folder)
        self.argv = [sys.executable, "-m", "twisted_mta.demo"]
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("MTA_")}
        self.env |= {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}

    def once(self) -> str:
        """What a whole show prints."""
        done = subprocess.run(
            [*self.argv, "--once"],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.env,
            timeout=90,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_every_fate_comes_true_and_a_second_run_is_no_different(self) -> None:
        for _ in range(2):
            shown = self.once()
            self.assertEqual(len(re.findall(r"\$ mta trace \w{16}", shown)), 3)
            wide = [line for line in shown.splitlines() if len(line) > 100 and "/new/" not in line]
            self.assertEqual(wide, [])  # a Maildir's file names are as long as they are
        self.assertEqual([path.name for path in self.folder.iterdir()], ["var"])

    def test_busy_ports_are_gone_around(self) -> None:
        with socket.socket() as busy:
            busy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                busy.bind(("127.0.0.1", 2587))
                busy.listen()
            except OSError:
                pass  # somebody else is there, which is as good
            shown = self.once()
        self.assertIn("2587 was taken", shown)
        self.assertNotIn("submission 2587", shown)

    def test_it_stays_up_the_lines_to_paste_work_and_ctrl_c_ends_all(self) -> None:
        require("swaks")
        log = (self.folder / "out").open("w+")
        self.addCleanup(log.close)
        demo = subprocess.Popen(
            self.argv, stdout=log, stderr=log, cwd=self.folder, env=self.env, start_new_session=True
        )
        self.addCleanup(demo.wait)
        self.addCleanup(demo.kill)

        def shown() -> str:
            return Path(log.name).read_text()

        wait_for("the demonstration to be up", lambda: "Ctrl-C" in shown(), 60)
        pasted = re.search(r"\$ (swaks .*?)\\\n(.*)", shown())
        assert pasted is not None
        words = (pasted.group(1) + pasted.group(2)).split()
        sent = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
        self.assertEqual(sent.returncode, 0, sent.stdout)
        pasted = re.search(r"\$ (curl .*?)\\\n(.*?)\\\n(.*)", shown())
        assert pasted is not None
        words = "".join(pasted.groups()).split()
        sent = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30, cwd=self.folder)
        self.assertEqual(sent.returncode, 0, sent.stderr)
        demo.send_signal(signal.SIGINT)
        self.assertEqual(demo.wait(30), 0)
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        self.assertNotIn(str(self.folder), listed)
