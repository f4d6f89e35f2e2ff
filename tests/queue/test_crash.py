"""250 means on disk: a process is killed at random moments, and what it acknowledged is there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROUNDS = int(os.environ.get("MTA_CRASH_ROUNDS", "200"))


@pytest.mark.slow
@pytest.mark.timeout(60 + ROUNDS)
def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    seed = int(os.environ.get("MTA_CRASH_SEED", time.time_ns() % 1_000_000_007))
    print(f"MTA_CRASH_SEED={seed}")
    script = str(Path(__file__).with_name("crasher.py"))
    done = subprocess.run(
        [sys.executable, script, str(tmp_path / "queue"), str(ROUNDS), str(seed)], capture_output=True, text=True
    )
    print(done.stdout[-2000:])
    print(done.stderr[-20000:])
    assert done.returncode == 0, f"seed {seed}"
    assert done.stdout.startswith(f"{ROUNDS} rounds: ")
