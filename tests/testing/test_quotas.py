"""A customer's quotas, as its clients meet them."""

from __future__ import annotations

from tests.testing.world import ANNA, BERT, BOB, WorldCase
from twisted_mta.mail.events import (
    Accepted,
    Rejected,
    Routed,
)
from twisted_mta.mail.status import Reply
from twisted_mta.testing.case import configured
from twisted_mta.testing.client import Refused

DAY, HOUR, MINUTE = 86400.0, 3600.0, 60.0


class QuotaTests(WorldCase):
    """A customer's quotas, with the clock and across restarts."""

    def refusal(self) -> Reply:
        with self.assertRaises(Refused) as caught:
            self.server.send(ANNA, BERT, auth=ANNA)
        return caught.exception.reply

    @configured("[quota.default]\nrecipients_per_hour = 2")
    def test_rolls_with_the_clock(self) -> None:
        self.server.send(ANNA, BERT, auth=ANNA)
        self.server.advance(30 * MINUTE)
        self.server.send(ANNA, BERT, auth=ANNA)
        refused = self.refusal()
        self.assertEqual((refused.code, refused.enhanced), (452, "4.5.3"))
        (told,) = self.server.told(Rejected)
        self.assertEqual((told.limit, told.customer), ("recipients_per_hour", "acme"))
        self.server.advance(32 * MINUTE)
        self.server.send(ANNA, BERT, auth=ANNA)
        self.refusal()
        self.server.advance(HOUR)
        self.assertEqual(self.server.store.usage("acme").recipients_hour, 1)
        self.server.advance(5 * MINUTE)
        self.assertEqual(self.server.store.usage("acme").recipients_hour, 0)

    @configured('[quota.default]\nqueued_messages = 2\n[queue]\nlifetime = "1d"')
    def test_what_is_queued(self) -> None:
        remote = self.server.remote("else.example", failure="refused")
        for _ in range(2):
            self.server.send(ANNA, BOB, auth=ANNA)
        self.assertEqual((self.refusal().code, self.refusal().enhanced), (452, "4.2.2"))
        remote.recover()
        self.server.advance(HOUR)
        self.assertEqual(len(remote.taken), 2)
        self.server.send(ANNA, BERT, auth=ANNA)
        usage = self.server.store.usage("acme")
        self.assertEqual((usage.queued_messages, usage.queued_bytes), (0, 0))

    @configured("[quota.default]\nrecipients_per_day = 2")
    def test_restart_keeps_usage_and_queue(self) -> None:
        remote = self.server.remote("else.example", failure="refused")
        mid = self.server.send(ANNA, [BOB, "bill@else.example"], auth=ANNA)
        before = self.server.store.usage("acme")
        deliveries = self.server.store.deliveries(mid)
        self.server.restart()
        self.assertEqual(self.server.store.usage("acme"), before)
        self.assertEqual(self.server.store.deliveries(mid), deliveries)
        self.assertEqual(self.refusal().code, 452)
        remote.recover()
        self.server.advance(HOUR)
        self.assertEqual(remote.taken, [(ANNA, BOB), (ANNA, "bill@else.example")])
        self.assertEqual([type(event) for event in self.server.history(mid)][:2], [Accepted, Routed])

    def test_own_limits_hold_at_once(self) -> None:
        self.server.parts.directory.set_customer("acme", messages_per_hour=1)
        self.server.send(ANNA, BERT, auth=ANNA)
        self.assertEqual(self.refusal().code, 452)

    @configured("[quota.default]\nrecipients_per_hour = 3")
    def test_two_sessions_race_for_the_last_unit(self) -> None:
        clients = [self.server.connect("submissions") for _ in range(2)]
        self.server.send(ANNA, BERT, auth=ANNA)
        for client in clients:
            client.ehlo()
            client.login(ANNA, "secret")
            self.assertEqual(client.say(f"MAIL FROM:<{ANNA}>", f"RCPT TO:<{BERT}>", f"RCPT TO:<{ANNA}>")[-1].code, 250)
            self.assertEqual(client.ask("DATA").code, 354)
        replies = [client.send_raw(b"Subject: race\r\n\r\n.\r\n")[0] for client in clients]
        self.assertEqual([reply.code for reply in replies], [250, 452])
        self.assertEqual(self.server.store.usage("acme").recipients_hour, 3)
