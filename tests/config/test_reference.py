"""The manual and the samples are in step with the settings."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from twisted_mta import config
from twisted_mta.config import Settings, reference, schema
from twisted_mta.config.settings import Checker, OAuth, Sni

ROOT = Path(__file__).resolve().parents[2]
STALE = 'is stale: run "python -m twisted_mta.config.reference"'


class Manual(SynchronousTestCase):
    def test_in_step(self) -> None:
        self.assertEqual(
            (ROOT / reference.MANUAL).read_text("utf-8"), reference.manual(), f"{reference.MANUAL} {STALE}"
        )

    def test_every_setting_has_a_meaning(self) -> None:
        said = reference.docstrings()
        for table in schema.tables().values():
            self.assertTrue(said[table.__name__][""], table)
            for field in schema.options(table):
                self.assertGreater(len(said[table.__name__].get(field.name, "")), 8, f"{table.__name__}.{field.name}")

    def test_every_setting_is_in_it(self) -> None:
        text = reference.manual()
        for heading, table in schema.tables().items():
            section = text.partition(f"\n## `[{heading}]`\n" if heading else "\n## At the top of the file\n")[2]
            section = section.partition("\n## ")[0]
            for field in schema.options(table):
                self.assertIn(f"\n| `{field.name}` | ", section)


class Sample(SynchronousTestCase):
    def test_in_step(self) -> None:
        self.assertEqual(
            (ROOT / reference.SAMPLE).read_text("utf-8"), reference.sample(), f"{reference.SAMPLE} {STALE}"
        )

    def test_changes_nothing_as_it_is(self) -> None:
        self.assertEqual(config.load(str(ROOT / reference.SAMPLE)), Settings())

    def test_its_commented_values_are_all_the_defaults(self) -> None:
        text = (ROOT / reference.SAMPLE).read_text("utf-8")
        uncommented = re.sub(r"(?m)^#(?=[a-z_]+ = |\[)", "", text)
        self.assertEqual(
            config.parse(uncommented),
            Settings(checker={"NAME": Checker()}, oauth={"NAME": OAuth()}, sni={"NAME": Sni()}),
        )
        for heading, table in schema.tables().items():
            for field in schema.options(table):
                if heading != "listen.NAME":
                    self.assertRegex(text, rf"(?m)^#{field.name} = ")

    def test_a_changed_value_holds(self) -> None:
        """Taking away one # anywhere is enough: the tables' headings are there."""
        text = (ROOT / reference.SAMPLE).read_text("utf-8")
        changed = text.replace("#hops = 100", "hops = 51").replace("#queued_messages = 10000", "queued_messages = 7")
        settings = config.parse(changed)
        self.assertEqual((settings.smtp.hops, settings.quota["default"].queued_messages), (51, 7))


class Samples(SynchronousTestCase):
    def test_all_start(self) -> None:
        """Every file in conf/ has no error, and no warning but that a certificate is still to be named."""
        files = sorted((ROOT / "conf").glob("*.toml"))
        self.assertEqual([file.stem for file in files], ["company", "isp", "mta", "newsletter"])
        for file in files:
            _, warnings = config.load_checked(str(file))
            self.assertEqual([w for w in warnings if w.key != "tls.certificate"], [], file)

    def test_what_every_operator_needs(self) -> None:
        """A place for the state, port 25, and somebody who reads the postmaster's mail."""
        for name in ("isp", "company", "newsletter"):
            settings = config.load(str(ROOT / "conf" / f"{name}.toml"))
            self.assertEqual(settings.state_dir, "/var/lib/twisted-mta")
            self.assertIn(25, [listener.port for listener in settings.listen.values()])
            self.assertTrue(settings.local.postmaster)
