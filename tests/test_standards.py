"""The page of standards and the code say the same: nothing is cited without a row, no row points at nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "twisted_mta"
PAGE = ROOT / "docs" / "standards.md"

# The standards that an Internet provider's MTA has to answer for, whether we follow them yet or not.
EXPECTED = """
    5321 5322  3207 4954 6409 8314  1870 2920 6152 2034 3463  3464 6522 3461 3834  7208 6376 8301 8463 8601
    9989 9990 9991  7672 8461 8460  7505 7504  2033  6531 6532 6533  5965 2369 8058 9477  7628 5802 7677 9266
    3030  8617  8689 9422  5228  4865 6710 2852  5782 6647 9228
"""


class Row(NamedTuple):
    """One row of a table of the page."""

    number: str
    title: str
    status: str
    meaning: str
    places: tuple[str, ...]


def rows() -> list[Row]:
    """All rows of all tables of the page."""
    found = []
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 5 and cells[0].isdigit():
            found.append(Row(*cells[:4], tuple(re.findall(r"`([^`]+)`", cells[4]))))
    return found


def cited(path: Path) -> set[str]:
    """The numbers of the RFCs that a file, or any Python file of a folder, cites."""
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return {number for file in files for number in re.findall(r"\bRFC (\d{3,5})\b", file.read_text("utf-8"))}


class StandardsTests(SynchronousTestCase):
    """docs/standards.md."""

    def test_every_rfc_the_code_cites_has_a_row(self) -> None:
        self.assertTrue(cited(PACKAGE) >= {"5321"})
        self.assertEqual(sorted(cited(PACKAGE) - {row.number for row in rows()}), [])

    def test_every_standard_of_a_providers_mta_has_a_row(self) -> None:
        self.assertEqual(sorted(set(EXPECTED.split()) - {row.number for row in rows()}), [])

    def test_no_standard_has_two_rows(self) -> None:
        numbers = [row.number for row in rows()]
        self.assertEqual(sorted(number for number in set(numbers) if numbers.count(number) > 1), [])

    def test_every_status_is_one_of_three_and_gaps_are_explained(self) -> None:
        for row in rows():
            with self.subTest(rfc=row.number):
                self.assertIn(row.status, {"full", "part", "no"})
                self.assertTrue(row.title)
                self.assertTrue(row.meaning or row.status == "full", "what is missing has to be said")

    def test_every_claim_points_at_code_that_cites_the_rfc(self) -> None:
        for row in rows():
            with self.subTest(rfc=row.number):
                self.assertEqual(bool(row.places), row.status != "no")
                for place in row.places:
                    path = PACKAGE / place
                    self.assertTrue(path.exists(), f"{place} does not exist")
                    self.assertIn(row.number, cited(path), f"{place} does not cite RFC {row.number}")


class SecurityTests(SynchronousTestCase):
    """docs/security.md."""

    def test_every_test_it_names_exists(self) -> None:
        named = re.findall(r"`(tests/[\w/]+\.py)((?:::\w+)+)`", (ROOT / "docs" / "security.md").read_text("utf-8"))
        self.assertGreater(len(named), 10)
        for file, path in named:
            with self.subTest(test=file + path):
                source = (ROOT / file).read_text("utf-8")
                for name in path.removeprefix("::").split("::"):
                    self.assertRegex(source, rf"(?m)^\s*(def|class) {name}\b")
