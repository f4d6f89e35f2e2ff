"""Who may send to whom."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.directory.test_contract import now
from tests.policy.samples import account, code, directory, peer, transaction
from twisted_mta.config.settings import Settings
from twisted_mta.mail.status import MailError, Reply
from twisted_mta.policy.access import AccessPolicy
from twisted_mta.policy.interfaces import Peer

GRANTED, DENIED, UNKNOWN = "250", "550 5.7.1", "550 5.1.1"

# who                                 local      alias      unknown    remote
RCPT = {
    "stranger on mx": (GRANTED, GRANTED, UNKNOWN, DENIED),
    "relay network on mx": (GRANTED, GRANTED, UNKNOWN, GRANTED),
    "user on mx": (GRANTED, GRANTED, UNKNOWN, GRANTED),
    "user on submission": (GRANTED, GRANTED, UNKNOWN, GRANTED),
    # never gets as far as RCPT, and still would not relay
    "stranger on submission": (GRANTED, GRANTED, UNKNOWN, DENIED),
    "relay network on submission": (GRANTED, GRANTED, UNKNOWN, DENIED),
    "lmtp": (GRANTED, GRANTED, UNKNOWN, DENIED),
    "relay network on lmtp": (GRANTED, GRANTED, UNKNOWN, DENIED),
    "user on lmtp": (GRANTED, GRANTED, UNKNOWN, DENIED),
}
RECIPIENTS = ("bert@isp.example", "sales@isp.example", "nobody@isp.example", "x@else.example")

TRICKS = (
    "x%else.example@isp.example",
    "anna%else.example@isp.example",
    "x%else.example%other.example@isp.example",
    "else.example!x@isp.example",
    "a!b!x@isp.example",
    "else.example!x%y@isp.example",
    '"x@else.example"@isp.example',
    '"x%else.example"@isp.example',
    '"else.example!x"@isp.example',
    '"@isp.example:x@else.example"@isp.example',
    "anna+x%else.example@isp.example",
)


class AccessCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = directory()
        self.policy = AccessPolicy(self.directory, Settings())

    def who(self, words: str) -> Peer:
        role = words.rpartition(" ")[2]
        one = peer(role=role)
        one.relaying = words.startswith("relay network")
        one.account = account(self.directory) if words.startswith("user") else None
        return one

    def rcpt(self, one: Peer, recipient: str) -> str:
        resolution = now(self.directory.resolve(recipient))
        return code(self.policy.rcpt(one, transaction(), recipient, resolution))


class Recipients(AccessCase):
    """RCPT."""

    def test_table(self) -> None:
        for who, answers in RCPT.items():
            self.assertEqual(tuple(self.rcpt(self.who(who), each) for each in RECIPIENTS), answers, who)

    def test_tricks(self) -> None:
        for who in RCPT:
            for trick in TRICKS:
                self.assertEqual(self.rcpt(self.who(who), trick), DENIED, (who, trick))

    def test_literal(self) -> None:
        self.assertEqual(self.rcpt(self.who("stranger on mx"), "anna@[127.0.0.1]"), DENIED)
        self.assertEqual(self.rcpt(self.who("stranger on mx"), "anna@[IPv6:::1]"), DENIED)

    def test_a_resolution_nobody_knows_is_refused(self) -> None:
        resolution = now(self.directory.resolve("anna@isp.example"))
        odd = type(resolution)(kind="odd")
        self.assertEqual(
            code(self.policy.rcpt(self.who("user on mx"), transaction(), "anna@isp.example", odd)), UNKNOWN
        )

    def test_words(self) -> None:
        resolution = now(self.directory.resolve("x@else.example"))
        reply = now(self.policy.rcpt(self.who("stranger on mx"), transaction(), "x@else.example", resolution))
        self.assertIn("Relaying denied: else.example", reply.text)
        resolution = now(self.directory.resolve("nobody@isp.example"))
        reply = now(self.policy.rcpt(self.who("stranger on mx"), transaction(), "nobody@isp.example", resolution))
        self.assertIn("nobody@isp.example", reply.text)


class Senders(AccessCase):
    """MAIL."""

    def mail(self, one: Peer, sender: str = "anna@isp.example") -> str:
        return code(self.policy.mail(one, transaction(sender)))

    def test_authentication_required(self) -> None:
        self.assertEqual(self.mail(self.who("stranger on submission")), "530 5.7.0")
        self.assertEqual(self.mail(self.who("relay network on submission")), "530 5.7.0")
        for who in ("user on submission", "stranger on mx", "relay network on mx", "lmtp"):
            self.assertEqual(self.mail(self.who(who)), "250", who)
        self.assertEqual(self.mail(self.who("stranger on mx"), ""), "250")

    def test_suspended_in_the_session(self) -> None:
        for suspend in (
            lambda: self.directory.set_user("anna@isp.example", suspended=True),
            lambda: self.directory.set_customer("acme", suspended=True),
        ):
            self.setUp()
            user = self.who("user on submission")
            self.assertEqual(self.mail(user), "250")
            suspend()
            self.assertEqual(self.mail(user), "550 5.7.13")

    def test_removed_or_with_a_new_password(self) -> None:
        for change in (
            lambda: self.directory.remove("user", "bert@isp.example"),
            lambda: self.directory.set_user("bert@isp.example", password="other"),
        ):
            self.setUp()
            user = peer(role="submission", account=account(self.directory, "bert@isp.example"))
            self.assertEqual(self.mail(user), "250")
            change()
            self.assertEqual(self.mail(user), "421 4.7.0")

    def test_new_limits_hold_at_once(self) -> None:
        user = self.who("user on submission")
        self.mail(user)
        before = user.account
        self.mail(user)
        self.assertIs(user.account, before)
        self.directory.set_customer("acme", recipients_per_day=7)
        self.mail(user)
        self.assertEqual(user.account.customer.limits, {"recipients_per_day": 7})

    def test_directory_down(self) -> None:
        async def down(*_: Any) -> None:
            raise MailError(Reply(451, "4.3.0", "down"))

        user = self.who("user on submission")
        self.patch(self.directory, "user", down)
        self.assertEqual(self.mail(user), "451 4.3.0")
