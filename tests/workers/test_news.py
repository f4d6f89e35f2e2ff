"""What a worker tells its parent of its counts, and how often: on a memory clock, with a parent that only listens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.policy.tally import Tally
from twisted_mta.workers import commands as c
from twisted_mta.workers.worker import GATHER, GATHER_SMALL, Worker


class News(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = MemoryReactorClock()
        self.clock.advance(1000)
        self.worker = Worker(self.clock)
        self.tally, self.all = Tally(), Tally()
        settings = SimpleNamespace(smtp=SimpleNamespace(connections=1000))
        self.parts = SimpleNamespace(tallies={"addresses": self.tally, "sessions": self.all}, settings=settings)
        self.worker._serving = SimpleNamespace(parts=self.parts)  # type: ignore[assignment]
        self.tally.changed = lambda key, count: self.worker._tell_count("addresses", key, count)
        self.all.changed = lambda key, count: self.worker._tell_count("sessions", key, count)
        self.told: list[Any] = []
        self.worker._say = lambda command, **what: self.told.append((command, what["entries"]))  # type: ignore[method-assign]

    def have(self, count: int) -> None:
        """As many sessions as that are open."""
        while self.tally.own.get("", 0) < count:
            self.tally.add("")
        while self.tally.own.get("", 0) > count:
            self.tally.remove("")

    def counts(self) -> list[int]:
        """What was told since the last time."""
        told, self.told = self.told, []
        self.assertTrue(all(command is c.Counts for command, _ in told))
        return [count for _, entries in told for _, _, count in entries]

    def test_the_first_at_once(self) -> None:
        self.have(1)
        self.clock.advance(0)
        self.assertEqual(self.counts(), [1])

    def test_many_are_gathered(self) -> None:
        """What follows at once waits a moment, and is told as it is then."""
        self.have(1)
        self.clock.advance(0)
        self.have(40)
        self.clock.advance(GATHER / 2)
        self.have(90)
        self.assertEqual(self.counts(), [1])
        self.clock.advance(GATHER)
        self.assertEqual(self.counts(), [90])

    def test_small_changes_wait(self) -> None:
        """An eighth more or less is told of later, but it is."""
        self.have(80)
        self.clock.advance(GATHER)
        self.counts()
        for count in (81, 79, 90):
            self.have(count)
            self.clock.advance(2 * GATHER)
        self.assertEqual(self.counts(), [])
        self.clock.advance(GATHER_SMALL)
        self.assertEqual(self.counts(), [90])

    def test_a_large_change_overtakes(self) -> None:
        self.have(80)
        self.clock.advance(GATHER)
        self.have(81)
        self.clock.advance(2 * GATHER)
        self.counts()
        self.have(91)
        self.clock.advance(0)
        self.assertEqual(self.counts(), [91])
        self.clock.advance(2 * GATHER_SMALL)
        self.assertEqual(self.counts(), [])

    def test_small_numbers_are_exact(self) -> None:
        """Each of the first few is an eighth of them, and the last one's end is told at once."""
        for count in (1, 2, 7, 6, 1, 0):
            self.have(count)
            self.clock.advance(GATHER)
            self.assertEqual(self.counts(), [count])

    def test_all_sessions(self) -> None:
        """What is next to nothing of the limit is in no hurry."""
        for _ in range(10):
            self.all.add("")
        self.clock.advance(GATHER)
        self.assertEqual(self.counts(), [])
        self.all.add("")
        self.clock.advance(GATHER)
        self.assertEqual(self.counts(), [11])
        self.all.remove("")
        self.clock.advance(GATHER_SMALL)
        self.assertEqual(self.counts(), [10])

    def test_nothing_to_tell(self) -> None:
        """A count that is again what it was is no news."""
        self.have(80)
        self.clock.advance(GATHER)
        self.counts()
        self.have(100)
        self.have(80)
        self.clock.advance(2 * GATHER_SMALL)
        self.assertEqual(self.counts(), [])
