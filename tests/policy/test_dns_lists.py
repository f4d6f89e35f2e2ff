"""DNS block and allow lists."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.directory.test_contract import now
from tests.policy.samples import account, answer_of, code, directory, peer, transaction
from twisted_mta.config.dns_lists import DnsList, parse_dns_list, read_dns_list
from twisted_mta.config.settings import Defence, Settings
from twisted_mta.config.units import UnitError
from twisted_mta.directory.interfaces import Resolution
from twisted_mta.mail.status import Reply
from twisted_mta.policy.dns_lists import DnsListPolicy, entry
from twisted_mta.policy.interfaces import Peer
from twisted_mta.testing.dns import FakeResolver

MAILBOX = Resolution(kind="mailbox", mailbox="anna@isp.example", customer="acme")


class Slow(FakeResolver):
    """Answers for zones in ``slow`` when the test fires their Deferred."""

    slow: dict[str, Deferred[None]] = {}

    async def ipv4(self, name: str) -> Any:
        for zone, waiting in list(self.slow.items()):
            if name.endswith(zone):
                await waiting
        return await super().ipv4(name)


class Lists(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.resolver = Slow({"2.2.0.192.bad.example": {"A": ["127.0.0.2"], "TXT": ['"spam, see x\ny"']}})
        self.resolver.slow = {}

    def policy(self, *lists: str, **defence: Any) -> DnsListPolicy:
        settings = attrs.evolve(Settings(), defence=Defence(dns_lists=lists, **defence))
        return DnsListPolicy(self.resolver, settings, self.clock)

    def rcpt(self, policy: DnsListPolicy, one: Peer, recipient: str = "anna@isp.example") -> Any:
        return policy.rcpt(one, transaction(), recipient, MAILBOX)

    def judge(self, policy: DnsListPolicy, address: str = "192.0.2.2", **facts: Any) -> str:
        one = peer(address, **{"stranger": True, **facts})
        self.assertIsNone(now(policy.connect(one)))
        answer = code(self.rcpt(policy, one))
        policy.closed(one)
        self.assertEqual((policy._verdicts, self.clock.getDelayedCalls()), ({}, []))
        return answer

    def list(self, zone: str, *answers: str, address: str = "192.0.2.2") -> None:
        self.resolver.records[entry(address, zone)] = {"A": list(answers)}

    def test_listed(self) -> None:
        policy = self.policy("bad.example")
        self.assertEqual(self.judge(policy), "550 5.7.1")
        self.assertEqual(self.judge(policy, "192.0.2.3"), "250")

    def test_the_words(self) -> None:
        policy, one = self.policy("bad.example"), peer("192.0.2.2", stranger=True)
        now(policy.connect(one))
        said = answer_of(self.rcpt(policy, one))
        assert said is not None
        self.assertEqual(said.text, "192.0.2.2 is listed by bad.example (spam, see x\\x0ay)")

    def test_ipv6_nibbles(self) -> None:
        self.assertEqual(
            entry("2001:db8:1:2:3:4:567:89ab", "v6.example"),
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.v6.example",  # RFC 5782 §2.4
        )
        self.list("bad.example", "127.0.0.2", address="2001:db8::1")
        self.assertEqual(self.judge(self.policy("bad.example"), "2001:db8::1"), "550 5.7.1")
        self.assertEqual(entry("::ffff:192.0.2.2", "bad.example"), "2.2.0.192.bad.example")

    def test_weights_and_threshold(self) -> None:
        self.list("worse.example", "127.0.0.4")
        self.list("good.example", "127.0.0.1")
        for lists, threshold, expected in (
            (("bad.example",), 2, "250"),
            (("bad.example", "worse.example"), 2, "550 5.7.1"),
            (("bad.example*2",), 2, "550 5.7.1"),
            (("bad.example*2", "good.example*-1"), 2, "250"),
            (("bad.example", "worse.example=127.0.0.2/31*5"), 2, "250"),
            (("worse.example=127.0.0.2/31,127.0.0.4*5",), 2, "550 5.7.1"),
        ):
            policy = self.policy(*lists, dns_list_threshold=threshold)
            self.assertEqual(self.judge(policy), expected, lists)

    def test_allowed(self) -> None:
        self.list("good.example", "127.0.0.1")
        for lists, expected in (
            (("good.example*-1",), True),
            (("good.example*-1", "bad.example*3"), False),
            ((), False),
        ):
            one = peer("192.0.2.2", stranger=True)
            now(self.policy(*lists).connect(one))
            self.assertIs(one.allowed, expected)

    def test_answers_that_are_none(self) -> None:
        for answer in ("192.0.2.1", "127.255.255.254", "10.0.0.1"):
            self.list("odd.example", answer)
            self.assertEqual(self.judge(self.policy("odd.example")), "250", answer)

    def test_a_list_that_lists_everybody_is_not_believed(self) -> None:
        self.resolver.records["1.0.0.127.bad.example"] = {"A": ["127.0.0.2"]}
        self.assertEqual(self.judge(self.policy("bad.example")), "250")

    def test_failures_list_nobody(self) -> None:
        self.resolver.temporary.add("2.2.0.192.bad.example")
        self.assertEqual(self.judge(self.policy("bad.example")), "250")

    def test_all_are_asked_at_once_and_waited_for(self) -> None:
        self.list("worse.example", "127.0.0.2")
        first, second = Deferred(), Deferred()
        self.resolver.slow = {"bad.example": first, "worse.example": second}
        policy, one = self.policy("bad.example", "worse.example"), peer("192.0.2.2", stranger=True)
        self.assertIsNone(now(policy.connect(one)))
        answers: list[Reply | None] = []
        Deferred.fromCoroutine(self.rcpt(policy, one)).addCallback(answers.append)
        second.callback(None)
        self.assertEqual(answers, [])
        first.callback(None)
        assert answers[0] is not None
        self.assertEqual(answers[0].text.partition("listed by ")[2], "worse.example, bad.example (spam, see x\\x0ay)")
        policy.closed(one)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nobody_waits_longer_than_the_timeout(self) -> None:
        self.resolver.slow = {"slow.example": Deferred()}
        policy, one = self.policy("slow.example", "bad.example", dns_list_timeout=5.0), peer("192.0.2.9", stranger=True)
        now(policy.connect(one))
        self.clock.advance(4)
        answers: list[Reply | None] = []
        Deferred.fromCoroutine(self.rcpt(policy, one)).addCallback(answers.append)
        self.assertEqual(answers, [])
        self.clock.advance(1.1)
        self.assertEqual(answers, [None])
        self.list("slow.example", "127.0.0.2", address="192.0.2.9")
        self.resolver.slow["slow.example"].callback(None)
        self.assertEqual(code(self.rcpt(policy, one)), "250", "too late")

    def test_a_client_that_goes_leaves_nothing_behind(self) -> None:
        waiting: Deferred[None] = Deferred()
        self.resolver.slow = {"bad.example": waiting}
        policy, one = self.policy("bad.example"), peer("192.0.2.2", stranger=True)
        now(policy.connect(one))
        answers: list[Reply | None] = []
        Deferred.fromCoroutine(self.rcpt(policy, one)).addCallback(answers.append)
        policy.closed(one)
        self.assertEqual((answers, self.clock.getDelayedCalls(), policy._verdicts), ([None], [], {}))
        waiting.callback(None)

    def test_postmaster_takes_mail_from_all(self) -> None:
        policy, one = self.policy("bad.example"), peer("192.0.2.2", stranger=True)
        now(policy.connect(one))
        self.assertEqual(code(self.rcpt(policy, one, "postmaster@isp.example")), "250")
        self.assertEqual(code(self.rcpt(policy, one)), "550 5.7.1")

    def test_only_strangers_are_looked_up(self) -> None:
        policy = self.policy("bad.example")
        anna = account(directory())
        for facts in ({"stranger": False}, {"role": "submission"}, {"account": anna}, {"address": ""}):
            self.assertEqual(self.judge(policy, **facts), "250")
        self.assertEqual(self.resolver.asked, [])


class Written(SynchronousTestCase):
    """How lists are written."""

    def test_forms(self) -> None:
        for text, canonical, weight in (
            ("zen.isp.example", "zen.isp.example", 1),
            ("Zen.ISP.example*2", "zen.isp.example*2", 2),
            ("zen.isp.example=127.0.0.2/31*-3", "zen.isp.example=127.0.0.2/31*-3", -3),
            ("zen.isp.example=127.0.0.2, 127.0.1.0/24", "zen.isp.example=127.0.0.2,127.0.1.0/24", 1),
        ):
            self.assertEqual(parse_dns_list(text), canonical)
            self.assertEqual(parse_dns_list(canonical), canonical)
            self.assertEqual(read_dns_list(text).weight, weight)
        self.assertIsInstance(read_dns_list("a.example"), DnsList)

    def test_refused(self) -> None:
        for text in ("", "=127.0.0.2", "a.example*", "a.example*0", "a.example=127.0.0.300", "a.example=10.0.0.1",
                     "a.example=127.0.0.3/31", "a b@c", "a.example*1000", "a.example=127.0.0.2=3"):  # fmt: skip
            with self.assertRaises(UnitError, msg=text):
                parse_dns_list(text)
