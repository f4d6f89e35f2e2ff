"""Days on which nothing works: names, other hosts, the clock.  Each ends with books that balance."""

from __future__ import annotations

from tests.testing.world import ANNA, BERT, BOB, WorldCase, report_of
from twisted_mta.mail.events import Bounced, Deferred, Delivered
from twisted_mta.testing.case import configured

DAY, HOUR, MINUTE = 86400.0, 3600.0, 60.0


class SurvivalTests(WorldCase):
    def test_dns_dead_for_an_hour(self) -> None:
        remote = self.server.remote("else.example")
        names = {"else.example", "mx.else.example"}
        self.server.resolver.temporary |= names
        sent = [self.server.send(ANNA, [BOB, BERT], auth=ANNA) for _ in range(5)]
        self.server.advance(HOUR)
        self.assertEqual(remote.attempts, 0)
        self.assertEqual(len(self.server.maildir(BERT)), 5)  # what needs no DNS is not held up
        self.assertTrue(all("could not be looked up" in event.reply for event in self.server.told(Deferred)))
        self.assertEqual(self.server.assert_balanced().queued, 5)
        self.server.resolver.temporary -= names
        self.server.advance(3 * HOUR)
        self.assertEqual(remote.taken, [(ANNA, BOB)] * 5)
        self.assertEqual({event.id for event in self.server.told(Delivered)}, set(sent))
        books = self.server.assert_balanced()
        self.assertEqual((books.accepted, books.delivered, books.queued), (10, 10, 0))

    @configured('[queue]\nlifetime = "5d"\ndelay_warning = "4h"')
    def test_all_remotes_dead_for_a_week(self) -> None:
        domains = [f"dead{number}.example" for number in range(6)]
        kinds = ["refused", "timeout"] * 3
        remotes = [self.server.remote(name, failure=kind) for name, kind in zip(domains, kinds, strict=True)]
        first = [self.server.send(ANNA, f"someone@{name}", auth=ANNA) for name in domains]
        self.server.advance(4 * DAY)
        self.server.restart()
        self.assertEqual(self.server.assert_balanced().queued, 6)
        late = [self.server.send(ANNA, f"someone@{name}", auth=ANNA) for name in domains]
        self.server.advance(3 * DAY)
        expired = self.server.told(Bounced)
        self.assertEqual({event.id for event in expired}, set(first))
        self.assertTrue(all(event.expired for event in expired))
        actions = [report_of(report)["Action"] for report in self.server.maildir(ANNA)]
        self.assertEqual((actions.count("delayed"), actions.count("failed")), (12, 6))
        for remote in remotes:
            self.assertLess(remote.attempts, 200)
            remote.recover()
        self.server.advance(DAY)
        self.assertEqual({event.id for event in self.server.told(Delivered)} & set(late), set(late))
        books = self.server.assert_balanced()
        self.assertEqual((books.queued, books.removed, books.bounced), (0, 0, 6))

    def test_the_clock_a_day_forward_and_back(self) -> None:
        remote = self.server.remote("else.example", replies={"RCPT": ["450 4.2.0 later"] * 3})
        self.server.send(ANNA, BOB, auth=ANNA)
        self.server.clock.rightNow += DAY
        self.server.send(ANNA, BOB, auth=ANNA)
        self.server.advance(MINUTE)
        self.server.clock.rightNow -= DAY
        self.server.send(ANNA, [BOB, BERT], auth=ANNA)
        self.server.advance(MINUTE)
        self.assertEqual(len(self.server.maildir(BERT)), 1)
        self.server.assert_balanced()
        self.server.advance(DAY + HOUR)
        self.assertEqual(remote.taken, [(ANNA, BOB)] * 3)
        self.assertEqual(self.server.told(Bounced), [])  # it may be told as late, which it was by the clock
        self.assertEqual(self.server.assert_balanced().queued, 0)
