#!/usr/bin/env python3
"""Measure twisted-mta against the peers that are on this machine, configured alike, in one run.

    make bench                               # everything, 20 minutes at most; writes docs/performance.md
    python bench/run.py --peers install      # first fetch Exim, OpenSMTPD and Haraka (Postfix: apt-get install postfix)
    python bench/run.py --quick --workload "relay, 64" --only postfix --only twisted-mta

The targets take turns, another one first in each round, and what counts is the median of each target's runs and the
ratio between them: rates of another hour or machine say nothing.  Peers other than Postfix set a bar only in "100
recipients", and are measured once in the other workloads.  Peers need root; one that can't be measured is named in the
report.  docs/performance.md says what is measured, and how to read it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import machine
from bench.load import SMTP_SINK, SMTP_SOURCE, allow_many_files
from bench.peers import TARGETS, install
from bench.report import OURS, PEER, Run, load, report, save, write_into
from bench.rows import SECTIONS, chief
from bench.targets import Target
from bench.workloads import NotMeasuredError, Workload, workloads

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
MINUTES = 20.0


def say(words: str) -> None:
    """One line of progress."""
    print(f"{time.strftime('%H:%M:%S')}  {words}", file=sys.stderr, flush=True)


def measured(number: int, workload: Workload, target: Target) -> Run | str:
    """One target in one workload; a text if it can't be measured in it."""
    disk = machine.synced_writes(target.base)
    before, began, failed = machine.Times.now(), time.monotonic(), ""
    figures: dict[str, float] = {}
    try:
        figures = workload.measure(target)
    except NotMeasuredError as why:
        return str(why)
    except Exception as error:  # one peer that fails is no reason to lose the other figures
        failed = " ".join(f"{type(error).__name__}: {error}".split())
    took, shares = time.monotonic() - began, machine.Times.now().since(before)
    if set(machine.SHARES) <= figures.keys():
        shares = {name: figures.pop(name) for name in machine.SHARES}
    run = Run(number, workload.name, target.name, figures, shares, disk, took, failed)
    said = failed or ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
    noise = "" if machine.quiet(shares) else "  NOISY"
    part = " ".join(f"{name} {share:.0%}" for name, share in shares.items())
    say(f"round {number}  {workload.name}  {target.name}: {said}  [{took:.0f} s, {part}, disk {disk:,.0f}/s]{noise}")
    return run


def due(workload: Workload, target: Target, number: int) -> bool:
    """Whether a target is measured in a workload in a round, the first of which is 1."""
    often = workload.all_rounds or target.name == PEER or target.name.startswith(OURS)
    return number <= workload.rounds and (number == 1 or often)


def measure(
    targets: list[Target],
    chosen: list[Workload],
    rounds: int,
    seconds: float,
    keep: Callable[[list[Run], list[str]], None] = lambda runs, notes: None,
) -> tuple[list[Run], list[str]]:
    """All rounds that fit into the time, interleaved: the runs, and what there is to say about them.

    ``keep`` is given both after each workload, lest an end from outside loses what was measured.
    """
    runs: list[Run] = []
    notes: list[str] = []
    end = time.monotonic() + seconds
    for number in range(1, rounds + 1):
        left_out = []
        for workload in chosen:
            todo = [target for target in _turned(targets, number) if due(workload, target, number)]
            if number > 1 and time.monotonic() + sum(_last(runs, workload.name, one.name) for one in todo) > end:
                left_out.append(workload.name)
                continue
            for target in todo:
                done = measured(number, workload, target)
                if isinstance(done, Run):
                    runs.append(done)
                elif number == 1:
                    notes.append(f'Not measured: {target.name} in "{workload.name}": {done}.')
            keep(runs, notes)
        if left_out:
            notes.append(f"Left out of round {number} for want of time: {', '.join(left_out)}.")
            say(notes[-1])
    return runs, notes


def _turned(targets: list[Target], number: int) -> list[Target]:
    at = (number - 1) % len(targets)
    return targets[at:] + targets[:at]


def _last(runs: list[Run], workload: str, target: str) -> float:
    """How long a target took in a workload the last time."""
    return next((r.seconds for r in reversed(runs) if (r.workload, r.target) == (workload, target)), 0.0)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="rounds at most; the median counts [3]")
    parser.add_argument("--messages", type=int, default=5000, help="messages of each load at most [5000]")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="after the first round begin nothing that would end later [20]"
    )
    parser.add_argument("--quick", action="store_true", help="one round of 1000 messages; writes no file")
    parser.add_argument("--base", type=Path, default=Path("/var/tmp"), help="where queues go: a real disk [/var/tmp]")
    parser.add_argument("--no-write", action="store_true", help=f"do not touch {PAGE.relative_to(ROOT)}")
    parser.add_argument("--only", action="append", default=[], help="one target, by its name in the table; repeatable")
    parser.add_argument("--workload", default="", help='only workloads with these words, as "accept"; writes no file')
    parser.add_argument("--peers", choices=["install"], help="fetch the peers that are missing, and do nothing else")
    parser.add_argument("--json", type=Path, help="keep all figures in this file")
    parser.add_argument("--table", type=Path, help="measure nothing: write the tables of such a file")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.runs, arguments.messages = 1, 1000
    if arguments.quick or arguments.workload or arguments.only:
        arguments.no_write = True
    return arguments


def chosen_targets(base: Path, only: list[str]) -> tuple[list[Target], list[str]]:
    """The targets that can be measured, and what is to be said of the others.  Ends the program for a wrong name."""
    every = [kind(base) for kind in TARGETS]
    names = {name for target in every for name in (target.name, target.slug)}
    if unknown := set(only) - names:
        sys.exit(f"no such target: {', '.join(unknown)}; there are: {'; '.join(target.name for target in every)}")
    targets, notes = [], []
    for target in every:
        if only and not {target.name, target.slug} & set(only):
            continue
        if why := target.why_not():
            notes.append(f"Not measured: {target.name} {why}.")
            say(notes[-1])
        else:
            targets.append(target)
    return targets, notes


def main() -> None:
    """The command."""
    arguments = parse()
    if arguments.peers == "install":
        install()
        return
    if arguments.table:
        publish(arguments, *load(arguments.table))
        return
    for program in (SMTP_SOURCE, SMTP_SINK):
        if not os.path.exists(program):
            sys.exit(f"{program} generates the load and takes the mail: apt-get install postfix")
    allow_many_files()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    base = Path(tempfile.mkdtemp(prefix="mta-bench-", dir=arguments.base))
    base.chmod(0o755)
    kind = machine.filesystem(base)
    try:
        if kind in {"tmpfs", "ramfs"}:
            sys.exit(f"{base} is on {kind}, where a sync costs nothing: choose a disk with --base")
        targets, notes = chosen_targets(base, arguments.only)
        chosen = [workload for workload in workloads(arguments.messages) if arguments.workload in workload.name]
        facts = {
            **machine.facts(base),
            "Versions": "; ".join(dict.fromkeys(target.version() for target in targets)),
            "Tree": _tree(),
        }
        say("; ".join(f"{name}: {fact}" for name, fact in facts.items()))
        names = [target.name for target in targets]

        def keep(runs: list[Run], more: list[str]) -> None:
            if arguments.json:
                save(arguments.json, runs, names, facts, notes + more)

        runs, more = measure(targets, chosen, arguments.runs, arguments.minutes * 60, keep)
        facts["Runs"] = f"{max((run.round for run in runs), default=0)} rounds, interleaved; medians (least to most)"
        facts["Day"] = time.strftime("%Y-%m-%d")
    finally:
        shutil.rmtree(base, ignore_errors=True)
    keep(runs, more)
    publish(arguments, runs, names, facts, notes + more)


def _tree() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "no git"


def publish(
    arguments: argparse.Namespace, runs: list[Run], names: list[str], facts: dict[str, str], notes: list[str]
) -> None:
    """Prints the tables, and writes them into the page unless that is not wanted."""
    text = report(SECTIONS, runs, names, facts, notes, chief)
    print(text)
    if not arguments.no_write:
        write_into(PAGE, text)
        say(f"written into {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
