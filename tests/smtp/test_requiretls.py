"""REQUIRETLS and TLS-Required (RFC 8689) where mail comes in."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.smtp.world import HELLO, MAIL, RCPT, Client, World
from twisted_mta.mail.envelope import Message
from twisted_mta.mail.events import Accepted


class RequireTlsTests(SynchronousTestCase):
    def session(self, secure: bool = True) -> Client:
        self.world = World()
        client = self.world.session()
        client.server.peer.secure = secure
        if secure:
            client.server.wire.tls = "up"
        client.read()
        self.offers = client.say(HELLO)
        return client

    def accepted(self, client: Client, mail: str = MAIL, head: str = "") -> Message:
        client.say(mail, RCPT, "DATA")
        self.assertIn(b"queued as", client.say(*head.splitlines(), "", "Hello", "."))
        (event,) = self.world.of(Accepted)[-1:]
        message = self.world.store.messages[-1][0].message
        self.assertEqual(event.requiretls, message.requiretls)
        return message

    def test_offered_under_tls_only(self) -> None:
        """RFC 8689 §2."""
        self.session(secure=False)
        self.assertNotIn(b"REQUIRETLS", self.offers)
        self.session()
        self.assertIn(b"REQUIRETLS\r\n", self.offers)

    def test_refused_in_clear(self) -> None:
        client = self.session(secure=False)
        self.assertEqual(client.say(f"{MAIL} REQUIRETLS")[:10], b"530 5.7.10")
        self.assertEqual(client.codes(RCPT), [503])

    def test_it_has_no_value(self) -> None:
        self.assertEqual(self.session().say(f"{MAIL} REQUIRETLS=yes")[:9], b"501 5.5.4")

    def test_kept_with_the_message(self) -> None:
        client = self.session()
        self.assertEqual(self.accepted(client, f"{MAIL} requiretls").requiretls, "required")
        self.assertEqual(self.accepted(client).requiretls, "")

    def test_the_whole_message_is_not_returned(self) -> None:
        """RFC 8689 §5."""
        client = self.session()
        self.assertEqual(self.accepted(client, f"{MAIL} RET=FULL REQUIRETLS").ret, "HDRS")
        self.assertEqual(self.accepted(client, f"{MAIL} RET=FULL").ret, "FULL")
        self.assertEqual(self.accepted(client, f"{MAIL} REQUIRETLS").ret, "")

    def test_the_header_field(self) -> None:
        """RFC 8689 §3 and §4.1: "No" is all it can say, once, and the command outranks it."""
        client = self.session(secure=False)
        for head, wish in (
            ("TLS-Required: No", "optional"),
            ("tls-required:\tno ", "optional"),
            ("TLS-Required: Yes", ""),
            ("TLS-Required: No\r\nTLS-Required: No", ""),
            ("X-TLS-Required: No", ""),
        ):
            self.assertEqual(self.accepted(client, head=head).requiretls, wish, head)
        both = self.accepted(self.session(), f"{MAIL} REQUIRETLS", "TLS-Required: No")
        self.assertEqual(both.requiretls, "required")
        self.assertIn(b"TLS-Required: No\r\n", self.world.store.messages[-1][1])
