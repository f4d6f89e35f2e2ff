"""The life of a worker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.workers.supervision import FIRST_REST, LAST_REST, Keeper, Life, rest


class Recorder(Keeper):
    """Writes down what is asked of it."""

    def __init__(self) -> None:
        self.did: list[str] = []

    def spawn(self) -> None:
        self.did.append("spawn")

    def kill(self) -> None:
        self.did.append("kill")

    def rest(self) -> None:
        self.did.append("rest")

    def over(self) -> None:
        self.did.append("over")


class Lives(SynchronousTestCase):
    """Life."""

    def setUp(self) -> None:
        self.keeper = Recorder()
        self.life = Life(self.keeper)

    def live(self, *inputs: str) -> tuple[str, list[str]]:
        for name in inputs:
            getattr(self.life, name)()
        return self.keeper.state, self.keeper.did

    def test_it_dies_and_comes_back(self) -> None:
        done = self.live("begin", "ready", "ended", "again", "ready")
        self.assertEqual(done, ("serving", ["spawn", "rest", "spawn"]))

    def test_it_hangs(self) -> None:
        self.assertEqual(self.live("begin", "ready", "silent"), ("serving", ["spawn", "kill"]))
        self.assertEqual(self.live("ended"), ("resting", ["spawn", "kill", "rest"]))

    def test_it_stops(self) -> None:
        self.assertEqual(self.live("begin", "ready", "stop"), ("ending", ["spawn"]))
        self.assertEqual(self.live("ended", "again"), ("gone", ["spawn", "over"]))

    def test_it_stops_while_it_rests(self) -> None:
        self.assertEqual(self.live("begin", "ended", "stop", "again"), ("gone", ["spawn", "rest", "over"]))

    @given(st.lists(st.sampled_from(["begin", "ready", "ended", "silent", "again"])))
    def test_whatever_happens_it_can_be_stopped_once(self, inputs: list[str]) -> None:
        self.setUp()
        self.live(*inputs, "stop", "ended", "again", "ended")
        self.assertEqual((self.keeper.state, self.keeper.did.count("over")), ("gone", 1))
        self.assertLessEqual(self.keeper.did.count("spawn"), inputs.count("again") + 1)

    def test_rests_grow(self) -> None:
        rests = [rest(failures) for failures in range(12)]
        self.assertEqual(rests[:4], [0.0, 0.0, FIRST_REST, 2 * FIRST_REST])
        self.assertEqual(rests[-1], LAST_REST)
