"""The systemd unit: systemd's own tools accept it, and it fits what the program does."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from twisted_mta.config import Settings
from twisted_mta.runtime.limits import descriptors_needed
from twisted_mta.tap import EX_CONFIG

UNITS = Path(__file__).resolve().parents[2] / "conf" / "systemd"
UNIT = UNITS / "twisted-mta.service"


class Unit(SynchronousTestCase):
    def setUp(self) -> None:
        parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(UNIT.read_text("utf-8"))
        self.service = parser["Service"]

    def systemd_analyze(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        if shutil.which("systemd-analyze") is None:
            raise SkipTest("systemd is not installed")
        return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)

    def test_verified(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / UNIT.name
            copy.write_text(re.sub(r"/opt/twisted-mta/bin/\w+", sys.executable, UNIT.read_text("utf-8")))
            done = self.systemd_analyze("verify", "--man=no", str(copy))
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_hardened(self) -> None:
        """systemd's own measure of exposure, from 0.0 to 10.0, stays below 2."""
        done = self.systemd_analyze("security", "--offline=yes", "--threshold=20", "--no-pager", str(UNIT))
        self.assertEqual(done.returncode, 0, done.stdout[-400:])

    def test_fits_the_program(self) -> None:
        self.assertEqual(self.service["Type"], "notify")
        self.assertEqual(self.service["RestartPreventExitStatus"], str(EX_CONFIG))
        self.assertGreater(int(self.service["LimitNOFILE"]), descriptors_needed(Settings()))
        self.assertIn("--nodaemon --pidfile= mta --config ", self.service["ExecStart"])
        self.assertEqual(self.service["CapabilityBoundingSet"], "CAP_NET_BIND_SERVICE")

    def test_tls_works_in_it(self) -> None:
        """cffi's callbacks need memory that is writable and executable; without it no TLS context can be made."""
        self.assertNotIn("MemoryDenyWriteExecute", self.service)

    def test_reload_checks_first(self) -> None:
        commands = re.findall(r"(?m)^ExecReload=(.*)$", UNIT.read_text("utf-8"))
        config = self.service["ExecStart"].rpartition(" --config ")[2]
        self.assertEqual(commands, [f"/opt/twisted-mta/bin/mta check --config {config}", "/bin/kill -HUP $MAINPID"])

    def test_its_user(self) -> None:
        made = (UNITS / "twisted-mta.sysusers").read_text("utf-8")
        self.assertRegex(made, rf"(?m)^u {self.service['User']} ")
