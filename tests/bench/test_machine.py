"""What the kernel says about the machine and about processes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bench.group import cgroup_seconds, proportional
from bench.machine import Times, quiet

STAT = "cpu  1000 20 300 5000 400 0 80 200 0 0\ncpu0 500 10 150 2500 200 0 40 100 0 0\nintr 1\n"


class Machine(SynchronousTestCase):
    def test_stat(self) -> None:
        self.assertEqual(Times.parse(STAT, 100), Times(busy=14.0, idle=50.0, iowait=4.0, steal=2.0))

    def test_shares(self) -> None:
        shares = Times(17.0, 50.0, 5.0, 3.0).since(Times(11.0, 48.0, 4.0, 2.0))
        self.assertEqual(shares, {"busy": 0.6, "idle": 0.2, "iowait": 0.1, "steal": 0.1})
        self.assertFalse(quiet(shares))
        self.assertEqual(Times(1, 1, 1, 1).since(Times(1, 1, 1, 1))["busy"], 0.0)

    def test_now(self) -> None:
        self.assertGreater(Times.now().idle, 0)


class Processes(SynchronousTestCase):
    def test_cgroup(self) -> None:
        self.assertEqual(cgroup_seconds("usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n"), 1.5)

    def test_memory(self) -> None:
        text = "55d0-7ffc ---p 00000000 00:00 0    [rollup]\nRss:     9000 kB\nPss:     1234 kB\nPss_Anon:  1000 kB\n"
        self.assertEqual(proportional(text), 1234)
        self.assertEqual(proportional(""), 0)
