"""The parent of workers that are not there: whom it starts, tells, believes, kills and gives up."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.config.settings import Duration, Log, Settings
from twisted_mta.workers import commands as c
from twisted_mta.workers.hashing import owner
from twisted_mta.workers.pool import Pool
from twisted_mta.workers.supervision import LOST


class FakeChild:
    """A worker that answers when the test says so."""

    made: list[FakeChild]

    def __init__(self, parent: Pool, slot: int, listening: Any, reactor: Any) -> None:
        self.parent = parent
        self.slot = slot
        self.descriptors = ()
        self.report = c.Report()
        self.pinged = False
        self.quiet = 0.0
        self.pid = 1000 + len(self.made)
        self.asked: list[tuple[Any, dict[str, Any], Deferred[Any]]] = []
        self.told: list[tuple[Any, dict[str, Any]]] = []
        self.killed = False
        self.made.append(self)

    def ask(self, command: Any, **arguments: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.asked.append((command, arguments, answer))
        return answer

    def tell(self, command: Any, **arguments: Any) -> None:
        self.told.append((command, arguments))

    def kill(self) -> None:
        self.killed = True

    def answer(self, command: Any, value: Any = None) -> None:
        """Answer all questions of a kind."""
        for item in [item for item in self.asked if item[0] is command]:
            self.asked.remove(item)
            item[2].callback(value or {})

    def refuse(self, command: Any, words: str) -> None:
        """Refuse what was asked."""
        for item in [item for item in self.asked if item[0] is command]:
            self.asked.remove(item)
            item[2].errback(Failure(c.Refused(words)))

    def die(self) -> None:
        """The process ends."""
        self.parent.ended(self, "signal 9")  # type: ignore[arg-type]


class PoolCase(SynchronousTestCase):
    """A pool of two."""

    def setUp(self) -> None:
        FakeChild.made = self.children = []
        patch = mock.patch("twisted_mta.workers.pool.Child", FakeChild)
        patch.start()
        self.addCleanup(patch.stop)
        self.clock = Clock()
        log = Log(file=str(Path(self.mktemp())))
        self.settings = attrs.evolve(Settings(), workers=2, worker_timeout=Duration(10), hostname="a.example", log=log)
        self.failures: list[str] = []
        self.pool = Pool(self.settings, self.clock, None, self.failures.append)
        self.addCleanup(self.pool.close)
        self.started = Deferred.fromCoroutine(self.pool.start(()))

    def serve(self) -> tuple[FakeChild, FakeChild]:
        """Both are ready."""
        for child in self.children:
            child.answer(c.Start)
        self.successResultOf(self.started)
        return self.children[0], self.children[1]

    def told(self, child: FakeChild, command: Any) -> list[dict[str, Any]]:
        return [arguments for told, arguments in child.told if told is command]


class Starts(PoolCase):
    """start."""

    def test_it_waits_for_all(self) -> None:
        self.children[0].answer(c.Start)
        self.assertNoResult(self.started)
        self.children[1].answer(c.Start)
        self.successResultOf(self.started)
        self.assertEqual(self.pool.problem(), "")

    def test_one_that_refuses_fails_it(self) -> None:
        self.children[0].answer(c.Start)
        self.children[1].refuse(c.Start, "no disk")
        self.assertEqual(self.failureResultOf(self.started, c.Refused).getErrorMessage(), "no disk")


class Deaths(PoolCase):
    """Who dies or hangs is replaced."""

    def test_at_once(self) -> None:
        first, _ = self.serve()
        first.die()
        self.assertEqual(self.pool.problem(), "worker 0 is resting")
        self.clock.advance(0)
        self.assertEqual([child.slot for child in self.children], [0, 1, 0])
        self.children[2].answer(c.Start)
        self.assertEqual(self.pool.problem(), "")
        self.flushLoggedErrors()

    def test_what_does_not_answer_is_killed(self) -> None:
        first, second = self.serve()
        for _ in range(12):
            self.clock.advance(1)
            second.answer(c.Ping, {"report": c.Report(sessions=3)})
        self.assertEqual((first.killed, second.killed), (True, False))
        self.assertEqual(self.pool.report().sessions, 3)

    def test_what_only_starts_slowly_is_left_to_it(self) -> None:
        """A busy machine; a start that gets nowhere ends all the same."""
        first, second = self.children
        for _ in range(38):
            self.clock.advance(1)
        self.assertEqual((first.killed, second.killed), (False, False))
        second.answer(c.Start)
        for _ in range(4):
            self.clock.advance(1)
            second.answer(c.Ping, {"report": c.Report()})
        self.assertEqual((first.killed, second.killed), (True, False))
        self.assertNoResult(self.started)

    def test_whose_start_was_slow_has_its_time_from_then(self) -> None:
        for _ in range(30):
            self.clock.advance(1)
        first, second = self.serve()
        for _ in range(10):
            self.clock.advance(1)
        self.assertEqual((first.killed, second.killed), (False, False))
        self.clock.advance(1)
        self.assertEqual((first.killed, second.killed), (True, True))

    def test_whose_store_has_failed_gives_way_to_another(self) -> None:
        """A worker can't open its store anew; its successor does."""
        first, second = self.serve()
        events: list[Any] = []
        self.pool.events = events.append  # type: ignore[method-assign, assignment]
        self.clock.advance(1)
        first.answer(c.Ping, {"report": c.Report(trouble="the disk failed", lost=True)})
        second.answer(c.Ping, {"report": c.Report()})
        self.assertEqual((first.killed, second.killed), (True, False))
        first.die()
        self.clock.advance(0)
        self.assertEqual([child.slot for child in self.children], [0, 1, 0])
        self.children[2].answer(c.Start)
        self.assertEqual(self.pool.problem(), "")
        self.assertEqual([event.what for event in events], ["worker-died", "worker-started"])
        self.assertIn("the disk failed", events[0].detail)

    def test_a_clock_that_jumps_kills_nobody(self) -> None:
        first, _ = self.serve()
        self.clock.advance(10_000)
        self.assertFalse(first.killed)

    def test_its_sessions_are_no_more(self) -> None:
        first, second = self.serve()
        self.pool.heard(first, c.Counts, [("sessions", "", 4)])  # type: ignore[arg-type]
        first.die()
        self.assertEqual(
            [told["entries"] for told in self.told(second, c.Counts)], [[("sessions", "", n)] for n in (4, 0)]
        )

    def die_often(self, slot: int) -> None:
        for _ in range(LOST):
            [child for child in self.children if child.slot == slot][-1].die()
            self.clock.pump([0.1] * 20)

    def test_destinations_of_one_that_cannot_live_go_over_and_come_back(self) -> None:
        _, second = self.serve()
        self.die_often(0)
        self.assertEqual(self.told(second, c.Divide), [{"slots": (1,)}])
        self.children[-1].answer(c.Start)
        self.assertEqual(self.told(second, c.Divide)[-1], {"slots": (0, 1)})
        self.assertEqual(self.failures, [])

    def test_when_none_can_live_the_parent_gives_up(self) -> None:
        self.serve()
        self.die_often(0)
        self.die_often(1)
        self.assertEqual(self.failures[:1], ["no worker can be kept alive"])


class Together(PoolCase):
    """What workers hear of each other."""

    def test_due_lanes_go_to_their_owner(self) -> None:
        children = self.serve()
        lanes = [(f"smtp:d{number}.example", "c1", number % 3, number % 2 == 0, number) for number in range(20)]
        self.pool.heard(children[0], c.Due, lanes)  # type: ignore[arg-type]
        for child in children:
            theirs = [lane for lane in lanes if owner(lane[0], (0, 1)) == child.slot]
            self.assertEqual(self.told(child, c.Due), [{"lanes": theirs}])

    def test_logins_go_to_the_others(self) -> None:
        first, second = self.serve()
        self.pool.heard(first, c.Attempts, [("192.0.2.1", "a@b", 0)])  # type: ignore[arg-type]
        self.assertEqual((len(self.told(first, c.Attempts)), len(self.told(second, c.Attempts))), (0, 1))

    def test_what_rates_count_goes_to_the_others(self) -> None:
        first, second = self.serve()
        self.pool.heard(second, c.Rates, [("address", "192.0.2.1", 0, 7)])  # type: ignore[arg-type]
        self.assertEqual(self.told(first, c.Rates), [{"entries": [("address", "192.0.2.1", 0, 7)]}])
        self.assertEqual(self.told(second, c.Rates), [])


class Reloads(PoolCase):
    """All or none."""

    def prepare(self) -> Deferred[None]:
        self.changed = attrs.evolve(self.settings, hostname="b.example")
        return Deferred.fromCoroutine(self.pool.prepare(self.changed, None))

    def test_all(self) -> None:
        first, second = self.serve()
        prepared = self.prepare()
        first.answer(c.Prepare)
        self.assertNoResult(prepared)
        second.answer(c.Prepare)
        self.successResultOf(prepared)
        committed = Deferred.fromCoroutine(self.pool.commit())
        for child in (first, second):
            child.answer(c.Commit)
        self.successResultOf(committed)
        first.die()
        self.clock.advance(0)
        self.assertEqual(self.children[2].asked[0][1]["order"].settings, self.changed)

    def test_none(self) -> None:
        first, second = self.serve()
        prepared = self.prepare()
        first.answer(c.Prepare)
        second.refuse(c.Prepare, "plugin: no")
        self.assertEqual(self.failureResultOf(prepared, c.Refused).getErrorMessage(), "worker 1: plugin: no")
        Deferred.fromCoroutine(self.pool.abandon())
        self.assertEqual([[item[0] for item in child.asked] for child in (first, second)], [[c.Abandon]] * 2)
        first.die()
        self.clock.advance(0)
        self.assertEqual(self.children[2].asked[0][1]["order"].settings, self.settings)

    def test_one_that_starts_meanwhile_starts_again(self) -> None:
        first, second = self.serve()
        first.die()
        self.clock.advance(0)
        prepared = self.prepare()
        second.answer(c.Prepare)
        self.successResultOf(prepared)
        Deferred.fromCoroutine(self.pool.commit())
        self.assertEqual(len(self.told(self.children[2], c.Stop)), 1)
        self.children[2].die()
        self.clock.pump([1] * 3)
        self.assertEqual(self.children[3].asked[0][1]["order"].settings, self.changed)

    def test_one_that_does_not_answer(self) -> None:
        first, _ = self.serve()
        prepared = self.prepare()
        first.answer(c.Prepare)
        self.clock.advance(11)
        self.failureResultOf(prepared, c.Refused)


class Ends(PoolCase):
    """stop and retire."""

    def test_all_are_told_and_waited_for(self) -> None:
        first, second = self.serve()
        for method, command in ((self.pool.retire, c.Retire), (self.pool.stop, c.Stop)):
            with self.subTest(command.__name__):
                ended = Deferred.fromCoroutine(method())
                self.assertEqual([len(self.told(child, command)) for child in (first, second)], [1, 1])
                self.assertNoResult(ended)
        for child in (first, second):
            child.die()
        self.successResultOf(ended)
        self.clock.advance(60)
        self.assertEqual(len(self.children), 2)

    def test_those_that_do_not_end_are_killed(self) -> None:
        first, _ = self.serve()
        Deferred.fromCoroutine(self.pool.stop())
        self.clock.pump([1] * 200)
        self.assertTrue(first.killed)
