"""The client's state machine: what it says to which replies."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.wire.connection import PIPELINING, PLAIN, Case, kinds
from twisted_mta.mail.status import Reply
from twisted_mta.wire.client import ClientConnection
from twisted_mta.wire.exchange import Ready, StartTls, State


class OpeningTests(Case):
    """Greeting, EHLO, HELO."""

    def test_ehlo(self) -> None:
        connection = ClientConnection("mta.isp.example")
        self.assertEqual(connection.take(), b"")
        self.assertEqual(connection.timeout, 300)
        self.assertEqual(connection.receive(b"220-hello\r\n220 mx ESMTP\r\n"), [])
        self.assertEqual(connection.take(), b"EHLO mta.isp.example\r\n")
        self.assertEqual(kinds(connection.receive(PIPELINING)), ["Ready"])
        self.assertTrue(connection.capabilities.pipelining)
        self.assertEqual(connection.capabilities.size, 1000)
        self.assertTrue(connection.capabilities.eight_bit)
        self.assertIsNone(connection.timeout)

    def test_helo_fallback(self) -> None:
        connection = ClientConnection("mta.isp.example")
        connection.receive(b"220 mx\r\n")
        connection.take()
        self.assertEqual(connection.receive(b"502 5.5.1 what?\r\n"), [])
        self.assertEqual(connection.take(), b"HELO mta.isp.example\r\n")
        self.assertEqual(kinds(connection.receive(b"250 mx\r\n")), ["Ready"])
        connection.begin(PLAIN)
        self.assertEqual(connection.take(), b"MAIL FROM:<a@isp.example>\r\n")

    def test_helo_fallback_not_when_tls_is_required(self) -> None:
        connection = ClientConnection("mta.isp.example", tls="encrypt")
        connection.receive(b"220 mx\r\n")
        connection.receive(b"502 5.5.1 what?\r\n")
        self.assertClosed(connection.receive(b"250 mx\r\n")[0], 451, "4.7.4", False)

    def test_greeting_4xx(self) -> None:
        self.assertClosed(ClientConnection("mta").receive(b"450 4.3.2 busy\r\n")[0], 450, "4.3.2", True)

    def test_greeting_5xx(self) -> None:
        self.assertClosed(ClientConnection("mta").receive(b"554 no mail here\r\n")[0], 554, "", True)

    def test_ehlo_4xx(self) -> None:
        connection = ClientConnection("mta")
        connection.receive(b"220 mx\r\n")
        self.assertClosed(connection.receive(b"450 4.7.1 later\r\n")[0], 450, "4.7.1", True)

    def test_helo_5xx(self) -> None:
        connection = ClientConnection("mta")
        connection.receive(b"220 mx\r\n")
        connection.receive(b"500 what?\r\n")
        self.assertClosed(connection.receive(b"550 5.7.1 your name\r\n")[0], 550, "5.7.1", True)

    def test_not_smtp(self) -> None:
        self.assertClosed(ClientConnection("mta").receive(b"SSH-2.0-OpenSSH\r\n")[0], 451, "4.5.0", False)

    def test_answer_before_the_question(self) -> None:
        """A server may not answer EHLO before it was sent, and then MAIL, and so on."""
        connection = ClientConnection("mta")
        events = connection.receive(b"220 mx\r\n" + PIPELINING + b"250 ok\r\n")
        self.assertEqual(kinds(events), ["Ready", "Closed"])
        self.assertClosed(events[1], 451, "4.5.0", False)

    def test_421_while_idle(self) -> None:
        self.assertClosed(self.opened().receive(b"421 4.4.2 timeout\r\n")[0], 421, "4.4.2", True)

    def test_nothing_after_closed(self) -> None:
        connection = ClientConnection("mta")
        connection.receive(b"554 no\r\n")
        self.assertEqual(connection.receive(b"220 yes\r\n"), [])
        self.assertEqual(connection.connection_lost(Reply(451, "4.4.2", "x")), [])

    def test_size_without_limit(self) -> None:
        for offer in (b"SIZE", b"SIZE 0", b"SIZE x", b"size 99999999999999999999999"):
            connection = self.opened(b"250-mx\r\n250 " + offer + b"\r\n")
            self.assertEqual(connection.capabilities.size, 0)
            self.assertEqual(connection.begin(PLAIN), [])

    def test_our_name_cannot_hold_a_line_end(self) -> None:
        self.assertRaises(ValueError, ClientConnection, "a\r\nMAIL FROM:<x>")


class TlsTests(Case):
    """STARTTLS, RFC 3207."""

    OFFER = b"250-mx\r\n250-PIPELINING\r\n250 STARTTLS\r\n"

    def offered(self, tls: Any = "may") -> ClientConnection:
        connection = ClientConnection("mta", tls=tls)
        connection.receive(b"220 mx\r\n")
        connection.receive(self.OFFER)
        return connection

    def test_starttls(self) -> None:
        connection = self.offered()
        self.assertTrue(connection.take().endswith(b"STARTTLS\r\n"))
        self.assertEqual(kinds(connection.receive(b"220 2.0.0 go\r\n")), ["StartTls"])
        self.assertEqual(connection.take(), b"")
        connection.secured()
        self.assertEqual(connection.take(), b"EHLO mta\r\n")
        self.assertEqual(kinds(connection.receive(b"250 mx\r\n")), ["Ready"])
        self.assertTrue(connection.secure)

    def test_offers_are_forgotten(self) -> None:
        """RFC 3207 §4.2: what was said in clear may have been somebody else's."""
        connection = self.offered()
        connection.receive(b"220 go\r\n")
        connection.secured()
        self.assertFalse(connection.capabilities.pipelining)
        connection.receive(b"250 mx\r\n")
        self.assertFalse(connection.capabilities.pipelining)

    def test_injection(self) -> None:
        """CVE-2024-34083 and its like: words in clear behind the 220 must not count under TLS."""
        connection = self.offered()
        events = connection.receive(b"220 go\r\n250-mx\r\n250 AUTH PLAIN\r\n")
        self.assertEqual(kinds(events), ["Closed"])
        self.assertClosed(events[0], 451, "4.5.0", False)

    def test_injection_of_half_a_line(self) -> None:
        connection = self.offered()
        self.assertEqual(kinds(connection.receive(b"220 go\r\n25")), ["Closed"])

    def test_injection_in_the_next_segment(self) -> None:
        connection = self.offered()
        connection.receive(b"220 go\r\n")
        self.assertEqual(kinds(connection.receive(b"250 mx\r\n")), ["Closed"])

    def test_refused_may(self) -> None:
        connection = self.offered()
        self.assertEqual(kinds(connection.receive(b"454 4.7.0 not now\r\n")), ["Ready"])

    def test_refused_encrypt(self) -> None:
        self.assertClosed(self.offered("encrypt").receive(b"554 5.7.0 no\r\n")[0], 451, "4.7.4", False)

    def test_not_offered_encrypt(self) -> None:
        connection = ClientConnection("mta", tls="encrypt")
        connection.receive(b"220 mx\r\n")
        self.assertClosed(connection.receive(PIPELINING)[0], 451, "4.7.4", False)

    def test_none(self) -> None:
        self.assertEqual(self.offered("none").state, State.READY)


class EventTests(SynchronousTestCase):
    """Events are values."""

    def test_equal(self) -> None:
        self.assertEqual([StartTls(), Ready()], [StartTls(), Ready()])
        self.assertNotEqual(StartTls(), Ready())
