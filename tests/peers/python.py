"""A Python that every user may run, with this tree and what it depends on: ours may lie where only root can read."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import unittest
from pathlib import Path

from tests.conftest import ROOT

from .process import PeerFailed, peer_dir

TWISTD = "from twisted.scripts.twistd import run; run()"


def public_python(folder: Path | None = None) -> tuple[str, dict[str, str]]:
    """The interpreter, and what its environment needs beside ours; made in ``folder``, else in a new one.

    Skips the test (or fails it, with MTA_REQUIRE_PEERS) where no Python of our version is for everybody.
    """
    program = _system_python()
    if not program:
        version = ".".join(map(str, sys.version_info[:2]))
        words = f"no Python {version} that another user may run: apt-get install python{version}"
        if os.environ.get("MTA_REQUIRE_PEERS", "") not in {"", "0"}:
            raise PeerFailed(words)
        raise unittest.SkipTest(words)
    folder = folder if folder is not None else peer_dir("python")
    packages = folder / "packages"
    for name in _closure("twisted-mta"):
        _copy(name, packages)
    for part in ("twisted_mta", "twisted/plugins"):
        shutil.copytree(
            Path(ROOT) / part, packages / part, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    return program, {"PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"}


@functools.cache
def _system_python() -> str:
    version = "{}.{}".format(*sys.version_info[:2])
    for name in (f"/usr/bin/python{version}", f"/usr/local/bin/python{version}", "/usr/bin/python3"):
        found = subprocess.run(
            [name, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
            user="nobody",
        ) if os.path.exists(name) else None  # fmt: skip
        if found is not None and found.stdout.strip() == version:
            return name
    return ""


def _closure(name: str) -> set[str]:
    """The distributions that one needs, without its extras and itself."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for line in importlib.metadata.requires(waiting.pop()) or ():
            requirement, _, marker = line.partition(";")
            needed = re.split(r"[\s\[<>=!~(]", requirement.strip())[0]
            if "extra" in marker or needed in found:
                continue
            try:
                importlib.metadata.distribution(needed)
            except importlib.metadata.PackageNotFoundError:
                continue  # for another system or version
            found.add(needed)
            waiting.append(needed)
    return found


def _copy(name: str, packages: Path) -> None:
    base = Path(sysconfig.get_path("purelib"))
    for file in importlib.metadata.files(name) or ():
        source = Path(str(file.locate()))
        if source.is_relative_to(base) and source.is_file():
            target = packages / source.relative_to(base)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
