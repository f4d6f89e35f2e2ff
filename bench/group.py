"""All processes of one server: their processor time and their memory, from outside."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path


class Group:
    """All processes of one target.  In a cgroup of their own where that can be had, else found by their session."""

    def __init__(self, name: str) -> None:
        self.path: Path | None = None
        for root in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")):
            if (root / "cgroup.procs").exists():
                with contextlib.suppress(OSError):
                    path = root / f"mtabench-{name}-{os.getpid()}"
                    path.mkdir(exist_ok=True)
                    if (path / "cpu.stat").exists():
                        self.path = path
                        break
        self._started: list[subprocess.Popen[bytes]] = []

    def spawn(self, argv: list[str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
        """Starts a process of the target: a helper, or the target itself."""

        def enter() -> None:
            if self.path is not None:
                (self.path / "cgroup.procs").write_text("0")

        with log.open("ab") as output:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                preexec_fn=enter,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def pids(self) -> list[int]:
        """The processes that are alive."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]
            return []
        sessions = {process.pid for process in self._started}
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if os.getsid(int(entry.name)) in sessions and _stat(int(entry.name))[0] != "Z":
                        found.append(int(entry.name))
        return found

    def cpu(self) -> float:
        """Seconds of processor time so far, of those that have exited too."""
        if self.path is not None:
            return cgroup_seconds((self.path / "cpu.stat").read_text())
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                ticks += sum(int(field) for field in _stat(pid)[11:15])  # own and waited-for children's
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> tuple[float, int]:
        """KiB of memory in use (PSS: shared pages are divided among those who share), and how many processes."""
        total, count = 0, 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                total += proportional(Path(f"/proc/{pid}/smaps_rollup").read_text())
                count += 1
        return total, count

    def end(self, grace: float = 15.0) -> None:
        """SIGTERM to what was started, the last one first; what is left is killed, one process at a time."""
        for process in reversed(self._started):
            if process.poll() is None:
                process.terminate()
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                for pid in self.pids():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            if self._gone(grace):
                break
        for process in self._started:
            process.wait()
        self._started.clear()
        for _ in range(20):
            if self.path is None:
                return
            try:
                self.path.rmdir()
                return
            except OSError:
                time.sleep(0.1)

    def _gone(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for process in self._started:
                process.poll()
            if not self.pids():
                return True
            time.sleep(0.05)
        return False


def cgroup_seconds(text: str) -> float:
    """The processor time in a cgroup's ``cpu.stat``, in seconds."""
    return int(dict(line.split() for line in text.splitlines())["usage_usec"]) / 1e6


def proportional(text: str) -> int:
    """The PSS in a process's ``smaps_rollup``, in KiB."""
    found = re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)
    return int(found.group(1)) if found else 0


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
