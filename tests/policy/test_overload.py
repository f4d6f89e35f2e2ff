"""Who is let in, of those who have waited: by tables, and over simulated lines."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.policy.overload import CROWDED, CUSTOMERS, INTERVAL, STANDING, Door, Welcome

ALL, SOME, NONE = Welcome.ALL, Welcome.CUSTOMERS, Welcome.NOBODY
TURN = 0.005
"""Seconds of a turn of the simulated service."""


class DoorTests(SynchronousTestCase):
    def test_one_at_a_time(self) -> None:
        """With nobody before them; of a wait of a second customers may wait three."""
        cases: list[tuple[float, float, Welcome]] = [
            (0.0, 0.0, ALL),
            (0.2, 0.0, ALL),
            (0.9, 0.7, ALL),
            (1.0, 0.0, ALL),
            (1.1, 0.0, SOME),
            (3.0, 0.7, SOME),
            (3.1, 0.0, NONE),
            (60.0, 0.0, NONE),
            # Strangers make room for more to wait.
            (0.0, 0.75, SOME),
            (0.6, 0.75, SOME),
            (0.7, 0.75, NONE),
            # There is hardly any left.
            (0.15, 0.85, SOME),
            (0.16, 0.85, NONE),
        ]
        for waited, filled, expected in cases:
            self.assertEqual(Door(1.0).judge(100.0, waited, filled), expected, (waited, filled))

    def test_when_there_is_no_time_for_all(self) -> None:
        """A moment's wait is nothing, and where nobody is refused for it nobody asks."""
        self.assertEqual([Door(1.0).presses(waited) for waited in (0.0, 0.2, 0.21)], [False, False, True])
        self.assertFalse(Door(0.0).presses(60.0))

    def test_a_line_without_end(self) -> None:
        """Always somebody who had waited for half a second: a burst at first, and after a second no more."""
        door = Door(1.0)
        found = [door.judge(100.0 + step / 10, 0.5, 0.0) for step in range(15)]
        self.assertEqual(found, [ALL] * 10 + [SOME] * 5)
        self.assertEqual([door.judge(101.5, waited, 0.0) for waited in (0.3, 0.2, 0.1)], [SOME, ALL, ALL])
        self.assertEqual(door.judge(101.6, 0.25, 0.0), SOME, "it is as long as before")
        self.assertEqual(door.judge(101.6, 0.05, 0.0), ALL, "it is gone")
        self.assertEqual(door.judge(101.9, 0.5, 0.0), ALL, "and a new one")

    def test_a_line_of_customers_without_end(self) -> None:
        """They have a burst of their own: what strangers have made of the line is not theirs."""
        door = Door(1.0)
        found = [door.judge(100.0 + step / 10, 0.9 if step > 5 else 0.5, 0.0) for step in range(18)]
        self.assertEqual(found, [ALL] * 10 + [SOME] * 6 + [NONE] * 2)

    def test_hiccups_are_no_line(self) -> None:
        """Each of them had found nobody waiting, for somebody else was asked about after they were let in."""
        door = Door(1.0)
        for step in range(20):
            self.assertEqual(door.judge(100.0 + step, 0.9, 0.0), ALL)

    def test_after_a_stop(self) -> None:
        """Those who have waited for as long as the process stood still are refused, those who came last are not."""
        door = Door(1.0)
        found = [door.judge(200.0, waited, 0.0) for waited in (5.0, 4.0, 3.01, 2.5, 1.5, 1.0, 0.5, 0.1)]
        self.assertEqual(found, [NONE, NONE, NONE, SOME, SOME, ALL, ALL, ALL])

    def test_never(self) -> None:
        door = Door(0.0)
        self.assertEqual([door.judge(100.0, 600.0, full) for full in (0.0, 1.0)], [ALL, ALL])

    @given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 30), st.floats(0, 1)), max_size=50))
    def test_bounds_hold_whatever_comes(self, steps: list[tuple[float, float, float]]) -> None:
        """Nobody is refused who waited for less than the least, but for want of room; nobody is let in who waited
        for more than the most."""
        door, now = Door(1.0), 0.0
        for passed, waited, filled in steps:
            now += passed
            welcome = door.judge(now, waited, filled)
            if waited <= STANDING and filled < CROWDED:
                self.assertEqual(welcome, ALL)
            if waited > CUSTOMERS:
                self.assertEqual(welcome, NONE)
            if waited > 1.0:
                self.assertNotEqual(welcome, ALL)


class LineTests(SynchronousTestCase):
    """A service that lets in so many a second, and a line before it, both made up."""

    def run_line(
        self, seconds: float, arrivals: float, served: float, customers: int = 0, room: int = 0
    ) -> dict[str, list[float]]:
        """Of ten who come so many are customers.  What became of whom, with how long they had waited; "late" are those
        of whom it was told after three seconds.  ``room``: how many may wait, where that is bounded."""
        door = Door(1.0)
        line: deque[tuple[float, bool]] = deque()
        kinds = ("served", "refused", "customers served", "customers refused", "late", "dropped")
        told: dict[str, list[float]] = {kind: [] for kind in kinds}
        now = come = may = 0.0
        number = 0
        while now < seconds:
            now += TURN
            come += arrivals * TURN
            while come >= 1:
                come -= 1
                number += 1
                line.append((now, number % 10 < customers))
            while room and len(line) > room:  # the kernel drops what they send
                line.pop()
                told["dropped"].append(0.0)
            may = min(may + served * TURN, served * TURN + 1)
            filled = len(line) / room if room else 0.0
            while line and may >= 1:
                since, customer = line.popleft()
                welcome = door.judge(now, now - since, filled)
                good = welcome is ALL or (customer and welcome is SOME)
                may -= good
                told[f"{'customers ' if customer else ''}{'served' if good else 'refused'}"].append(now - since)
                if now > 3:
                    told["late"].append(now - since)
        return told

    def test_what_can_be_served_is(self) -> None:
        told = self.run_line(10, 950, 1000)
        self.assertEqual(told["refused"], [])
        self.assertGreater(len(told["served"]), 9400)

    def test_three_times_as_much(self) -> None:
        """What is served does not fall, the others know soon, and whoever is served has not waited for long."""
        told = self.run_line(10, 3000, 1000)
        self.assertApproximates(len(told["served"]), 10_000, 100)
        self.assertLess(max(told["refused"]), 1.1)
        self.assertLess(max(told["late"]), STANDING + 0.05)

    def test_customers_keep_their_share(self) -> None:
        """A tenth of those who come are customers, for whom there is room: none of them is refused."""
        told = self.run_line(10, 3000, 1000, 1)
        self.assertEqual(told["customers refused"], [])
        self.assertApproximates(len(told["customers served"]), 3000, 150)
        self.assertApproximates(len(told["served"]) + len(told["customers served"]), 10_000, 150)

    def test_customers_alone(self) -> None:
        told = self.run_line(10, 3000, 1000, 10)
        self.assertApproximates(len(told["customers served"]), 10_000, 100)
        self.assertLess(max(told["customers refused"]), 2.0)
        self.assertLess(max(told["late"]), STANDING * CUSTOMERS + 0.05)

    def test_the_line_does_not_run_over(self) -> None:
        """More wait than there is room for, before anybody has waited for as long as he may."""
        for customers in (0, 1, 10):
            told = self.run_line(5, 9000, 2000, customers, room=2000)
            self.assertEqual(told["dropped"], [], customers)
            self.assertApproximates(len(told["served"]) + len(told["customers served"]), 10_000, 300)
        self.assertEqual(self.run_line(5, 9000, 2000, 1, room=2000)["customers refused"], [])

    def test_a_burst_is_served(self) -> None:
        """As many at once as are served within the time that they may wait; a moment later none is left."""
        door, served = Door(1.0), 0
        for turn in range(180):
            for _ in range(5):
                self.assertEqual(door.judge(100 + turn * TURN, turn * TURN, 0.0), ALL)
                served += 1
        self.assertEqual(served, 900)
        self.assertLess(180 * TURN, INTERVAL)
