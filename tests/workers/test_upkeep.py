"""Upkeep of the queue: by whom, how often, and what a failure does to it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.queue.rules import disk_full
from twisted_mta.workers.upkeep import FIRST, REST, SWEEP, SWEEP_LIMIT, TEND, Upkeep


class UpkeepTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1e9)
        self.tended: list[Deferred[bool]] = []
        self.expired: list[float] = []
        self.worked: list[float] = []
        self.commits = 0
        self.mine = True
        parts: Any = SimpleNamespace(
            settings=SimpleNamespace(queue=SimpleNamespace(history=1000.0)),
            store=SimpleNamespace(tend=self.tend, expire_history=self.expire_history, work_off=self.work_off),
            scheduler=SimpleNamespace(shares=SimpleNamespace(ours=lambda name: self.mine)),
        )
        self.left = 2 * SWEEP_LIMIT + 7
        self.answer: Deferred[bool] | None = None
        self.upkeep = Upkeep(parts, self.clock)

    def start(self) -> None:
        self.upkeep.start()
        self.clock.pump([TEND] * int(FIRST / TEND - 1))
        self.assertEqual((self.tended, self.expired), ([], []), "mail goes first")
        self.clock.advance(TEND)

    def tend(self) -> Deferred[bool]:
        found = self.answer if self.answer is not None else succeed(len(self.tended) % 3 != 2)
        self.tended.append(found)
        return found

    def work_off(self) -> Deferred[bool]:
        if not self.commits:
            return succeed(False)
        self.commits -= 1
        self.worked.append(self.clock.seconds())
        return deferLater(self.clock, 0.04, lambda: True)

    def expire_history(self, before: float, limit: int) -> Deferred[int]:
        self.expired.append(before)
        count = min(limit, self.left)
        self.left -= count
        return succeed(count)

    def test_rests_between_segments_and_stops_when_there_are_none(self) -> None:
        self.start()
        self.assertEqual(len(self.tended), 1)
        self.clock.pump([REST, REST])
        self.assertEqual(len(self.tended), 3)
        self.clock.advance(REST)
        self.assertEqual(len(self.tended), 3)
        self.clock.advance(TEND)
        self.assertEqual(len(self.tended), 4)
        self.upkeep.stop()
        self.clock.advance(10)
        self.assertEqual((len(self.tended), self.clock.getDelayedCalls()), (4, []))

    def test_forgets_all_that_is_too_old(self) -> None:
        self.start()
        self.clock.pump([TEND] * int(SWEEP / TEND - FIRST))
        self.assertEqual(self.expired, [1e9 + SWEEP - 1000] * 3)
        self.assertEqual(self.left, 0)
        self.upkeep.stop()

    def test_leaves_it_to_whoever_has_it(self) -> None:
        self.mine = False
        self.start()
        self.clock.advance(SWEEP)
        self.assertEqual((self.tended, self.expired), ([], []))
        self.upkeep.stop()

    def test_rests_between_commits_of_a_removal_as_long_as_they_took(self) -> None:
        self.commits = 4
        self.start()
        self.clock.pump([0.02] * 12)
        self.assertEqual([round(when - self.worked[0], 2) for when in self.worked], [0.0, 0.08, 0.16, 0.24])
        self.upkeep.stop()
        self.clock.advance(1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_stop_ends_the_rest(self) -> None:
        self.commits = 99
        self.start()
        self.clock.advance(0.04)
        self.upkeep.stop()
        self.clock.advance(9)
        self.assertEqual((len(self.worked), self.clock.getDelayedCalls()), (1, []))

    def test_a_failure_passes(self) -> None:
        self.answer = fail(disk_full())
        self.start()
        self.answer = succeed(False)
        self.clock.pump([TEND] * 10)
        self.assertEqual(len(self.tended), 1)
        self.clock.advance(SWEEP)
        self.clock.advance(TEND)
        self.assertGreater(len(self.tended), 1)
        self.upkeep.stop()
