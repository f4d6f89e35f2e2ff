"""The server's side of a session, octet by octet."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.mail.status import Reply
from twisted_mta.wire import commands as c
from twisted_mta.wire import server
from twisted_mta.wire.sasl import TOO_LONG
from twisted_mta.wire.server import ProtocolError, ServerConnection

GREETING = Reply(220, "", "mx.isp.example ESMTP")
OK = Reply(250, "2.0.0", "OK")
GO_ON = Reply(354, "", "Go on")
NO = Reply(550, "5.7.1", "No")
BYE = Reply(221, "2.0.0", "Bye")


def greeted(**facts: str) -> ServerConnection:
    connection = ServerConnection(10_000, **facts)  # type: ignore[arg-type]
    connection.answer(GREETING)
    return connection


def fitting(event: c.Command) -> Reply:
    """The reply of a server that takes everything."""
    if isinstance(event, c.Refused):
        return event.reply
    if isinstance(event, c.Data):
        return GO_ON
    if isinstance(event, c.Quit):
        return BYE
    if isinstance(event, c.ContentEnd | c.ChunkEnd) and event.flaw is not None:
        return event.flaw
    if isinstance(event, c.Auth):
        return Reply(334, "", "")
    if isinstance(event, c.AuthResponse):
        return Reply(535, "5.7.8", "No")
    return OK


def converse(
    connection: ServerConnection, *pieces: bytes, answer: Callable[[c.Command], Reply] = fitting
) -> list[c.Command]:
    """Feed pieces and answer each command; the events, with the content of a message joined in its ContentEnd."""
    events: list[c.Command] = []
    content = b""
    for piece in pieces:
        connection.receive(piece)
        while (event := connection.next_event()) is not None:
            if isinstance(event, c.Content):
                content += event.data
                continue
            if isinstance(event, c.ChunkEnd):
                content += event.data
                event = c.ChunkEnd(b"", event.flaw, event.size)
            if isinstance(event, c.ContentEnd):
                # How much is given out before a flaw depends on the pieces; it is thrown away in any case.
                whole = b"" if event.flaw is not None else content + event.data
                event = c.ContentEnd(whole, event.flaw, event.eight_bit, event.lost, event.plain)
                content = b""
                connection.answer(fitting(event))
            else:
                connection.answer(answer(event))
            events.append(event)
    return events


def refusals(events: list[c.Command]) -> list[Reply]:
    return [event.reply for event in events if isinstance(event, c.Refused)]


class GreetingTests(SynchronousTestCase):
    def test_nothing_is_read_before_the_greeting(self) -> None:
        connection = ServerConnection(1000)
        connection.receive(b"EHLO early.example\r\n")
        self.assertIsNone(connection.next_event())
        self.assertEqual(connection.answer(GREETING), b"220 mx.isp.example ESMTP\r\n")
        self.assertEqual(connection.next_event(), c.Hello("early.example", True))

    def test_refused(self) -> None:
        """RFC 5321 §3.1: nothing is served any more, and the client is waited for until it says QUIT."""
        connection = ServerConnection(1000, tls="offered", auth="offered")
        connection.answer(Reply(554, "5.7.1", "Not you"))
        lines = b"".join(LINES.get(verb, verb.encode()) + b"\r\n" for verb in ORDER.split()[1:13])
        codes = [reply.code for reply in refusals(converse(connection, lines + b"BDAT 7 LAST\r\nQUIT\r\n\r"))]
        self.assertEqual(codes, [503] * 13)
        self.assertEqual(converse(connection, b"QUIT\r\n")[-1], c.Quit())
        self.assertEqual(connection.state, "closed")

    def test_refused_for_now(self) -> None:
        """421 closes (RFC 5321 §3.8)."""
        connection = ServerConnection(1000)
        connection.receive(b"EHLO early.example\r\n")
        connection.answer(Reply(421, "4.3.2", "Not now"))
        self.assertEqual(connection.state, "closed")
        self.assertIsNone(connection.next_event())


class TurnTests(SynchronousTestCase):
    def test_one_command_at_a_time(self) -> None:
        connection = greeted()
        connection.receive(b"EHLO x\r\nMAIL FROM:<a@b.example>\r\n")
        self.assertIsInstance(connection.next_event(), c.Hello)
        self.assertIsNone(connection.next_event())
        connection.receive(b"RSET\r\n")
        self.assertIsNone(connection.next_event())
        self.assertEqual(connection.buffered, len(b"MAIL FROM:<a@b.example>\r\nRSET\r\n"))
        connection.answer(OK)
        self.assertIsInstance(connection.next_event(), c.Mail)

    def test_answer_without_a_command(self) -> None:
        self.assertRaises(ProtocolError, greeted().answer, OK)

    def test_judged_in_the_state_that_the_last_reply_left(self) -> None:
        """RFC 2920 §3.1: RCPT behind a MAIL that was refused is out of order, and DATA without recipients."""
        connection = greeted()
        events = converse(
            connection,
            b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n",
            answer=lambda event: NO if isinstance(event, c.Mail) else fitting(event),
        )
        self.assertEqual([reply.code for reply in refusals(events)], [503, 503])
        events = converse(
            greeted(),
            b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n",
            answer=lambda event: NO if isinstance(event, c.Rcpt) else fitting(event),
        )
        self.assertEqual([reply.code for reply in refusals(events)], [554])


ORDER = """
    state    EHLO MAIL RCPT DATA BDAT RSET NOOP VRFY EXPN HELP STARTTLS AUTH
    fresh    ok   503  503  503  503  ok   ok   ok   ok   ok   503      503
    greeted  ok   ok   503  503  503  ok   ok   ok   ok   ok   ok       ok
    mail     ok   503  ok   554  554  ok   ok   ok   ok   ok   503      503
    rcpt     ok   503  ok   ok   ok   ok   ok   ok   ok   ok   503      503
    chunks   ok   503  503  503  ok   ok   ok   ok   ok   ok   503      503
    spoilt   ok   503  503  503  503  ok   ok   ok   ok   ok   503      503
"""
LINES = {
    "EHLO": b"EHLO x",
    "MAIL": b"MAIL FROM:<a@b.example>",
    "RCPT": b"RCPT TO:<a@b.example>",
    "VRFY": b"VRFY a",
    "EXPN": b"EXPN a",
    "AUTH": b"AUTH PLAIN",
    "BDAT": b"BDAT 0",
}
REACH = {
    "fresh": b"",
    "greeted": b"EHLO x\r\n",
    "mail": b"EHLO x\r\nMAIL FROM:<a@b.example>\r\n",
    "rcpt": b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<a@b.example>\r\n",
    "chunks": b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<a@b.example>\r\nBDAT 2\r\nhi",
    "spoilt": b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<a@b.example>\r\nBDAT 2\r\n\0\0",
}


class OrderTests(SynchronousTestCase):
    def test_table(self) -> None:
        """RFC 5321 §4.1.4, RFC 3207 §4, RFC 4954 §4: every command in every state."""
        header, *rows = [line.split() for line in ORDER.strip().splitlines()]
        for state, *outcomes in rows:
            for verb, outcome in zip(header[1:], outcomes, strict=True):
                connection = greeted(tls="offered", auth="offered")
                converse(connection, REACH[state])
                self.assertEqual(connection.state, state)
                connection.receive(LINES.get(verb, verb.encode()) + b"\r\n")
                event = connection.next_event()
                got = str(event.reply.code) if isinstance(event, c.Refused) else "ok"
                self.assertEqual(got, outcome, (state, verb))

    def test_where_commands_lead(self) -> None:
        for start, line, end in (
            ("fresh", b"HELO x", "greeted"),
            ("fresh", b"RSET", "fresh"),
            ("greeted", b"RSET", "greeted"),
            ("rcpt", b"RSET", "greeted"),
            ("rcpt", b"EHLO y", "greeted"),
            ("rcpt", b"NOOP", "rcpt"),
            ("rcpt", b"VRFY a", "rcpt"),
            ("rcpt", b"DATA", "content"),
            ("rcpt", b"QUIT", "closed"),
            ("fresh", b"QUIT", "closed"),
        ):
            connection = greeted()
            converse(connection, REACH[start], line + b"\r\n")
            self.assertEqual(connection.state, end, (start, line))

    def test_refusals_change_nothing(self) -> None:
        for state, prefix in REACH.items():
            connection = greeted()
            converse(connection, prefix)
            converse(connection, b"EHLO y\r\n", answer=lambda event: NO)
            self.assertEqual(connection.state, state)

    def test_content_ends_the_transaction(self) -> None:
        for reply_flaw in (b"body\r\n.\r\n", b"bo\ndy\r\n.\r\n"):
            connection = greeted()
            converse(connection, REACH["rcpt"], b"DATA\r\n", reply_flaw)
            self.assertEqual(connection.state, "greeted")

    def test_421_closes_whatever_it_answers(self) -> None:
        for prefix in REACH.values():
            connection = greeted()
            converse(connection, prefix)
            events = converse(connection, b"NOOP\r\nNOOP\r\n", answer=lambda event: Reply(421, "4.3.2", "Bye"))
            self.assertEqual(len(events), 1)
            self.assertEqual(connection.state, "closed")

    def test_nothing_after_quit(self) -> None:
        self.assertEqual(converse(greeted(), b"QUIT\r\nNOOP\r\n"), [c.Quit()])


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
            self.assertEqual(self.refusal(line + b"\r\n"), server.OTHER_PROTOCOL)

    def test_only_crlf_ends_a_line(self) -> None:
        for line in (
            b"NOOP\nRSET\r\n",
            b"NOOP\rRSET\r\n",
            b"NOOP\r\r\n",
            b"NOOP\n\r\n",
            b"NOOP\0\r\n",
            b"MAIL FROM:<a@b.c>\nRCPT\r\n",
        ):
            self.assertEqual(self.refusal(line), server.BARE_IN_COMMAND, line)
        self.assertEqual(server.BARE_IN_COMMAND.code, 501)
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
                    and events[0].reply in (server.TOO_LONG_LINE, TOO_LONG)
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
        self.assertEqual(event, c.Refused("", server.JUNK))
        connection.answer(server.JUNK)
        self.assertEqual(connection.state, "closed")

    @given(st.integers(480, 530), st.lists(st.integers(0, 600), max_size=5), st.sampled_from([b"x", b"\r", b"\n"]))
    def test_long_lines_at_every_split(self, length: int, cuts: list[int], last: bytes) -> None:
        wire = b"NOOP " + b"x" * (length - 8) + last + b"\r\nRSET\r\n"
        whole = converse(greeted(), wire)
        self.assertEqual(converse(greeted(), *_split(wire, cuts)), whole)


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


class TlsTests(SynchronousTestCase):
    def test_starttls(self) -> None:
        connection = greeted(tls="offered")
        converse(connection, b"EHLO x\r\n")
        connection.receive(b"STARTTLS\r\n")
        self.assertEqual(connection.next_event(), c.StartTls())
        connection.answer(Reply(220, "2.0.0", "Go"))
        connection.started_tls()
        self.assertEqual((connection.state, connection.tls), ("fresh", "up"))
        self.assertEqual(refusals(converse(connection, b"MAIL FROM:<a@b.example>\r\n"))[0].code, 503)
        self.assertEqual(refusals(converse(connection, b"EHLO x\r\nSTARTTLS\r\n"))[0].code, 503)

    def test_anything_behind_it_ends_the_session(self) -> None:
        for behind in (b"MAIL FROM:<a@b.example>\r\n", b"\r\n", b"x", b"\x16\x03\x01"):
            connection = greeted(tls="offered")
            converse(connection, b"EHLO x\r\n")
            connection.receive(b"STARTTLS\r\n" + behind)
            self.assertEqual(connection.next_event(), c.Refused("STARTTLS", server.BEHIND_STARTTLS))
            connection.answer(server.BEHIND_STARTTLS)
            self.assertEqual(connection.state, "closed")
            self.assertIsNone(connection.next_event())

    def test_not_offered(self) -> None:
        self.assertEqual(refusals(converse(greeted(), b"EHLO x\r\nSTARTTLS\r\n"))[0].code, 502)


class AuthTests(SynchronousTestCase):
    def test_where_it_is_not_to_be_had(self) -> None:
        for auth, code in (("none", 503), ("needs-tls", 538), ("done", 503)):
            self.assertEqual(refusals(converse(greeted(auth=auth), b"EHLO x\r\nAUTH PLAIN AA==\r\n"))[0].code, code)

    def test_exchange(self) -> None:
        connection = greeted(auth="offered")
        events = converse(connection, b"EHLO x\r\nAUTH LOGIN\r\n", b"QUIT\r\n", b"NOOP\r\n")
        self.assertEqual(events[1:], [c.Auth("LOGIN", None), c.AuthResponse(b"QUIT"), c.Noop()])

    def test_done(self) -> None:
        connection = greeted(auth="offered")
        converse(
            connection,
            b"EHLO x\r\nAUTH PLAIN AAA=\r\n",
            answer=lambda event: Reply(235, "2.7.0", "In") if isinstance(event, c.Auth) else fitting(event),
        )
        self.assertEqual((connection.auth, connection.state), ("done", "greeted"))

    def test_long_response(self) -> None:
        connection = greeted(auth="offered")
        events = converse(connection, b"EHLO x\r\nAUTH LOGIN\r\n", b"x" * 12286 + b"\r\n")
        self.assertIsInstance(events[-1], c.AuthResponse)
        for pieces in ((b"x" * 12287 + b"\r\n",), (b"x" * 12287, b"x\r\n")):
            connection = greeted(auth="offered")
            events = converse(connection, b"EHLO x\r\nAUTH LOGIN\r\n", *pieces, b"NOOP\r\n")
            self.assertEqual(events[-2:], [c.Refused("AUTH", TOO_LONG), c.Noop()])


class ContentTests(SynchronousTestCase):
    START = REACH["rcpt"] + b"DATA\r\n"

    def test_commands_behind_the_content(self) -> None:
        events = converse(greeted(), self.START, b"Subject: x\r\n\r\n..y\r\n.\r\nNOOP\r\nQUIT\r\n")
        self.assertEqual(events[-3:], [c.ContentEnd(b"Subject: x\r\n\r\n.y\r\n", None, False), c.Noop(), c.Quit()])

    def test_content_behind_a_data_that_was_refused_is_commands(self) -> None:
        """RFC 2920 §3.1 has clients wait for the 354; what one sends without is read as commands, and refused."""
        events = converse(
            greeted(),
            self.START + b"Subject: x\r\n.\r\nQUIT\r\n",
            answer=lambda event: NO if isinstance(event, c.Data) else fitting(event),
        )
        self.assertEqual([reply.code for reply in refusals(events)], [500, 500])

    def test_lost(self) -> None:
        connection = greeted()
        connection.limit = 1000
        converse(connection, self.START)
        events = converse(connection, *[b"x" * 98 + b"\r\n"] * 800)
        self.assertEqual(len(events), 1)
        self.assertTrue(isinstance(events[0], c.ContentEnd) and events[0].lost and events[0].flaw is not None)
        self.assertEqual(connection.state, "closed")


def _split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


DIALOGUE = (
    b"HELO old.example\r\nFOO\r\nMAIL FROM:<>\r\nRCPT TO:<ann@isp.example>\r\nRCPT TO:<bad\r\nDATA\r\n"
    b"Subject: one\r\n\r\n..dots\r\n...\r\n.x\r\n.\r\nRSET\r\nEHLO x.example\r\nMAIL FROM:<joe@far.example> SIZE=10\r\n"
    b"RCPT TO:<bob@isp.example>\r\nDATA\r\n.\r\nAUTH LOGIN\r\nQQ==\r\nNOOP x\r\nMAIL FROM:<a@b.example>\r\n"
    b"RCPT TO:<bob@isp.example>\r\nDATA\r\nbare\nline\r\n.\r\nVRFY ann\r\n" + b"y" * 600 + b"\r\nNOOP\n\r\nQUIT\r\n"
)
COMMANDS = st.lists(
    st.sampled_from(
        [line + b"\r\n" for line in DIALOGUE.split(b"\r\n")]
        + [
            b"\r\n",
            b".\r\n",
            b"\r\n.\r\n",
            b"\n",
            b"\r",
            b"\0",
            b"\xff",
            b"x" * 700,
            b"AUTH PLAIN\r\n",
            b"*\r\n",
            b"RSET\r\n",
        ]
    ),
    max_size=40,
).map(b"".join)


class SplitTests(SynchronousTestCase):
    def test_scripted_dialogue_cut_anywhere(self) -> None:
        """Every cut in two, and octet by octet: the same events."""
        whole = converse(greeted(auth="offered"), DIALOGUE)
        self.assertEqual(whole[-1], c.Quit())
        self.assertEqual(len(whole), 24)
        for cut in range(len(DIALOGUE)):
            self.assertEqual(converse(greeted(auth="offered"), DIALOGUE[:cut], DIALOGUE[cut:]), whole, cut)
        octets = [DIALOGUE[at : at + 1] for at in range(len(DIALOGUE))]
        self.assertEqual(converse(greeted(auth="offered"), *octets), whole)

    @given(COMMANDS, st.lists(st.integers(0, 3000), max_size=20))
    def test_random_dialogues_cut_anywhere(self, wire: bytes, cuts: list[int]) -> None:
        def seen(*pieces: bytes) -> list[c.Command]:
            # Of several flaws in one message, which is noticed first depends on the pieces; that there is one does not.
            return [
                c.ContentEnd(b"", NO, False) if isinstance(event, c.ContentEnd) and event.flaw is not None else event
                for event in converse(greeted(auth="offered"), *pieces)
            ]

        self.assertEqual(seen(*_split(wire, cuts)), seen(wire))

    @given(st.lists(st.binary(max_size=80), max_size=20))
    def test_nothing_a_peer_sends_raises(self, pieces: list[bytes]) -> None:
        connection = greeted(auth="offered", tls="offered")
        converse(connection, b"EHLO x\r\n", *pieces)

    @given(COMMANDS)
    def test_what_is_held_is_bounded(self, wire: bytes) -> None:
        connection = greeted(auth="offered")
        for at in range(0, len(wire), 7):
            converse(connection, wire[at : at + 7])
            self.assertLessEqual(connection.buffered, 12288)


class WholeSessionTests(SynchronousTestCase):
    """A session with everything in it comes to the same at every split."""

    WIRE = (
        b'EHLO x\r\nNOOP y\r\nMAIL FROM:<a@b.example> SIZE=100 BODY=8BITMIME\r\nRCPT TO:<"a b"@b.example>\r\nFOO\r\n'
        b"RCPT TO:<@r.example:c@d.example> NOTIFY=NEVER\r\nDATA\r\nSubject: x\r\n\r\n..dot\r\n.\r\n"
        b"AUTH LOGIN\r\nYQ==\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nBDAT 5\r\na\r\n.\rBDAT 3 LAST\r\n\nb\n"
        b"RSET\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<a@b.example>\r\nBDAT 0 LAST\r\nNOOP "
        + b"x" * 600
        + b"\r\nQUIT\r\n"
    )

    def test_every_split(self) -> None:
        whole = converse(greeted(auth="offered"), self.WIRE)
        self.assertGreater(len(whole), 18)
        self.assertEqual(whole[-1], c.Quit())
        for cut in range(len(self.WIRE) + 1):
            self.assertEqual(converse(greeted(auth="offered"), self.WIRE[:cut], self.WIRE[cut:]), whole, cut)
        octets = [self.WIRE[at : at + 1] for at in range(len(self.WIRE))]
        self.assertEqual(converse(greeted(auth="offered"), *octets), whole)

    @given(st.lists(st.integers(0, 1200), max_size=8))
    def test_any_splits(self, cuts: list[int]) -> None:
        whole = converse(greeted(auth="offered"), self.WIRE)
        self.assertEqual(converse(greeted(auth="offered"), *_split(self.WIRE, cuts)), whole)
