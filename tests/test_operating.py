"""What the operator's pages tell to type, and what they say of replies, settings, metrics and events, is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.admin.cli import cli
from twisted_mta.admin.metrics import ALARMS, Metrics
from twisted_mta.config import schema

ROOT = Path(__file__).resolve().parents[1]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text("utf-8") for name in ("operating", "monitoring", "postfix")}
RULES = (ROOT / "conf" / "prometheus" / "twisted-mta.rules.yml").read_text("utf-8")
SOURCES = "\n".join(path.read_text("utf-8") for path in (ROOT / "twisted_mta").rglob("*.py"))


def commands() -> list[str]:
    """Every ``mta`` command of the pages, in their blocks and between their words."""
    lines = []
    for text in PAGES.values():
        blocks = re.findall(r"(?ms)^ *```\n(.*?)^ *```$", text)
        lines += [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
        lines += re.findall(r"`(mta [^`\n]*)`", text)
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
        rows = re.findall(r"(?m)^\| ([45]\d\d [^|]*?) \| us", PAGES["operating"])
        self.assertGreater(len(rows), 15)
        for row in rows:
            for code, enhanced in re.findall(r"(\d{3}) (\d\.\d+\.\d+)", row):
                self.assertRegex(SOURCES, rf'\b{code}, "{re.escape(enhanced)}"', row)

    def test_settings(self) -> None:
        """Each dotted name of a setting is one."""
        headings = {heading.partition(".")[0]: table for heading, table in schema.tables().items() if heading}
        names = re.findall(r"`([a-z]+)\.([a-z_]+)(?:`| =)", "\n".join(PAGES.values()))
        self.assertGreater(len(names), 60)
        for heading, option in names:
            self.assertIn(option, {field.name for field in schema.options(headings[heading])}, heading)

    def test_links(self) -> None:
        """Each page that a link names is there, and each heading."""
        for name, text in PAGES.items():
            for target, heading in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", text):
                path = ROOT / "docs" / (target or f"{name}.md")
                self.assertTrue(path.exists(), f"{name}: {target}")
                if heading:
                    titles = re.findall(r"(?m)^#+ (.*)$", path.read_text("utf-8"))
                    anchors = {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}
                    self.assertIn(heading, anchors, f"{name}: {target}")

    def test_metrics(self) -> None:
        """Each metric of the pages and of the alerts is one, and has the labels that are asked for."""
        page = (ROOT / "docs" / "metrics.md").read_text("utf-8")  # which a test of its own compares with the program
        known = dict(re.findall(r"(?m)^\| `(\w+)` \| \w+ \| ([^|]*) \|", page))
        found = re.findall(r"\b(mta_[a-z_]+)(?:\{([^}]*)\})?", RULES + "\n".join(PAGES.values()))
        self.assertGreater(len(found), 30)
        for name, selected in found:
            family = name if name in known else re.sub(r"_(bucket|count)$", "", name)
            self.assertIn(family, known)
            for label in re.findall(r"(\w+)=", selected):
                self.assertIn(f"`{label}`", known[family], name)

    def test_events(self) -> None:
        """Each event of the service that an alert waits for is one, and shown before the first of them."""
        waited = {
            what for some in re.findall(r'what=~?"([^"]*)"', RULES + PAGES["monitoring"]) for what in some.split("|")
        }
        self.assertTrue(waited)
        self.assertLessEqual(waited, set(ALARMS))
        told = set(re.findall(r'(?:\b_event\(|\bwhat=)"([a-z-]+)"', SOURCES)) - {"name"}
        self.assertLessEqual(set(ALARMS), told)
        for what in told:
            self.assertIn(f"`{what}`", PAGES["operating"])
        shown = Metrics().registry.get_sample_value("mta_service_events_total", {"what": "store-failed"})
        self.assertEqual(shown, 0)

    def test_alerts(self) -> None:
        """The page has each alert of the file, and no other."""
        self.assertEqual(
            set(re.findall(r"alert: (\w+)", RULES)), set(re.findall(r"\bMta[A-Z]\w+", PAGES["monitoring"]))
        )
