"""From figures to tables: medians, noise, ratios, bars."""

from __future__ import annotations

import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bench.report import (
    ALL_NOISY,
    BEGIN,
    END,
    LEFT_OUT,
    Bar,
    Cell,
    Row,
    Run,
    cell,
    every_run,
    judge,
    load,
    report,
    save,
    table,
    times,
    write_into,
)
from bench.rows import SECTIONS, chief
from bench.workloads import workloads

TWO = "twisted-mta, 2 workers"


def run(target: str, rate: float, *, steal: float = 0.0, number: int = 1, workload: str = "accept") -> Run:
    return Run(number, workload, target, {"rate": rate}, {"busy": 0.9, "idle": 0.1 - steal, "steal": steal}, 3000.0)


class Medians(SynchronousTestCase):
    """A target's figure over its runs."""

    def found(self, *runs: Run) -> Cell:
        made = cell(runs, "accept", "rate", "postfix")
        assert made is not None
        return made

    def test_median_and_spread(self) -> None:
        made = self.found(run("postfix", 900), run("postfix", 1100.4), run("postfix", 1000))
        self.assertEqual(made.text("{:,.0f}"), "1,000 (900 to 1,100)")

    def test_one_value_has_no_spread(self) -> None:
        self.assertEqual(self.found(run("postfix", 7.04), run("postfix", 7.0)).text("{:.1f}"), "7.0")

    def test_others_are_not_looked_at(self) -> None:
        others = (run("exim", 5), run("postfix", 6, workload="relay"), Run(1, "accept", "postfix", failed="broken"))
        self.assertEqual(self.found(run("postfix", 900), *others).values, (900,))
        self.assertIsNone(cell(others, "accept", "rate", "postfix"))

    def test_noisy_runs_are_left_out_and_marked(self) -> None:
        made = self.found(run("postfix", 400, steal=0.2), run("postfix", 900), run("postfix", 1000))
        self.assertEqual(made.values, (900, 1000))
        self.assertEqual(made.text("{:.0f}"), "950 (900 to 1000)" + LEFT_OUT)

    def test_where_most_are_noisy_all_count_and_are_marked(self) -> None:
        made = self.found(run("postfix", 400, steal=0.2), run("postfix", 500, steal=0.06), run("postfix", 1000))
        self.assertEqual(made.values, (400, 500, 1000))
        self.assertEqual(made.mark, ALL_NOISY)

    def test_five_percent_is_quiet(self) -> None:
        self.assertEqual(self.found(run("postfix", 400, steal=0.05)).mark, "")


class Judging(SynchronousTestCase):
    """Whether a bar is reached."""

    def said(self, bar: Bar | None, **figures: float) -> str:
        return judge(bar, {{"ours": "twisted-mta", "two": TWO}.get(k, k): Cell((v,)) for k, v in figures.items()})

    def test_times(self) -> None:
        self.assertEqual(self.said(Bar("times", 3), postfix=100, ours=300, two=301), "3x Postfix: met")
        self.assertEqual(self.said(Bar("times", 3), postfix=100, ours=299, two=301), f"3x Postfix: met by {TWO}")
        self.assertEqual(self.said(Bar("times", 3), postfix=100, exim=1, ours=299), "3x Postfix: **not met**")

    def test_lower(self) -> None:
        bar = Bar("times", 5, 3)
        self.assertEqual(self.said(bar, postfix=100, ours=500), "5x Postfix: met")
        self.assertEqual(self.said(bar, postfix=100, ours=400), "5x Postfix: **not met**; 3x Postfix: met")

    def test_best_peer(self) -> None:
        figures = {"postfix": 10.0, "exim": 100.0, "haraka": 90.0}
        self.assertEqual(self.said(Bar("best", 1.5), **figures, ours=150), "1.5x the best peer: met")
        self.assertEqual(self.said(Bar("best", 1.5), **figures, ours=149), "1.5x the best peer: **not met**")

    def test_share(self) -> None:
        self.assertEqual(self.said(Bar("share", 0.25), postfix=4, ours=1.0), "0.25x Postfix at most: met")
        self.assertEqual(self.said(Bar("share", 0.25), postfix=4, ours=1.1), "0.25x Postfix at most: **not met**")

    def test_absolute(self) -> None:
        self.assertEqual(self.said(Bar("most", 5), ours=5.0), "5 at most: met")
        self.assertEqual(self.said(Bar("most", 5), ours=5.1), "5 at most: **not met**")
        self.assertEqual(self.said(Bar("least", 90), ours=89), "90 at least: **not met**")

    def test_nothing_to_compare_with(self) -> None:
        self.assertEqual(self.said(Bar("times", 3), exim=1, ours=5), "3x Postfix: not measured")
        self.assertEqual(self.said(Bar("best", 3), ours=5), "3x the best peer: not measured")
        self.assertEqual(self.said(Bar("times", 3), postfix=5), "")
        self.assertEqual(self.said(None, ours=5), "")


class Tables(SynchronousTestCase):
    """Markdown."""

    rows = (Row("accept", "rate", "messages/s", bar=Bar("times", 3)), Row("relay", "rate", "never measured"))

    def test_table(self) -> None:
        runs = [run("postfix", 100), run("exim", 20), run("twisted-mta", 310)]
        self.assertEqual(
            table(self.rows, runs, ["postfix", "exim", "haraka", "twisted-mta"]),
            [
                "|  | postfix | exim | haraka | twisted-mta | twisted-mta / postfix | the bar |",
                "|---|---:|---:|---:|---:|---:|---|",
                "| messages/s | 100 | 20 | - | 310 | 3.10x | 3x Postfix: met |",
                "",
            ],
        )

    def test_nothing_measured(self) -> None:
        self.assertEqual(table(self.rows[1:], [run("postfix", 100)], ["postfix"]), [])

    def test_ratios(self) -> None:
        self.assertEqual([times(2.345), times(0.1), times(0.0123)], ["2.35x", "0.10x", "0.012x"])

    def test_every_run_is_there_noisy_ones_in_bold(self) -> None:
        runs = [run("postfix", 1), run("exim", 2, steal=0.08), Run(2, "relay", "haraka", failed="it fell")]
        lines = every_run(runs, lambda one: f"{one.figures['rate']:g}/s")[2:]
        self.assertEqual(lines[0], "| 1 | accept | postfix | 1/s | 90% | 10% | 0% | 0% | 3,000 |")
        self.assertIn("| **8%** |", lines[1])
        self.assertIn("| failed: it fell |", lines[2])

    def test_report(self) -> None:
        runs = [run("postfix", 100, steal=0.5), run("twisted-mta", 310), Run(1, "relay", "exim", failed="it fell")]
        text = report({"Accepting": self.rows}, runs, ["postfix", "twisted-mta"], {"Disk": "slow"}, ["No exim."], chief)
        for words in ("- Disk: slow", "1 of 3 runs", "- No exim.", "relay, exim: it fell", "### Accepting", "100†"):
            self.assertIn(words, text)

    def test_page(self) -> None:
        page = Path(tempfile.mkdtemp()) / "page.md"
        self.addCleanup(lambda: (page.unlink(), page.parent.rmdir()))
        page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
        write_into(page, "new")
        self.assertEqual(page.read_text(), f"before\n{BEGIN}\nnew\n{END}\nafter\n")
        page.write_text("no markers")
        self.assertRaises(ValueError, write_into, page, "new")

    def test_kept(self) -> None:
        path = Path(tempfile.mkdtemp()) / "runs.json"
        self.addCleanup(lambda: (path.unlink(), path.parent.rmdir()))
        runs = [run("postfix", 1), Run(2, "relay", "haraka", failed="it fell")]
        save(path, runs, ["postfix"], {"a": "b"}, ["c"])
        self.assertEqual(load(path), (runs, ["postfix"], {"a": "b"}, ["c"]))

    def test_every_row_has_a_workload_and_every_workload_a_row(self) -> None:
        measured = {workload.name for workload in workloads(1000)}
        shown = {row.workload for rows in SECTIONS.values() for row in rows}
        self.assertEqual(shown, measured)
