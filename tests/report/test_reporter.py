"""Who is told, and how the report is queued."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.config.settings import Duration, Local, Queue, Settings
from twisted_mta.mail.envelope import Message, Recipient
from twisted_mta.mail.events import Delayed, Reported, Routed
from twisted_mta.mail.status import MailError, Reply
from twisted_mta.queue.interfaces import CHUNK, NewDelivery, Routing
from twisted_mta.report.dsn import Failure
from twisted_mta.report.reporter import UNWANTED, Made, Reporter

NOW = 1_800_000_000.0


class FakeRouter:
    """Sends all to one place, or does as it is told."""

    def __init__(self) -> None:
        self.answer: Routing | MailError | None = None
        self.asked: list[tuple[tuple[Recipient, ...], str]] = []

    async def route(self, recipients: Sequence[Recipient], lane_customer: str) -> Routing:
        self.asked.append((tuple(recipients), lane_customer))
        if isinstance(self.answer, MailError):
            raise self.answer
        return self.answer or Routing((NewDelivery("maildir:isp.example", tuple(recipients)),))


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = NOW
        self.router = FakeRouter()
        self.postmaster = ""

    def report(
        self, what: str = "failed", address: str = "gone@example.org", notify: str = "", **about: object
    ) -> Made:
        settings = Settings(
            hostname="mx1.isp.example",
            local=Local(postmaster=self.postmaster),
            queue=Queue(dsn_lifetime=Duration(1000.0)),
        )
        reporter = Reporter(settings, lambda: "report0000000001", self.router, self.clock)
        values = {"id": "m", "arrived": NOW - 9, "sender": "bob@isp.example", "recipients": 1, "size": 1, "chunks": 1}
        message = Message(**values | {"expires": NOW + 99} | about)
        failure = Failure(recipient=Recipient(address, address, notify), reply=Reply(550, "5.1.1", "no"))
        made = reporter.report(what, message, "c1", [failure], b"Subject: x\r\n\r\n")  # type: ignore[arg-type]
        return self.successResultOf(Deferred.fromCoroutine(made))


class ToTheSender(Case):
    """The usual report."""

    def test_message(self) -> None:
        made = self.report()
        [(new, content)] = made.reports
        self.assertEqual(made.id, new.message.id)
        self.assertEqual((new.message.sender, new.message.kind, new.message.body), ("", "dsn", "7BIT"))
        self.assertEqual((new.message.size, new.message.chunks), (len(content), -(-len(content) // CHUNK)))
        self.assertEqual((new.message.expires, new.next_attempt), (NOW + 1000, NOW))
        self.assertEqual((new.lane_customer, new.charge), ("c1", None))
        self.assertEqual(new.message.message_id, "<report0000000001@mx1.isp.example>")
        self.assertIn(b"To: bob@isp.example\r\n", content)

    def test_what_requires_tls_comes_back_under_tls(self) -> None:
        """RFC 8689 §5."""
        for wish, report in (("required", "required"), ("optional", ""), ("", "")):
            [(new, _)] = self.report(requiretls=wish).reports
            self.assertEqual(new.message.requiretls, report)

    def test_routed_to_the_sender(self) -> None:
        self.report()
        self.assertEqual(self.router.asked, [((Recipient("bob@isp.example", "bob@isp.example"),), "c1")])

    def test_story(self) -> None:
        made = self.report()
        reported, routed = made.reports[0][0].story
        assert isinstance(reported, Reported)
        assert isinstance(routed, Routed)
        self.assertEqual((reported.id, reported.about, reported.kind), (made.id, "m", "failed"))
        self.assertEqual(reported.recipients, ("bob@isp.example",))
        self.assertEqual(made.events, (reported, routed))

    def test_delayed(self) -> None:
        made = self.report("delayed")
        self.assertEqual([type(event) for event in made.events], [Delayed, Reported, Routed])
        self.assertEqual(made.events[0].id, "m")
        self.assertIn(b"Action: delayed\r\n", made.reports[0][1])

    def test_a_router_that_can_not_say_yet(self) -> None:
        self.router.answer = MailError(Reply(451, "4.4.3", "later"))
        [(new, _)] = self.report().reports
        self.assertEqual(new.deliveries[0].destination, "smtp:isp.example")

    def test_a_sender_that_is_gone(self) -> None:
        recipient = Recipient("bob@isp.example", "bob@isp.example")
        for answer in (
            Routing((), {}, ((recipient, Reply(550, "5.1.1", "No such mailbox")),)),
            MailError(Reply(550, "5.1.1", "No such mailbox")),
        ):
            self.router.answer = answer
            made = self.report()
            self.assertEqual((made.id, made.reports), ("", ()))
            self.assertIn("No such mailbox", made.fate)


class Wishes(Case):
    """NOTIFY (RFC 3461 §4.1)."""

    def test_never(self) -> None:
        for what in ("failed", "delayed", "delivered", "relayed"):
            made = self.report(what, notify="NEVER")
            self.assertEqual((made.id, made.reports, made.events), ("", (), ()))
            self.assertEqual(made.of(made.silent[0]), ("", UNWANTED))

    def test_only_what_was_asked_for(self) -> None:
        for what, notify in (("failed", "DELAY"), ("delayed", "FAILURE"), ("delivered", "FAILURE"), ("relayed", "")):
            self.assertEqual(self.report(what, notify=notify).reports, (), what)
        for what, notify in (("failed", "FAILURE"), ("delayed", "DELAY"), ("delivered", "SUCCESS")):
            made = self.report(what, notify=notify)
            self.assertEqual(len(made.reports), 1, what)
            self.assertEqual(made.silent, ())

    def test_no_success_about_a_null_sender(self) -> None:
        self.postmaster = "postmaster@isp.example"
        for what in ("delivered", "relayed"):
            self.assertEqual(self.report(what, notify="SUCCESS", sender="").reports, ())


class NullSender(Case):
    """RFC 5321 §4.5.5: a report about a report is never sent to its sender."""

    def test_dropped_without_a_postmaster(self) -> None:
        for about in ({"sender": ""}, {"kind": "dsn"}):
            made = self.report(**about)
            self.assertEqual((made.id, made.reports, made.events), ("", (), ()))
            self.assertIn("no local.postmaster", made.fate)

    def test_the_postmaster_is_told(self) -> None:
        self.postmaster = "Root@ISP.example"
        [(new, content)] = self.report(sender="").reports
        self.assertEqual(new.deliveries[0].recipients, (Recipient("Root@isp.example", "Root@isp.example"),))
        self.assertEqual((new.message.sender, new.message.kind), ("", "dsn"))
        self.assertIn(b"To: Root@isp.example\r\n", content)

    def test_not_about_mail_to_the_postmaster(self) -> None:
        self.postmaster = "root@isp.example"
        made = self.report(sender="", address="Root@isp.example")
        self.assertEqual(made.reports, ())
        self.assertIn("itself", made.fate)

    def test_no_delay_is_told(self) -> None:
        self.postmaster = "root@isp.example"
        self.assertEqual(self.report("delayed", sender="").reports, ())
