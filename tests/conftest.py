"""What holds for all tests: where they import each other from, where trial's folders go, and how hypothesis runs."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

settings.register_profile("default", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True, scope="session")
def _trial_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trial's ``mktemp`` makes its folders in the working directory; here they belong to pytest's, which tidies up."""
    base = tmp_path_factory.mktemp("trial")

    def mktemp(_case: SynchronousTestCase) -> str:
        return str(Path(tempfile.mkdtemp(dir=base)) / "temp")

    with mock.patch.object(SynchronousTestCase, "mktemp", mktemp):
        yield
