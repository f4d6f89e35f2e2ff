"""DELIVERBY (RFC 2852) in the queue: what is returned, whom is told, and when."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.delivery.fakes import BUSY, NOW, OK, REFUSED, Harness
from twisted_mta.delivery.interfaces import Job, Result
from twisted_mta.mail.envelope import Handling, Recipient
from twisted_mta.mail.events import Bounced, Delayed, Delivered, Reported

ANN = "ann@isp.example"


class DeliverByCase(Harness):
    queue = {"delay_warning": 0.0}

    def ask(self, seconds: float, mode: str, trace: bool = False, to: str = "x@example.org", **more: Any) -> str:
        now = self.clock.seconds()
        handling = Handling(deliver_by=now + seconds, by_mode=mode, trace=trace)  # type: ignore[arg-type]
        expires = now + (seconds if mode == "R" else self.settings.queue.lifetime)
        return self.send(to, sender=ANN, handling=handling, expires=expires, **more).message.id

    def report(self) -> str:
        """The one report, as ann gets it."""
        (content,) = self.mailboxes.contents
        return content.decode()


class Return(DeliverByCase):
    """Mode R."""

    def test_delivered_in_time(self) -> None:
        self.ask(60, "R")
        self.run_for(120)
        self.assertEqual((len(self.of(Delivered)), len(self.of(Reported))), (1, 0))

    def test_returned_when_the_time_is_over(self) -> None:
        self.agent.answer = lambda job, recipient: BUSY
        mid = self.ask(100, "R")
        self.run_for(99)
        tried = len(self.agent.jobs)
        self.assertGreater(tried, 1)
        self.assertEqual(self.of(Bounced), [])
        self.run_for(5)
        self.assertEqual(len(self.agent.jobs), tried, "nothing is tried after its time")
        (bounced,) = self.of(Bounced)
        self.assertEqual((bounced.id, bounced.status, bounced.expired), (mid, "5.4.7", True))
        self.assertLess(bounced.time, NOW + 103)
        report = self.report()
        self.assertIn("\r\nAction: failed\r\nStatus: 5.4.7\r\n", report)
        self.assertIn("\r\nDeliver-By-Date: ", report)
        self.assertIn("To be delivered by: ", report)

    def test_returned_while_it_waits_for_its_turn(self) -> None:
        """A window that is full of slow attempts hides no deadline."""
        self.agent.holding = True
        for number in range(20):
            self.send(f"slow{number}@example.org")
        mid = self.ask(30, "R")
        self.run_for(29)
        self.assertEqual(self.of(Bounced), [])
        self.run_for(3)
        self.assertEqual([event.id for event in self.of(Bounced)], [mid])
        self.agent.holding = False
        self.agent.let_go(20)
        self.run_for(5)
        self.assertNotIn(mid, [job.message.id for job in self.agent.jobs])
        self.assertEqual(len([event for event in self.of(Delivered) if event.recipient.startswith("slow")]), 20)
        self.assertFalse(self.store.queue)
        self.assertEqual(self.scheduler.active.fresh, 0)

    def test_returned_though_its_destination_is_dead(self) -> None:
        self.agent.answer = lambda job, recipient: REFUSED
        for number in range(40):
            self.send(f"y{number}@example.org")
        self.run_for(5)
        mid = self.ask(30, "R")
        self.run_for(35)
        self.assertEqual([event.id for event in self.of(Bounced)], [mid])

    def test_returned_late_where_the_service_was_down(self) -> None:
        self.agent.answer = lambda job, recipient: BUSY
        self.ask(100, "R")
        self.run_for(2)
        self.scheduler.stop()
        self.run_for(2)
        self.clock.advance(500)
        self.scheduler = self.make()
        self.scheduler.start()
        before = len(self.agent.jobs)
        self.run_for(3)
        self.assertEqual((len(self.of(Bounced)), len(self.agent.jobs)), (1, before))

    def test_an_attempt_under_way_is_not_cut_short(self) -> None:
        self.agent.holding = True
        self.ask(10, "R")
        self.run_for(15)
        self.agent.let_go(1)
        self.run_for(2)
        self.assertEqual((len(self.of(Delivered)), len(self.of(Bounced))), (1, 0))


class Notify(DeliverByCase):
    """Mode N."""

    def test_told_when_the_time_is_over_and_it_goes_on(self) -> None:
        self.agent.answer = lambda job, recipient: BUSY
        mid = self.ask(100, "N")
        self.run_for(99)
        self.assertEqual(self.of(Delayed), [])
        self.run_for(4)
        (delayed,) = self.of(Delayed)
        self.assertEqual(delayed.id, mid)
        report = self.report()
        self.assertIn("\r\nAction: delayed\r\nStatus: 4.4.7\r\n", report)
        self.agent.answer = lambda job, recipient: OK
        self.run_for(3 * 3600)
        self.assertEqual(len(self.of(Delayed)), 1, "told once")
        self.assertEqual([event.id for event in self.of(Delivered) if event.recipient.startswith("x@")], [mid])

    def test_told_while_it_waits_for_its_turn(self) -> None:
        self.agent.holding = True
        for number in range(20):
            self.send(f"slow{number}@example.org")
        mid = self.ask(30, "N")
        self.run_for(33)
        self.assertEqual([event.id for event in self.of(Delayed)], [mid])
        self.assertIn("4.4.7", self.report())
        (waiting,) = [it for it in self.store.queue.values() if it.id == mid]
        self.assertTrue(waiting.overdue)
        self.agent.holding = False
        self.agent.let_go(20)
        self.run_for(5)
        self.assertIn(mid, [event.id for event in self.of(Delivered)])
        self.assertEqual(len(self.of(Delayed)), 1)
        (job,) = [job for job in self.agent.jobs if job.message.id == mid]
        self.assertEqual(job.delivery.attempts, 1, "waiting is no attempt")

    def test_who_told_already_is_not_told_again(self) -> None:
        self.agent.answer = lambda job, recipient: BUSY
        self.ask(-5, "N", arrived=NOW)
        self.run_for(7200)
        self.assertEqual(self.of(Delayed), [])

    def test_nobody_is_told_who_does_not_want_it(self) -> None:
        self.agent.answer = lambda job, recipient: BUSY
        new = self.message("x@example.org", sender=ANN, handling=Handling(deliver_by=NOW + 50, by_mode="N"))
        (part,) = new.deliveries
        never = tuple(msgspec.structs.replace(to, notify="NEVER") for to in part.recipients)
        parts = (msgspec.structs.replace(part, recipients=never),)
        self.store.put(msgspec.structs.replace(new, deliveries=parts), b"Subject: x\r\n\r\n")
        self.run_for(7200)
        self.assertEqual(self.of(Reported), [])

    def test_nobody_is_told_of_a_message_without_a_sender(self) -> None:
        self.agent.answer = lambda job, recipient: BUSY
        self.send("x@example.org", sender="", handling=Handling(deliver_by=NOW + 50, by_mode="N", trace=True))
        self.run_for(200)
        self.assertEqual(self.of(Reported), [])


class Relayed(DeliverByCase):
    """Reports of relaying."""

    def setUp(self) -> None:
        super().setUp()
        self.action, self.timed = "relayed", False
        plain = self.agent._result

        def result(job: Job, recipient: Recipient) -> Result:
            return msgspec.structs.replace(plain(job, recipient), action=self.action, timed=self.timed)

        self.agent._result = result  # type: ignore[method-assign]

    def kinds(self) -> list[str]:
        self.run_for(3)
        return [event.kind for event in self.of(Reported)]

    def test_to_a_server_that_does_not_see_to_it(self) -> None:
        self.ask(60, "N")
        self.assertEqual(self.kinds(), ["relayed"])
        self.assertIn("\r\nAction: relayed\r\nStatus: 2.", self.report())
        (delivered,) = [event for event in self.of(Delivered) if event.recipient.startswith("x@")]
        self.assertEqual(delivered.report, self.of(Reported)[0].id)

    def test_to_one_that_does(self) -> None:
        self.timed = True
        self.ask(60, "N")
        self.assertEqual(self.kinds(), [])

    def test_traced_to_either(self) -> None:
        for self.timed, self.action in ((True, "relayed"), (False, "relayed"), (True, "passed")):
            self.ask(60, "N", True)
        self.assertEqual(self.kinds(), ["relayed"] * 3)

    def test_a_mailbox_is_no_relay(self) -> None:
        self.action = "delivered"
        self.ask(60, "N", True)
        self.assertEqual(self.kinds(), [])

    def test_one_report_for_who_asked_for_success_too(self) -> None:
        new = self.message("x@example.org", sender=ANN, handling=Handling(deliver_by=NOW + 50, by_mode="N", trace=True))
        (part,) = new.deliveries
        those = tuple(msgspec.structs.replace(to, notify="SUCCESS") for to in part.recipients)
        self.store.put(
            msgspec.structs.replace(new, deliveries=(msgspec.structs.replace(part, recipients=those),)), b"\r\n"
        )
        self.assertEqual(self.kinds(), ["relayed"])
        self.assertEqual(self.report().count("Action: relayed"), 1)


class Memory(DeliverByCase):
    """What is remembered of deadlines."""

    def test_bounded(self) -> None:
        for number in range(1000):
            self.ask(999_999_999, "R", to=f"x{number}@example.org")
            self.turns(5)
        self.assertEqual(len(self.of(Delivered)), 1000)
        self.assertLess(len(self.scheduler.active.deadlines), 300)

    def test_nothing_where_nobody_asks(self) -> None:
        for number in range(10):
            self.send(f"x{number}@example.org")
        self.assertEqual(len(self.scheduler.active.deadlines), 0)

    @settings(max_examples=30)
    @given(
        st.lists(st.tuples(st.sampled_from("NR"), st.integers(1, 300), st.booleans()), min_size=1, max_size=12),
        st.integers(0, 250),
        st.integers(0, 400),
    )
    def test_every_fate(self, mails: list[tuple[str, int, bool]], block: int, busy: int) -> None:
        """Each is delivered, or returned at its time; of mode N each is told of exactly if it was late."""
        self.setUp()
        start = self.clock.seconds()
        self.agent.answer = lambda job, to: OK if self.clock.seconds() >= start + busy else BUSY
        self.agent.holding = True
        for number in range(8):
            self.send(f"slow{number}@example.org")
        ids = {self.ask(seconds, mode, trace, f"x{n}@example.org"): (mode, seconds)
               for n, (mode, seconds, trace) in enumerate(mails)}  # fmt: skip
        self.run_for(block)
        self.agent.holding = False
        self.agent.let_go(100)
        self.run_for(3600)
        delivered = {event.id: event.time - start for event in self.of(Delivered)}
        bounced = {event.id: event.time - start for event in self.of(Bounced)}
        delayed = [event.id for event in self.of(Delayed)]
        for mid, (mode, seconds) in ids.items():
            self.assertEqual((mid in delivered) + (mid in bounced), 1)
            if mid in bounced:
                self.assertEqual(mode, "R")
                self.assertLessEqual(seconds, bounced[mid])
                self.assertLess(bounced[mid], max(seconds, min(block, seconds)) + 5)
            if mode == "N":
                self.assertEqual(delayed.count(mid), delivered[mid] > seconds + 2 or delayed.count(mid) > 0)
                if delayed.count(mid):
                    self.assertGreaterEqual(delivered[mid], seconds)
                self.assertLessEqual(delayed.count(mid), 1)
