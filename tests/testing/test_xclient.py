"""XCLIENT in the whole server: whose session it is for policies, the log and the message."""

from __future__ import annotations

from tests.testing.world import ANNA, BERT, BOB, WorldCase
from twisted_mta.mail.events import Accepted, Authenticated, Connected, Disconnected, Rejected
from twisted_mta.testing.case import configured
from twisted_mta.testing.client import MemoryClient

PROXY, CLIENT = "192.0.2.25", "198.51.100.7"

XCLIENT = f"""
[listen.mx]
port = 2525
xclient = ["{PROXY}"]
[listen.submission]
port = 2587
role = "submission"
xclient = ["{PROXY}"]
[listen.plain]
port = 2526
"""


class XclientTests(WorldCase):
    """A proxy at :data:`PROXY` speaks for a client at :data:`CLIENT`."""

    config = XCLIENT

    def claim(self, words: str = f"ADDR={CLIENT}", listener: str = "mx") -> MemoryClient:
        client = self.server.connect(listener, address=PROXY)
        client.ehlo()
        self.assertEqual(client.xclient(words).code, 220)
        return client

    def test_offered_to_those_who_may(self) -> None:
        client = self.server.connect(address=PROXY)
        client.ehlo()
        self.assertEqual(client.extensions["XCLIENT"], "NAME ADDR PORT PROTO HELO DESTADDR DESTPORT")
        client = self.server.connect("submission", address=PROXY)
        client.ehlo()
        self.assertEqual(client.extensions["XCLIENT"], "NAME ADDR PORT PROTO HELO DESTADDR DESTPORT LOGIN")

    def test_nobody_else(self) -> None:
        for listener, address in (("mx", CLIENT), ("mx", "127.0.0.1"), ("plain", PROXY), ("submission", CLIENT)):
            client = self.server.connect(listener, address=address)
            client.ehlo()
            self.assertNotIn("XCLIENT", client.extensions)
            reply = client.ask("XCLIENT ADDR=127.0.0.1 LOGIN=anna@isp.example")
            self.assertEqual((reply.code, reply.enhanced), (550, "5.7.0"), (listener, address))
        self.assertEqual({event.client for event in self.server.told(Connected)}, {PROXY, CLIENT, "127.0.0.1"})

    def test_both_are_in_the_log(self) -> None:
        client = self.claim(f"NAME=mail.far.example ADDR={CLIENT} PORT=4711 DESTADDR=203.0.113.1 DESTPORT=25")
        client.mail("x@far.example", ANNA)
        first, second = self.server.told(Connected)
        self.assertEqual((first.client, first.proxy), (PROXY, ""))
        self.assertEqual((second.client, second.port, second.proxy), (CLIENT, 4711, PROXY))
        self.assertEqual(second.here, "[203.0.113.1]:25")
        self.assertEqual([event.reason for event in self.server.told(Disconnected)], ["xclient"])
        (accepted,) = self.server.told(Accepted)
        self.assertEqual((accepted.client, accepted.session), (CLIENT, second.session))
        self.assertNotEqual(first.session, second.session)
        self.server.advance(5)
        self.assertIn(f"(mail.far.example [{CLIENT}])".encode(), self.server.maildir(ANNA)[0])

    def test_helo_and_proto(self) -> None:
        client = self.claim(f"ADDR={CLIENT} HELO=far.example PROTO=SMTP")
        self.assertEqual(
            [reply.code for reply in client.say("MAIL FROM:<>", f"RCPT TO:<{ANNA}>", "DATA")], [250, 250, 354]
        )
        client.send_raw(b"Subject: x\r\n\r\n.\r\n")
        self.server.advance(5)
        content = self.server.maildir(ANNA)[0]
        self.assertIn(b"Received: from far.example (", content)
        self.assertIn(b"with SMTP id", content)

    @configured(f'[relay]\nnetworks = ["{PROXY}"]')
    def test_what_the_proxy_may_the_client_may_not(self) -> None:
        self.server.remote("else.example")
        self.server.connect(address=PROXY).mail("x@far.example", BOB)
        client = self.claim()
        client.ehlo()
        self.assertEqual(
            [reply.code for reply in client.say("MAIL FROM:<x@far.example>", f"RCPT TO:<{BOB}>")], [250, 550]
        )
        self.assertEqual(self.server.told(Rejected)[-1].client, CLIENT)
        self.server.advance(5)

    @configured(f'[relay]\nnetworks = ["{CLIENT}"]')
    def test_what_the_client_may(self) -> None:
        other = self.server.remote("else.example")
        self.claim().mail("x@far.example", BOB)
        self.server.advance(5)
        self.assertEqual(other.taken, [("x@far.example", BOB)])

    @configured("[smtp]\nconnections_per_address = 1")
    def test_limits_are_the_clients(self) -> None:
        first, second = self.claim(), self.server.connect(address=PROXY)
        self.assertEqual(second.replies[0].code, 220, "the proxy itself has no limit")
        self.assertEqual(second.ask(f"XCLIENT ADDR={CLIENT}").code, 421)
        first.quit()
        third = self.claim()
        fourth = self.claim("ADDR=203.0.113.99")
        self.assertEqual(third.ask("XCLIENT ADDR=203.0.113.99").code, 421)
        self.assertEqual(fourth.ask(f"XCLIENT ADDR={CLIENT}").code, 220, "what it had is given back")

    @configured('[defence]\ngreeting_delay = "2s"')
    def test_the_greeting_is_not_delayed_twice(self) -> None:
        client = self.claim()
        self.assertEqual(client.ehlo().code, 250)

    def test_an_address_that_is_not_known(self) -> None:
        self.claim("ADDR=[UNAVAILABLE] NAME=[UNAVAILABLE]").mail("x@far.example", ANNA)
        self.assertEqual(self.server.told(Accepted)[0].client, "unknown")
        self.server.advance(5)
        self.assertIn(b"(unknown)", self.server.maildir(ANNA)[0])

    def test_login(self) -> None:
        client = self.claim(f"ADDR={CLIENT} LOGIN={ANNA}", "submission")
        client.mail(ANNA, BERT)
        (event,) = self.server.told(Authenticated)
        self.assertEqual((event.user, event.mechanism, event.client), (ANNA, "XCLIENT", CLIENT))
        self.assertEqual(self.server.told(Accepted)[0].user, ANNA)
        self.assertEqual(client.ask(f"MAIL FROM:<{BERT}>").code, 553, "still nobody's but the user's own address")
        client.ask("RSET")
        self.assertEqual(client.ask("AUTH PLAIN AGEAYg==").code, 503)
        client.ask(f"XCLIENT ADDR={CLIENT}")
        client.ehlo()
        self.assertEqual(client.ask(f"MAIL FROM:<{ANNA}>").code, 530, "the next client is somebody else")

    def test_a_user_who_may_not_log_in(self) -> None:
        self.server.parts.directory.set_user(ANNA, suspended=True)
        for login in (ANNA, "nobody@isp.example", "x"):
            client = self.server.connect("submission", address=PROXY)
            self.assertEqual(client.ask(f"XCLIENT ADDR={CLIENT} LOGIN={login}").code, 535, login)
            self.assertEqual(client.say("EHLO x", f"MAIL FROM:<{ANNA}>")[1].code, 503)
        self.assertEqual(self.server.told(Authenticated), [])

    def test_no_login_where_there_is_none(self) -> None:
        client = self.server.connect(address=PROXY)
        self.assertEqual(client.ask(f"XCLIENT LOGIN={ANNA}").code, 501)
        self.assertEqual(client.ehlo().code, 250)

    def test_over_starttls(self) -> None:
        client = self.server.connect(address=PROXY)
        client.ehlo()
        client.starttls()
        client.ehlo()
        self.assertEqual(client.xclient(f"ADDR={CLIENT}").code, 220)
        client.ehlo()
        self.assertNotIn("STARTTLS", client.extensions)
        client.mail("x@far.example", ANNA)
        self.assertTrue(self.server.told(Accepted)[0].tls)
        self.server.advance(5)
