"""The scheduler on a memory clock: what is delivered, retried, given up and told."""

from __future__ import annotations

import email
import itertools
from collections.abc import Sequence
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred as Pending
from twisted.internet.defer import fail

from tests.delivery.fakes import BUSY, CONTENT, NOW, OK, UNKNOWN, Harness, unavailable
from twisted_mta.config.settings import Settings
from twisted_mta.delivery.interfaces import Job, Result
from twisted_mta.delivery.scheduler import OVERDUE
from twisted_mta.mail.envelope import Lane
from twisted_mta.mail.events import Bounced, Deferred, Delayed, Delivered, Done, Reported, Routed, Service
from twisted_mta.mail.status import Reply
from twisted_mta.queue.interfaces import CHUNK, StoreUnavailable

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


def with_relay(settings: Settings, **relay: object) -> Settings:
    """The settings with others for ``relay``."""
    return attrs.evolve(settings, relay=attrs.evolve(settings.relay, **relay))


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


class Reports(Harness):
    """Who is told that mail failed."""

    def bounce(self, **more: str) -> None:
        self.agent.answer = lambda job, recipient: UNKNOWN if "gone" in recipient.address else OK
        self.send("gone@example.org", "gone2@example.org", "there@example.org", **more)
        self.run_for(5)

    def test_one_report_for_all_failed_recipients(self) -> None:
        self.bounce(sender="bob@example.net")
        reports = [c for job, c in zip(self.agent.jobs, self.agent.contents, strict=True) if job.message.kind == "dsn"]
        self.assertEqual(len(reports), 1)
        parsed = email.message_from_bytes(reports[0])
        fields = parsed.get_payload(1).get_payload()
        self.assertEqual(
            [part["Final-Recipient"] for part in fields[1:]], ["rfc822; gone@example.org", "rfc822; gone2@example.org"]
        )
        self.assertIn("Subject: Hello", parsed.get_payload(2).get_payload())
        [report] = [job.message for job in self.agent.jobs if job.message.kind == "dsn"]
        self.assertEqual(report.sender, "")
        self.assertEqual({event.report for event in self.of(Bounced)}, {report.id})
        self.assertEqual(self.store.queue, {})

    def test_the_report_has_its_own_story(self) -> None:
        self.bounce(sender="bob@example.net")
        [reported] = self.of(Reported)
        story = self.store.stories[reported.id]
        self.assertEqual([type(event) for event in story], [Reported, Routed, Delivered, Done])

    def test_a_local_sender_gets_it_in_the_mailbox(self) -> None:
        self.bounce(sender="ann@isp.example")
        self.assertEqual([job.delivery.destination for job in self.mailboxes.jobs], ["maildir:isp.example"])

    def test_large_original(self) -> None:
        content = b"Subject: Big\r\n\r\n" + b"x" * 70 + b"\r\n"
        content += b"line\r\n" * 20_000
        self.agent.answer = lambda job, recipient: UNKNOWN if job.message.kind == "mail" else OK
        self.send("gone@example.org", sender="bob@example.net", content=content)
        self.run_for(3)
        self.assertIn(b"Subject: Big\r\n", self.agent.contents[-1])
        self.assertLess(len(self.agent.contents[-1]), 5000)

    def test_a_null_sender_gets_none(self) -> None:
        self.bounce(sender="")
        self.assertEqual(self.of(Reported), [])
        self.assertEqual({(event.report, event.fate[:7]) for event in self.of(Bounced)}, {("", "dropped")})
        self.assertEqual(self.store.queue, {})

    def test_a_report_that_fails_makes_no_report(self) -> None:
        self.agent.answer = lambda job, recipient: UNKNOWN
        self.send("gone@example.org", sender="bob@example.net")
        self.run_for(10)
        self.assertEqual(len(self.of(Reported)), 1)
        self.assertEqual(len(self.of(Bounced)), 2)
        self.assertEqual(self.store.queue, {})

    def test_a_report_that_can_not_be_made_loses_nothing(self) -> None:
        async def broken(*args: object) -> None:
            raise ZeroDivisionError

        self.patch(self.scheduler._conclusions._reporter, "report", broken)
        self.agent.answer = lambda job, recipient: {"gone": UNKNOWN, "busy": BUSY, "fine": OK}[recipient.address[:4]]
        new = self.send("gone@example.org", "busy@example.org", "fine@example.org")
        self.turns()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        left = self.store.queue[new.message.id, "smtp:example.org"]
        self.assertEqual({it.address for it in left.recipients}, {"gone@example.org", "busy@example.org"})
        self.assertGreater(left.next_attempt, self.clock.seconds())


class DoubleBounces(Harness):
    """Null senders, with a postmaster to tell."""

    local = {"postmaster": "ann@isp.example"}

    def test_the_postmaster_is_told(self) -> None:
        self.agent.answer = lambda job, recipient: UNKNOWN
        self.send("gone@example.org", sender="")
        self.run_for(3)
        [job] = self.mailboxes.jobs
        self.assertEqual((job.message.sender, job.message.kind), ("", "dsn"))
        self.assertEqual([it.address for it in job.delivery.recipients], ["ann@isp.example"])
        self.assertEqual([event.kind for event in self.of(Reported)], ["double-bounce"])

    def test_but_not_that_this_failed(self) -> None:
        self.agent.answer = lambda job, recipient: UNKNOWN
        self.mailboxes.answer = lambda job, recipient: UNKNOWN
        self.send("gone@example.org", sender="")
        self.run_for(5)
        self.assertEqual(len(self.of(Reported)), 1)
        self.assertEqual(len(self.of(Bounced)), 2)
        self.assertTrue(self.of(Bounced)[1].fate.startswith("dropped"))
        self.assertEqual(self.store.queue, {})


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
