"""A customer's quotas, as early as the protocol allows."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.directory.test_contract import now
from tests.policy.samples import account, answer_of, code, directory, peer, transaction
from twisted_mta.config.settings import Quota, Settings, Size
from twisted_mta.directory.interfaces import Customer
from twisted_mta.mail.status import Reply
from twisted_mta.policy.interfaces import IPolicy, Peer, Transaction
from twisted_mta.policy.limits import limits_for
from twisted_mta.policy.quotas import QuotaPolicy
from twisted_mta.queue.interfaces import Charge, Limits, QuotaExceeded
from twisted_mta.queue.quota import Counters


class Store:
    """What a store counts and answers, without the store."""

    def __init__(self) -> None:
        self.counters: dict[str, Counters] = {}
        self.now = 0.0
        self.charges: list[Charge] = []

    def of(self, customer: str) -> Counters:
        return self.counters.setdefault(customer, Counters(customer))

    def check(self, charge: Charge) -> QuotaExceeded | None:
        self.charges.append(charge)
        return self.of(charge.customer).check(charge, self.now)


def made(**quota: Any) -> Settings:
    unlimited = dict.fromkeys((field.name for field in attrs.fields(Quota)), None)
    return attrs.evolve(Settings(), quota={"default": Quota(**(unlimited | quota))})


class QuotaCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = directory()
        self.store = Store()

    def policy(self, **quota: Any) -> QuotaPolicy:
        return QuotaPolicy(self.store, made(**quota))  # type: ignore[arg-type]

    def user(self, address: str = "anna@isp.example") -> Peer:
        return peer(role="submission", account=account(self.directory, address))

    def mail(self, policy: QuotaPolicy, one: Peer, **facts: Any) -> str:
        return code(policy.mail(one, transaction(**facts)))

    def rcpt(self, policy: QuotaPolicy, one: Peer, under_way: Transaction, recipient: str) -> Reply | None:
        reply = answer_of(policy.rcpt(one, under_way, recipient, None))
        if reply is None:
            under_way.recipients.append(recipient)
        return reply


class Messages(QuotaCase):
    """MAIL and RCPT."""

    def test_interface(self) -> None:
        verifyObject(IPolicy, self.policy())

    def test_size(self) -> None:
        policy = self.policy(message_bytes=Size(1000))
        self.assertEqual(self.mail(policy, self.user(), size=1000), "250")
        self.assertEqual(self.mail(policy, self.user(), size=1001), "552 5.3.4")
        self.assertEqual(self.mail(policy, self.user()), "250")
        self.assertEqual(self.mail(policy, peer(), size=1001), "250")

    def test_messages(self) -> None:
        policy = self.policy(messages_per_hour=1)
        self.assertEqual(self.mail(policy, self.user()), "250")
        self.store.of("acme").charge(self.store.charges[0], 0.0)
        self.assertEqual(self.mail(policy, self.user()), "452 4.5.3")
        self.assertEqual(self.mail(policy, self.user("carl@bolt.example")), "250")
        self.store.now = 2 * 3600.0
        self.assertEqual(self.mail(policy, self.user()), "250")

    def test_recipients_of_the_transaction_count(self) -> None:
        policy = self.policy(recipients_per_day=3)
        user, under_way = self.user(), transaction()
        self.assertIsNone(now(policy.mail(user, under_way)))
        replies = [self.rcpt(policy, user, under_way, f"x{number}@else.example") for number in range(5)]
        self.assertEqual(replies[:3], [None] * 3)
        self.assertEqual([(reply.code, reply.enhanced) for reply in replies[3:]], [(452, "4.5.3")] * 2)
        self.assertIn("3 in 24 hours", replies[3].text)
        self.assertEqual(len(under_way.recipients), 3)

    def test_no_recipient_left(self) -> None:
        policy = self.policy(recipients_per_day=0)
        self.assertEqual(self.mail(policy, self.user()), "452 4.5.3")

    def test_queue_full(self) -> None:
        policy = self.policy(queued_messages=5)
        self.store.of("acme").queue(5, 100)
        self.assertEqual(self.mail(policy, self.user()), "452 4.2.2")

    def test_the_limit_has_a_name(self) -> None:
        for quota, limit in (({"connections": 0}, "connections"), ({"queued_messages": 0}, "queued_messages")):
            with self.assertRaises(QuotaExceeded) as caught:
                now(self.policy(**quota).mail(self.user(), transaction()))
            self.assertEqual(caught.exception.limit, limit)

    def test_own_limits(self) -> None:
        policy = self.policy(message_bytes=Size(1000))
        self.directory.set_customer("acme", message_bytes=2000)
        self.assertEqual(self.mail(policy, self.user(), size=2000), "250")
        self.assertEqual(self.mail(policy, self.user(), size=2001), "552 5.3.4")
        self.directory.set_customer("acme", message_bytes=None)
        self.assertEqual(self.mail(policy, self.user(), size=2001), "250")

    def test_nobody_s_mail_is_not_charged(self) -> None:
        policy = self.policy(messages_per_hour=0)
        stranger = peer()
        self.assertEqual(self.mail(policy, stranger), "250")
        self.assertIsNone(self.rcpt(policy, stranger, transaction(), "anna@isp.example"))
        self.assertEqual(self.store.charges, [])


class Sessions(QuotaCase):
    """Sessions at once."""

    def test_limit(self) -> None:
        policy = self.policy(connections=2)
        first = self.user()
        self.assertEqual(self.mail(policy, first), "250")
        self.assertEqual(self.mail(policy, first), "250")
        self.assertEqual(self.mail(policy, self.user("bert@isp.example")), "250")
        late = self.user()
        self.assertEqual(self.mail(policy, late), "421 4.7.0")
        policy.closed(late)
        self.assertEqual(self.mail(policy, self.user()), "421 4.7.0")
        self.assertEqual(self.mail(policy, self.user("carl@bolt.example")), "250")
        policy.closed(first)
        self.assertEqual(self.mail(policy, self.user()), "250")

    def test_nothing_is_kept_of_closed_sessions(self) -> None:
        policy = self.policy(connections=2)
        users = [self.user() for _ in range(3)] + [peer()]
        for user in users:
            self.mail(policy, user)
        for user in users:
            policy.closed(user)
            policy.closed(user)
        self.assertEqual((policy._sessions, policy.tally.own), ({}, {}))


class CustomersLimits(SynchronousTestCase):
    """limits_for."""

    def test_defaults(self) -> None:
        limits = limits_for(Settings(), Customer(name="acme"))
        self.assertEqual(limits, Limits(**attrs.asdict(Quota())))
        self.assertEqual(limits.recipients_per_hour, 1000)

    def test_own(self) -> None:
        customer = Customer(name="acme", limits={"recipients_per_hour": 5, "queued_messages": None})
        limits = limits_for(Settings(), customer)
        self.assertEqual(
            (limits.recipients_per_hour, limits.queued_messages, limits.recipients_per_day), (5, None, 5000)
        )

    def test_changed_settings(self) -> None:
        customer = Customer(name="acme", limits={"connections": 5})
        self.assertEqual(limits_for(made(queued_messages=1), customer), Limits(queued_messages=1, connections=5))
        self.assertEqual(limits_for(made(queued_messages=2), customer), Limits(queued_messages=2, connections=5))

    def test_nobody(self) -> None:
        self.assertEqual(limits_for(Settings(), None), Limits())
