"""Who goes first where several priorities wait."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.delivery.ranks import YIELD, Ranks
from twisted_mta.mail.envelope import PRIORITIES

priorities = st.sampled_from(PRIORITIES)


def pop(ranks: Ranks[deque[int]]) -> int:
    return next(level for level in ranks.order() if level).popleft()


class Order(SynchronousTestCase):
    """The highest first, and nobody left out."""

    @given(st.lists(priorities, max_size=YIELD - 1))
    def test_a_few_go_in_the_order_of_their_priority(self, waiting: list[int]) -> None:
        ranks: Ranks[deque[int]] = Ranks(deque)
        for priority in waiting:
            ranks.level(priority).append(priority)
        self.assertEqual(bool(ranks), bool(waiting))
        self.assertEqual([pop(ranks) for _ in waiting], sorted(waiting, reverse=True))
        self.assertFalse(ranks)

    @given(st.sets(priorities, min_size=2), st.integers(0, 40))
    def test_every_priority_moves_and_the_highest_has_most(self, busy: set[int], before: int) -> None:
        """However many wait, each has its turn within as many yields as there are lower ones."""
        ranks: Ranks[deque[int]] = Ranks(deque)
        for priority in busy:
            ranks.level(priority).extend([priority] * 1000)
        for _ in range(before):
            pop(ranks)
        cycle = YIELD * (len(busy) - 1)
        taken = [pop(ranks) for _ in range(cycle)]
        self.assertEqual(set(taken), busy)
        self.assertEqual(taken.count(max(busy)), cycle - cycle // YIELD)

    @given(st.lists(st.one_of(priorities, st.none()), max_size=200))
    def test_all_that_waits_comes_out_once(self, steps: list[int | None]) -> None:
        """None takes one out; the order of arrival holds within a priority."""
        ranks: Ranks[deque[int]] = Ranks(deque)
        waiting: dict[int, list[int]] = {priority: [] for priority in PRIORITIES}
        for number, step in enumerate(steps):
            if step is not None:
                ranks.level(step).append(number)
                waiting[step].append(number)
            elif ranks:
                number = pop(ranks)
                self.assertIn(number, [those[0] for those in waiting.values() if those])
                next(those for those in waiting.values() if number in those).remove(number)
        self.assertEqual(bool(ranks), any(waiting.values()))
        self.assertEqual(
            sorted(one for level in ranks.all() for one in level),
            sorted(one for those in waiting.values() for one in those),
        )

    def test_the_usual_priority_alone_is_never_compared(self) -> None:
        ranks: Ranks[deque[int]] = Ranks(deque)
        ranks.level(0).append(1)
        self.assertIs(ranks.order(), ranks.order())
