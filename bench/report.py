"""From the runs' figures to the tables in docs/performance.md.  Nothing here measures."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import attrs

from bench.machine import quiet

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
OURS, PEER = "twisted-mta", "postfix"
LEFT_OUT, ALL_NOISY = "\\*", "†"
LEGEND = (
    f"{LEFT_OUT}: noisy runs are left out of the median, for at least as many were quiet; "
    f"{ALL_NOISY}: more than half of the runs were noisy, and the median is of all"
)


@attrs.frozen
class Run:
    """One target in one workload.  ``machine`` is what part of the time the processors were busy, idle, waiting for the
    disk, or taken away (steal); ``disk`` is how many synced writes a second it took just before."""

    round: int
    workload: str
    target: str
    figures: Mapping[str, float] = attrs.field(factory=dict)
    machine: Mapping[str, float] = attrs.field(factory=dict)
    disk: float = 0.0
    seconds: float = 0.0
    failed: str = ""


@attrs.frozen
class Bar:
    """What ours has to reach.

    ``times``: at least so many times Postfix's figure; ``best``: that of the best peer; ``share``: at most that part of
    Postfix's; ``most`` and ``least``: the figure itself.  ``lower`` is a second, lower bar of the same kind.
    """

    kind: Literal["times", "best", "share", "most", "least"]
    number: float
    lower: float = 0.0

    def reached(self, number: float, ours: float, postfix: float | None, best: float | None) -> bool | None:
        """Whether ``ours`` reaches ``number``; None where there is nothing to compare with."""
        if self.kind in {"most", "least"}:
            return ours <= number if self.kind == "most" else ours >= number
        other = best if self.kind == "best" else postfix
        if not other:
            return None
        return ours / other <= number if self.kind == "share" else ours / other >= number

    def words(self, number: float) -> str:
        """The bar, to be read."""
        return {
            "times": f"{number:g}x Postfix",
            "best": f"{number:g}x the best peer",
            "share": f"{number:g}x Postfix at most",
            "most": f"{number:g} at most",
            "least": f"{number:g} at least",
        }[self.kind]


@attrs.frozen
class Row:
    """A line of a table: a figure of a workload, how it is written, and its bar."""

    workload: str
    figure: str
    label: str
    form: str = "{:,.0f}"
    bar: Bar | None = None


@attrs.frozen
class Cell:
    """A target's figure over its runs."""

    values: tuple[float, ...]
    mark: str = ""

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def text(self, form: str) -> str:
        """Median, and the least and the most where they differ."""
        middle, least, most = (form.format(value) for value in (self.median, min(self.values), max(self.values)))
        return (middle if least == most else f"{middle} ({least} to {most})") + self.mark


def cell(runs: Iterable[Run], workload: str, figure: str, target: str) -> Cell | None:
    """A figure of a target, None if there is none.

    Of its quiet runs if at least half of all were quiet, else of all; either is marked.
    """
    mine = [run for run in runs if (run.workload, run.target) == (workload, target) and figure in run.figures]
    if not mine:
        return None
    good = [run for run in mine if quiet(run.machine)]
    mark = "" if len(good) == len(mine) else LEFT_OUT if 2 * len(good) >= len(mine) else ALL_NOISY
    kept = mine if mark == ALL_NOISY else good
    return Cell(tuple(run.figures[figure] for run in kept), mark)


def judge(bar: Bar | None, cells: Mapping[str, Cell]) -> str:
    """Whether a bar is reached, and by which of ours if not by all; the lower one too where the higher is not."""
    ours = {target: found.median for target, found in cells.items() if target.startswith(OURS)}
    if bar is None or not ours:
        return ""
    peers = [found.median for target, found in cells.items() if not target.startswith(OURS)]
    postfix = cells[PEER].median if PEER in cells else None
    said = _verdict(bar, bar.number, ours, postfix, max(peers, default=None))
    if bar.lower and not said.endswith(": met"):
        said += "; " + _verdict(bar, bar.lower, ours, postfix, max(peers, default=None))
    return said


def _verdict(bar: Bar, number: float, ours: Mapping[str, float], postfix: float | None, best: float | None) -> str:
    reached = {name: bar.reached(number, value, postfix, best) for name, value in ours.items()}
    if None in reached.values():
        return f"{bar.words(number)}: not measured"
    met = [name for name, yes in reached.items() if yes]
    if len(met) == len(ours):
        return f"{bar.words(number)}: met"
    return f"{bar.words(number)}: " + (f"met by {', '.join(met)}" if met else "**not met**")


def times(ratio: float) -> str:
    """A ratio, to be read."""
    return f"{ratio:.2f}x" if ratio >= 0.1 else f"{ratio:.3f}x"


def table(rows: Sequence[Row], runs: Sequence[Run], targets: Sequence[str]) -> list[str]:
    """The rows that there are figures for, as lines of Markdown; nothing if there are none."""
    found = [(row, {t: c for t in targets if (c := cell(runs, row.workload, row.figure, t))}) for row in rows]
    found = [(row, cells) for row, cells in found if cells]
    if not found:
        return []
    ours = [target for target in targets if target.startswith(OURS)]
    head = ["", *targets, *(f"{name} / {PEER}" for name in ours), "the bar"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 2)}---|"]
    for row, cells in found:
        texts = [cells[target].text(row.form) if target in cells else "-" for target in targets]
        peer = cells[PEER].median if PEER in cells else 0.0
        texts += [times(cells[name].median / peer) if name in cells and peer else "-" for name in ours]
        lines.append(f"| {row.label} | {' | '.join(texts)} | {judge(row.bar, cells)} |")
    return [*lines, ""]


def _share(run: Run, name: str) -> str:
    return f"{run.machine.get(name, 0.0):.0%}"


def every_run(runs: Sequence[Run], main: Callable[[Run], str]) -> list[str]:
    """All runs with what the machine did, those that were noisy in bold.  ``main`` writes a run's chief figure."""
    lines = [
        "| round | workload | target | figure | busy | idle | waiting for the disk | steal | synced writes/s before |",
        "|---:|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for run in runs:
        steal = _share(run, "steal") if quiet(run.machine) else f"**{_share(run, 'steal')}**"
        shares = " | ".join(_share(run, name) for name in ("busy", "idle", "iowait"))
        words = f"failed: {run.failed}" if run.failed else main(run)
        lines.append(
            f"| {run.round} | {run.workload} | {run.target} | {words} | {shares} | {steal} | {run.disk:,.0f} |"
        )
    return lines


def report(
    sections: Mapping[str, Sequence[Row]],
    runs: Sequence[Run],
    targets: Sequence[str],
    facts: Mapping[str, str],
    notes: Sequence[str],
    main: Callable[[Run], str],
) -> str:
    """Facts, notes, a table for each section, and all runs, as Markdown."""
    noisy = sum(not quiet(run.machine) for run in runs)
    lines = [f"- {name}: {fact}" for name, fact in facts.items()]
    lines.append(f"- Noise: {noisy} of {len(runs)} runs had more than 5 % of the processors' time taken away. {LEGEND}")
    lines += [f"- {note}" for note in notes]
    lines += [f"- Failed: round {run.round}, {run.workload}, {run.target}: {run.failed}" for run in runs if run.failed]
    lines.append("")
    for title, rows in sections.items():
        if made := table(rows, runs, targets):
            lines += [f"### {title}", *made]
    return "\n".join([*lines, "<details><summary>All runs</summary>", "", *every_run(runs, main), "", "</details>"])


def save(
    path: Path, runs: Sequence[Run], targets: Sequence[str], facts: Mapping[str, str], notes: Sequence[str]
) -> None:
    """Keeps all of it, for :func:`load`."""
    kept = {"runs": [attrs.asdict(run) for run in runs], "targets": targets, "facts": facts, "notes": notes}
    path.write_text(json.dumps(kept, indent=1))


def load(path: Path) -> tuple[list[Run], list[str], dict[str, str], list[str]]:
    """Runs, targets, facts and notes of an earlier time."""
    kept = json.loads(path.read_text())
    return [Run(**run) for run in kept["runs"]], kept["targets"], kept["facts"], kept["notes"]


def write_into(page: Path, text: str) -> None:
    """Puts the tables between the page's markers.  Raises ValueError where they are not."""
    old = page.read_text("utf-8")
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no {BEGIN} … {END}")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")
