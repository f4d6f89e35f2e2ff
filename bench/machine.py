"""What the machine itself did while something was measured: a noisy run shows here, and not in the server's figures."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import attrs

SHARES = ("busy", "idle", "iowait", "steal")
QUIET = 0.05
"""The share of the processors' time that other virtual machines may have taken in a run that counts as quiet."""


@attrs.frozen
class Times:
    """Seconds of all processors since the machine started."""

    busy: float
    idle: float
    iowait: float
    steal: float

    @classmethod
    def parse(cls, text: str, hertz: int) -> Times:
        """Of ``/proc/stat`` (proc(5)): what the first line says, in ticks."""
        user, nice, system, idle, iowait, irq, softirq, steal = (int(word) / hertz for word in text.split()[1:9])
        return cls(user + nice + system + irq + softirq, idle, iowait, steal)

    @classmethod
    def now(cls) -> Times:
        """Up to this moment."""
        return cls.parse(Path("/proc/stat").read_text(), os.sysconf("SC_CLK_TCK"))

    def since(self, earlier: Times) -> dict[str, float]:
        """What part of all time since then each was, from 0 to 1."""
        spent = {name: getattr(self, name) - getattr(earlier, name) for name in SHARES}
        whole = sum(spent.values())
        return {name: seconds / whole if whole else 0.0 for name, seconds in spent.items()}


def quiet(machine: Mapping[str, float]) -> bool:
    """Whether a run had the machine to itself, as far as the kernel knows."""
    return machine.get("steal", 0.0) <= QUIET


def synced_writes(folder: Path, seconds: float = 0.3) -> float:
    """How many 4 KiB writes with fdatasync, one after the other, the disk takes a second just now."""
    path = folder / "floor"
    block = os.urandom(4096)
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    try:
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            os.write(descriptor, block)
            os.fdatasync(descriptor)
            count += 1
        return count / (time.perf_counter() - began)
    finally:
        os.close(descriptor)
        path.unlink()


def filesystem(folder: Path) -> str:
    """The type of the filesystem that a folder is on."""
    done = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def facts(folder: Path) -> dict[str, str]:
    """What this machine is."""
    floor = statistics.median(synced_writes(folder, 1.0) for _ in range(3))
    return {
        "Machine": f"{os.cpu_count()} cores, Linux {platform.release()}",
        "Disk": f"{filesystem(folder)}, {floor:,.0f} writes of 4 KiB a second, each synced before the next",
    }
