"""LMTP into the whole server in memory."""

from __future__ import annotations

from tests.testing.world import ANNA, BERT, BOB, WorldCase
from twisted_mta.mail.events import Accepted, Connected
from twisted_mta.testing.client import Refused

LMTP = """
[listen.mx]
port = 2525
[listen.lmtp]
address = ["unix:/run/twisted-mta/lmtp"]
role = "lmtp"
tls = "none"
[listen.gateways]
address = ["0.0.0.0"]
port = 24
role = "lmtp"
clients = ["192.0.2.0/28"]
relay = true
"""


class LmtpTests(WorldCase):
    """From the session to the mailbox."""

    config = LMTP

    def test_unix_socket(self) -> None:
        client = self.server.connect("lmtp", address="unix")
        self.assertEqual([reply.code for reply in client.deliver("x@y.example", [ANNA, BERT])], [250, 250])
        self.server.advance(5)
        (content,) = self.server.maildir(ANNA)
        self.assertIn(b"Received: from client.example (unix)", content)
        self.assertIn(b"with LMTP id", content)
        self.assertEqual(len(self.server.maildir(BERT)), 1)
        self.assertEqual([event.client for event in self.server.told(Connected)], ["unix"])
        self.server.assert_balanced()

    def test_one_of_them_leads_nowhere(self) -> None:
        """It is refused, where by SMTP it would bounce to the sender."""
        self.server.add_domain("loop.example", "acme")
        self.server.add_user("loop@loop.example")
        self.server.add_alias("@loop.example", "loop@loop.example")
        self.server.parts.directory.remove("user", "loop@loop.example")
        client = self.server.connect("lmtp", address="unix")
        replies = client.deliver("x@y.example", [ANNA, "loop@loop.example", "nobody@isp.example", BERT])
        self.assertEqual([reply.code for reply in replies], [250, 550, 550, 250])
        self.assertEqual(replies[1].enhanced, "5.4.6")
        self.server.advance(5)
        self.assertEqual([event.recipients for event in self.server.told(Accepted)], [(ANNA, BERT)])
        self.assertEqual(self.server.queue(), [])
        self.server.assert_balanced()

    def test_no_way_around_submission(self) -> None:
        client = self.server.connect("lmtp", address="unix")
        with self.assertRaises(Refused) as caught:
            client.mail("x@y.example", BOB)
        self.assertEqual(caught.exception.command, "DATA")
        self.assertEqual(client.replies[-2].code, 503)

    def test_gateways(self) -> None:
        other = self.server.remote("else.example")
        self.server.connect("gateways", address="192.0.2.1").mail("x@y.example", [BOB, ANNA])
        self.server.advance(5)
        self.assertEqual(other.taken, [("x@y.example", BOB)])
        self.assertEqual(len(self.server.maildir(ANNA)), 1)
        for stranger in ("192.0.2.17", "127.0.0.1", "2001:db8::1"):
            self.assertEqual(self.server.connect("gateways", address=stranger).replies[0].code, 554, stranger)

    def test_starttls(self) -> None:
        client = self.server.connect("gateways", address="192.0.2.1")
        client.ehlo()
        client.starttls()
        client.mail("x@y.example", ANNA)
        self.server.advance(5)
        self.assertIn(b"with LMTPS id", self.server.maildir(ANNA)[0])
