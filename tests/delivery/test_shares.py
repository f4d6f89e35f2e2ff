"""Several processes deliver from one store: each to destinations of its own."""

from __future__ import annotations

from tests.delivery.fakes import Harness
from twisted_mta.delivery.shares import Shares
from twisted_mta.mail.envelope import Lane


def example_org(destination: str) -> bool:
    """All that is ours."""
    return destination == "smtp:example.org"


class Divided(Harness):
    """One scheduler of several, which has example.org alone."""

    def setUp(self) -> None:
        super().setUp()
        self.told: list[tuple[Lane, int]] = []
        self.came: list[int] = []
        self.scheduler.shares = Shares(
            self.scheduler._claims, lambda lanes, probe: self.told.extend(lanes.items()), self.came.append
        )
        self.scheduler.shares.divide(example_org)

    def test_there_is_room_for_what_is_all_ours(self) -> None:
        self.assertIsNotNone(self.scheduler.room(self.message("a@example.org").deliveries))
        self.assertIsNone(self.scheduler.room(self.message("a@example.net").deliveries))
        self.assertIsNone(self.scheduler.room(self.message("a@example.org", "a@example.net").deliveries))

    def test_only_our_own_mail_is_claimed(self) -> None:
        self.store_only("a@example.org")
        theirs = self.store_only("a@example.net")
        self.run_for(5)
        self.assertEqual([it.id for it in self.store.queue.values()], [theirs.message.id])

    def test_what_is_announced_is_claimed_at_once_or_told(self) -> None:
        self.run_for(0.5)
        new = self.store_only("a@example.org", "a@example.net")
        self.scheduler.announce(new)
        self.assertEqual(self.told, [(Lane("smtp:example.net", "c1"), 1)])
        self.assertEqual(self.came, [1])
        self.turns()
        self.assertEqual([it.destination for it in self.store.queue.values()], ["smtp:example.net"])

    def test_a_notice_of_others_is_not_believed(self) -> None:
        new = self.store_only("a@example.org", "a@example.net")
        self.scheduler.shares.notice({Lane(it.destination, "c1"): 2 for it in new.deliveries})
        self.assertEqual(self.came, [2])
        self.turns()
        self.assertEqual([it.destination for it in self.store.queue.values()], ["smtp:example.net"])

    def test_what_goes_over_to_another_is_due_again(self) -> None:
        self.agent.holding = True
        for _ in range(30):
            self.send("a@example.org")
        self.turns()
        busy = self.agent.busy()
        self.assertLess(busy, 30)
        self.assertGreater(busy, 0)
        self.scheduler.shares.divide(lambda destination: False)
        self.agent.let_go(busy)
        self.turns()
        self.assertEqual(self.agent.busy(), 0)
        now = self.clock.seconds()
        self.assertEqual([(it.attempts, it.next_attempt) for it in self.store.queue.values()], [(0, now)] * (30 - busy))
        self.run_for(5)
        self.assertEqual(len(self.store.queue), 30 - busy)
        self.scheduler.shares.divide(None)
        self.agent.holding = False
        self.run_for(5)
        self.assertEqual(len(self.store.queue), 0)
