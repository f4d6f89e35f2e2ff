"""What changes while mail waits: routes, and what operators do."""

from __future__ import annotations

from typing import Any

from tests.delivery.fakes import BUSY, Harness, unavailable, with_relay
from twisted_mta.config.settings import MINUTE
from twisted_mta.delivery.scheduler import NOTICE
from twisted_mta.mail.envelope import Lane
from twisted_mta.mail.events import Bounced, Deferred, Delivered, Done, Routed


class Rerouting(Harness):
    """Routes that change while mail waits."""

    def test_a_smarthost_appears(self) -> None:
        self.store_only("carl@example.org", "dora@example.net")
        relay = with_relay(self.settings, smarthost="relay.example:587")
        self.scheduler._router.reconfigure(relay)
        self.run_for(4)
        self.assertEqual({job.delivery.destination for job in self.agent.jobs}, {"smtp:[relay.example]:587"})
        self.assertEqual(len(self.of(Delivered)), 2)
        self.assertEqual(len(self.of(Done)), 1)
        self.assertEqual(
            {names for event in self.of(Routed) for names in event.destinations["smtp:[relay.example]:587"]},
            {"carl@example.org", "dora@example.net"},
        )

    def test_a_mailbox_becomes_an_alias(self) -> None:
        self.directory.mailboxes.add("kim@isp.example")
        self.store_only("kim@isp.example", "ann@isp.example")
        self.directory.mailboxes.discard("kim@isp.example")
        self.directory.aliases["kim@isp.example"] = ("carl@example.org", "ann@isp.example")
        self.run_for(4)
        self.assertEqual(
            [it.address for job in self.agent.jobs for it in job.delivery.recipients], ["carl@example.org"]
        )
        self.assertEqual(
            {it.address for job in self.mailboxes.jobs for it in job.delivery.recipients}, {"ann@isp.example"}
        )
        self.assertEqual(self.store.queue, {})

    def test_one_of_two_moves(self) -> None:
        self.directory.mailboxes.add("kim@isp.example")
        self.store_only("kim@isp.example", "ann@isp.example")
        self.directory.mailboxes.discard("kim@isp.example")
        self.directory.aliases["kim@isp.example"] = ("carl@example.org",)
        self.run_for(4)
        self.assertEqual(sorted(it.recipient for it in self.of(Delivered)), ["ann@isp.example", "carl@example.org"])
        self.assertEqual(self.store.queue, {})

    def test_who_stays_is_not_held_up_by_a_claim_beside_the_settlement(self) -> None:
        """The claim is applied when the new rows are there, and before the end of the old attempt is heard of."""
        self.directory.mailboxes.add("kim@isp.example")
        self.store_only("kim@isp.example", "ann@isp.example")
        self.directory.aliases["kim@isp.example"] = ("dora@example.org",)
        self.store.delay = 0.5
        settle = self.store.settle

        def claim_beside(settlements: Any) -> Any:
            settled = settle(settlements)
            self.scheduler._claims.notice([Lane("maildir:isp.example", "c1")])
            return settled

        self.store.settle = claim_beside  # type: ignore[method-assign]
        self.run_for(10)
        self.assertEqual({event.recipient for event in self.of(Delivered)}, {"ann@isp.example", "dora@example.org"})

    def test_a_mailbox_disappears(self) -> None:
        self.directory.mailboxes.add("kim@isp.example")
        self.store_only("kim@isp.example", sender="bob@example.net")
        self.directory.mailboxes.discard("kim@isp.example")
        self.run_for(3)
        self.assertEqual(self.mailboxes.jobs, [])
        [bounced] = self.of(Bounced)
        self.assertEqual(bounced.status, "5.1.1")
        self.assertEqual([job.message.kind for job in self.agent.jobs], ["dsn"])

    def test_a_directory_that_is_down_defers(self) -> None:
        self.store_only("carl@example.org")
        self.directory.broken = unavailable()
        self.run_for(2)
        self.assertEqual(self.agent.jobs, [])
        self.assertEqual(len(self.of(Deferred)), 1)
        self.directory.broken = None
        self.run_for(2 * MINUTE)
        self.assertEqual(len(self.of(Delivered)), 1)


class Operators(Harness):
    """Removals and holds while mail is in memory."""

    def test_removed_while_waiting(self) -> None:
        self.agent.holding = True
        sent = [self.send(f"r{number}@example.org") for number in range(8)]
        self.run_for(1)
        self.assertEqual(self.agent.busy(), 5)
        self.store.act("remove", (sent[6].message.id, "smtp:example.org"))
        self.store.act("hold", (sent[7].message.id, "smtp:example.org"))
        self.run_for(2)
        self.agent.holding = False
        self.agent.let_go(5)
        self.run_for(2)
        self.assertEqual(
            {event.recipient for event in self.of(Delivered)}, {f"r{number}@example.org" for number in range(6)}
        )
        self.assertEqual([it.state for it in self.store.queue.values()], ["held"])
        self.store.act("release", (sent[7].message.id, "smtp:example.org"))
        self.run_for(3)
        self.assertEqual(len(self.of(Delivered)), 7)
        self.assertEqual(self.scheduler.active.entries, {})

    def test_removed_under_way(self) -> None:
        self.agent.holding = True
        new = self.send("carl@example.org")
        self.run_for(1)
        self.store.act("remove", (new.message.id, "smtp:example.org"))
        self.run_for(2)
        self.agent.answer = lambda job, recipient: BUSY
        self.agent.let_go()
        self.turns()
        self.assertEqual(self.store.queue, {})
        self.run_for(10 * MINUTE, 5)
        self.assertEqual(len(self.agent.jobs), 1)

    def test_removing_what_would_have_gone_next_strands_nobody(self) -> None:
        self.scheduler.reconfigure(with_relay(self.settings, connections_per_destination=1))
        self.agent.holding = True
        sent = [self.send("x@example.org", customer=customer) for customer in ("c1", "c2", "c3")]
        self.run_for(1)
        self.store.act("remove", (sent[1].message.id, "smtp:example.org"))
        self.run_for(1)
        self.agent.holding = False
        self.agent.let_go()
        self.run_for(2)
        self.assertEqual([job.delivery.customer for job in self.agent.jobs], ["c1", "c3"])

    def test_nothing_removed_is_begun_though_the_next_tick_is_far(self) -> None:
        self.agent.holding = True
        sent = [self.send(f"r{number}@example.org") for number in range(6)]
        self.run_for(1)
        self.assertEqual(self.agent.busy(), 5)
        self.store.act("remove", (sent[5].message.id, "smtp:example.org"))
        self.clock.advance(1.1 * NOTICE)
        self.agent.let_go(1)
        self.turns()
        self.assertEqual((len(self.agent.jobs), self.agent.busy()), (5, 4))

    def test_removed_while_it_is_claimed(self) -> None:
        """What is claimed before a removal's commit is heard of after it."""
        self.store.delay = 3.0
        new = self.store_only("carl@example.org")
        self.run_for(2)
        self.assertTrue(self.store.calls["claim"])
        self.store.act("remove", (new.message.id, "smtp:example.org"))
        self.run_for(5)
        self.assertEqual(self.agent.jobs, [])

    def test_removed_between_its_commit_and_its_offer(self) -> None:
        self.run_for(1)
        new = self.store_only("carl@example.org")
        self.store.act("remove", (new.message.id, "smtp:example.org"))
        self.clock.advance(1)
        self.scheduler.offer(new, b"")
        self.turns()
        self.assertEqual(self.agent.jobs, [])
