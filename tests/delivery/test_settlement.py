"""What becomes of a delivery after an attempt."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.config.settings import Queue
from twisted_mta.delivery.interfaces import Result
from twisted_mta.delivery.retry import RetryPolicy
from twisted_mta.delivery.settlement import (
    Verdict,
    all_recipients,
    bounced,
    connection_failed,
    judge,
    named,
    suspended,
)
from twisted_mta.mail.envelope import Delivery, Message, Recipient
from twisted_mta.mail.events import Deferred, Delivered
from twisted_mta.mail.status import Reply

NOW = 1_800_000_000.0
HOUR = 3600.0
OK, BUSY, GONE = Reply(250, "2.0.0", "Ok"), Reply(451, "4.2.0", "Later"), Reply(550, "5.1.1", "No\nsuch user")
PEOPLE = tuple(Recipient(f"{name}@example.org", f"{name}@example.org") for name in "abc")


def message(**more: object) -> Message:
    values = {"id": "m", "arrived": NOW - 60, "sender": "bob@isp.example", "recipients": 3, "size": 99, "chunks": 1}
    return Message(**values | {"expires": NOW + 5 * 24 * HOUR} | more)


def delivery(**more: object) -> Delivery:
    values = {"id": "m", "destination": "smtp:example.org", "customer": "c", "recipients": PEOPLE}
    return Delivery(**values | {"next_attempt": NOW, "attempts": 1} | more)


class Case(SynchronousTestCase):
    def judge(self, *replies: Reply, not_before: float = 0.0, warning: float = 4 * HOUR, **more: object) -> Verdict:
        about = {key: more.pop(key) for key in list(more) if key in ("arrived", "sender", "expires", "kind")}
        people = PEOPLE[: len(replies)]
        results = [
            Result(recipient=recipient, reply=reply, relay="mx", host="mx.example.org", remote=True)
            for recipient, reply in zip(people, replies, strict=True)
        ]
        return judge(
            message(**about),
            delivery(recipients=people, **more),
            results,
            began=NOW - 2,
            now=NOW,
            retry=RetryPolicy(Queue(), random.Random(1)),
            delay_warning=warning,
            not_before=not_before,
        )


class Judging(Case):
    """Results into what leaves, stays and fails."""

    def test_all_delivered(self) -> None:
        for count in (1, 3):
            verdict = self.judge(*[OK] * count)
            self.assertIsNone(verdict.remaining)
            self.assertEqual([type(event) for event in verdict.events], [Delivered] * count)
            self.assertEqual(verdict.failed, ())

    def test_mixed(self) -> None:
        verdict = self.judge(OK, BUSY, GONE)
        assert verdict.remaining is not None
        self.assertEqual(verdict.remaining.recipients, (PEOPLE[1],))
        self.assertEqual(
            (verdict.remaining.last_reply, verdict.remaining.last_status, verdict.remaining.last_host),
            ("451 4.2.0 Later", "4.2.0", "mx.example.org"),
        )
        self.assertEqual(verdict.remaining.last_attempt, NOW - 2)
        self.assertEqual([failure.recipient for _, failure in verdict.failed], [PEOPLE[2]])
        self.assertEqual([type(event) for event in verdict.events], [Delivered, Deferred])
        self.assertFalse(verdict.warn)

    def test_expired(self) -> None:
        verdict = self.judge(OK, BUSY, GONE, expires=NOW)
        self.assertIsNone(verdict.remaining)
        self.assertEqual([(f.recipient, f.expired) for _, f in verdict.failed], [(PEOPLE[2], False), (PEOPLE[1], True)])
        self.assertEqual(verdict.failed[1][1].reply, BUSY)

    def test_not_before(self) -> None:
        verdict = self.judge(BUSY, not_before=NOW + HOUR)
        assert verdict.remaining is not None
        self.assertEqual(verdict.remaining.next_attempt, NOW + HOUR)
        verdict = self.judge(BUSY, not_before=NOW + HOUR, expires=NOW + 100)
        assert verdict.remaining is not None
        self.assertEqual(verdict.remaining.next_attempt, NOW + 100, "the lifetime's end holds")

    def test_warns_when_late(self) -> None:
        verdict = self.judge(OK, BUSY, arrived=NOW - 4 * HOUR)
        assert verdict.remaining is not None
        self.assertTrue(verdict.warn)
        self.assertTrue(verdict.remaining.warned)
        self.assertEqual([failure.recipient for failure in verdict.late], [PEOPLE[1]])

    def test_does_not_warn(self) -> None:
        late = NOW - 5 * HOUR
        for verdict in (
            self.judge(BUSY, arrived=NOW - 3 * HOUR),
            self.judge(BUSY, arrived=late, warned=True),
            self.judge(BUSY, arrived=late, sender=""),
            self.judge(BUSY, arrived=late, kind="dsn"),
            self.judge(BUSY, arrived=late, warning=0.0),
            self.judge(GONE, arrived=late),
        ):
            self.assertFalse(verdict.warn)
        remaining = self.judge(BUSY, arrived=late, warned=True).remaining
        assert remaining is not None
        self.assertTrue(remaining.warned)

    def succeed(self, notify: str, action: str = "delivered", **about: object) -> Verdict:
        recipient = Recipient("a@example.org", "a@example.org", notify)
        result = Result(recipient=recipient, reply=OK, action=action)  # type: ignore[arg-type]
        retry = RetryPolicy(Queue(), random.Random(1))
        about_it = message(**about)
        return judge(about_it, delivery(), [result], began=NOW, now=NOW, retry=retry, delay_warning=HOUR)

    def test_success_is_told_where_it_was_asked_for(self) -> None:
        for action, told, relayed in (("delivered", 1, 0), ("relayed", 0, 1), ("passed", 0, 0)):
            verdict = self.succeed("SUCCESS,FAILURE", action)
            self.assertEqual((len(verdict.succeeded), len(verdict.relayed)), (told, relayed), action)
            self.assertEqual([type(event) for event in verdict.events], [Delivered])
        for notify in ("", "NEVER", "FAILURE,DELAY"):
            verdict = self.succeed(notify)
            self.assertEqual((verdict.succeeded, verdict.relayed), ((), ()), notify)
        self.assertEqual(self.succeed("SUCCESS", sender="").succeeded, ())

    def test_a_report_is_named_in_the_delivery(self) -> None:
        verdict = self.succeed("SUCCESS")
        (event,) = named(verdict.events, verdict.succeeded, "r1")
        assert isinstance(event, Delivered)
        self.assertEqual(event.report, "r1")

    def test_event_of_an_alias(self) -> None:
        verdict = judge(
            message(),
            delivery(recipients=(Recipient("x@example.org", "sales@isp.example"),)),
            [Result(recipient=Recipient("x@example.org", "sales@isp.example"), reply=OK)],
            began=NOW,
            now=NOW,
            retry=RetryPolicy(Queue(), random.Random(1)),
            delay_warning=0,
        )
        [event] = verdict.events
        assert isinstance(event, Delivered)
        self.assertEqual((event.recipient, event.original, event.delay), ("x@example.org", "sales@isp.example", 60.0))

    def test_bounced(self) -> None:
        verdict = self.judge(GONE, BUSY, expires=NOW)
        events = [bounced(message(), delivery(), r, f, NOW, "report", "reported") for r, f in verdict.failed]
        self.assertEqual([(e.status, e.expired) for e in events], [("5.1.1", False), ("5.4.7", True)])
        self.assertEqual([(e.report, e.fate) for e in events], [("report", "")] * 2)
        self.assertEqual(events[0].reply, "550 5.1.1 No such user", "one line")


class Connections(SynchronousTestCase):
    """Whether a destination or a recipient is in trouble."""

    def failed(self, *replies: tuple[Reply, bool]) -> str:
        return connection_failed([Result(recipient=PEOPLE[0], reply=reply, remote=remote) for reply, remote in replies])

    def test_yes(self) -> None:
        for status in ("4.4.1", "4.4.3", "4.7.5", "4.3.1", "4.3.2", "4.3.5"):
            self.assertEqual(self.failed((Reply(451, status, "x"), False)), f"451 {status} x")
        self.assertTrue(self.failed((Reply(421, "4.7.0", "Too many connections"), True)))
        self.assertTrue(self.failed((Reply(421), True)))

    def test_no(self) -> None:
        dead = (Reply(451, "4.4.1", "x"), False)
        for result in (
            (Reply(451, "4.7.1", "Greylisted"), True),
            (Reply(451, "4.4.1", "Relay down"), True),
            (OK, True),
            (BUSY, True),
            (GONE, True),
            (Reply(452, "4.2.2", "full"), False),
        ):
            self.assertEqual(self.failed(result), "")
            self.assertEqual(self.failed(dead, result), "")
        self.assertEqual(self.failed((Reply(550, "5.4.4", "no MX"), False)), "")

    def test_suspended_is_deferred_and_says_why(self) -> None:
        reply = suspended("451 4.4.1 refused\x07")
        self.assertTrue(reply.temporary)
        self.assertIn("refused\\x07", reply.text)
        [result] = all_recipients(PEOPLE[:1], reply)
        self.assertEqual((result.recipient, result.remote), (PEOPLE[0], False))
