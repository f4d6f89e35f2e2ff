"""What docs/operating.md tells an operator to type, and what it says of replies, is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.admin.cli import cli
from twisted_mta.config import schema

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "operating.md").read_text("utf-8")
SOURCES = "\n".join(path.read_text("utf-8") for path in (ROOT / "twisted_mta").rglob("*.py"))


def commands() -> list[str]:
    """Every ``mta`` command of the page, in its blocks and between its words."""
    blocks = re.findall(r"(?ms)^```\n(.*?)^```$", TEXT)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`(mta [^`\n]*)`", TEXT)
    return sorted({line for line in lines if line.startswith("mta ")})


class Page(SynchronousTestCase):
    def test_commands(self) -> None:
        self.assertGreater(len(commands()), 25)
        for line in commands():
            with self.subTest(line=line):
                words = shlex.split(line)[1:]
                context = click.Context(cli, info_name="mta")
                command: click.Command = cli
                while isinstance(command, click.Group) and words:
                    name = words.pop(0)
                    found = command.get_command(context, name)
                    assert found is not None, f"{line}: there is no {name}"
                    command, context = found, click.Context(found, parent=context, info_name=name)
                _, _, order = command.make_parser(context).parse_args(args=words)
                self.assertIsNotNone(order)

    def test_replies(self) -> None:
        """Each reply that the table says is ours stands in the program."""
        rows = re.findall(r"(?m)^\| ([45]\d\d [^|]*?) \| us", TEXT)
        self.assertGreater(len(rows), 15)
        for row in rows:
            for code, enhanced in re.findall(r"(\d{3}) (\d\.\d+\.\d+)", row):
                self.assertRegex(SOURCES, rf'\b{code}, "{re.escape(enhanced)}"', row)

    def test_settings(self) -> None:
        """Each dotted name of a setting is one."""
        headings = {heading.partition(".")[0]: table for heading, table in schema.tables().items() if heading}
        names = re.findall(r"`([a-z]+)\.([a-z_]+)(?:`| =)", TEXT)
        self.assertGreater(len(names), 15)
        for heading, option in names:
            self.assertIn(option, {field.name for field in schema.options(headings[heading])}, heading)

    def test_links(self) -> None:
        for target in re.findall(r"\]\(([^)#:]+)[^)]*\)", TEXT):
            self.assertTrue((ROOT / "docs" / target).exists(), target)
