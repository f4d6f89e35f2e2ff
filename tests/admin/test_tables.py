"""Tables and the words for sizes and ages."""

from __future__ import annotations

import click
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.admin import tables as t


class Words(SynchronousTestCase):
    def test_size(self) -> None:
        cases = {
            0: "0 B",
            1023: "1023 B",
            1024: "1.0 KiB",
            4200: "4.1 KiB",
            102400: "100 KiB",
            1 << 20: "1.0 MiB",
            (1 << 20) - 1: "1.0 MiB",
            50 << 20: "50.0 MiB",
            3 << 40: "3.0 TiB",
        }
        self.assertEqual({n: t.size(n) for n in cases}, cases)

    def test_age(self) -> None:
        cases = {
            -5: "0s",
            0: "0s",
            59.9: "59s",
            60: "1m",
            65: "1m05s",
            599: "9m59s",
            601: "10m",
            3600: "1h",
            3660: "1h01m",
            86400: "1d",
            90000: "1d1h",
            86400 * 400: "400d",
        }
        self.assertEqual({n: t.age(n) for n in cases}, cases)

    def test_lapse(self) -> None:
        cases = {
            0.0: "0 ms",
            0.0123: "12 ms",
            0.9994: "999 ms",
            0.9996: "1.0 s",
            59.94: "59.9 s",
            59.99: "59s",
            130: "2m10s",
        }
        self.assertEqual({n: t.lapse(n) for n in cases}, cases)

    def test_many(self) -> None:
        self.assertEqual(
            [t.many(n, "delivery", "deliveries") for n in (0, 1, 2000)],
            ["0 deliveries", "1 delivery", "2,000 deliveries"],
        )

    def test_bar(self) -> None:
        self.assertEqual(
            [t.bar(x, 4) for x in (0, 0.0001, 0.5, 0.53, 1, 7)], ["    ", "▏   ", "██  ", "██▏ ", "████", "████"]
        )


class Layout(SynchronousTestCase):
    def test_aligned(self) -> None:
        columns = [t.Column(title="Name"), t.Column(title="N", align="right"), t.Column(title="Rest")]
        lines = t.table(columns, [["a", "1", "x"], ["名前", "1,000", ""]])
        self.assertEqual(
            [click.unstyle(line) for line in lines],
            [
                "Name      N  Rest",
                "a         1  x",
                "名前  1,000",
            ],
        )

    def test_flexible_columns_give_way(self) -> None:
        columns = [t.Column(title="Fixed"), t.Column(title="A", flexible=True), t.Column(title="B", flexible=True)]
        lines = [click.unstyle(x) for x in t.table(columns, [["0123456789", "a" * 30, "b" * 12]], width=40)]
        self.assertEqual(lines[1], "0123456789  aaaaaaaaaaaaa…  bbbbbbbbbbbb")

    def test_nothing_is_cut_in_a_pipe(self) -> None:
        self.assertIn("a" * 500, t.table([t.Column(flexible=True)], [["a" * 500]])[0])

    def test_no_word_of_a_peer_reaches_the_terminal(self) -> None:
        bad = "a\x1b[2J\nb\u2028\x9b"
        for line in (*t.table([t.Column()], [[bad]]), *t.facts([("Name", bad)])):
            self.assertTrue(click.unstyle(line).isprintable(), line)
            self.assertNotIn("\x1b[2J", line)

    def test_facts(self) -> None:
        lines = [click.unstyle(x) for x in t.facts([("A", "one two three four five"), ("Empty", ""), ("Bc", "x")], 26)]
        self.assertEqual(lines, ["  A   one two three four", "      five", "  Bc  x"])

    def test_a_path_is_not_broken(self) -> None:
        path = "/var/" + "x" * 50
        self.assertEqual(t.wrap(f"in {path} there", 20), ["in", path, "there"])


@given(st.text(max_size=40), st.integers(0, 30))
def test_cut_fits(text: str, width: int) -> None:
    assert t.width_of(t.cut(text, width)) <= width or t.width_of(text) <= width


@given(st.lists(st.lists(st.text(max_size=60), min_size=3, max_size=3), max_size=5), st.integers(40, 120))
def test_tables_fit(rows: list[list[str]], width: int) -> None:
    columns = [t.Column(title="A", flexible=True), t.Column(title="B", flexible=True), t.Column(flexible=True)]
    for line in t.table(columns, rows, width):
        assert t.width_of(click.unstyle(line)) <= width
        assert "\n" not in line


@given(st.text(max_size=200), st.integers(5, 60))
@example(" 00000", 5)
@example("00000  000", 5)
def test_wrap_loses_nothing(text: str, width: int) -> None:
    assert " ".join(t.wrap(text, width)) == text
