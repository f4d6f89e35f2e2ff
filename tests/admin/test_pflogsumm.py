"""pflogsumm, which was written for Postfix, reads the event log."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.admin.samples import SAMPLES, deferred, delivered
from tests.peers import require
from twisted_mta.admin.logtext import TextFormat

pytestmark = pytest.mark.peer


def summary(tmp_path: Path, *events: object) -> str:
    write = TextFormat("mx1.isp.example", 123)
    log = tmp_path / "mail.log"
    log.write_text("".join(write(event) for event in events))  # type: ignore[arg-type]
    program = require("pflogsumm", "/usr/sbin/pflogsumm")
    done = subprocess.run([program, "--syslog-name=mta", "--smtpd-stats", log], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def totals(out: str) -> dict[str, int]:
    return {name: int(number) for number, name in re.findall(r"^ +(\d+) +(\w+(?: \w+)?)", out, re.MULTILINE)}


def test_counts(tmp_path: Path) -> None:
    out = summary(tmp_path, *SAMPLES, delivered(), deferred())
    found = totals(out)
    assert found["received"] == 1
    assert found["delivered"] == 3
    assert found["deferred"] == 1
    assert found["bounced"] == 1
    assert found["rejected"] == 1
    assert found["bytes received"] == 4096
    assert "remote.example" in out
    assert "anna@isp.example" in out


def test_reasons(tmp_path: Path) -> None:
    out = summary(tmp_path, *SAMPLES)
    assert re.search(r"timed out", out)
    assert re.search(r"SASL LOGIN authentication failed", out)
