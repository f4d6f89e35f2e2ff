"""The scheduler under load: turns, windows, dead destinations, and the bounds of memory."""

from __future__ import annotations

from tests.delivery.fakes import CONTENT, OK, REFUSED, UNKNOWN, Harness
from twisted_mta.delivery import active, lanes, scheduler
from twisted_mta.delivery.pace import PAUSE, Pace
from twisted_mta.mail.events import Deferred, Delivered


class Fairness(Harness):
    """Nobody waits for somebody else's mail."""

    def test_a_greedy_customer_at_one_destination(self) -> None:
        self.agent.holding = True
        for number in range(200):
            self.send(f"g{number}@example.org", customer="greedy")
        self.send("small@example.org", customer="small")
        self.turns()
        self.agent.let_go(2)
        self.turns()
        order = [job.delivery.customer for job in self.agent.jobs]
        self.assertIn("small", order[:7])

    def test_two_customers_share_a_destination(self) -> None:
        self.agent.holding = True
        for customer in ("a", "b"):
            for number in range(50):
                self.send(f"x{number}@example.org", customer=customer)
        for _ in range(40):
            self.turns(3)
            self.agent.let_go(1)
        self.turns()
        order = [job.delivery.customer for job in self.agent.jobs]
        self.assertLessEqual(abs(order.count("a") - order.count("b")), 2)

    def test_a_greedy_customer_at_many_destinations(self) -> None:
        self.scheduler.active.turns["smtp"].limit = 10
        self.agent.holding = True
        for number in range(300):
            self.send(f"g@example{number}.org", customer="greedy")
        self.send("small@example.org", customer="small")
        self.turns()
        self.assertEqual(self.agent.busy(), 10)
        self.agent.let_go(2)
        self.turns()
        self.assertIn("small", [job.delivery.customer for job in self.agent.jobs[:12]])

    def test_a_slow_destination_holds_up_no_other(self) -> None:
        self.agent.holding = True
        for number in range(500):
            self.send(f"x{number}@slow.example")
        for number in range(20):
            self.send(f"x@quick{number}.example")
        self.turns()
        self.assertEqual(self.agent.busy("smtp:slow.example"), lanes.START_WINDOW)
        self.assertEqual(len(self.agent.held), lanes.START_WINDOW + 20)

    def test_a_full_agent_does_not_hold_up_another(self) -> None:
        self.scheduler.active.turns["smtp"].limit = 3
        self.agent.holding = True
        for number in range(10):
            self.send(f"x@example{number}.org")
        self.send("ann@isp.example")
        self.turns()
        self.assertEqual(len(self.of(Delivered)), 1)

    def test_stored_mail_is_not_starved_by_fresh(self) -> None:
        for number in range(20):
            self.store_only(f"old{number}@example.org")
        self.agent.holding = True
        for number in range(100):
            self.send(f"new{number}@example.org")
        for _ in range(40):
            self.run_for(1)
            self.agent.let_go(1)
        names = [job.delivery.recipients[0].address[:3] for job in self.agent.jobs[:40]]
        self.assertGreaterEqual(names.count("old"), 15)

    def test_fresh_mail_is_not_starved_by_stored(self) -> None:
        self.agent.holding = True
        for number in range(200):
            self.store_only(f"old{number}@example.org")
        self.run_for(2)
        for number in range(20):
            self.send(f"new{number}@example.org")
        for _ in range(40):
            self.run_for(1)
            self.agent.let_go(1)
        names = [job.delivery.recipients[0].address[:3] for job in self.agent.jobs]
        self.assertGreaterEqual(names.count("new"), 15)

    def test_stored_lanes_of_one_destination_take_turns(self) -> None:
        for number in range(100):
            self.store_only(f"g{number}@example.org", customer="greedy")
        self.clock.advance(0.5)
        self.store_only("small@example.org", customer="small")
        self.agent.holding = True
        for _ in range(30):
            self.run_for(1)
            self.agent.let_go(1)
        order = [job.delivery.customer for job in self.agent.jobs]
        self.assertIn("small", order[:20])


class Windows(Harness):
    """How many attempts at once a destination gets."""

    def test_grows_with_success(self) -> None:
        self.agent.holding = True
        for number in range(400):
            self.send(f"x{number}@example.org")
        self.turns()
        self.assertEqual(self.agent.busy(), 5)
        for _ in range(300):
            self.agent.let_go(1)
            self.turns(3)
        self.assertEqual(self.agent.busy(), 20)
        self.assertEqual(self.agent.most["smtp:example.org"], 20)

    def test_the_limit_over_all_destinations(self) -> None:
        self.agent.holding = True
        self.scheduler.active.turns["smtp"].limit = 7
        for number in range(50):
            self.send(f"x@example{number}.org")
        self.turns()
        self.assertEqual(self.agent.busy(), 7)
        self.agent.let_go(3)
        self.turns()
        self.assertEqual(self.agent.busy(), 7)

    def test_a_refused_recipient_is_no_sign_of_trouble(self) -> None:
        self.agent.answer = lambda job, recipient: UNKNOWN
        for number in range(60):
            self.send(f"x{number}@example.org", sender="")
        self.turns()
        self.assertEqual([state.dead for state in self.scheduler.snapshot()], [False])
        self.assertEqual(len(self.agent.jobs), 60)


class Bursts(Harness):
    """Mail that comes in faster than it goes out."""

    def burst(self, count: int) -> None:
        for number in range(count):
            self.send(f"x@example{number}.org")
            self.send(f"y@example{number}.org")
            self.clock.advance(0.001)

    def test_the_pace_is_kept(self) -> None:
        asked: list[int] = []

        class Slow(Pace):
            def allowance(self, most: int, waiting: int, claimed: int, now: float) -> int:
                asked.append(waiting)
                return 1

        self.scheduler._pace = Slow()
        self.burst(20)
        self.turns()
        self.assertEqual(len(self.agent.jobs), 40)
        self.assertGreaterEqual(len(asked), 40)

    def test_all_go_out_once_it_pauses(self) -> None:
        self.burst(40)
        self.clock.advance(PAUSE)
        self.turns(2)
        self.assertEqual(len(self.agent.jobs), 80)


class Dead(Harness):
    """A destination to which no connection can be made."""

    def kill(self, count: int = 300) -> None:
        self.agent.answer = lambda job, recipient: OK if "example.net" in recipient.address else REFUSED
        for number in range(count):
            self.send(f"x{number}@example.org")
        self.turns(100)

    def test_the_rest_is_put_off_without_a_try(self) -> None:
        self.kill()
        tried = len(self.agent.jobs)
        self.assertTrue(3 < tried <= 20, tried)
        self.assertEqual(len(self.of(Deferred)), 300)
        self.assertEqual(len(self.store.queue), 300)
        self.assertEqual(self.scheduler.active.entries, {})
        [state] = self.scheduler.snapshot()
        self.assertTrue(state.dead)
        self.assertEqual(state.reason, str(REFUSED))
        self.assertIn("connection refused", self.of(Deferred)[-1].reply)
        self.assertEqual(self.of(Deferred)[-1].status, "4.4.1")
        self.send("carl@example.net")
        self.turns()
        self.assertEqual(len(self.of(Delivered)), 1)

    def test_then_one_probe_at_a_time(self) -> None:
        self.kill()
        tried = len(self.agent.jobs)
        self.agent.holding = True
        self.run_for(300, 5)
        self.assertEqual(self.agent.busy(), 1)
        self.assertEqual(len(self.agent.jobs), tried + 1)
        self.agent.let_go()
        self.run_for(30, 5)
        self.assertEqual(self.agent.busy(), 0)
        self.assertEqual(len(self.agent.jobs), tried + 1)

    def test_and_all_is_delivered_once_it_is_back(self) -> None:
        self.kill()
        self.agent.answer = lambda job, recipient: OK
        self.run_for(600, 5)
        self.assertEqual(len(self.of(Delivered)), 300)
        self.assertEqual(self.store.queue, {})
        self.assertEqual([state for state in self.scheduler.snapshot() if state.dead], [])

    def test_probes_grow_rare(self) -> None:
        self.kill(100)
        tried = len(self.agent.jobs)
        self.run_for(4 * 3600, 20)
        self.assertLess(len(self.agent.jobs) - tried, 14)

    def test_an_operator_s_retry_is_a_probe(self) -> None:
        self.kill(100)
        tried = len(self.agent.jobs)
        self.store.act("retry", next(iter(self.store.queue)))
        self.run_for(3)
        self.assertEqual(len(self.agent.jobs), tried + 1)

    def test_what_expires_meanwhile_bounces(self) -> None:
        self.kill(100)
        self.run_for(5 * 86400 + 3 * 3600, 300)
        self.assertEqual([key for key in self.store.queue if key[1] == "smtp:example.org"], [])

    def test_a_backlog_in_the_store_hides_nobody(self) -> None:
        self.kill(100)
        for number in range(2000):
            self.store_only(f"y{number}@example.org", customer=f"c{number % 50}")
        self.store_only("carl@example.net")
        self.run_for(3)
        self.assertEqual(len(self.of(Delivered)), 1)
        self.run_for(10)
        now = self.clock.seconds()
        self.assertEqual([it for it in self.store.queue.values() if it.next_attempt <= now], [])


class Memory(Harness):
    """What is kept in memory is bounded, and what does not fit is delivered all the same."""

    def test_fresh_entries(self) -> None:
        self.patch(active, "FRESH", 50)
        self.agent.holding = True
        for number in range(80):
            self.send(f"x@example{number}.org")
        self.assertEqual(self.scheduler.active.fresh, 50)
        self.assertIsNone(self.scheduler.room(self.message("x@example.org").deliveries))
        self.agent.holding = False
        self.agent.let_go(100)
        self.run_for(3)
        self.assertEqual(len(self.of(Delivered)), 80)
        self.assertEqual((self.scheduler.active.fresh, self.scheduler.active.octets), (0, 0))
        self.assertIsNotNone(self.scheduler.room(self.message("x@example.org").deliveries))

    def test_one_destination_leaves_room_for_others(self) -> None:
        self.patch(active, "FRESH_PER_DESTINATION", 20)
        self.agent.holding = True
        for number in range(60):
            self.send(f"x{number}@slow.example")
        self.assertEqual(len(self.scheduler.active.entries), 20)
        self.assertIsNotNone(self.scheduler.room(self.message("x@example.org").deliveries))

    def test_claimed_entries(self) -> None:
        self.patch(active, "CLAIMED", 40)
        self.agent.holding = True
        for number in range(300):
            self.store_only(f"x{number % 3}@example{number // 3}.org")
        for _ in range(40):
            self.run_for(1)
            self.assertLessEqual(self.scheduler.active.claimed, 40 + 10)
            self.agent.let_go(10)
        self.agent.holding = False
        self.agent.let_go(100)
        self.run_for(10)
        self.assertEqual(len(self.of(Delivered)), 300)
        self.assertEqual(self.scheduler.active.claimed, 0)

    def test_results_that_are_not_on_record_yet(self) -> None:
        self.patch(scheduler, "UNSETTLED", 10)
        self.store.delay = 5.0
        for number in range(60):
            self.send(f"x@example{number}.org")
        self.turns()
        self.assertEqual(len(self.agent.jobs), 10)
        self.run_for(60)
        self.assertEqual(len(self.of(Delivered)), 60)

    def test_content_goes_before_the_commit(self) -> None:
        self.store.delay = 5.0
        self.send("x@example.org")
        self.assertEqual(self.scheduler.active.octets, len(CONTENT))
        self.turns()
        self.assertEqual(self.scheduler.active.octets, 0)
        self.assertEqual(self.scheduler.unsettled, 1)


class Octets(Harness):
    """The content in memory."""

    queue = {"memory": 100_000}

    def test_fresh(self) -> None:
        self.agent.holding = True
        for number in range(30):
            self.send(f"x@example{number}.org", content=b"S: x\r\n\r\n" + b"y" * 10_000)
        self.assertLessEqual(self.scheduler.active.octets, 110_000)
        self.assertIsNone(self.scheduler.room(self.message("x@example.org").deliveries))

    def test_claimed(self) -> None:
        content = b"S: x\r\n\r\n" + b"y" * 10_000 + b"\r\n"
        for number in range(60):
            self.store_only(f"x@example{number}.org", content=content)
        self.agent.holding = True
        self.run_for(2)
        self.assertEqual(self.agent.busy(), 60)
        self.assertLessEqual(self.scheduler.active.octets, 100_000)
        self.agent.holding = False
        self.agent.let_go(60)
        self.run_for(1)
        self.assertEqual(self.agent.contents, [content] * 60)
        self.assertEqual(self.scheduler.active.octets, 0)
