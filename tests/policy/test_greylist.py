"""Greylisting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import lmdb
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.policy.samples import account, answer_of, code, directory, peer, transaction
from twisted_mta.config.settings import DAY, Greylist, Settings
from twisted_mta.directory.interfaces import Resolution
from twisted_mta.policy.greylist import GreylistPolicy, GreyTable, network

MAILBOX = Resolution(kind="mailbox", mailbox="anna@isp.example", customer="acme")


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1e9)
        self.folder = self.mktemp()

    def policy(self, **grey: Any) -> GreylistPolicy:
        settings = attrs.evolve(
            Settings(), state_dir=self.folder, greylist=Greylist(**{"enabled": True, "delay": 300.0, **grey})
        )
        policy = GreylistPolicy(settings, self.clock)
        self.addCleanup(policy.close)
        return policy

    def ask(
        self,
        policy: GreylistPolicy,
        address: str = "192.0.2.1",
        sender: str = "joe@far.example",
        recipient: str = "anna@isp.example",
        **facts: Any,
    ) -> str:
        one = peer(address, **{"stranger": True, **facts})
        return code(policy.rcpt(one, transaction(sender), recipient, MAILBOX))


class GreyTests(Case):
    def test_come_again(self) -> None:
        policy = self.policy()
        self.assertEqual(self.ask(policy), "451 4.7.1")
        self.clock.advance(299)
        self.assertEqual(self.ask(policy), "451 4.7.1")
        self.clock.advance(1)
        self.assertEqual([self.ask(policy) for _ in range(3)], ["250"] * 3)

    def test_the_words(self) -> None:
        policy = self.policy()
        self.ask(policy)
        self.clock.advance(100.5)
        answer = answer_of(
            policy.rcpt(peer(stranger=True), transaction("joe@far.example"), "anna@isp.example", MAILBOX)
        )
        assert answer is not None
        self.assertEqual(answer.text, "Greylisted: please try again in 200 seconds")

    def test_each_of_the_three_counts(self) -> None:
        policy = self.policy()
        self.ask(policy)
        self.clock.advance(300)
        for other in ({"address": "192.0.3.1"}, {"sender": "jo@far.example"}, {"recipient": "bert@isp.example"}):
            self.assertEqual(self.ask(policy, **other), "451 4.7.1", other)
        self.assertEqual(self.ask(policy, "192.0.2.200", "JOE@far.example"), "250", "another host of theirs")

    def test_too_late_is_first_again(self) -> None:
        policy = self.policy(retry_within=600.0)
        self.ask(policy)
        self.clock.advance(601)
        self.assertEqual(self.ask(policy), "451 4.7.1")

    def test_remembered_from_the_last_message_on(self) -> None:
        policy = self.policy(remember=10 * DAY, allow_after=0)
        self.ask(policy)
        self.clock.advance(300)
        for _ in range(5):
            self.assertEqual(self.ask(policy), "250")
            self.clock.advance(9 * DAY)
        self.clock.advance(2 * DAY)
        self.assertEqual(self.ask(policy), "451 4.7.1")

    def test_known_sites_are_welcome(self) -> None:
        policy = self.policy(allow_after=3)
        senders = [f"joe{n}@far.example" for n in range(3)]
        for sender in senders:
            self.ask(policy, sender=sender)
        self.clock.advance(300)
        for sender in senders:
            self.assertEqual(self.ask(policy, sender="new@far.example"), "451 4.7.1")
            self.assertEqual([self.ask(policy, sender=sender) for _ in range(5)], ["250"] * 5)
        self.assertEqual(self.ask(policy, sender="newer@far.example"), "250")
        self.assertEqual(self.ask(policy, "192.0.3.1", "newer@far.example"), "451 4.7.1")

    def test_who_is_never_asked(self) -> None:
        policy = self.policy()
        anna = account(directory())
        for facts in ({"stranger": False}, {"role": "submission"}, {"account": anna}, {"allowed": True}):
            self.assertEqual(self.ask(policy, **facts), "250", facts)
        self.assertEqual(self.ask(self.policy(enabled=False)), "250")
        self.assertFalse(Path(self.folder).exists(), "nothing is opened for nobody")

    def test_a_clock_that_goes_back(self) -> None:
        policy = self.policy()
        self.ask(policy)
        self.clock.rightNow -= DAY
        self.assertEqual(self.ask(policy), "451 4.7.1")
        self.clock.advance(300)
        self.assertEqual(self.ask(policy), "250")


class TableTests(Case):
    def test_survives_a_restart(self) -> None:
        policy = self.policy()
        self.ask(policy)
        policy.close()
        self.clock.advance(300)
        self.assertEqual(self.ask(self.policy()), "250")

    def test_the_file_is_private(self) -> None:
        policy = self.policy()
        self.ask(policy)
        self.assertEqual((Path(self.folder) / "greylist" / "data.mdb").stat().st_mode & 0o777, 0o600)

    def test_damage_begins_a_new_one(self) -> None:
        policy = self.policy()
        self.ask(policy)
        policy.close()
        (Path(self.folder) / "greylist" / "data.mdb").write_bytes(b"\x55" * 40960)
        self.assertEqual(self.ask(self.policy()), "451 4.7.1")

    def test_a_failure_asks_nobody_to_come_again(self) -> None:
        policy = self.policy()
        self.ask(policy)
        assert policy._table is not None

        def fail(*_: object) -> float:
            raise lmdb.MapFullError("full")

        policy._table.wait = fail  # type: ignore[method-assign]
        self.assertEqual(self.ask(policy), "250")

    def test_bounded(self) -> None:
        policy = self.policy(entries=50)
        for n in range(300):
            self.ask(policy, sender=f"{n}@far.example")
        assert policy._table is not None
        self.assertEqual(len(policy._table), 50)

    def test_what_has_expired_goes_away(self) -> None:
        policy = self.policy(retry_within=600.0)
        for n in range(100):
            self.ask(policy, sender=f"{n}@far.example")
        self.clock.advance(700)
        for n in range(40):
            self.ask(policy, sender=f"{n}@new.example")
        assert policy._table is not None
        self.assertEqual(len(policy._table), 40)

    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4000)), max_size=40))
    def test_both_tables_say_the_same(self, steps: list[tuple[int, int]]) -> None:
        table = GreyTable(self.mktemp(), 4)
        settings = attrs.evolve(Settings(), greylist=Greylist(retry_within=3000.0, remember=5000.0, allow_after=2))
        now = 1e9
        for who, pause in steps:
            now += pause
            wait = table.wait("192.0.2.0/24", f"{who}", "anna", now, settings)
            self.assertTrue(0 <= wait <= 300)
        with table._env.begin() as txn:
            expiry = {key[8:] for key, _ in txn.cursor(table._expiry)}
            self.assertEqual(len(expiry), txn.stat(table._expiry)["entries"])
            self.assertEqual(expiry, {key for key, _ in txn.cursor(table._known)})
        self.assertLessEqual(len(table), 6)
        table.close()

    def test_networks(self) -> None:
        for address, expected in (
            ("192.0.2.77", "192.0.2.0/24"),
            ("::ffff:192.0.2.77", "192.0.2.0/24"),
            ("2001:db8::1:2:3:4", "2001:db8::/64"),
        ):
            self.assertEqual(network(address), expected)
