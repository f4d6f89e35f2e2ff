"""The share of the turns that deliveries get while a burst comes in."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.delivery.pace import BEHIND, BURST, PAUSE, PRESSED, RATE, SHARE, Pace


class PaceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pace = Pace()

    def flood(self, turns: int, length: float, waiting: int = 1000) -> int:
        """How many attempts begin in so many turns, in each of which mail arrives."""
        begun, now = 0, 100.0
        self.pace.allowance(200, 0, 0, now)
        for _ in range(turns):
            now += length
            self.pace.arrived(now)
            begun += self.pace.allowance(200, waiting, 0, now)
        return begun

    def test_nothing_has_arrived(self) -> None:
        self.pace.allowance(200, 0, 0, 100.0)
        self.assertEqual(self.pace.allowance(200, 0, 0, 100.01), 200)

    def test_short_turns_have_one_each(self) -> None:
        self.assertEqual(self.flood(1000, 0.0002), 1000)

    def test_long_turns_leave_a_share(self) -> None:
        seconds = 10.0
        self.assertAlmostEqual(self.flood(1000, seconds / 1000) / seconds, RATE, delta=RATE / 10)

    def test_no_turn_has_more_than_the_most(self) -> None:
        self.assertEqual(self.flood(1, 5.0), 200)

    def test_a_pause_ends_it(self) -> None:
        self.flood(100, 0.01)
        self.assertEqual(self.pace.allowance(200, 1000, 0, 101.0 + 2 * PAUSE), 200)

    def test_no_burst_is_longer_than_memory(self) -> None:
        self.assertEqual(self.flood(10, 0.01, BURST), 10 * int(0.01 * RATE))
        self.assertEqual(self.flood(10, 0.01, BURST + 1), 10 * 200)

    def test_a_clock_that_steps_back(self) -> None:
        self.flood(10, 0.01)
        self.assertEqual(self.pace.allowance(200, 1000, 0, 50.0), 200)


class PressedTests(SynchronousTestCase):
    """There is no time for all who come."""

    def setUp(self) -> None:
        self.pace = Pace()

    def flood(self, turns: int, length: float, messages: int, ready: int = 200) -> int:
        """How many attempts begin, of ``ready`` that could in each turn."""
        begun, now = 0, 100.0
        self.pace.allowance(200, 0, 0, now)
        for _ in range(turns):
            now += length
            for _ in range(messages):
                self.pace.arrived(now)
            self.pace.pressed(now)
            for _ in range(min(ready, self.pace.allowance(200, 1000, 0, now))):
                self.pace.began()
                begun += 1
        return begun

    def test_a_share_of_what_comes(self) -> None:
        self.assertApproximates(self.flood(1000, 0.005, 10), 10_000 * SHARE, 20)

    def test_however_long_the_turns_are(self) -> None:
        self.assertApproximates(self.flood(100, 0.1, 110), 11_000 * SHARE, 100)

    def test_no_fewer_than_in_a_burst(self) -> None:
        self.assertEqual(self.flood(100, 0.01, 1), 100 * int(0.01 * RATE))

    def test_what_other_processes_take_in(self) -> None:
        """They tell of it, and it waits in the store."""
        self.pace.allowance(200, 0, 0, 100.0)
        self.pace.pressed(100.0)
        self.pace.arrived(100.0, 100)
        self.assertEqual(self.pace.allowance(200, 0, 1000, 100.001), int(100 * SHARE))

    def test_no_more_is_owed_than_is_there(self) -> None:
        self.pace.allowance(200, 0, 0, 100.0)
        self.pace.pressed(100.0)
        self.pace.arrived(100.0, 100)
        self.assertEqual(self.pace.allowance(200, 10, 5, 100.001), 15)

    def test_behind(self) -> None:
        """What the burst before has left undone counts, until it is done."""
        for _ in range(100):
            self.pace.arrived(100.0)
        self.assertFalse(self.pace.behind(100.0), "a burst")
        self.pace.pressed(100.0)
        self.assertTrue(self.pace.behind(100.0))
        self.assertFalse(self.pace.behind(100.0 + PRESSED), "there is time for all")
        for _ in range(int(100 * SHARE) - BEHIND + 1):
            self.pace.began()
        self.assertFalse(self.pace.behind(100.0))

    def test_what_could_not_begin_is_made_up_for_within_bounds(self) -> None:
        self.flood(100, 0.005, 10, ready=0)
        self.assertEqual(self.pace.allowance(200, 1000, 0, 100.5), 200)

    def test_one_at_least(self) -> None:
        self.assertEqual(self.flood(10, 0.001, 1), 10)

    def test_it_is_over_soon(self) -> None:
        self.flood(100, 0.01, 10)
        now = 101.0 + 2 * PRESSED
        self.pace.allowance(200, 1000, 0, now - 0.01)
        self.pace.arrived(now)
        self.assertEqual(self.pace.allowance(200, 1000, 0, now), int(0.01 * RATE))
