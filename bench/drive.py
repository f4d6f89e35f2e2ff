"""Starting :mod:`bench.clients`, and what its processes say put together."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs

from bench.clients import Job

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = 2
"""Of clients that load a server: so that no single one is what limits it."""


def percentile(values: Sequence[float], share: float) -> float:
    """The least of the values that ``share`` of all do not exceed; 0 if there is none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


@attrs.frozen
class Outcome:
    """What became of a load: counts of sessions by outcome, and seconds."""

    done: int
    refused: int
    lost: int
    late: int
    latencies: list[float]
    refusals: list[float]
    times: list[float]
    seconds: float
    cpu: float

    @property
    def accepted(self) -> int:
        """Messages that had their 250."""
        return len(self.latencies)

    @property
    def rate(self) -> float:
        """Messages accepted a second."""
        return self.accepted / self.seconds if self.seconds > 0 else 0.0

    def rate_within(self, seconds: float) -> float:
        """Messages accepted a second in the first so many seconds."""
        return sum(1 for at in self.times if at <= seconds) / seconds

    @classmethod
    def merge(cls, reports: Sequence[dict[str, Any]]) -> Outcome:
        """Of several processes: from the first beginning to the last 250."""
        counts = {name: sum(one["outcomes"][name] for one in reports) for name in ("done", "refused", "lost", "late")}
        return cls(
            **counts,
            latencies=[value for one in reports for value in one["latencies"]],
            refusals=[value for one in reports for value in one["refusals"]],
            times=[value for one in reports for value in one["times"]],
            seconds=max(one["last"] for one in reports) - min(one["began"] for one in reports),
            cpu=sum(one["cpu"] for one in reports),
        )


def _start(job: Job) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "bench.clients", json.dumps(attrs.asdict(job))]
    return subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class Running:
    """A load or flood under way, shared out among processes."""

    def __init__(self, job: Job, processes: int = PROCESSES) -> None:
        share = attrs.evolve(
            job,
            sessions=max(1, job.sessions // processes),
            messages=job.messages // processes,
            rate=job.rate / processes,
        )
        self._processes = [
            _start(attrs.evolve(share, offset=job.offset + number * job.sources)) for number in range(processes)
        ]

    @property
    def under_way(self) -> bool:
        """Whether one is still at it."""
        return any(process.poll() is None for process in self._processes)

    def outcome(self, timeout: float) -> Outcome:
        """What became of it, once all have ended.  Raises RuntimeError for one that failed."""
        reports = []
        try:
            for process in self._processes:
                out, _ = process.communicate(timeout=timeout)
                if process.returncode:
                    raise RuntimeError(f"the clients ended with status {process.returncode}")
                reports.append(json.loads(out))
        finally:
            for process in self._processes:
                process.kill()
        return Outcome.merge(reports)


class Held:
    """Sessions that are held open, or slow, until :meth:`close`."""

    def __init__(self, job: Job) -> None:
        self._process = _start(job)
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            raise RuntimeError("the clients that should hold sessions open have ended")
        self.opened: int = json.loads(said)["open"]
        if self.opened < job.sessions:
            self.close()
            raise RuntimeError(f"only {self.opened} of {job.sessions} sessions could be opened: {said.strip()}")

    def close(self) -> int:
        """Ends them; says how many were still open."""
        out, _ = self._process.communicate("\n", timeout=60)
        return int(json.loads(out)["open"]) if out else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
