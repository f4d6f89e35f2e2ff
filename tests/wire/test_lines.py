"""A client's lines, judged: length, ends, alphabet."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.pieces import split
from tests.wire.dialogue import REACH, converse, greeted, refusals
from twisted_mta.mail.status import Reply
from twisted_mta.wire import commands as c
from twisted_mta.wire import lines
from twisted_mta.wire.sasl import TOO_LONG


class LineTests(SynchronousTestCase):
    def one(self, line: bytes, *, state: str = "greeted", **facts: str) -> c.Command | None:
        connection = greeted(**facts)
        converse(connection, REACH[state])
        connection.receive(line)
        return connection.next_event()

    def refusal(self, line: bytes, **facts: str) -> Reply:
        event = self.one(line, **facts)
        assert isinstance(event, c.Refused), event
        return event.reply

    def test_case_and_trailing_space(self) -> None:
        self.assertEqual(self.one(b"nOoP  \r\n"), c.Noop())
        self.assertEqual(self.one(b"RSET \t\r\n"), c.Reset())
        self.assertEqual(self.one(b"ehlo x  \r\n"), c.Hello("x", True))

    def test_unknown(self) -> None:
        for line in (
            b"FOO",
            b"",
            b" NOOP",
            b"do_QUIT",
            b"__class__",
            b"NOOPX",
            b"\xff\xfe",
            b"SEND FROM:<a@b.c>",
        ):
            self.assertEqual(self.refusal(line + b"\r\n").code, 500, line)

    def test_browser_is_sent_away(self) -> None:
        for line in (b"GET / HTTP/1.1", b"post /x HTTP/1.0", b"CONNECT a:25 HTTP/1.1"):
            self.assertEqual(self.refusal(line + b"\r\n"), lines.OTHER_PROTOCOL)

    def test_only_crlf_ends_a_line(self) -> None:
        for line in (
            b"NOOP\nRSET\r\n",
            b"NOOP\rRSET\r\n",
            b"NOOP\r\r\n",
            b"NOOP\n\r\n",
            b"NOOP\0\r\n",
            b"MAIL FROM:<a@b.c>\nRCPT\r\n",
        ):
            self.assertEqual(self.refusal(line), lines.BARE_IN_COMMAND, line)
        self.assertEqual(lines.BARE_IN_COMMAND.code, 501)
        self.assertIsNone(self.one(b"NOOP\n"))
        self.assertIsNone(self.one(b"NOOP\r"))

    def test_not_ascii(self) -> None:
        self.assertEqual(self.refusal("MAIL FROM:<änn@isp.example>\r\n".encode()).enhanced, "5.6.7")
        self.assertEqual(self.refusal("EHLO ä\r\n".encode()).code, 501)

    def test_longest_lines(self) -> None:
        """512 octets with CRLF (RFC 5321 §4.5.3.1.4), more for MAIL and AUTH; one more is refused, not a stall."""
        for start, limit in (
            (b"NOOP ", 512),
            (b"FOO ", 512),
            (b"MAIL FROM:<a@b.example> ", 1257),
            (b"AUTH PLAIN ", 12288),
        ):
            for extra in (0, 1):
                line = start + b"x" * (limit + extra - 2 - len(start)) + b"\r\n"
                self.assertEqual(len(line), limit + extra)
                connection = greeted(auth="offered")
                events = converse(connection, b"EHLO x\r\n", line, b"NOOP\r\n")[1:]
                long = (
                    bool(events)
                    and isinstance(events[0], c.Refused)
                    and events[0].reply in (lines.TOO_LONG_LINE, TOO_LONG)
                )
                self.assertEqual(long, bool(extra), (start, extra))

    def test_endless_line(self) -> None:
        connection = greeted()
        for _ in range(70):
            connection.receive(b"x" * 1000)
            event = connection.next_event()
            self.assertLess(connection.buffered, 1001)
            if event is not None:
                break
        self.assertEqual(event, c.Refused("", lines.JUNK))
        connection.answer(lines.JUNK)
        self.assertEqual(connection.state, "closed")

    @given(st.integers(480, 530), st.lists(st.integers(0, 600), max_size=5), st.sampled_from([b"x", b"\r", b"\n"]))
    def test_long_lines_at_everysplit(self, length: int, cuts: list[int], last: bytes) -> None:
        wire = b"NOOP " + b"x" * (length - 8) + last + b"\r\nRSET\r\n"
        whole = converse(greeted(), wire)
        self.assertEqual(converse(greeted(), *split(wire, cuts)), whole)


class Utf8Tests(SynchronousTestCase):
    """SMTPUTF8 (RFC 6531)."""

    RCPT = "RCPT TO:<\u7528\u6237@b\u00fccher.example>\r\n".encode()

    def test_addresses(self) -> None:
        mail = "MAIL FROM:<bj\u00f6rn@isp.example> BODY=8BITMIME SMTPUTF8\r\n".encode()
        events = converse(greeted(), b"EHLO x\r\n" + mail + self.RCPT)
        assert isinstance(events[1], c.Mail)
        assert isinstance(events[2], c.Rcpt)
        self.assertEqual(events[1].sender, "bj\u00f6rn@isp.example")
        self.assertEqual(events[2].recipient, "\u7528\u6237@xn--bcher-kva.example")

    def test_not_without_the_parameter(self) -> None:
        for wire in (
            b"MAIL FROM:<bj\xc3\xb6rn@isp.example>\r\n",
            b"MAIL FROM:<a@b.example>\r\n" + self.RCPT,
            b"MAIL FROM:<a@b.example> SMTPUTF8\r\nRSET\r\nMAIL FROM:<a@b.example>\r\n" + self.RCPT,
        ):
            events = converse(greeted(), b"EHLO x\r\n" + wire)
            self.assertEqual([(it.code, it.enhanced) for it in refusals(events)], [(553, "5.6.7")], wire)

    def test_only_utf8(self) -> None:
        for octets in (b"\xf6", b"\xc0\xaf", b"\xed\xa0\x80", b"\xff"):
            events = converse(greeted(), b"EHLO x\r\nMAIL FROM:<bj" + octets + b"rn@isp.example> SMTPUTF8\r\n")
            self.assertEqual([it.code for it in refusals(events)], [553], octets)

    def test_what_cannot_be_seen_is_refused(self) -> None:
        for letter in ("\u0085", "\u00a0", "\u2028", "\u202e", "\u200b", "\ufeff"):
            line = f"MAIL FROM:<a{letter}b@isp.example> SMTPUTF8\r\n".encode()
            events = converse(greeted(), b"EHLO x\r\n" + line)
            self.assertEqual([it.code for it in refusals(events)], [501], letter)

    def test_nowhere_else(self) -> None:
        events = converse(
            greeted(), b"EHLO x\r\nVRFY \xc3\xb6\r\nMAIL FROM:<a@b.example> SMTPUTF8\r\nNOOP \xc3\xb6\r\n"
        )
        self.assertEqual([it.code for it in refusals(events)], [501, 501])
