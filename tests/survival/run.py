"""What the long programs share: a service and its far side for the length of one run, whose seed says what happens."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.survival.sending import Mix, Senders
from tests.survival.service import FarSide, Service


class Run:
    """One run.  ``quota``: the recipients an hour of the customer who has one; ``keep``: a folder for the logs of both
    sides, "" for none.  ``wrong`` is what was found."""

    workers = 2
    settings: dict[str, Any] | None = None

    def __init__(self, mix: Mix, seed: str, quota: int, keep: str = "") -> None:
        self.mix, self.seed, self.quota, self.keep = mix, seed, quota, keep
        self.chance = random.Random(seed)
        self.far = FarSide()
        self.wrong: list[str] = []

    def run(self) -> list[str]:
        """All of it; what is wrong."""
        try:
            self.far.start()
            self.mta = Service(self.far, self.workers, self.settings)
            try:
                self.mta.tight(self.quota)
                self.mta.start()
                self.senders = Senders(self.mta, self.mix, self.seed)
                self.work()
            finally:
                if self.keep:
                    Path(self.keep).mkdir(exist_ok=True)
                    for file in (self.mta.log, self.far.journal, self.far.log):
                        shutil.copy(file, self.keep)
                self.mta.close()
        finally:
            self.far.close()
        return self.wrong

    def work(self) -> None:
        """What happens while the senders send, and the judgement."""
        raise NotImplementedError


def seed_of_the_day(variable: str) -> str:
    """A seed from the environment, or a new one."""
    return os.environ.get(variable) or str(random.randrange(1 << 32))


def options_of(doc: str | None, rate: float) -> argparse.ArgumentParser:
    """The options that all have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=rate, help="messages a second")
    parser.add_argument("--seed", default="")
    parser.add_argument("--keep", default="", help="a folder for the logs of both sides")
    return parser


def conclude(wrong: list[str]) -> None:
    """Say how it went, and end with it."""
    print("\n".join(wrong[:100]) or "The books balance.")
    sys.exit(bool(wrong))
