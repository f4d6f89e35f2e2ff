"""``docs/rfc5321.md`` and the tests say the same."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from twisted.trial.unittest import SynchronousTestCase

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAGE = ROOT / "docs" / "rfc5321.md"


class Row(NamedTuple):
    """One rule: its section, its words, and what the last column says."""

    section: str
    rule: str
    tests: str


def rows() -> list[Row]:
    """The rules of the page."""
    cells = [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in PAGE.read_text().splitlines()]
    return [Row(*row) for row in cells if len(row) == 3 and row[0][:1].isdigit()]


def cases_in(path: Path) -> Iterator[tuple[str, str, str]]:
    """Class, name and docstring of the tests in a file."""
    for part in ast.parse(path.read_text("utf-8")).body:
        for one in part.body if isinstance(part, ast.ClassDef) else ():
            if isinstance(one, ast.FunctionDef) and one.name.startswith("test_"):
                assert isinstance(part, ast.ClassDef)
                yield part.name, one.name, ast.get_docstring(one) or ""


def rule_tests() -> dict[str, str]:
    """The tests of this folder by name, each with the section that it cites."""
    found: dict[str, str] = {}
    for path in sorted(HERE.glob("test_*.py")):
        if path.name not in (Path(__file__).name, "test_model.py"):
            for _, name, words in cases_in(path):
                assert name not in found, f"two tests are called {name}"
                match = re.match(r"§([\d.]+\d)", words)
                assert match is not None, f"{name} cites no section"
                found[name] = match[1]
    return found


class PageTests(SynchronousTestCase):
    """The page."""

    def test_every_test_it_names_exists(self) -> None:
        known = rule_tests()
        self.assertGreater(len(rows()), 90)
        for row in rows():
            named = re.findall(r"`([^`]+)`", row.tests)
            self.assertTrue(row.tests, row.rule)
            for name in named:
                if "::" not in name:
                    self.assertIn(name, known, row.rule)
                    continue
                file, case, test = name.split("::")
                self.assertIn((case, test), [one[:2] for one in cases_in(ROOT / file)], row.rule)

    def test_every_test_is_named_with_its_section(self) -> None:
        listed = {(name, row.section) for row in rows() for name in re.findall(r"`(test_\w+)`", row.tests)}
        for name, section in rule_tests().items():
            self.assertIn((name, section), {(known, part) for known, part in listed if known == name}, name)

    def test_a_rule_without_a_test_says_why(self) -> None:
        reasons = {row.tests for row in rows() if "`" not in row.tests}
        self.assertEqual(
            reasons,
            {
                "For mail programs",
                "We send neither",
                "We are no gateway",
                "There are no lists, only aliases (§3.9.1), which keep it",
            },
        )
