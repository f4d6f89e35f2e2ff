"""The short version of thousands of crashes."""

from __future__ import annotations

import os

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.survival.crash import Crash
from tests.survival.run import seed_of_the_day

pytestmark = [pytest.mark.slow, pytest.mark.timeout(9000)]

ROUNDS = int(os.environ.get("MTA_SURVIVAL_ROUNDS", "8"))


class CrashTests(SynchronousTestCase):
    def test_nothing_promised_is_lost_whichever_process_is_killed(self) -> None:
        seed = seed_of_the_day("MTA_CRASH_SEED")
        print(f"MTA_SURVIVAL_ROUNDS={ROUNDS} MTA_CRASH_SEED={seed}")
        self.assertEqual(Crash(ROUNDS, 20.0, seed).run(), [])
