"""What becomes of a message, from the client's connection to each recipient's end: the product as a whole."""

from __future__ import annotations

from collections import Counter

from tests.testing.world import ANNA, BERT, BOB, WorldCase, report_of
from twisted_mta.mail.events import (
    Accepted,
    Bounced,
    Deferred,
    Delayed,
    Delivered,
    Done,
    Operator,
    Reported,
    Routed,
)
from twisted_mta.testing.accounting import Accounting
from twisted_mta.testing.case import configured

DAY, HOUR, MINUTE = 86400.0, 3600.0, 60.0


class FateTests(WorldCase):
    """The ends that a recipient may come to."""

    def test_one_message_three_fates(self) -> None:
        remote = self.server.remote("else.example")
        self.server.remote("picky.example", replies={"RCPT": "550 5.1.1 no such user"})
        mid = self.server.send(ANNA, [BERT, BOB, "x@picky.example"], auth=ANNA)
        self.server.advance(1)
        self.assertEqual(len(self.server.maildir(BERT)), 1)
        self.assertEqual(remote.taken, [(ANNA, BOB)])
        (report,) = self.server.maildir(ANNA)
        self.assertTrue(report.startswith(b"Return-Path: <>\n"))
        fields = report_of(report)
        self.assertEqual(fields["Final-Recipient"], "rfc822; x@picky.example")
        self.assertEqual((fields["Action"], fields["Status"]), ("failed", "5.1.1"))
        self.assertIn("550 5.1.1 no such user", fields["Diagnostic-Code"])
        self.assertEqual(fields["Remote-MTA"], "dns; mx.picky.example")
        history = self.server.history(mid)
        kinds = Counter(type(event) for event in history)
        self.assertEqual(kinds, {Accepted: 1, Routed: 1, Delivered: 2, Bounced: 1, Done: 1})
        self.assertEqual((type(history[0]), type(history[1]), type(history[-1])), (Accepted, Routed, Done))
        told = {event.recipient: event for event in history if isinstance(event, (Delivered, Bounced))}
        self.assertEqual(told[BOB].relay, "mx.else.example[198.51.100.1]:25")
        self.assertEqual(told[BERT].relay, "maildir")
        bounced = told["x@picky.example"]
        assert isinstance(bounced, Bounced)
        self.assertEqual(bounced.reply, "550 5.1.1 no such user")
        self.assertEqual(
            [type(event) for event in self.server.history(bounced.report)], [Reported, Routed, Delivered, Done]
        )
        self.assertEqual(self.server.accounting(), Accounting(accepted=4, delivered=3, bounced=1))

    def test_temporary_failure_then_success(self) -> None:
        remote = self.server.remote("else.example", replies={"RCPT": ["450 4.2.0 greylisted, come back"]})
        mid = self.server.send(ANNA, BOB, auth=ANNA)
        (deferred,) = self.server.told(Deferred)
        self.assertEqual((deferred.status, deferred.attempt), ("4.2.0", 1))
        self.assertEqual(self.server.queue()[0][1].last_reply, "450 4.2.0 greylisted, come back")
        self.server.advance(59)
        self.assertEqual(remote.taken, [])
        self.server.advance(14)  # a minute, and up to a fifth more
        self.assertEqual(remote.taken, [(ANNA, BOB)])
        self.assertEqual(self.server.told(Delivered, mid)[0].attempt, 2)
        self.assertEqual(self.server.maildir(ANNA), [])

    @configured('[queue]\nlifetime = "1d"\ndelay_warning = "4h"')
    def test_expiry(self) -> None:
        remote = self.server.remote("else.example", failure="refused")
        mid = self.server.send(ANNA, [BOB, "bill@else.example"], auth=ANNA)
        self.server.advance(4 * HOUR - 1)
        self.assertEqual(self.server.maildir(ANNA), [])
        self.server.advance(3 * HOUR)
        (warning,) = self.server.maildir(ANNA)
        self.assertEqual(report_of(warning)["Action"], "delayed")
        self.server.advance(DAY - 7 * HOUR - 10)
        self.assertEqual(len(self.server.maildir(ANNA)), 1)
        self.assertEqual(len(self.server.queue(id=mid)), 1)
        self.server.advance(60)
        _, failure = self.server.maildir(ANNA)
        self.assertEqual((report_of(failure)["Action"], report_of(failure)["Status"]), ("failed", "5.4.7"))
        bounced = self.server.told(Bounced)
        self.assertEqual(
            [(event.expired, event.recipient) for event in bounced], [(True, BOB), (True, "bill@else.example")]
        )
        self.assertAlmostEqual(bounced[0].delay, DAY, delta=2)
        self.assertEqual(len(self.server.told(Delayed)), 1)
        self.assertEqual(self.server.queue(), [])
        attempts = remote.attempts
        self.server.advance(DAY)
        self.assertEqual(remote.attempts, attempts)

    @configured("[relay]\nrefuse_null_mx = false")
    def test_null_mx(self) -> None:
        self.server.resolver.records["nomail.example"] = {"MX": ["0 ."]}
        self.server.send(ANNA, "x@nomail.example", auth=ANNA)
        self.server.advance(1)
        self.assertEqual(report_of(self.server.maildir(ANNA)[0])["Status"], "5.1.10")

    def test_dns_that_fails_for_now(self) -> None:
        remote = self.server.remote("else.example")
        self.server.resolver.temporary.add("else.example")
        self.server.send(ANNA, BOB, auth=ANNA)
        self.server.advance(10 * MINUTE)
        self.assertEqual(self.server.told(Bounced), [])
        self.server.resolver.temporary.clear()
        self.server.advance(HOUR)
        self.assertEqual(remote.taken, [(ANNA, BOB)])

    def test_connection_lost_in_the_content(self) -> None:
        remote = self.server.remote("else.example", disconnect={"body"})
        self.server.send(ANNA, BOB, auth=ANNA)
        self.assertEqual(len(self.server.told(Deferred)), 1)
        remote.behaviour.disconnect = frozenset()
        self.server.advance(10 * MINUTE)
        self.assertEqual(remote.taken, [(ANNA, BOB)])

    def test_alias_to_remote_and_local(self) -> None:
        remote = self.server.remote("else.example")
        self.server.add_alias("team@isp.example", BERT, BOB)
        mid = self.server.send("x@y.example", "team@isp.example")
        self.assertEqual(remote.taken, [("x@y.example", BOB)])
        (kept,) = self.server.maildir(BERT)
        self.assertIn(b"X-Original-To: team@isp.example\n", kept)
        (routed,) = self.server.told(Routed, mid)
        self.assertEqual(routed.expanded, {"team@isp.example": (BERT, BOB)})
        self.assertEqual({event.original for event in self.server.told(Delivered, mid)}, {"team@isp.example"})

    def test_alias_that_changes_while_mail_waits(self) -> None:
        dead = self.server.remote("else.example", failure="refused")
        self.server.add_alias("team@isp.example", BOB)
        self.server.send("x@y.example", "team@isp.example")
        self.server.parts.directory.remove("alias", "team@isp.example")
        dead.recover()
        self.server.advance(10 * MINUTE)
        self.assertEqual(dead.taken, [("x@y.example", BOB)])  # what was accepted for Bob stays Bob's

    def test_user_removed_while_mail_waits(self) -> None:
        sender = self.server.remote("sender.example")
        in_the_way = self.server.folder / "mail" / "isp.example" / "bert"
        in_the_way.parent.mkdir(parents=True)
        in_the_way.write_bytes(b"")
        mid = self.server.send("stranger@sender.example", BERT)
        self.assertEqual(len(self.server.told(Deferred, mid)), 1)
        self.server.parts.directory.remove("user", BERT)
        in_the_way.unlink()
        self.server.advance(5 * MINUTE)
        self.assertEqual(self.server.told(Bounced, mid)[0].status, "5.1.1")
        self.assertEqual(sender.taken, [("", "stranger@sender.example")])

    def test_user_becomes_an_alias_while_mail_waits(self) -> None:
        remote = self.server.remote("else.example")
        in_the_way = self.server.folder / "mail" / "isp.example" / "bert"
        in_the_way.parent.mkdir(parents=True)
        in_the_way.write_bytes(b"")
        remote.fail("refused")
        mid = self.server.send(ANNA, [BERT, BOB], auth=ANNA)
        self.server.parts.directory.remove("user", BERT)
        self.server.add_alias(BERT, ANNA, BOB, "x@gone.example")
        self.server.advance(5 * MINUTE)
        self.assertEqual(len(self.server.maildir(ANNA)), 2)  # the message, and the report about x
        remote.recover()
        self.server.advance(HOUR)
        self.assertEqual(remote.taken, [(ANNA, BOB)])  # once, though two ways lead there
        self.assertEqual(self.server.told(Bounced, mid)[0].recipient, "x@gone.example")

    def test_detail(self) -> None:
        self.server.send("x@y.example", "anna+list@isp.example")
        self.assertIn(b"Delivered-To: anna+list@isp.example\n", self.server.maildir(ANNA)[0])

    def test_two_recipients_of_a_host_in_one_transaction(self) -> None:
        remote = self.server.remote("else.example", replies={"RCPT:bill@else.example": "550 5.1.1 who?"})
        self.server.send(ANNA, [BOB, "bill@else.example"], auth=ANNA)
        self.server.advance(1)
        (mail,) = remote.mails
        self.assertEqual(mail.recipients, (BOB,))
        self.assertEqual(report_of(self.server.maildir(ANNA)[0])["Final-Recipient"], "rfc822; bill@else.example")


class DoubleBounceTests(WorldCase):
    """Reports that can't be delivered (RFC 5321 §4.5.5: none is ever sent about them to the null sender)."""

    def send(self) -> str:
        self.server.remote("sender.example", replies={"RCPT": "550 5.1.1 who?"})
        self.server.add_alias("away@isp.example", "x@gone.example")
        mid = self.server.send("stranger@sender.example", "away@isp.example")
        self.server.advance(5)
        return self.server.told(Bounced, mid)[0].report

    def test_dropped_on_record(self) -> None:
        report = self.send()
        (bounced,) = self.server.told(Bounced, report)
        self.assertEqual(bounced.report, "")
        self.assertIn("dropped", bounced.fate)
        self.assertEqual(len(self.server.told(Reported)), 1)
        self.assertEqual(self.server.queue(), [])

    @configured('[local]\npostmaster = "anna@isp.example"')
    def test_to_the_postmaster(self) -> None:
        report = self.send()
        (bounced,) = self.server.told(Bounced, report)
        (mail,) = self.server.maildir(ANNA)
        self.assertEqual(report_of(mail)["Final-Recipient"], "rfc822; stranger@sender.example")
        self.assertEqual([event.kind for event in self.server.told(Reported)], ["failed", "double-bounce"])
        self.assertEqual(self.server.told(Reported, bounced.report)[0].recipients, (ANNA,))

    def test_mail_with_the_null_sender(self) -> None:
        self.server.add_alias("away@isp.example", "x@gone.example")
        mid = self.server.send("", "away@isp.example")
        self.server.advance(5)
        self.assertIn("dropped", self.server.told(Bounced, mid)[0].fate)
        self.assertEqual(self.server.told(Reported), [])


class OperatorTests(WorldCase):
    """What an operator does to the queue."""

    def setUp(self) -> None:
        super().setUp()
        self.remote = self.server.remote("else.example", failure="refused")
        self.mid = self.server.send(ANNA, BOB, auth=ANNA)

    def test_remove(self) -> None:
        self.assertEqual(self.server.operate("remove", who="olga", id=self.mid), 1)
        self.remote.recover()
        self.server.advance(DAY)
        self.assertEqual((self.remote.taken, self.server.queue()), ([], []))
        told = [event for event in self.server.history(self.mid) if isinstance(event, Operator)]
        self.assertEqual([(event.action, event.who, event.recipients) for event in told], [("remove", "olga", (BOB,))])
        self.assertEqual(self.server.accounting(), Accounting(accepted=1, removed=1))

    def test_hold_and_release(self) -> None:
        self.server.operate("hold", recipient=BOB)
        self.remote.recover()
        self.server.advance(10 * DAY)
        self.assertEqual(self.remote.taken, [])
        self.assertEqual(self.server.queue()[0][1].state, "held")
        self.server.restart()
        self.assertEqual(self.server.store.stats().held, 1)
        self.server.operate("release", recipient=BOB)
        self.server.advance(1)
        self.assertEqual(self.remote.taken, [(ANNA, BOB)])

    def test_retry(self) -> None:
        self.remote.recover()
        self.server.advance(5)
        self.assertEqual(self.remote.taken, [])
        self.server.operate("retry", destination="smtp:else.example")
        self.assertEqual(self.remote.taken, [(ANNA, BOB)])

    def test_remove_while_under_way(self) -> None:
        self.server.operate("remove")
        self.remote.recover()
        self.remote.behaviour.silent = {"content"}
        mid = self.server.send(ANNA, BOB, auth=ANNA)
        self.assertEqual(self.server.parts.scheduler.under_way, 1)
        self.server.operate("remove", id=mid)
        self.server.advance(HOUR)  # the remote never answers, and the attempt's end changes nothing
        self.assertEqual(self.server.queue(), [])
        self.assertEqual(self.server.accounting(), Accounting(accepted=2, removed=2))


class PostmasterTests(WorldCase):
    """RFC 5321 §4.5.1."""

    def test_alone_with_nobody_to_read_it(self) -> None:
        """It is never somebody else's, not even for a client that may relay: mail to our own name would come back."""
        self.server.reload("[relay]\nnetworks = ['192.0.2.0/24']")
        client = self.server.connect()
        reply = client.say("EHLO client.example", "MAIL FROM:<x@y.example>", "RCPT TO:<Postmaster>")[-1]
        self.assertEqual((reply.code, reply.enhanced), (550, "5.1.1"))
        self.assertEqual(reply.text, "There is no mailbox postmaster here")

    def test_alone_with_an_address_of_the_settings(self) -> None:
        self.server.reload(f"[local]\npostmaster = '{ANNA}'")
        client = self.server.connect()
        client.say(
            "EHLO client.example", "MAIL FROM:<x@y.example>", "RCPT TO:<Postmaster>", "DATA", "Subject: x", "", "."
        )
        self.server.advance(1)
        self.assertEqual(len(self.server.maildir(ANNA)), 1)
