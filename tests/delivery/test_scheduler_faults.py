"""The scheduler among agents and stores that fail, and its end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred as Pending
from twisted.internet.defer import fail

from tests.delivery.fakes import CONTENT, Harness, unavailable
from twisted_mta.config.settings import HOUR, MINUTE
from twisted_mta.delivery import conclusion
from twisted_mta.delivery.attempts import OVERDUE
from twisted_mta.delivery.interfaces import Job, Result
from twisted_mta.delivery.lanes import Destination
from twisted_mta.delivery.scheduler import STOP
from twisted_mta.mail.envelope import Recipient
from twisted_mta.mail.events import Bounced, Deferred, Delivered, Service
from twisted_mta.mail.status import Reply
from twisted_mta.queue.interfaces import StoreUnavailable


class Faults(Harness):
    """What goes wrong on our own side."""

    def test_an_agent_that_raises(self) -> None:
        self.agent.fault = ZeroDivisionError()
        new = self.send("carl@example.org", "dora@example.org")
        self.run_for(3)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(len(self.agent.jobs), 1, "no hot loop")
        self.assertEqual(len(self.of(Deferred)), 2)
        left = self.store.queue[new.message.id, "smtp:example.org"]
        self.assertGreaterEqual(left.next_attempt, self.clock.seconds() + 50)

    def test_an_agent_that_miscounts(self) -> None:
        async def deliver(job: Job) -> Sequence[Result]:
            return []

        self.patch(self.agent, "deliver", deliver)
        self.send("carl@example.org")
        self.turns()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(len(self.of(Deferred)), 1)
        self.assertEqual(self.scheduler.under_way, 0)

    def deliver_one_of_two(self, *more: Result) -> str:
        """Carl's copy is delivered, Dora's deferred."""

        async def deliver(job: Job) -> Sequence[Result]:
            carl, dora = job.delivery.recipients
            taken = Result(recipient=carl, reply=Reply(250, "2.0.0", "Taken"))
            busy = Result(recipient=dora, reply=Reply(451, "4.2.0", "Busy"))
            return [taken, busy, *more]

        self.patch(self.agent, "deliver", deliver)
        return self.send("carl@example.org", "dora@example.org").message.id

    def assert_only_dora_is_left(self, mid: str) -> None:
        self.assertEqual([it.recipient for it in self.of(Delivered)], ["carl@example.org"])
        left = self.store.queue[mid, "smtp:example.org"]
        self.assertEqual([it.address for it in left.recipients], ["dora@example.org"])
        self.assertGreaterEqual(left.next_attempt, self.clock.seconds() + 50)
        self.assertEqual((self.scheduler.under_way, self.scheduler.unsettled), (0, 0))

    def test_who_has_it_is_not_given_it_again_where_a_step_fails(self) -> None:
        mid = self.deliver_one_of_two()

        def broken(*args: object) -> None:
            raise ZeroDivisionError

        self.patch(Destination, "succeeded", broken)
        self.turns()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assert_only_dora_is_left(mid)
        self.assertEqual([it.status for it in self.of(Deferred)], ["4.2.0"])

    def test_who_has_it_is_not_given_it_again_where_nothing_can_be_judged(self) -> None:
        mid = self.deliver_one_of_two()

        def broken(*args: object, **more: object) -> None:
            raise ZeroDivisionError

        self.patch(conclusion, "judge", broken)
        self.turns()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assert_only_dora_is_left(mid)

    def test_who_has_it_is_not_given_it_again_where_the_agent_says_too_much(self) -> None:
        mid = self.deliver_one_of_two(
            Result(recipient=Recipient(address="x@y", original="x@y"), reply=Reply(250, "2.0.0", "Taken"))
        )
        self.turns()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assert_only_dora_is_left(mid)

    def test_once_it_is_concluded_a_fault_does_not_conclude_it_again(self) -> None:
        mid = self.deliver_one_of_two()

        def broken(*args: object) -> None:
            raise ZeroDivisionError

        self.patch(self.scheduler.active, "release", broken)
        self.turns()
        self.assertEqual(
            len(self.flushLoggedErrors(ZeroDivisionError)), 2, "once as the attempt ends, once it is written"
        )
        self.assert_only_dora_is_left(mid)
        self.assertEqual(len(self.of(Deferred)), 1)

    def test_an_agent_that_is_missing(self) -> None:
        new = self.message("carl@example.org")
        parts = (msgspec.structs.replace(new.deliveries[0], destination="lmtp:[box]:24"),)
        self.store.put(msgspec.structs.replace(new, deliveries=parts), CONTENT)
        self.run_for(3)
        # The router sends it elsewhere; nobody needs the agent.
        self.assertEqual(len(self.of(Delivered)), 1)

    def test_what_could_not_be_routed_at_reception_bounces(self) -> None:
        new = self.message("nobody@isp.example", sender="bob@example.net")
        parts = (msgspec.structs.replace(new.deliveries[0], destination="error:unroutable"),)
        armed = self.scheduler.room(parts)
        assert armed is not None
        new = msgspec.structs.replace(new, deliveries=parts, next_attempt=armed)
        self.store.put(new, CONTENT)
        self.scheduler.offer(new, CONTENT)
        self.run_for(2)
        [bounced] = self.of(Bounced)
        self.assertEqual((bounced.status, bounced.destination), ("5.1.1", "error:unroutable"))
        self.assertEqual([job.message.kind for job in self.agent.jobs], ["dsn"])
        self.assertEqual(self.store.queue, {})

    def test_an_agent_that_nobody_configured(self) -> None:
        del self.scheduler._agents["smtp"]
        self.send("carl@example.org")
        self.turns()
        [event] = self.of(Deferred)
        self.assertEqual(event.status, "4.3.5")

    def test_settling_is_retried_and_nothing_new_begun(self) -> None:
        self.store.broken = unavailable()
        self.send("carl@example.org")
        self.run_for(3)
        self.assertEqual(len(self.agent.jobs), 1)
        self.assertEqual(self.events, [])
        self.assertGreaterEqual(self.scheduler.settle_failures, 2)
        self.assertEqual(self.scheduler.unsettled, 1)
        self.assertIsNone(self.scheduler.room(()), "new mail goes to the store")
        self.store_only("dora@example.net")
        self.run_for(3 * MINUTE)
        self.assertEqual(len(self.agent.jobs), 1, "what can't be recorded is not begun, and nothing is sent twice")
        self.store.broken = None
        self.run_for(MINUTE)
        self.assertEqual(len(self.of(Delivered)), 2)
        self.assertEqual(len(self.agent.jobs), 2)
        self.assertEqual(self.scheduler.unsettled, 0)

    def test_what_waits_in_memory_is_not_begun_while_settling_fails(self) -> None:
        self.agent.holding = True
        for number in range(8):
            self.send(f"r{number}@example.org")
        self.turns()
        self.store.broken = unavailable()
        self.agent.let_go(5)
        self.run_for(60)
        self.assertEqual(len(self.agent.jobs), 5)
        self.store.broken = None
        self.agent.holding = False
        self.run_for(60)
        self.assertEqual(len(self.of(Delivered)), 8)

    def test_one_bad_settlement_takes_no_other_with_it(self) -> None:
        good = self.store.settle

        def settle(settlements: Sequence) -> Pending:
            if any("bad" in it.delivery.destination for it in settlements):
                raise ZeroDivisionError
            return good(settlements)

        self.patch(self.store, "settle", settle)
        self.send("carl@example.org")
        self.send("carl@bad.example")
        self.send("carl@example.net")
        self.turns()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertEqual({event.destination for event in self.of(Delivered)}, {"smtp:example.org", "smtp:example.net"})
        self.assertEqual(self.scheduler.unsettled, 1)
        self.assertEqual([key[1] for key in self.store.queue], ["smtp:bad.example"])
        self.assertEqual([event.what for event in self.of(Service)], ["settlement-failed"])
        # It is kept, tried again, and what it tells of is not made again; others go on.
        self.send("dora@example.org")
        self.run_for(HOUR, 5)
        self.assertGreater(len(self.flushLoggedErrors(ZeroDivisionError)), 10)
        self.assertEqual(len(self.agent.jobs), 4)
        self.patch(self.store, "settle", good)
        self.run_for(2 * MINUTE, 5)
        self.assertEqual((self.scheduler.unsettled, self.store.queue), (0, {}))
        self.assertEqual(len(self.agent.jobs), 4)

    def test_what_is_lost_with_the_process_is_told(self) -> None:
        """Which message, where to, and by which process: so that a second copy is explained by it, and no other is."""
        self.agent.holding = True
        sent = [self.send(f"carl@{number}.example.org") for number in range(3)]
        self.turns()
        self.store.broken = unavailable()
        self.agent.let_go(2)
        self.run_for(5)
        stopped = self.scheduler.stop()
        self.run_for(2 * STOP + 1)
        self.successResultOf(stopped)
        lost = [event.detail for event in self.of(Service) if event.what == "settlement-lost"]
        expected = [f"process {os.getpid()}: {sent[n].message.id} to smtp:{n}.example.org" for n in range(2)]
        self.assertEqual(sorted(lost), sorted(expected))

    def test_a_store_without_room_is_asked_for_less(self) -> None:
        full = StoreUnavailable(Reply(452, "4.3.1", "no room"))
        settle, claim = self.store.settle, self.store.claim
        room = 1

        def small_settle(settlements: Sequence) -> Pending:
            return settle(settlements) if len(settlements) <= room else fail(full)

        def small_claim(lane: Any, now: float, limit: int, *more: Any) -> Pending:
            return claim(lane, now, limit, *more) if limit <= room else fail(full)

        self.patch(self.store, "settle", small_settle)
        self.patch(self.store, "claim", small_claim)
        for number in range(9):
            self.send(f"f{number}@example.org")
            self.store_only(f"r{number}@example.net")
        self.run_for(5 * MINUTE)
        self.assertEqual(len(self.of(Delivered)), 18)
        self.assertEqual(len(self.agent.jobs), 18)
        self.assertEqual(self.store.queue, {})

    def test_an_agent_that_never_answers_gives_its_place_up(self) -> None:
        self.agent.holding = True
        self.send("carl@example.org")
        self.run_for(OVERDUE - 60, 30)
        self.assertEqual((self.scheduler.under_way, len(self.agent.jobs)), (1, 1))
        held = self.agent.held.pop()
        self.agent.holding = False
        self.run_for(120)
        self.assertEqual(self.scheduler.under_way, 0)
        [event] = self.of(Deferred)
        self.assertIn("did not end", event.reply)
        self.run_for(10 * MINUTE)
        self.assertEqual(len(self.of(Delivered)), 1)
        if not held[1].called:
            held[1].callback(None)  # what it says in the end is nobody's business any more
        self.run_for(MINUTE)
        self.assertEqual((len(self.of(Delivered)), self.store.queue), (1, {}))
        self.assertEqual(len(self.flushLoggedErrors()), 0)

    def test_a_store_that_raises_does_not_stop_the_clockwork(self) -> None:
        due, self.store.next_due = self.store.next_due, lambda: 1 / 0
        self.run_for(2)
        self.assertGreaterEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.store.next_due = due
        self.store_only("carl@example.org")
        self.run_for(2)
        self.assertEqual(len(self.of(Delivered)), 1)


class Stopping(Harness):
    """A clean end."""

    def test_a_store_that_is_broken_is_not_waited_for(self) -> None:
        self.store.broken = unavailable()
        self.store.trouble = "its disk failed"
        self.send("carl@example.org")
        self.turns()
        self.assertEqual(self.scheduler.unsettled, 1)
        self.successResultOf(self.scheduler.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nor_what_a_fault_keeps_from_being_written(self) -> None:
        self.patch(self.store, "settle", lambda settlements: 1 / 0)
        self.send("carl@example.org")
        self.turns()
        self.successResultOf(self.scheduler.stop())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_waits_for_what_is_under_way(self) -> None:
        self.agent.holding = True
        for number in range(8):
            self.send(f"r{number}@example.org")
        self.run_for(1)
        stopped = self.scheduler.stop()
        self.turns()
        self.assertTrue(self.agent.stopped)
        self.assertNoResult(stopped)
        self.assertIsNone(self.scheduler.room(()))
        self.agent.let_go(5)
        self.turns()
        self.successResultOf(stopped)
        self.assertEqual(len(self.of(Delivered)), 5)
        self.assertEqual(len(self.agent.jobs), 5)
        waiting = list(self.store.queue.values())
        self.assertEqual({(it.attempts, it.next_attempt <= self.clock.seconds()) for it in waiting}, {(0, True)})
        self.assertEqual(len(waiting), 3)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_an_agent_gives_back_is_due_at_once(self) -> None:
        self.agent.holding = True
        self.send("carl@example.org")
        self.turns()
        self.agent.remote = False
        self.agent.answer = lambda job, recipient: Reply(451, "4.3.2", "Stopping")
        stopped = self.scheduler.stop()
        self.agent.let_go()
        self.turns()
        self.successResultOf(stopped)
        [left] = self.store.queue.values()
        self.assertEqual((left.attempts, left.next_attempt), (0, self.clock.seconds()))
        self.assertEqual(self.events, [])

    def test_but_not_for_ever(self) -> None:
        self.agent.holding = True
        self.send("carl@example.org")
        self.run_for(1)
        stopped = self.scheduler.stop()
        self.run_for(31)
        self.successResultOf(stopped)
        [left] = self.store.queue.values()
        self.assertGreater(left.next_attempt, self.clock.seconds() - 1)
        self.assertEqual(self.of(Deferred), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_claim_that_comes_late_is_put_back(self) -> None:
        self.store_only("carl@example.org")
        self.store.delay = 0.01
        self.clock.advance(1)
        self.assertEqual(self.scheduler._claims.outstanding, 1)
        stopped = self.scheduler.stop()
        self.run_for(0.1, 0.01)
        self.successResultOf(stopped)
        [left] = self.store.queue.values()
        self.assertEqual(left.attempts, 0)
        self.assertLess(left.next_attempt, self.clock.seconds())
        self.assertEqual(self.agent.jobs, [])

    def test_the_last_settlement_is_waited_for(self) -> None:
        self.store.delay = 0.01
        self.send("carl@example.org")
        self.turns()
        stopped = self.scheduler.stop()
        self.assertNoResult(stopped)
        self.clock.advance(0.01)
        self.successResultOf(stopped)
        self.assertEqual(self.store.queue, {})

    def test_when_idle(self) -> None:
        self.successResultOf(self.scheduler.stop())
