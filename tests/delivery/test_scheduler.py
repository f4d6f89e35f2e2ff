"""The scheduler on a memory clock: what is delivered, retried, expired, and taken from the store."""

from __future__ import annotations

import itertools

import msgspec
from twisted.internet.defer import Deferred as Pending

from tests.delivery.fakes import BUSY, CONTENT, NOW, OK, UNKNOWN, Harness, unavailable, with_relay
from twisted_mta.config.settings import DAY, HOUR, MINUTE
from twisted_mta.mail.events import Bounced, Deferred, Delayed, Delivered, Done, Reported
from twisted_mta.queue.interfaces import CHUNK


class Fresh(Harness):
    """Mail that comes straight from the reception."""

    def test_delivered_from_memory(self) -> None:
        new = self.send("carl@example.org")
        self.turns()
        self.assertEqual(self.agent.contents, [CONTENT])
        self.assertEqual(self.store.calls["claim"], 0)
        self.assertEqual(self.store.calls["deliveries"], 0)
        self.assertEqual(self.store.queue, {})
        [delivered] = self.of(Delivered)
        self.assertEqual(
            (delivered.id, delivered.recipient, delivered.destination, delivered.relay, delivered.attempt),
            (new.message.id, "carl@example.org", "smtp:example.org", "mx.example.org[192.0.2.1]:25", 1),
        )
        self.assertEqual((delivered.status, delivered.reply), ("2.0.0", "250 2.0.0 Ok: queued as 12345"))
        self.assertEqual((delivered.size, delivered.seconds), (len(CONTENT), 0.25))
        self.assertEqual([event.id for event in self.of(Done)], [new.message.id])
        self.assertEqual(self.store.stories[new.message.id][0], delivered, "the story is what the log was told")

    def test_job_counts_the_attempt(self) -> None:
        self.send("carl@example.org")
        self.turns()
        [job] = self.agent.jobs
        self.assertEqual(job.delivery.attempts, 1)
        self.assertEqual(job.message.chunks, 1)
        [settlement] = self.store.settlements
        self.assertEqual(settlement.delivery.attempts, 1)

    def test_large_content_is_read_in_chunks(self) -> None:
        content = b"Subject: x\r\n\r\n" + b"a line of text\r\n" * 10_000
        self.send("carl@example.org", content=content)
        self.turns()
        self.assertEqual(self.agent.contents, [content])
        self.assertEqual(self.store.calls["read"], -(-len(content) // CHUNK))
        self.assertEqual(self.scheduler.active.octets, 0)

    def test_events_wait_for_the_commit(self) -> None:
        self.store.delay = 0.01
        self.send("carl@example.org")
        self.turns()
        self.assertEqual(len(self.agent.jobs), 1)
        self.assertEqual(self.store.calls["settle"], 1)
        self.assertEqual(self.events, [])
        self.clock.advance(0.01)
        self.assertEqual({type(event) for event in self.events}, {Delivered, Done})

    def test_one_settle_for_a_turn(self) -> None:
        for number in range(5):
            self.send(f"r{number}@example{number}.org")
        self.turns()
        self.assertEqual(len(self.of(Delivered)), 5)
        self.assertEqual(self.store.calls["settle"], 1)

    def test_several_destinations_one_done(self) -> None:
        self.agent.holding = True
        self.send("carl@example.org", "dora@example.net", "ann@isp.example")
        self.turns()
        self.assertEqual(len(self.of(Delivered)), 1)
        self.assertEqual(self.of(Done), [])
        self.agent.let_go(2)  # both end in the same turn
        self.turns()
        self.assertEqual(len(self.of(Delivered)), 3)
        self.assertEqual(len(self.of(Done)), 1)

    def test_recipients_fare_differently(self) -> None:
        self.agent.answer = lambda job, recipient: {"a": OK, "b": BUSY, "c": UNKNOWN}[recipient.address[0]]
        new = self.send("a@example.org", "b@example.org", "c@example.org")
        self.turns()
        self.assertEqual([event.recipient for event in self.of(Delivered)], ["a@example.org"])
        self.assertEqual([event.recipient for event in self.of(Deferred)], ["b@example.org"])
        self.assertEqual([event.recipient for event in self.of(Bounced)], ["c@example.org"])
        self.assertEqual(self.of(Done), [])
        left = self.store.queue[new.message.id, "smtp:example.org"]
        self.assertEqual([it.address for it in left.recipients], ["b@example.org"])
        self.assertEqual((left.attempts, left.last_reply, left.last_host), (1, str(BUSY), "mx.example.org"))


class Retries(Harness):
    """Mail that is put off."""

    def test_by_the_schedule(self) -> None:
        self.agent.answer = lambda job, recipient: BUSY
        self.send("carl@example.org")
        self.turns()
        self.run_for(4 * HOUR, 10)
        times = [event.time for event in self.of(Deferred)]
        waits = [later - earlier for earlier, later in itertools.pairwise(times)]
        for wait, planned in zip(waits, (60, 300, 900, 1800, 3600, 7200), strict=False):
            self.assertTrue(planned <= wait <= planned * 1.2 + 15, (wait, planned))
        self.assertGreaterEqual(len(waits), 5)
        self.assertEqual([event.attempt for event in self.of(Deferred)], list(range(1, len(times) + 1)))

    def test_next_attempt_is_told_and_kept(self) -> None:
        self.agent.answer = lambda job, recipient: BUSY
        new = self.send("carl@example.org")
        self.turns()
        [event] = self.of(Deferred)
        self.assertEqual(event.next_attempt, self.store.queue[new.message.id, "smtp:example.org"].next_attempt)

    def test_delivered_in_the_end(self) -> None:
        self.agent.answer = lambda job, recipient: BUSY if job.delivery.attempts < 3 else OK
        self.send("carl@example.org")
        self.run_for(10 * MINUTE)
        self.assertEqual([event.attempt for event in self.of(Delivered)], [3])
        self.assertEqual(len(self.of(Done)), 1)
        self.assertEqual(self.store.queue, {})

    def test_expires_with_one_report(self) -> None:
        self.agent.answer = lambda job, recipient: BUSY if job.delivery.destination == "smtp:example.org" else OK
        new = self.send("carl@example.org", sender="bob@example.net")
        self.run_for(5 * DAY + HOUR, 30)
        [bounced] = self.of(Bounced)
        self.assertTrue(bounced.expired)
        self.assertEqual((bounced.status, bounced.reply), ("5.4.7", str(BUSY)))
        self.assertTrue(0 <= bounced.time - new.message.expires < 60, bounced.time - new.message.expires)
        reports = {event.kind: event for event in self.of(Reported)}
        self.assertEqual(sorted(reports), ["delayed", "failed"])
        self.assertEqual(bounced.report, reports["failed"].id)
        self.assertEqual(self.store.queue, {})

    def test_delay_is_told_once(self) -> None:
        self.agent.answer = lambda job, recipient: BUSY if "carl" in recipient.address else OK
        self.send("carl@example.org", sender="bob@example.net")
        self.run_for(DAY, 30)
        [delayed] = self.of(Delayed)
        self.assertTrue(4 * HOUR <= delayed.time - NOW < 7 * HOUR)
        self.assertEqual(delayed.recipients, ("carl@example.org",))
        report = next(c for c in self.agent.contents if b"Auto-Submitted" in c)
        self.assertIn(b"Action: delayed", report)
        self.assertEqual(sum(b"Auto-Submitted" in c for c in self.agent.contents), 1)

    def test_a_null_sender_hears_of_no_delay(self) -> None:
        self.agent.answer = lambda job, recipient: BUSY
        self.send("carl@example.org", sender="")
        self.run_for(DAY, 30)
        self.assertEqual(self.of(Delayed), [])
        self.assertEqual(self.of(Reported), [])


class Stored(Harness):
    """Mail that is claimed from the store."""

    def test_delivered_when_due(self) -> None:
        self.store_only("carl@example.org")
        self.run_for(2)
        self.assertEqual(len(self.of(Delivered)), 1)
        self.assertEqual(self.agent.contents, [CONTENT])

    def test_a_new_process_goes_on(self) -> None:
        self.agent.answer = lambda job, recipient: BUSY
        for number in range(10):
            self.send(f"carl@example{number}.org")
        self.run_for(2)
        self.scheduler.stop()
        self.turns()
        self.agent.answer = lambda job, recipient: OK
        self.scheduler = self.make()
        self.scheduler.start()
        self.run_for(3 * MINUTE)
        self.assertEqual(len(self.of(Delivered)), 10)
        self.assertEqual(self.store.queue, {})

    def test_a_process_that_died_delays_by_the_first_retry_only(self) -> None:
        self.agent.holding = True
        self.send("carl@example.org")
        self.run_for(1)
        self.assertEqual(self.agent.busy(), 1)
        self.agent.holding = False
        for call in list(self.clock.getDelayedCalls()):  # SIGKILL
            call.cancel()
        self.scheduler = self.make()
        self.scheduler.start()
        self.run_for(30)
        self.assertEqual(self.of(Delivered), [])
        self.run_for(60)
        self.assertEqual(len(self.of(Delivered)), 1)

    def test_a_long_backlog_is_paged(self) -> None:
        for number in range(500):
            self.store_only(f"r{number}@example.org")
        self.agent.holding = True
        self.run_for(3)
        self.assertLessEqual(len(self.scheduler.active.entries), 20)
        self.agent.holding = False
        self.agent.let_go(100)
        self.run_for(3)
        self.assertEqual(len(self.of(Delivered)), 500)
        self.assertEqual(self.store.queue, {})
        self.assertEqual(self.scheduler.active.claimed, 0)
        self.assertEqual(self.scheduler.active.octets, 0)

    def test_an_attempt_longer_than_its_arming_is_not_doubled(self) -> None:
        self.agent.holding = True
        self.send("carl@example.org")
        self.store_only("dora@example.net")
        self.run_for(30 * MINUTE, 5)
        self.assertEqual(len(self.agent.jobs), 2)
        self.agent.let_go(2)
        self.turns()
        self.assertEqual(len(self.of(Delivered)), 2)
        self.assertEqual(self.store.queue, {})

    def test_many_lanes(self) -> None:
        for number in range(1200):
            self.store_only(f"x@example{number}.org")
        self.run_for(5)
        self.assertEqual(len(self.of(Delivered)), 1200)

    def test_lanes_behind_many_blocked_ones_are_found(self) -> None:
        self.agent.holding = True
        for number in range(600):
            self.store_only("x@slow.example", customer=f"c{number:03}")
        self.run_for(2)
        self.store_only("carl@example.org")
        self.run_for(3)
        self.assertEqual(self.agent.busy("smtp:example.org"), 1)

    def test_a_claim_that_fails_is_tried_again(self) -> None:
        self.store_only("carl@example.org")
        self.store.broken = unavailable()
        self.run_for(5)
        self.assertEqual(self.agent.jobs, [])
        self.store.broken = None
        self.run_for(2)
        self.assertEqual(len(self.of(Delivered)), 1)
        self.assertEqual(self.scheduler.active.claimed, 0)

    def test_idle_lanes_and_destinations_are_forgotten(self) -> None:
        for number in range(300):
            self.send(f"x@example{number}.org", customer=f"c{number}")
        self.run_for(3)
        self.assertEqual(self.scheduler.active._destinations, {})


class Reconfiguring(Harness):
    """Settings that change."""

    def test_limits_and_schedule(self) -> None:
        self.agent.holding = True
        for number in range(10):
            self.send(f"r{number}@example.org")
        self.run_for(1)
        self.assertEqual(self.agent.busy(), 5)
        self.scheduler.reconfigure(with_relay(self.settings, connections_per_destination=2))
        self.agent.let_go(5)
        self.run_for(1)
        self.assertEqual(self.agent.busy(), 2)

    def test_what_was_committed_during_the_stop_is_due_at_once(self) -> None:
        new = self.message("carl@example.org")
        armed = self.scheduler.room(new.deliveries)
        assert armed is not None
        new = msgspec.structs.replace(new, next_attempt=armed)
        stopped = self.scheduler.stop()
        self.turns()
        self.successResultOf(stopped)
        self.store.put(new, CONTENT)
        self.scheduler.offer(new, CONTENT)
        recorded = Pending.fromCoroutine(self.scheduler.recorded())
        self.turns()
        self.successResultOf(recorded)
        [left] = self.store.queue.values()
        self.assertEqual((left.attempts, left.next_attempt), (0, self.clock.seconds()))
        self.assertEqual(self.agent.jobs, [])
        self.assertEqual(self.scheduler.active.entries, {})
        self.assertEqual(self.clock.getDelayedCalls(), [])
