"""Which worker a destination belongs to."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.workers.hashing import Division, Mine, owner

NAMES = [f"smtp:d{number}.example" for number in range(3000)]
FIXED = [0, 0, 2, 1, 0, 0, 1, 0]


class Hashing(SynchronousTestCase):
    """owner."""

    def test_it_is_the_same_for_ever(self) -> None:
        """These were looked up once: another answer would move destinations at an upgrade."""
        self.assertEqual([owner(name, range(4)) for name in NAMES[:8]], FIXED)

    def test_it_is_even(self) -> None:
        counts = Counter(owner(name, range(3)) for name in NAMES)
        for slot in range(3):
            self.assertLess(abs(counts[slot] - 1000), 150)

    def test_only_what_the_lost_one_had_moves(self) -> None:
        for name in NAMES:
            before = owner(name, (0, 1, 2))
            after = owner(name, (0, 2))
            self.assertEqual(after, before if before != 1 else after)
            self.assertIn(after, (0, 2))

    @given(st.text(), st.sets(st.integers(0, 63), min_size=1))
    def test_exactly_one_has_it(self, name: str, slots: set[int]) -> None:
        division = Division(tuple(slots))
        self.assertEqual([slot for slot in slots if Mine(division, slot)(name)], [division.owner(name)])

    def test_somebody_must_be_there(self) -> None:
        self.assertRaises(ValueError, Division, ())
