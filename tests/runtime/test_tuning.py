"""What is set once all is loaded, in a process of its own: it holds for the whole interpreter."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from twisted_mta.runtime.tuning import HEAPS, YOUNG

PROGRAM = """
import gc
from twisted_mta.runtime import tuning
tuning.settle()
print(gc.isenabled(), gc.get_threshold()[0], gc.get_freeze_count() > 1000)
"""

HEAPS_PROGRAM = """
import ctypes, threading
from twisted_mta.runtime import tuning
tuning.settle()
barrier = threading.Barrier(12)
def hold():
    mine = bytearray(100_000)
    barrier.wait()
threads = [threading.Thread(target=hold) for _ in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


class TuningTests(SynchronousTestCase):
    def test_what_is_loaded_stays_and_cycles_are_still_collected(self) -> None:
        said = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
        self.assertEqual(said.split(), ["True", str(YOUNG), "True"])

    def heaps(self, **environment: str) -> int:
        """How many heaps malloc has for twelve threads."""
        said = subprocess.run(
            [sys.executable, "-c", HEAPS_PROGRAM],
            capture_output=True,
            text=True,
            check=True,
            env={**{key: value for key, value in os.environ.items() if key != "MALLOC_ARENA_MAX"}, **environment},
        ).stdout
        return said.count("<heap nr=")

    def test_threads_share_heaps(self) -> None:
        if platform.libc_ver()[0] != "glibc":
            raise SkipTest("malloc_info is glibc's")
        self.assertEqual(self.heaps(), HEAPS)

    def test_the_operator_knows_better(self) -> None:
        if platform.libc_ver()[0] != "glibc":
            raise SkipTest("malloc_info is glibc's")
        self.assertEqual(self.heaps(MALLOC_ARENA_MAX="4"), 4)
