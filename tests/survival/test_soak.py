"""The short version of the soak: the program, the traffic and the faults are those of an hour."""

from __future__ import annotations

import os

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.survival.run import seed_of_the_day
from tests.survival.soak import Soak

pytestmark = [pytest.mark.slow, pytest.mark.timeout(9000)]

SECONDS = float(os.environ.get("MTA_SOAK_SECONDS", "40"))
RATE = float(os.environ.get("MTA_SOAK_RATE", "8"))


class SoakTests(SynchronousTestCase):
    def test_a_month_in_a_minute(self) -> None:
        seed = seed_of_the_day("MTA_SOAK_SEED")
        print(f"MTA_SOAK_SECONDS={SECONDS:g} MTA_SOAK_RATE={RATE:g} MTA_SOAK_SEED={seed}")
        self.assertEqual(Soak(SECONDS, RATE, seed).run(), [])
