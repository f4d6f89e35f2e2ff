"""Settings to TOML and back are the same settings; and checking any settings never fails."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import settings as examples
from twisted.trial.unittest import SynchronousTestCase

from tests.config.strategies import settings
from twisted_mta import config
from twisted_mta.config import Settings, schema
from twisted_mta.config.dump import to_toml
from twisted_mta.config.settings import Checker, OAuth, Sni


class Dump(SynchronousTestCase):
    @examples(max_examples=50)
    @given(settings())
    def test_round_trip(self, some: Settings) -> None:
        self.assertEqual(config.parse(to_toml(some)), some)

    @examples(max_examples=50)
    @given(settings())
    def test_check_never_fails(self, some: Settings) -> None:
        for problem in config.check(some):
            self.assertIn(problem.key.split(".")[0], {field.name for field in schema.fields_of(Settings)})
            self.assertTrue(problem.wrong and problem.mend and str(problem))

    def test_says_everything(self) -> None:
        document = tomllib.loads(to_toml(Settings(checker={"mx": Checker()}, oauth={"mx": OAuth()}, sni={"mx": Sni()})))
        for heading, table in schema.tables().items():
            found = document
            for part in heading.replace("NAME", "mx").split(".") if heading else ():
                found = found[part]
            for field in schema.options(table):
                self.assertIn(field.name, found)

    def test_reads_well(self) -> None:
        text = to_toml(Settings())
        for line in (
            'state_dir = "./var"',
            "[listen.submissions]",
            'lifetime = "5d"',
            'retry = ["1m", "5m", "15m", "30m", "1h", "2h"]',
            'message_bytes = "50MiB"',
            'messages_per_day = "none"',
            "check_sender = true",
        ):
            self.assertIn(f"\n{line}\n", text)
