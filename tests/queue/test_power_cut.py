"""250 means on disk, also when the power goes: cuts at hundreds of points of a recorded run, with torn writes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

CUTS = int(os.environ.get("MTA_POWER_CUTS", "300"))
SECONDS = 1.5
HERE = Path(__file__).parent
SCRIPT = str(HERE / "power.py")


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The library that records."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("recording what LMDB writes needs Linux and a C compiler (cc: Debian's gcc and libc6-dev)")
    library = tmp_path_factory.mktemp("recorder") / "recorder.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(HERE / "recorder.c"), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the C compiler can't make a shared library: {done.stderr[-300:]}")
    return str(library)


def record(recorder: str, folder: Path, seed: int, *sync: str) -> Path:
    """A run's record."""
    file = folder / "record"
    command = [sys.executable, SCRIPT, "record", str(folder / "queue"), str(file), str(seed), *sync]
    environment = {**os.environ, "LD_PRELOAD": recorder, "MTA_RECORD": str(file)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while not (file.exists() and b"READY\n" in file.read_bytes()) and time.monotonic() < deadline:
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            time.sleep(0.05)
        time.sleep(SECONDS)
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
    finally:
        process.kill()
        process.communicate()
    return file


def check(file: Path, folder: Path, cuts: int, seed: int) -> subprocess.CompletedProcess[str]:
    """Cut; in a process of its own, for a damaged file may end whoever maps it."""
    command = [sys.executable, SCRIPT, "check", str(file), str(folder / "after"), str(cuts), str(seed)]
    return subprocess.run(command, capture_output=True, text=True)


def seed_of_the_day() -> int:
    seed = int(os.environ.get("MTA_POWER_SEED", time.time_ns() % 1_000_000_007))
    print(f"MTA_POWER_SEED={seed}")
    return seed


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_when_the_power_goes(recorder: str, tmp_path: Path) -> None:
    seed = seed_of_the_day()
    done = check(record(recorder, tmp_path, seed), tmp_path, CUTS, seed)
    print(done.stdout[-2000:], done.stderr[-8000:], f"the record is in {tmp_path}")
    assert done.returncode == 0, f"seed {seed}"
    assert " cuts: " in done.stdout


def test_without_syncs_the_same_cuts_find_what_is_lost(recorder: str, tmp_path: Path) -> None:
    seed = seed_of_the_day()
    done = check(record(recorder, tmp_path, seed, "never"), tmp_path, 40, seed)
    print(done.stdout[-2000:], done.stderr[-2000:])
    assert done.returncode != 0, f"seed {seed}: nothing was lost although nothing was synced"
    # Either the ledger misses something, or the file can't even be mapped.
    assert "cut after step" in done.stdout or done.returncode < 0
