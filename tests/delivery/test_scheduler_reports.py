"""The scheduler's reports: who is told of what, and what is told of nobody."""

from __future__ import annotations

import email

from tests.delivery.fakes import BUSY, OK, UNKNOWN, Harness
from twisted_mta.mail.events import Bounced, Delivered, Done, Reported, Routed


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
