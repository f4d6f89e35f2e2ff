"""LMTP (RFC 2033) on the server's side, octet by octet."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.pieces import split
from tests.wire.dialogue import GREETING, NO, OK, fitting
from twisted_mta.mail.status import Reply
from twisted_mta.wire import commands as c
from twisted_mta.wire.server import ProtocolError, ServerConnection

START = b"LHLO x\r\nMAIL FROM:<a@b.example>\r\n"
FULL = Reply(452, "4.2.2", "The mailbox is full")


def talk(*pieces: bytes, refuse: tuple[str, ...] = (), each: list[Reply] | None = None) -> list[int]:
    """The codes of all replies.  ``refuse``: recipients that are; ``each``: what the content is answered with."""
    connection = ServerConnection(10_000, lmtp=True)
    connection.answer(GREETING)
    said = b""
    for piece in pieces:
        connection.receive(piece)
        while (event := connection.next_event()) is not None:
            if isinstance(event, c.Content):
                continue
            if isinstance(event, c.ContentEnd):
                connection.each = each
            reply = fitting(event)
            if isinstance(event, c.Rcpt) and event.recipient in refuse:
                reply = NO
            said += connection.answer(reply)
    return [int(line[:3]) for line in said.split(b"\r\n") if line[3:4] == b" "]


def rcpt(*names: str) -> bytes:
    return b"".join(b"RCPT TO:<%b@isp.example>\r\n" % name.encode() for name in names)


class HelloTests(SynchronousTestCase):
    def test_lhlo_takes_the_place_of_helo_and_ehlo(self) -> None:
        """RFC 2033 §4.1."""
        self.assertEqual(talk(b"EHLO x\r\nHELO x\r\nLHLO\r\nLHLO x\r\nMAIL FROM:<>\r\n"), [500, 500, 501, 250, 250])
        self.assertEqual(talk(START + b"EHLO x\r\n" + rcpt("ann")), [250, 250, 500, 250])

    def test_smtp_has_no_lhlo(self) -> None:
        connection = ServerConnection(10_000)
        connection.answer(GREETING)
        connection.receive(b"LHLO x\r\n")
        event = connection.next_event()
        assert isinstance(event, c.Refused)
        self.assertEqual((event.reply.code, event.reply.enhanced), (500, "5.5.1"))

    def test_lhlo_comes_first(self) -> None:
        connection = ServerConnection(10_000, lmtp=True)
        connection.answer(GREETING)
        connection.receive(b"MAIL FROM:<>\r\n")
        event = connection.next_event()
        assert isinstance(event, c.Refused)
        self.assertIn("LHLO", event.reply.text)


class RepliesTests(SynchronousTestCase):
    """After the content there is one for each recipient that was accepted."""

    def test_data(self) -> None:
        wire = START + rcpt("ann", "bob", "cleo") + b"DATA\r\nSubject: x\r\n\r\n.\r\nNOOP\r\n"
        self.assertEqual(talk(wire, refuse=("bob@isp.example",)), [250, 250, 250, 550, 250, 354, 250, 250, 250])

    def test_a_recipient_named_twice_has_two(self) -> None:
        wire = START + rcpt("ann", "ann") + b"DATA\r\n.\r\nNOOP\r\n"
        self.assertEqual(talk(wire)[-3:], [250, 250, 250])
        self.assertEqual(len(talk(wire)), 2 + 2 + 1 + 2 + 1)

    def test_each_in_the_order_of_rcpt(self) -> None:
        wire = START + rcpt("ann", "bob", "cleo") + b"DATA\r\n.\r\n"
        self.assertEqual(talk(wire, each=[OK, FULL, NO])[-3:], [250, 452, 550])

    def test_as_many_as_there_are_recipients(self) -> None:
        self.assertRaises(ProtocolError, talk, START + rcpt("ann") + b"DATA\r\n.\r\n", each=[OK, OK])

    def test_a_flaw_is_told_to_each(self) -> None:
        wire = START + rcpt("ann", "bob") + b"DATA\r\na\nb\r\n.\r\nNOOP\r\n"
        self.assertEqual(talk(wire)[-4:], [354, 550, 550, 250])

    def test_the_next_transaction_counts_anew(self) -> None:
        message = b"MAIL FROM:<>\r\n" + rcpt("ann", "bob") + b"DATA\r\n.\r\n"
        self.assertEqual(talk(b"LHLO x\r\n" + message + message)[-6:], [250, 250, 250, 354, 250, 250])
        for between in (b"RSET\r\n", b"LHLO x\r\n"):
            wire = START + rcpt("ann", "bob") + between + b"MAIL FROM:<>\r\n" + rcpt("ann") + b"DATA\r\n.\r\n"
            self.assertEqual(talk(wire)[-3:], [250, 354, 250], between)
            self.assertEqual(len(talk(wire)), 9, between)

    def test_nobody_to_get_it(self) -> None:
        """503, where SMTP has 554 (RFC 2033 §4.2, §4.3)."""
        wire = START + rcpt("ann")
        self.assertEqual(talk(wire + b"DATA\r\n", refuse=("ann@isp.example",))[-1], 503)
        self.assertEqual(talk(wire + b"BDAT 2 LAST\r\n\r\nNOOP\r\n", refuse=("ann@isp.example",))[-2:], [503, 250])

    def test_bdat(self) -> None:
        """Only the last is answered for each (RFC 2033 §4.3)."""
        wire = START + rcpt("ann", "bob") + b"BDAT 3\r\nabcBDAT 2\r\n\r\nBDAT 0 LAST\r\nNOOP\r\n"
        self.assertEqual(talk(wire, each=[OK, FULL])[4:], [250, 250, 250, 452, 250])

    def test_a_last_bdat_that_is_refused(self) -> None:
        """Whoever has sent it before the refusal came awaits as many replies as there are recipients."""
        wire = START + rcpt("ann", "bob") + b"BDAT 2\r\n\n\nBDAT 3 LAST\r\nabcNOOP\r\n"
        self.assertEqual(talk(wire)[4:], [550, 503, 503, 250])
        wire = START + rcpt("ann", "bob") + b"BDAT 90000 LAST\r\n" + b"x" * 90000 + b"NOOP\r\n"
        self.assertEqual(talk(wire)[4:], [552, 552], "and the session ends: it is too much to wait for")

    def test_a_last_bdat_that_a_policy_refuses(self) -> None:
        connection = ServerConnection(10_000, lmtp=True)
        connection.answer(GREETING)
        connection.receive(START + rcpt("ann", "bob") + b"BDAT 3 LAST\r\nabcNOOP\r\n")
        said = []
        while (event := connection.next_event()) is not None:
            said.append(connection.answer(NO if isinstance(event, c.Chunk) else fitting(event)))
        self.assertEqual(said[-2:], [NO.encode() * 2, OK.encode()])

    @given(st.lists(st.integers(0, 500), max_size=8))
    def test_any_pieces(self, cuts: list[int]) -> None:
        wire = (
            START
            + rcpt("ann", "bob")
            + b"DATA\r\n..x\r\n.\r\nMAIL FROM:<>\r\n"
            + rcpt("ann")
            + b"BDAT 1 LAST\r\nxQUIT\r\n"
        )
        self.assertEqual(talk(wire), [250, 250, 250, 250, 354, 250, 250, 250, 250, 250, 221])
        self.assertEqual(talk(*split(wire, cuts)), talk(wire))
