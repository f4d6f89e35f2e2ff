"""Addresses in MAIL and RCPT as we send them."""

from __future__ import annotations

from tests.wire.connection import Case, codes
from twisted_mta.wire.envelope import path
from twisted_mta.wire.exchange import Finished, Transfer


class AddressTests(Case):
    """What may stand between angle brackets."""

    def test_good(self) -> None:
        for address in ("a@b", "a.b+c@example.org", '"a b>\\""@example.org', "a@[192.0.2.1]", "a@[IPv6:2001:db8::1]"):
            self.assertEqual(path(address), address.encode())

    def test_bad(self) -> None:
        for address in (
            "a\r\nDATA@b",
            "a@b\r\n",
            "a@b\n",
            "a\0@b",
            '"a\r\n"@b',
            "a> NOTIFY=NEVER <b@c",
            "a b@c",
            "a@b c",
            "a",
            "",
            "ä@b",
            "<a@b>",
            '"a"b@c',
        ):
            self.assertIsNone(path(address), address)

    def test_bad_recipient_is_not_sent(self) -> None:
        connection = self.opened()
        connection.begin(Transfer("a@b", ("x@example.org", "x\r\nDATA\r\n@example.org"), 10))
        self.assertEqual(connection.take(), b"MAIL FROM:<a@b> SIZE=10\r\nRCPT TO:<x@example.org>\r\nDATA\r\n")
        connection.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
        connection.content_sent()
        self.assertEqual(codes(connection.receive(b"250 ok\r\n")[0]), ["250", "553 ours"])

    def test_only_bad_recipients(self) -> None:
        connection = self.opened()
        events = connection.begin(Transfer("a@b", ("ü@example.org",), 10))
        assert isinstance(events[0], Finished)
        self.assertEqual(events[0].outcomes[0].reply.enhanced, "5.6.7")
        self.assertEqual(connection.take(), b"")

    def test_bad_sender(self) -> None:
        connection = self.opened()
        events = connection.begin(Transfer("a\n@b", ("x@example.org",), 10))
        self.assertEqual(codes(events[0]), ["553 ours"])
