"""Writing TOML, and finding the lines of keys."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.config.toml import key_lines, write_key, write_path, write_value

NAMES = st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(-(1 << 62), 1 << 62), st.text(st.characters(codec="utf-8"), max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)


class Writing(SynchronousTestCase):
    @given(NAMES, VALUES)
    def test_reads_back(self, name: str, value: object) -> None:
        self.assertEqual(tomllib.loads(f"{write_key(name)} = {write_value(value)}"), {name: value})

    @given(st.text(st.characters(codec="utf-8")))
    def test_strings_stay_on_one_line(self, text: str) -> None:
        """So that nothing in a file can make up a line of a log."""
        self.assertNotRegex(write_value(text), "[\x00-\x1f\x7f]")

    def test_huge_numbers(self) -> None:
        self.assertTrue(write_value(10**5000).startswith("0x"))


class Lines(SynchronousTestCase):
    def test_found(self) -> None:
        text = """# a comment = 1
hostname = "a"   # b = 2

[listen.mx]
port = 25
  tls="none"
[ "x y" . z ]  # c
'quoted key' = 1
dotted.key = [
  "d = 4",
]
"""
        tomllib.loads(text)
        self.assertEqual(
            key_lines(text),
            {
                "hostname": 2,
                "listen": 4,
                "listen.mx": 4,
                "listen.mx.port": 5,
                "listen.mx.tls": 6,
                '"x y"': 7,
                '"x y".z': 7,
                '"x y".z."quoted key"': 8,
                '"x y".z.dotted': 9,
                '"x y".z.dotted.key': 9,
            },
        )

    def test_better_none_than_wrong(self) -> None:
        self.assertEqual(key_lines('a = """\nb = 1\n"""\nb = 2\n'), {})

    @given(st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, max_size=3), max_size=3))
    def test_right_where_said(self, tables: dict[str, dict[str, object]]) -> None:
        lines = []
        expected = {}
        for name, table in tables.items():
            lines.append(f"[{write_key(name)}]")
            expected[write_path((name,))] = len(lines)
            for key, value in table.items():
                lines.append(f"{write_key(key)} = {write_value(value)}")
                expected[write_path((name, key))] = len(lines)
        for path, line in key_lines("\n".join(lines)).items():
            self.assertEqual(expected[path], line)
