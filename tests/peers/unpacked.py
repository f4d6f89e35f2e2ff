"""Programs that ``.ci/unpack`` put beside the installed ones, as their packages conflict with those of other peers."""

from __future__ import annotations

import os
from pathlib import Path

from .process import require


def unpacked(package: str, path: str, how: str = "") -> str:
    """The path of a program, ``path`` below the folder into which ``.ci/unpack`` puts ``package``; ``how`` to get it if
    by other means.

    Where it is missing the test is skipped, or fails if MTA_REQUIRE_PEERS is set, as in
    :func:`~tests.peers.process.require`.
    """
    folder = Path(os.environ.get("MTA_PEERS", "/var/cache/twisted-mta-peers")) / package
    found = folder / path
    return str(found) if found.exists() else require(package, str(found), how or f".ci/unpack {package}")
