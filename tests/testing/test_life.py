"""Stops, restarts and changed settings, amid mail."""

from __future__ import annotations

from email import message_from_bytes
from typing import Any

from twisted.internet.defer import Deferred as Pending

from tests.testing.world import ANNA, BERT, BOB, WorldCase, report_of
from twisted_mta.mail.events import (
    Bounced,
    Delivered,
)
from twisted_mta.testing.client import Refused

DAY, HOUR, MINUTE = 86400.0, 3600.0, 60.0


class LifeTests(WorldCase):
    """Stopping and starting while there is something to do."""

    def test_stop_while_a_remote_is_silent(self) -> None:
        remote = self.server.remote("else.example", silent={"content"})
        self.server.send(ANNA, BOB, auth=ANNA)
        begun = self.server.clock.seconds()
        self.server.stop()
        self.assertLess(self.server.clock.seconds() - begun, 100)
        remote.behaviour.silent = frozenset()
        self.server.start()
        self.server.advance(HOUR)
        self.assertEqual(remote.taken, [(ANNA, BOB)])

    def test_stop_while_a_connection_is_being_opened(self) -> None:
        """An attempt that the agent gives up at once is the last under way: the stop goes on all the same."""
        remote = self.server.remote("else.example", failure="timeout")
        self.server.send(ANNA, BOB, auth=ANNA)
        self.server.stop()
        remote.recover()
        self.server.start()
        self.server.advance(2 * MINUTE)
        self.assertEqual(remote.taken, [(ANNA, BOB)])

    def test_last_attempt_ends_during_the_stop(self) -> None:
        """What came of it is on record before the store closes, so that nobody gets a second copy."""
        remote = self.server.remote("else.example", silent={"content"})
        mid = self.server.send(ANNA, BOB, auth=ANNA)
        stopped = self.server.begin_stop()
        remote.peers[0].transport.write(b"250 2.0.0 taken\r\n")
        self.server.clock.flush()
        self.successResultOf(stopped)
        remote.behaviour.silent = frozenset()
        self.server.start()
        self.server.advance(HOUR)
        self.assertEqual(len(remote.peers), 1)
        self.assertEqual(len(self.server.told(Delivered, mid)), 1)

    def test_last_attempt_fails_during_the_stop(self) -> None:
        remote = self.server.remote("else.example", silent={"content"})
        mid = self.server.send(ANNA, BOB, b"Subject: x\r\n\r\n" + b"long\r\n" * 20_000, auth=ANNA)
        stopped = self.server.begin_stop()
        remote.peers[0].transport.write(b"554 5.7.1 no\r\n")
        self.server.clock.flush()
        self.successResultOf(stopped)
        self.server.start()
        self.server.advance(1)
        self.assertEqual(self.server.told(Bounced, mid)[0].reply, "554 5.7.1 no")
        self.assertEqual(report_of(self.server.maildir(ANNA)[0])["Status"], "5.7.1")

    def test_stop_while_a_message_comes_in(self) -> None:
        client = self.server.connect()
        client.say("EHLO client.example", "MAIL FROM:<x@y.example>", f"RCPT TO:<{ANNA}>", "DATA", "Subject: half", "")
        stopped = self.server.begin_stop()
        self.server.clock.flush()
        self.assertNoResult(stopped)
        replies = client.say("the rest", ".")
        self.assertEqual([reply.code for reply in replies], [250, 421])
        self.successResultOf(stopped)
        self.server.start()
        self.server.advance(MINUTE * 2)
        self.assertEqual(len(self.server.maildir(ANNA)), 1)

    def test_stop_during_the_commit_for_a_client_that_is_gone(self) -> None:
        """Nothing is under way that a session knows of; the message is due at once after the start all the same."""
        held: Pending[None] = Pending()
        router = self.server.parts.router
        route = router.route

        async def slowly(*args: Any) -> Any:
            await held
            return await route(*args)

        self.patch(router, "route", slowly)
        client = self.server.connect()
        client.say("EHLO client.example", "MAIL FROM:<x@y.example>", f"RCPT TO:<{ANNA}>", "DATA", "Subject: x", "", ".")
        client.drop()
        stopped = self.server.begin_stop()
        self.server.clock.flush()
        self.assertNoResult(stopped)
        held.callback(None)
        self.server.clock.flush()
        self.successResultOf(stopped)
        self.server.start()
        self.server.advance(1)
        self.assertEqual(len(self.server.maildir(ANNA)), 1)

    def test_settings_change_while_it_runs(self) -> None:
        self.server.remote("else.example", failure="refused")
        self.server.send(ANNA, BOB, auth=ANNA)
        self.server.reload("""
            [relay]
            smarthost = "relay.example:587"
            [queue]
            retry = ["1s"]
            [quota.default]
            messages_per_day = 2
        """)
        relay = self.server.remote(host="relay.example", port=587)
        self.server.operate("retry")
        self.server.advance(1)
        self.assertEqual(relay.taken, [(ANNA, BOB)])  # what waited takes the new way
        self.server.send(ANNA, BOB, auth=ANNA)
        self.assertEqual(len(relay.taken), 2)
        with self.assertRaises(Refused):
            self.server.send(ANNA, BOB, auth=ANNA)

    def test_what_bert_reads(self) -> None:
        self.server.send(ANNA, BERT, "Subject: hello\n\nThere.\n", auth=ANNA)
        mail = message_from_bytes(self.server.maildir(BERT)[0])
        self.assertEqual(mail["Return-Path"], f"<{ANNA}>")
        self.assertEqual(mail["Subject"], "hello")
        self.assertEqual(mail.get_payload(), "There.\n")
        self.assertEqual(len(mail.get_all("Received", [])), 1)
        for name in ("Date", "Message-ID"):
            self.assertIn(name, mail)
