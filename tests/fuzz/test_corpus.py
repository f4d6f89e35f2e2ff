"""Every input of the corpus, kept seeds and findings alike, again; ``make fuzz`` looks for more."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz.run import CORPUS, names
from tests.fuzz.targets import TARGETS


class CorpusTests(SynchronousTestCase):
    def test_every_input(self) -> None:
        broken = []
        for name in names():
            inputs = sorted((CORPUS / name).iterdir())
            self.assertGreater(len(inputs), 0, name)
            for path in inputs:
                try:
                    TARGETS[name](path.read_bytes())
                except Exception as error:
                    broken.append(f"{name}/{path.name}: {error!r}")
        self.assertEqual(broken, [])

    def test_every_target_has_a_corpus(self) -> None:
        self.assertEqual(names(), sorted(TARGETS))

    def test_nothing_at_all(self) -> None:
        for target in TARGETS.values():
            target(b"")
