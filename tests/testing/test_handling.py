"""A whole server: dated, timed and urgent mail from MAIL to its end, through a restart."""

from __future__ import annotations

from email import message_from_bytes
from email.message import Message

from tests.testing.world import ANNA, BERT, BOB, WorldCase, report_of
from twisted_mta.mail.events import Accepted, Bounced, Delivered, Operator, Reported
from twisted_mta.testing.case import configured
from twisted_mta.testing.client import Refused
from twisted_mta.wire.handling import write_date

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


def facts_of(content: bytes) -> Message:
    """The fields of a DSN about the message as a whole (RFC 3464 §2.2)."""
    status = message_from_bytes(content).get_payload(1)
    assert isinstance(status, Message)
    whole = status.get_payload(0)
    assert isinstance(whole, Message)
    return whole


class Dated(WorldCase):
    """FUTURERELEASE (RFC 4865)."""

    def test_kept_until_then(self) -> None:
        mid = self.server.send(ANNA, BERT, auth=ANNA, params="HOLDFOR=3600")
        ((_, delivery),) = self.server.queue()
        self.assertEqual((delivery.state, delivery.attempts, delivery.release), ("queued", 0, delivery.next_attempt))
        self.server.advance(HOUR - 2)
        self.assertEqual(self.server.told(Delivered), [])
        self.server.advance(4)
        (delivered,) = self.server.told(Delivered, mid)
        self.assertLess(delivered.delay, 3, "counted from the release")
        self.assertEqual(len(self.server.maildir(BERT)), 1)

    def test_through_a_restart(self) -> None:
        until = write_date(self.server.clock.seconds() + 2 * HOUR)
        self.server.send(ANNA, [BERT, BOB], auth=ANNA, params=f"HOLDUNTIL={until}")
        remote = self.server.remote("else.example")
        self.server.advance(HOUR)
        self.server.restart()
        self.server.advance(HOUR - 10)
        self.assertEqual(self.server.told(Delivered), [])
        self.server.advance(12)
        self.assertEqual((len(self.server.maildir(BERT)), remote.taken), (1, [(ANNA, BOB)]))

    def test_an_operator_may_release_it(self) -> None:
        mid = self.server.send(ANNA, BERT, auth=ANNA, params="HOLDFOR=86400")
        self.server.operate("hold", id=mid)
        self.server.advance(HOUR)
        self.server.operate("release", id=mid)
        self.server.advance(HOUR)
        self.assertEqual(self.server.told(Delivered), [], "held again by its sender's wish")
        self.server.operate("retry", id=mid)
        self.assertEqual([event.id for event in self.server.told(Delivered)], [mid])
        self.assertEqual([event.action for event in self.server.told(Operator)], ["hold", "release", "retry"])

    def test_an_operator_may_remove_it(self) -> None:
        mid = self.server.send(ANNA, BERT, auth=ANNA, params="HOLDFOR=60")
        self.server.operate("remove", id=mid)
        self.server.advance(HOUR)
        self.assertEqual(self.server.maildir(BERT), [])

    def test_quotas_count_it_at_once(self) -> None:
        self.server.add_customer("small", queued_messages=1)
        self.server.add_domain("small.example", "small")
        cara = self.server.add_user("cara@small.example").address
        self.server.send(cara, BERT, auth=cara, params="HOLDFOR=3600")
        with self.assertRaises(Refused) as caught:
            self.server.send(cara, BERT, auth=cara)
        self.assertEqual(caught.exception.reply.code // 100, 4)
        self.server.advance(HOUR + 2)
        self.server.send(cara, BERT, auth=cara)

    @configured("[queue]\nlifetime = '10m'\nretry = ['1m']\ndelay_warning = '0s'")
    def test_its_lifetime_begins_with_its_release(self) -> None:
        self.server.remote("else.example", failure="refused")
        mid = self.server.send(ANNA, BOB, auth=ANNA, params="HOLDFOR=3600")
        self.server.advance(HOUR + 9 * MINUTE)
        self.assertEqual(self.server.told(Bounced), [])
        self.server.advance(4 * MINUTE)
        (bounced,) = self.server.told(Bounced, mid)
        self.assertTrue(bounced.expired)
        (report,) = self.server.maildir(ANNA)
        self.assertEqual(facts_of(report)["Future-Release-Request"], "for;3600")
        self.assertIn(b"To be sent: ", report)


class Timed(WorldCase):
    """DELIVERBY (RFC 2852)."""

    @configured("[queue]\nretry = ['1m']")
    def test_returned(self) -> None:
        self.server.remote("else.example", failure="refused")
        start = self.server.clock.seconds()
        mid = self.server.send(ANNA, BOB, auth=ANNA, params="BY=600;R")
        self.server.advance(HOUR)
        (bounced,) = self.server.told(Bounced, mid)
        self.assertTrue(600 <= bounced.time - start < 603, bounced.time - start)
        (report,) = self.server.maildir(ANNA)
        fields = report_of(report)
        self.assertEqual((fields["Action"], fields["Status"]), ("failed", "5.4.7"))
        self.assertTrue(facts_of(report)["Deliver-By-Date"])

    def test_returned_by_a_next_server_that_knows_nothing_of_it(self) -> None:
        remote = self.server.remote("else.example")
        self.server.send(ANNA, BOB, auth=ANNA, params="BY=600;R")
        self.server.advance(2)
        self.assertEqual(remote.taken, [])
        (report,) = self.server.maildir(ANNA)
        self.assertEqual(report_of(report)["Status"], "5.3.3")

    def test_a_mailbox_is_reached_in_time(self) -> None:
        self.server.send(ANNA, BERT, auth=ANNA, params="BY=60;RT")
        self.server.advance(HOUR)
        self.assertEqual((len(self.server.maildir(BERT)), self.server.told(Reported)), (1, []))

    def test_passed_on(self) -> None:
        remote = self.server.remote("else.example", extensions=("DELIVERBY 10", "MT-PRIORITY MIXER", "DSN"))
        remote.fail("refused")
        self.server.send(ANNA, BOB, auth=ANNA, params="BY=600;R MT-PRIORITY=4")
        self.server.advance(2)
        remote.recover()
        self.server.advance(10 * MINUTE)
        (mail,) = remote.mails
        found = dict(word.partition("=")[::2] for word in mail.parameters.split())
        seconds, _, mode = found["BY"].partition(";")
        self.assertEqual((mode, found["MT-PRIORITY"]), ("R", "4"))
        self.assertTrue(400 < int(seconds) < 545, seconds)

    def test_notified_and_relayed(self) -> None:
        remote = self.server.remote("else.example")
        self.server.send(ANNA, BOB, auth=ANNA, params="BY=600;N")
        self.server.advance(2)
        self.assertEqual(remote.taken, [(ANNA, BOB)])
        (report,) = self.server.maildir(ANNA)
        fields = report_of(report)
        self.assertEqual((fields["Action"], fields["Status"][0]), ("relayed", "2"))

    @configured("[queue]\nretry = ['1m']\ndelay_warning = '0s'")
    def test_told_through_a_restart(self) -> None:
        self.server.remote("else.example", failure="refused")
        self.server.send(ANNA, BOB, auth=ANNA, params="BY=600;N")
        self.server.advance(5 * MINUTE)
        self.server.restart()
        self.server.advance(HOUR)
        self.server.restart()
        self.server.advance(HOUR)
        (report,) = self.server.maildir(ANNA)
        fields = report_of(report)
        self.assertEqual((fields["Action"], fields["Status"]), ("delayed", "4.4.7"))


class Urgent(WorldCase):
    """MT-PRIORITY (RFC 6710)."""

    @configured("[relay]\nconnections = 1\nconnections_per_destination = 1")
    def test_urgent_mail_overtakes(self) -> None:
        remote = self.server.remote("else.example", silent={"content"})
        for number in range(5):
            self.server.send(ANNA, f"n{number}@else.example", auth=ANNA)
        self.server.advance(1)
        self.server.send(ANNA, "urgent@else.example", auth=ANNA, params="MT-PRIORITY=4")
        remote.behaviour.silent = set()
        self.server.advance(HOUR)
        order = [recipient for _, recipient in remote.taken]
        self.assertEqual(order[0], "urgent@else.example", order)
        self.assertEqual(len(set(order)), 6)

    def test_on_record(self) -> None:
        mid = self.server.send(ANNA, BERT, auth=ANNA, params="MT-PRIORITY=4")
        self.server.advance(1)
        (accepted,) = self.server.told(Accepted, mid)
        self.assertEqual(accepted.priority, 4)
        (content,) = self.server.maildir(BERT)
        self.assertIn(b"PRIORITY 4;", content)
