"""FUTURERELEASE, DELIVERBY and MT-PRIORITY at the server: what is offered, taken, refused, and kept."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tests.smtp.world import NOW, Client, World, account, codes
from twisted_mta.config.settings import Extensions
from twisted_mta.mail.envelope import Handling, Message
from twisted_mta.mail.events import Accepted
from twisted_mta.wire.handling import write_date

DAY = 86400
MESSAGE = b"Subject: hello\r\n\r\nbody\r\n"


class Case(SynchronousTestCase):
    def greet(self, role: str = "submission", logged_in: bool = True, **extensions: Any) -> Client:
        self.world = World(role)
        self.world.settings = attrs.evolve(self.world.settings, extensions=Extensions(**extensions))
        self.world.factory.configure(self.world.settings, self.world.factory.pipeline)
        self.world.reception.configure(self.world.settings)
        client = self.world.session()
        client.say("EHLO far.example")
        if logged_in:
            client.server.peer.account = account()
        return client

    def mail(self, client: Client, params: str) -> bytes:
        """The reply to MAIL; the transaction is ended."""
        reply: bytes = client.say(f"MAIL FROM:<ann@isp.example> {params}")
        client.say("RSET")
        return reply

    def send(self, client: Client, params: str) -> Message:
        replies = client.say(f"MAIL FROM:<ann@isp.example> {params}", "RCPT TO:<bob@isp.example>", "DATA")
        self.assertEqual(codes(replies), [250, 250, 354])
        client.server.dataReceived(MESSAGE + b".\r\n")
        self.assertTrue(client.read().startswith(b"250 2.0.0 "))
        return self.world.store.messages[-1][0].message


class Offers(Case):
    """EHLO."""

    def offered(self, client: Client) -> list[bytes]:
        return [line[4:] for line in client.say("EHLO far.example").splitlines()]

    def test_on_a_submission_listener(self) -> None:
        offered = self.offered(self.greet())
        latest = write_date(NOW // 60 * 60 + 30 * DAY).encode()
        self.assertIn(b"FUTURERELEASE 2592000 " + latest, offered)
        self.assertIn(b"DELIVERBY", offered)
        self.assertIn(b"MT-PRIORITY MIXER", offered)

    def test_the_latest_date_goes_with_the_time(self) -> None:
        client = self.greet(future_release=60.0)
        first = self.offered(client)
        self.assertEqual(self.offered(client), first)
        self.world.clock.advance(60)
        second = self.offered(client)
        self.assertNotEqual(second, first)
        self.assertIn(b"FUTURERELEASE 60 " + write_date(NOW // 60 * 60 + 120).encode(), second)
        self.assertLessEqual(len(self.world.factory.hello_replies), 2)

    def test_no_future_release_for_the_world(self) -> None:
        """RFC 4865 §4: it is an extension of submission."""
        offered = self.offered(self.greet("mx", False))
        self.assertFalse([line for line in offered if line.startswith(b"FUTURERELEASE")])
        self.assertIn(b"DELIVERBY", offered)

    def test_settings(self) -> None:
        offered = self.offered(self.greet(future_release=0.0, deliver_by_minimum=120.0, mt_priority=False))
        self.assertIn(b"DELIVERBY 120", offered)
        words = b" ".join(offered)
        self.assertNotIn(b"FUTURERELEASE", words)
        self.assertNotIn(b"MT-PRIORITY", words)
        self.assertNotIn(b"DELIVERBY", b" ".join(self.offered(self.greet(deliver_by=False))))

    def test_what_is_not_offered_is_not_taken(self) -> None:
        client = self.greet(future_release=0.0, deliver_by=False, mt_priority=False)
        until = write_date(NOW + 60)
        for param in ("HOLDFOR=60", f"HOLDUNTIL={until}", "BY=60;N", "MT-PRIORITY=1"):
            self.assertTrue(self.mail(client, param).startswith(b"555 5.5.4 " + param.split("=")[0].encode()), param)


class FutureRelease(Case):
    """RFC 4865."""

    def test_hold_for(self) -> None:
        client = self.greet()
        message = self.send(client, "HOLDFOR=3600")
        ((new, _),) = self.world.store.messages
        self.assertEqual(message.handling, Handling(release=NOW + 3600, request="for;3600"))
        self.assertEqual(new.next_attempt, NOW + 3600)
        self.assertFalse(new.armed)
        self.assertEqual(message.expires, NOW + 3600 + 5 * DAY)
        self.assertEqual((self.world.scheduler.offered, self.world.scheduler.announced), ([], []))
        self.assertIsNotNone(new.charge, "quotas count it now")
        (accepted,) = self.world.of(Accepted)
        self.assertEqual(accepted.release, NOW + 3600)

    def test_hold_until(self) -> None:
        client = self.greet()
        until = write_date(NOW + 7200)
        message = self.send(client, f"HOLDUNTIL={until}")
        self.assertEqual(message.handling, Handling(release=NOW + 7200, request=f"until;{until}"))

    def test_a_release_that_has_come_while_the_content_did(self) -> None:
        client = self.greet()
        client.say("MAIL FROM:<ann@isp.example> HOLDFOR=10", "RCPT TO:<bob@isp.example>", "DATA")
        self.world.clock.advance(11)
        client.server.dataReceived(MESSAGE + b".\r\n")
        ((new, _),) = self.world.store.messages
        self.assertTrue(new.armed)
        self.assertEqual(len(self.world.scheduler.offered), 1)
        self.assertEqual(new.message.expires, NOW + 11 + 5 * DAY)

    def test_limits(self) -> None:
        client = self.greet(future_release=3600.0)
        self.assertTrue(self.mail(client, "HOLDFOR=3600").startswith(b"250 "))
        self.assertTrue(self.mail(client, "HOLDFOR=3601").startswith(b"501 5.5.4 HOLDFOR= takes 3600 seconds"))
        self.assertTrue(self.mail(client, f"HOLDUNTIL={write_date(NOW + 3600)}").startswith(b"250 "))
        self.assertTrue(self.mail(client, f"HOLDUNTIL={write_date(NOW + 3601)}").startswith(b"501 5.5.4 "))
        self.assertTrue(self.mail(client, f"HOLDUNTIL={write_date(NOW)}").startswith(b"501 5.5.4 "))
        both = self.mail(client, f"HOLDFOR=60 HOLDUNTIL={write_date(NOW + 60)}")
        self.assertTrue(both.startswith(b"501 5.5.4 HOLDFOR= and HOLDUNTIL="))

    def test_for_submission_alone(self) -> None:
        client = self.greet("mx", False)
        self.assertTrue(self.mail(client, "HOLDFOR=60").startswith(b"555 5.5.4 "))
        client = self.greet(logged_in=False)
        self.assertTrue(self.mail(client, "HOLDFOR=60").startswith(b"530 5.7.0 "))

    def test_released_before_its_time_is_over(self) -> None:
        client = self.greet()
        self.assertTrue(self.mail(client, "HOLDFOR=60 BY=60;R").startswith(b"501 5.5.4 "))
        message = self.send(client, "HOLDFOR=60 BY=61;R")
        self.assertEqual(message.expires, NOW + 61)


class DeliverBy(Case):
    """RFC 2852."""

    def test_return(self) -> None:
        client = self.greet()
        message = self.send(client, "BY=120;RT")
        self.assertEqual(message.handling, Handling(deliver_by=NOW + 120, by_mode="R", trace=True))
        self.assertEqual(message.expires, NOW + 120)
        self.assertEqual(len(self.world.scheduler.offered), 1)
        message = self.send(client, "BY=999999999;R")
        self.assertEqual(message.expires, NOW + 5 * DAY, "the lifetime of the queue holds all the same")

    def test_notify(self) -> None:
        client = self.greet("mx", False)
        message = self.send(client, "BY=-3;N")
        self.assertEqual(message.handling, Handling(deliver_by=NOW - 3, by_mode="N"))
        self.assertEqual(message.expires, NOW + 5 * DAY)

    def test_minimum(self) -> None:
        client = self.greet(deliver_by_minimum=120.0)
        self.assertTrue(self.mail(client, "BY=119;R").startswith(b"555 5.5.4 "))
        self.assertTrue(self.mail(client, "BY=120;R").startswith(b"250 "))
        self.assertTrue(self.mail(client, "BY=1;N").startswith(b"250 "), "it is for mode R alone")


class Priority(Case):
    """RFC 6710."""

    def test_a_user_may_raise_it(self) -> None:
        client = self.greet()
        self.assertTrue(self.mail(client, "MT-PRIORITY=9").startswith(b"250 2.1.0 "))
        message = self.send(client, "MT-PRIORITY=4")
        self.assertEqual(message.handling, Handling(priority=4))
        content = self.world.store.messages[0][1]
        self.assertIn(b"\r\n\tfor <bob@isp.example>\r\n\tPRIORITY 4;\r\n\t", content)
        (accepted,) = self.world.of(Accepted)
        self.assertEqual(accepted.priority, 4)

    def test_the_usual_one_is_nothing(self) -> None:
        client = self.greet()
        self.assertIsNone(self.send(client, "MT-PRIORITY=0").handling)
        self.assertNotIn(b"PRIORITY", self.world.store.messages[0][1])

    def test_the_highest(self) -> None:
        client = self.greet(highest_priority=4)
        self.assertTrue(self.mail(client, "MT-PRIORITY=5").startswith(b"250 2.3.6 4 "))
        self.assertEqual(self.send(client, "MT-PRIORITY=9").handling, Handling(priority=4))

    def test_a_stranger_may_only_lower_it(self) -> None:
        client = self.greet("mx", False)
        self.assertTrue(self.mail(client, "MT-PRIORITY=1").startswith(b"250 2.3.6 0 "))
        self.assertIsNone(self.send(client, "MT-PRIORITY=9").handling)
        self.assertEqual(self.send(client, "MT-PRIORITY=-4").handling, Handling(priority=-4))

    def test_relay_networks_may_raise_it(self) -> None:
        client = self.greet("mx", False)
        client.server.peer.relaying = True
        self.assertEqual(self.send(client, "MT-PRIORITY=4").handling, Handling(priority=4))
