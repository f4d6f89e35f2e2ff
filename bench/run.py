#!/usr/bin/env python3
"""Measure twisted-mta against Postfix, configured alike, on this machine, in one run.

    make bench                        # everything; about six minutes; writes docs/performance.md
    python bench/run.py --quick       # a fifth of the messages, one run, no file written

The targets take turns, another one first in each run, and what counts is the median of each target's runs and the
ratio between them: rates of another hour or machine say nothing.  Measuring Postfix needs root; without it, or
without Postfix, only ours is measured, and the report says so.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import SMTP_SINK, SMTP_SOURCE, Group, SilentHop, Sink, allow_many_files, idle_sessions, load
from report import Figures, report, write_into
from targets import Ours, OursInProcesses, Postfix, Target

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
SESSIONS, LENGTH = 50, 4096


def say(words: str) -> None:
    """One line of progress."""
    print(f"{time.strftime('%H:%M:%S')}  {words}", file=sys.stderr, flush=True)


def accept_only(target: Target, messages: int, *, reuse: bool) -> dict[str, float]:
    """Everything is accepted and queued, nothing leaves: the next hop never greets."""
    hop = SilentHop()
    try:
        group = target.start(hop.port)
        load(target.port, group, None, messages=200, sessions=10, length=LENGTH, reuse=True)  # warm
        return load(target.port, group, None, messages=messages, sessions=SESSIONS, length=LENGTH, reuse=reuse)
    finally:
        target.stop()
        hop.close()


def relay(target: Target, messages: int, *, reuse: bool) -> dict[str, float]:
    """Everything is accepted, queued and relayed to a sink at the same time."""
    sink = Sink()
    try:
        group = target.start(sink.port)
        load(target.port, group, sink, messages=200, sessions=10, length=LENGTH, reuse=True)  # warm
        return load(target.port, group, sink, messages=messages, sessions=SESSIONS, length=LENGTH, reuse=reuse)
    finally:
        target.stop()
        sink.close()


def idle(target: Target) -> dict[str, float]:
    """Memory of sessions that have said EHLO and are silent."""
    sink = Sink()
    try:
        group = target.start(sink.port)
        load(target.port, group, sink, messages=5, sessions=1, length=LENGTH, reuse=True)  # load what loads late
        base, _ = _settled(group)
        first = idle_sessions(target.port, target.first_sessions)  # these fill what the heap had to spare
        before, _ = _settled(group)
        sessions = idle_sessions(target.port, target.idle_sessions)
        after, processes = _settled(group)
        for session in first + sessions:
            session.close()
        return {"per_session": (after - before) / target.idle_sessions, "base": base / 1024, "processes": processes}
    finally:
        target.stop()
        sink.close()


def _settled(group: Group) -> tuple[float, int]:
    """Memory once it has stopped moving."""
    last = group.memory()
    for _ in range(10):
        time.sleep(1)
        now = group.memory()
        if abs(now[0] - last[0]) < 64:
            return now
        last = now
    return last


def measure(targets: list[Target], runs: int, messages: int, words: str = "") -> Figures:
    """All workloads of all targets, or those whose name has ``words`` in it, interleaved."""
    workloads = {
        "accept, sessions reused": lambda target: accept_only(target, messages, reuse=True),
        "accept, a session each": lambda target: accept_only(target, messages, reuse=False),
        "relay, sessions reused": lambda target: relay(target, messages, reuse=True),
        "relay, a session each": lambda target: relay(target, messages, reuse=False),
        "idle sessions": idle,
    }
    figures: Figures = {}
    for run in range(runs):
        for name, workload in workloads.items():
            if words not in name:
                continue
            for target in targets[run % len(targets) :] + targets[: run % len(targets)]:
                result = workload(target)
                said = ", ".join(f"{key} {value:.4g}" for key, value in result.items())
                say(f"run {run + 1}/{runs}  {name}  {target.name}: {said}")
                for key, value in result.items():
                    figures.setdefault((name, key), {}).setdefault(target.name, []).append(value)
    return figures


def disk_floor(base: Path, seconds: float = 1.0) -> float:
    """How many 4 KiB writes with fdatasync, one after the other, the disk takes a second."""
    path = base / "floor"
    block, rates = os.urandom(4096), []
    for _ in range(3):
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            os.write(descriptor, block)
            os.fdatasync(descriptor)
            count += 1
        rates.append(count / (time.perf_counter() - began))
        os.close(descriptor)
    path.unlink()
    return statistics.median(rates)


def filesystem(base: Path) -> str:
    """The type of the filesystem that the queues are on."""
    done = subprocess.run(["stat", "-f", "-c", "%T", base], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each target, the median counts [5]")
    parser.add_argument("--messages", type=int, default=5000, help="messages of each workload [5000]")
    parser.add_argument("--quick", action="store_true", help="one run of 1000 messages; writes no file")
    parser.add_argument(
        "--base", type=Path, default=Path("/var/tmp"), help="where the queues go: a real disk [/var/tmp]"
    )
    parser.add_argument("--no-write", action="store_true", help=f"do not touch {PAGE.relative_to(ROOT)}")
    parser.add_argument("--only", default="", help="one target alone, by its name in the table")
    parser.add_argument("--workload", default="", help='only workloads with these words, as "accept"; writes no file')
    arguments = parser.parse_args()
    if arguments.workload:
        arguments.no_write = True
    if arguments.quick:
        arguments.runs, arguments.messages, arguments.no_write = 1, 1000, True
    for program in (SMTP_SOURCE, SMTP_SINK):
        if not os.path.exists(program):
            sys.exit(f"{program} generates the load and takes the mail: apt-get install postfix")
    allow_many_files()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    base = Path(tempfile.mkdtemp(prefix="mta-bench-", dir=arguments.base))
    base.chmod(0o755)
    kind = filesystem(base)
    if kind in {"tmpfs", "ramfs"}:
        sys.exit(f"{base} is on {kind}, where a sync costs nothing: choose a disk with --base")
    notes = []
    try:
        targets: list[Target] = []
        for target in (Postfix(base), Ours(base), OursInProcesses(base)):
            if arguments.only not in {"", target.name}:
                continue
            if why := target.why_not():
                notes.append(f"Not measured: {why}.")
                say(notes[-1])
            else:
                targets.append(target)
        floor = disk_floor(base)
        say(f"{floor:.0f} synced writes a second, one after the other, on {kind}")
        figures = measure(targets, arguments.runs, arguments.messages, arguments.workload)
        facts = {
            "Machine": f"{os.cpu_count()} cores, Linux {platform.release()}",
            "Disk": f"{kind}, {floor:.0f} writes of 4 KiB a second, each synced before the next",
            "Versions": "; ".join(target.version() for target in targets),
            "Runs": f"{arguments.runs}, interleaved; medians (least to most)",
            "Load": f"{arguments.messages} messages of {LENGTH} octets over {SESSIONS} sessions",
            "Day": time.strftime("%Y-%m-%d"),
        }
        text = report(figures, [target.name for target in targets], facts, notes)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(text)
    if not arguments.no_write:
        write_into(PAGE, text)
        say(f"written into {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
