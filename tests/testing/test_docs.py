"""The example in ``docs/testing.md`` is a test that passes."""

from __future__ import annotations

import re
import unittest
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.testing.client import MemoryClient
from twisted_mta.testing.remote import Remote
from twisted_mta.testing.server import TestServer

PAGE = Path(__file__).parent.parent.parent / "docs" / "testing.md"


class PageTests(SynchronousTestCase):
    """What the page says."""

    def test_example(self) -> None:
        (source,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
        names: dict[str, Any] = {"__name__": "example"}
        exec(compile(source, str(PAGE), "exec"), names)
        suite = unittest.defaultTestLoader.loadTestsFromTestCase(names["OfficeHoursTests"])
        self.assertEqual(suite.countTestCases(), 3)
        result = unittest.TestResult()
        suite.run(result)
        problems = [words for _, words in (*result.errors, *result.failures)]
        self.assertEqual((result.testsRun, "\n".join(problems)), (3, ""))

    def test_names(self) -> None:
        """What the table offers is there."""
        offered, _, _ = PAGE.read_text().partition("## Survival")
        words = " ".join(line for line in offered.splitlines() if line.startswith("|"))
        called = set(re.findall(r"(?<![.\w])([a-z_]+)(?=[`(])", words))
        there = {*dir(TestServer), *dir(MemoryClient), *dir(Remote), "mails"}
        self.assertGreater(len(called), 25)
        self.assertEqual(called - there, set())

    def test_survival(self) -> None:
        """What the table of faults names: each file is there, and each test is in the file before it."""
        _, _, survival = PAGE.read_text().partition("## Survival")
        rows = [line for line in survival.splitlines() if line.startswith("| ") and "`" in line]
        self.assertGreater(len(rows), 10)
        for row in rows:
            source = ""
            for name in re.findall(r"`(tests/[\w/]+\.py|test_\w+)`", row):
                if name.endswith(".py"):
                    source = (PAGE.parent.parent / name).read_text()
                else:
                    self.assertIn(f"def {name}(", source, row)
            self.assertTrue(source, row)
