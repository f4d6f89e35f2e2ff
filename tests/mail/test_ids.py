"""Message ids: their order, their form, their uniqueness."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.mail import ids

NUMBERS = st.integers(0, (1 << 80) - 1)


class TextTests(SynchronousTestCase):
    @given(NUMBERS)
    def test_round_trip(self, number: int) -> None:
        text = ids.encode_id(number)
        self.assertEqual(len(text), ids.ID_CHARS)
        self.assertEqual(ids.decode_id(text), number)
        self.assertEqual(ids.decode_id(text.upper()), number)
        self.assertEqual(ids.key_id(ids.id_key(text)), text)

    @given(NUMBERS, NUMBERS)
    def test_text_and_key_sort_as_the_number(self, one: int, other: int) -> None:
        first, second = ids.encode_id(one), ids.encode_id(other)
        self.assertEqual(first < second, one < other)
        self.assertEqual(ids.id_key(first) < ids.id_key(second), one < other)

    def test_what_is_none(self) -> None:
        for text in ("", "0" * 15, "0" * 17, "l" + "0" * 15, "i" * 16, "../../etc/passwd", "0" * 15 + "\n"):
            self.assertRaises(ValueError, ids.decode_id, text)


class MakerTests(SynchronousTestCase):
    def test_grows_though_the_clock_does_not(self) -> None:
        times = [1000.0, 1000.0, 999.0, 1000.0, 2000.0]
        maker = ids.IdMaker(5, lambda: times.pop(0))
        made = [maker() for _ in range(5)]
        self.assertEqual(made, sorted(set(made)))
        self.assertAlmostEqual(ids.id_time(made[0]), 1000.0, places=4)
        self.assertAlmostEqual(ids.id_time(made[4]), 2000.0, places=4)

    def test_incarnations_differ(self) -> None:
        self.assertNotEqual(ids.IdMaker(1, lambda: 1000.0)(), ids.IdMaker(2, lambda: 1000.0)())

    @given(st.floats(0, 4e9), st.integers(0, (1 << 28) - 1))
    def test_floor(self, when: float, incarnation: int) -> None:
        self.assertLessEqual(ids.time_floor(when), ids.IdMaker(incarnation, lambda: when)())
