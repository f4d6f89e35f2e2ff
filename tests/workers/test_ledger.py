"""The parent's book of what is open in each worker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.workers.ledger import Ledger

STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["say", "join", "leave"]), st.sampled_from("ab"), st.integers(0, 3)),
    max_size=60,
)


class Ledgers(SynchronousTestCase):
    """Ledger."""

    def test_what_the_others_have(self) -> None:
        ledger = Ledger()
        for slot in range(3):
            ledger.join(slot)
        ledger.say(0, [("sessions", "", 2)])
        ledger.say(1, [("sessions", "", 1)])
        self.assertEqual(ledger.news(), {0: [("sessions", "", 1)], 1: [("sessions", "", 2)], 2: [("sessions", "", 3)]})
        self.assertEqual(ledger.news(), {})
        ledger.leave(0)
        self.assertEqual(ledger.news(), {1: [("sessions", "", 0)], 2: [("sessions", "", 1)]})
        self.assertEqual(ledger.join(0), (("sessions", "", 1),))

    @given(STEPS)
    def test_everybody_knows_the_rest(self, steps: list[tuple[int, str, str, int]]) -> None:
        """Whatever happens, the news leave each worker with the sum of the others."""
        ledger = Ledger()
        own: dict[int, dict[str, int]] = {}
        known: dict[int, dict[str, int]] = {}
        for slot, what, key, count in steps:
            if what == "join":
                own[slot] = {}
                known[slot] = {name: number for _, name, number in ledger.join(slot)}
            elif what == "leave":
                ledger.leave(slot)
                own.pop(slot, None)
                known.pop(slot, None)
            else:
                ledger.say(slot, [("addresses", key, count)])
                if slot in own:
                    own[slot][key] = count
            for number, entries in ledger.news().items():
                known[number].update({name: value for _, name, value in entries})
            for number in own:
                for name in "ab":
                    rest = sum(counts.get(name, 0) for other, counts in own.items() if other != number)
                    self.assertEqual(known[number].get(name, 0), rest)
