"""Who may send as whom."""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tests.directory.test_contract import now
from tests.policy.samples import account, code, directory, peer, transaction
from twisted_mta.config.settings import Settings, Submission
from twisted_mta.policy.submission import SubmissionPolicy


class Senders(SynchronousTestCase):
    """MAIL of a session that has authenticated."""

    def setUp(self) -> None:
        self.directory = directory()
        self.policy = SubmissionPolicy(self.directory, Settings())
        self.user = peer(role="submission", account=account(self.directory))

    def test_own_addresses(self) -> None:
        for sender in ("anna@isp.example", "Anna+x@isp.example", "sales@isp.example"):
            self.assertEqual(code(self.policy.mail(self.user, transaction(sender))), "250", sender)

    def test_others(self) -> None:
        for sender in ("bert@isp.example", "anna@else.example", "nobody@isp.example", "carl@bolt.example"):
            self.assertEqual(code(self.policy.mail(self.user, transaction(sender))), "553 5.7.1", sender)
        reply = now(self.policy.mail(self.user, transaction("bert@isp.example")))
        self.assertIn("anna@isp.example may not send as bert@isp.example", reply.text)

    def test_null_sender(self) -> None:
        self.assertEqual(code(self.policy.mail(self.user, transaction(""))), "550 5.7.1")

    def test_on_any_listener(self) -> None:
        user = peer(role="mx", account=account(self.directory))
        self.assertEqual(code(self.policy.mail(user, transaction("bert@isp.example"))), "553 5.7.1")

    def test_strangers_are_not_asked(self) -> None:
        for sender in ("", "bert@isp.example"):
            self.assertEqual(code(self.policy.mail(peer(), transaction(sender))), "250")

    def test_switched_off(self) -> None:
        self.policy.reconfigure(attrs.evolve(Settings(), submission=Submission(check_sender=False)))
        for sender in ("", "bert@isp.example", "anna@else.example"):
            self.assertEqual(code(self.policy.mail(self.user, transaction(sender))), "250")
