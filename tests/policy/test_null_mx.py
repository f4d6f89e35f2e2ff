"""Recipients whose domain takes no mail (RFC 7505)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.policy.samples import code, peer, transaction
from twisted_mta.config.settings import Relay, Settings
from twisted_mta.delivery.dns import DnsTemporary, Mx
from twisted_mta.directory.interfaces import Resolution
from twisted_mta.policy.null_mx import ASKED, PATIENCE, REST, NullMxPolicy

REMOTE = Resolution(kind="remote")


class Names:
    """Answers with ``records``; ``slow``: when ``waiting`` are told to."""

    def __init__(self) -> None:
        self.records: dict[str, list[Mx]] = {"none.example": [Mx(0, "")], "some.example": [Mx(0, "mx.some.example")]}
        self.failure: Exception | None = None
        self.slow = False
        self.asked: list[str] = []
        self.waiting: list[Deferred[None]] = []

    async def mx(self, name: str) -> Sequence[Mx]:
        self.asked.append(name)
        if self.slow:
            self.waiting.append(Deferred())
            await self.waiting[-1]
        if self.failure is not None:
            raise self.failure
        return self.records.get(name, [])


class NullMxTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.names, self.clock = Names(), Clock()
        self.clock.advance(1_000_000)
        self.policy = NullMxPolicy(self.names, Settings(), self.clock)

    def rcpt(self, domain: str, resolution: Resolution = REMOTE, **facts: Any) -> str:
        return code(self.policy.rcpt(peer(), transaction(**facts), f"bob@{domain}", resolution))

    def test_refused(self) -> None:
        self.assertEqual(self.rcpt("none.example"), "556 5.1.10")
        for domain in ("some.example", "without.example"):
            self.assertEqual(self.rcpt(domain), "250", domain)
        self.names.records["two.example"] = [Mx(0, ""), Mx(10, "mx.two.example")]
        self.assertEqual(self.rcpt("two.example"), "250", "RFC 7505 §3: the null MX stands alone")

    def test_who_is_not_asked_about(self) -> None:
        self.assertEqual(self.rcpt("none.example", Resolution(kind="mailbox")), "250")
        self.assertEqual(self.rcpt("[192.0.2.1]"), "250")
        self.assertEqual(self.rcpt("none.example", recipients=["x@y.example"] * ASKED), "250")
        for relay in (Relay(refuse_null_mx=False), Relay(smarthost="relay.example:25")):
            self.policy.reconfigure(attrs.evolve(Settings(), relay=relay))
            self.assertEqual(self.rcpt("none.example"), "250")
        self.assertEqual(self.names.asked, [])

    def test_what_fails_refuses_nobody(self) -> None:
        for failure in (DnsTemporary("none.example", "no answer"), ValueError("a defect")):
            self.names.failure = failure
            self.assertEqual(self.rcpt("none.example"), "250")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_late_answers_hold_up_nobody_twice(self) -> None:
        self.names.slow = True
        answers: list[Any] = []
        Deferred.fromCoroutine(self.policy.rcpt(peer(), transaction(), "bob@none.example", REMOTE)).addBoth(
            answers.append
        )
        self.clock.advance(PATIENCE - 0.1)
        self.assertEqual(answers, [])
        self.clock.advance(0.1)
        self.assertEqual(answers, [None])
        self.assertEqual(self.rcpt("none.example"), "250")
        self.assertEqual(len(self.names.asked), 1)
        self.names.waiting[0].callback(None)
        self.names.slow = False
        self.clock.advance(REST)
        self.assertEqual(self.rcpt("none.example"), "556 5.1.10")
        self.assertEqual(self.clock.getDelayedCalls(), [])
