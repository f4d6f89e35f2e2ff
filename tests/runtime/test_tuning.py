"""What is set once all is loaded, in a process of its own: it holds for the whole interpreter."""

from __future__ import annotations

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.runtime.tuning import YOUNG

PROGRAM = """
import gc
from twisted_mta.runtime import tuning
tuning.settle()
print(gc.isenabled(), gc.get_threshold()[0], gc.get_freeze_count() > 1000)
"""


class TuningTests(SynchronousTestCase):
    def test_what_is_loaded_stays_and_cycles_are_still_collected(self) -> None:
        said = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
        self.assertEqual(said.split(), ["True", str(YOUNG), "True"])
