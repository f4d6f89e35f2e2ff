"""Which target is measured when, and what becomes of one that fails."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bench import machine
from bench.report import Run
from bench.run import due, measure
from bench.targets import Target
from bench.workloads import Figures, NotMeasuredError, Workload


class Fake(Target):
    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(Path("/nonexistent"))


class Rounds(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(machine, "synced_writes", lambda base: 1000.0)
        self.targets: list[Target] = [Fake(name) for name in ("postfix", "exim", "twisted-mta")]
        self.asked: list[str] = []

    def ask(self, target: Target) -> Figures:
        self.asked.append(target.name)
        return {"rate": 1.0, "busy": 0.5, "idle": 0.4, "iowait": 0.0, "steal": 0.1}

    def test_due(self) -> None:
        postfix, exim, ours = self.targets
        once, always = Workload("w", self.ask, rounds=1), Workload("w", self.ask, all_rounds=True)
        self.assertTrue(due(Workload("w", self.ask), ours, 3))
        self.assertTrue(due(Workload("w", self.ask), postfix, 3))
        self.assertTrue(due(Workload("w", self.ask), exim, 1))
        self.assertFalse(due(Workload("w", self.ask), exim, 2))
        self.assertTrue(due(always, exim, 2))
        self.assertFalse(due(once, ours, 2))

    def test_interleaved(self) -> None:
        runs, notes = measure(self.targets, [Workload("w", self.ask, all_rounds=True)], 2, 60)
        self.assertEqual(self.asked, ["postfix", "exim", "twisted-mta", "exim", "twisted-mta", "postfix"])
        self.assertEqual([run.round for run in runs], [1, 1, 1, 2, 2, 2])
        self.assertEqual(notes, [])

    def test_what_the_machine_did(self) -> None:
        (run,), _ = measure(self.targets[:1], [Workload("w", self.ask)], 1, 60)
        self.assertEqual(run.figures, {"rate": 1.0})
        self.assertEqual(run.machine, {"busy": 0.5, "idle": 0.4, "iowait": 0.0, "steal": 0.1})
        self.assertEqual(run.disk, 1000.0)

    def test_no_time_left_after_the_first_round(self) -> None:
        runs, notes = measure(self.targets, [Workload("w", self.ask)], 3, 0)
        self.assertEqual([run.round for run in runs], [1, 1, 1])
        self.assertEqual(notes, [f"Left out of round {number} for want of time: w." for number in (2, 3)])

    def test_failures_cost_no_other_figures(self) -> None:
        def measured(target: Target) -> Figures:
            if target.name == "exim":
                raise RuntimeError("it\nfell")
            if target.name == "postfix":
                raise NotMeasuredError("no Dovecot")
            return {"rate": 2.0}

        runs, notes = measure(self.targets, [Workload("w", measured)], 1, 60)
        found = {run.target: (run.failed, run.figures) for run in runs}
        self.assertEqual(found, {"exim": ("RuntimeError: it fell", {}), "twisted-mta": ("", {"rate": 2.0})})
        self.assertEqual(notes, ['Not measured: postfix in "w": no Dovecot.'])
        self.assertIsInstance(runs[0], Run)
