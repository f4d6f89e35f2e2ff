"""The server's side of a session, octet by octet."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.pieces import split
from tests.wire.dialogue import GREETING, LINES, NO, OK, REACH, converse, fitting, greeted, refusals
from twisted_mta.mail.status import Reply
from twisted_mta.wire import commands as c
from twisted_mta.wire.lines import BEHIND_STARTTLS
from twisted_mta.wire.sasl import TOO_LONG
from twisted_mta.wire.server import ProtocolError, ServerConnection


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
            self.assertEqual(connection.next_event(), c.Refused("STARTTLS", BEHIND_STARTTLS))
            connection.answer(BEHIND_STARTTLS)
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

        self.assertEqual(seen(*split(wire, cuts)), seen(wire))

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

    def test_everysplit(self) -> None:
        whole = converse(greeted(auth="offered"), self.WIRE)
        self.assertGreater(len(whole), 18)
        self.assertEqual(whole[-1], c.Quit())
        for cut in range(len(self.WIRE) + 1):
            self.assertEqual(converse(greeted(auth="offered"), self.WIRE[:cut], self.WIRE[cut:]), whole, cut)
        octets = [self.WIRE[at : at + 1] for at in range(len(self.WIRE))]
        self.assertEqual(converse(greeted(auth="offered"), *octets), whole)

    @given(st.lists(st.integers(0, 1200), max_size=8))
    def test_anysplits(self, cuts: list[int]) -> None:
        whole = converse(greeted(auth="offered"), self.WIRE)
        self.assertEqual(converse(greeted(auth="offered"), *split(self.WIRE, cuts)), whole)
