"""The scheduler and priorities (RFC 6710): higher first, nobody starved, memory bounded."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.delivery.fakes import UNKNOWN, Harness
from twisted_mta.delivery import active, lanes
from twisted_mta.delivery.ranks import YIELD
from twisted_mta.mail.envelope import PRIORITIES, Handling
from twisted_mta.mail.events import Delivered

LOW, HIGH = Handling(priority=-4), Handling(priority=4)


class Priorities(Harness):
    """Whose turn it is."""

    def order(self) -> list[int]:
        return [job.message.priority for job in self.agent.jobs]

    def step(self, count: int) -> None:
        for _ in range(count):
            self.agent.let_go(1)
            self.run_for(0.01, 0.01)

    def test_higher_first_within_a_destination(self) -> None:
        self.agent.holding = True
        for number in range(50):
            self.send(f"low{number}@example.org", handling=LOW)
            self.send(f"usual{number}@example.org")
        self.turns()
        begun = len(self.agent.jobs)
        for number in range(3):
            self.send(f"high{number}@example.org", handling=HIGH)
        self.step(4)
        self.assertEqual(self.order()[begun : begun + 3], [4, 4, 4])
        before = len(self.agent.jobs)
        self.step(40)
        later = self.order()[before:]
        self.assertGreaterEqual(later.count(0), 30)
        self.assertGreaterEqual(later.count(-4), len(later) // YIELD - 1)

    def test_higher_first_across_destinations_when_slots_are_short(self) -> None:
        self.scheduler.active.turns["smtp"].limit = 4
        self.agent.holding = True
        for number in range(100):
            self.send(f"x@low{number}.example", handling=LOW)
        self.turns()
        for number in range(5):
            self.send(f"x@high{number}.example", customer="other", handling=HIGH)
        self.step(6)
        self.assertEqual(self.order()[4:9], [4] * 5)

    def test_lower_priorities_move_under_a_flood_of_higher_ones(self) -> None:
        self.agent.holding = True
        for number in range(20):
            self.send(f"low{number}@example.org", handling=LOW)
        for number in range(400):
            self.send(f"high{number}@example.org", handling=HIGH)
        self.turns()
        self.step(160)
        self.assertGreaterEqual(self.order().count(-4), 15)

    def test_stored_mail_of_higher_priority_is_claimed_first(self) -> None:
        """A backlog in the store is passed by: at most what is in memory already goes before."""
        self.agent.holding = True
        for number in range(300):
            self.store_only(f"low{number}@example.org", handling=LOW)
        self.run_for(2)
        for number in range(3):
            self.store_only(f"high{number}@example.org", handling=HIGH)
        self.run_for(2)
        for _ in range(4 * lanes.START_WINDOW):
            self.step(1)
        self.assertEqual(self.order()[: 4 * lanes.START_WINDOW].count(4), 3)

    def test_where_memory_is_full_the_store_keeps_the_order(self) -> None:
        self.patch(active, "FRESH", 20)
        self.agent.holding = True
        for number in range(60):
            self.send(f"low{number}@example.org", handling=LOW)
        high = self.send("high@example.org", handling=HIGH)
        self.assertLessEqual(self.scheduler.active.fresh, 20)
        self.run_for(2)
        self.step(3 * lanes.START_WINDOW)
        self.assertIn(high.message.id, [job.message.id for job in self.agent.jobs])

    def test_reports_have_the_priority_of_what_they_are_about(self) -> None:
        self.agent.answer = lambda job, recipient: UNKNOWN
        self.send("x@example.org", sender="ann@isp.example", handling=Handling(priority=3, deliver_by=9e9, by_mode="R"))
        self.run_for(2)
        (report,) = [job.message for job in self.mailboxes.jobs]
        self.assertEqual(report.handling, Handling(priority=3))

    def test_idle_lanes_are_forgotten(self) -> None:
        for priority in PRIORITIES:
            self.send("x@example.org", handling=Handling(priority=priority))
        self.run_for(3)
        self.assertEqual(len(self.of(Delivered)), len(PRIORITIES))
        self.assertEqual([state.destination for state in self.scheduler.snapshot()], [])
        self.assertFalse(self.scheduler.active._destinations)

    @settings(max_examples=25)
    @given(st.lists(st.tuples(st.sampled_from([-9, -4, 0, 4, 9]), st.integers(0, 3), st.booleans()), max_size=60))
    def test_everything_is_delivered_once_in_whatever_order(self, mails: list[tuple[int, int, bool]]) -> None:
        self.setUp()
        self.scheduler.active.turns["smtp"].limit = 3
        sent = []
        for priority, domain, stored in mails:
            send = self.store_only if stored else self.send
            sent.append(send(f"x@d{domain}.example", handling=Handling(priority=priority)).message.id)
        self.run_for(10)
        self.assertEqual(sorted(job.message.id for job in self.agent.jobs), sorted(sent))
        self.assertFalse(self.store.queue)
