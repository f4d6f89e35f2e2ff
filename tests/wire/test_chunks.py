"""Content by BDAT (RFC 3030), octet by octet."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.pieces import split
from tests.wire.dialogue import NO, converse, fitting, greeted, refusals
from twisted_mta.wire import commands as c
from twisted_mta.wire.content import BARE_NEWLINE, LONG_LINE, NUL, SLACK, ChunkDecoder, ContentDecoder, too_large
from twisted_mta.wire.lines import NO_CHUNK
from twisted_mta.wire.server import ServerConnection
from twisted_mta.wire.stuffing import is_plain

START = b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<ann@isp.example>\r\n"
MESSAGE = b"Subject: x\r\n\r\n.\r\n..\r\nBDAT 7\r\nend\r\n"  # it is not plain


def bdat(*chunks: bytes, last: bool = True) -> bytes:
    """Chunks as they are sent, the last one marked."""
    return b"".join(
        b"BDAT %d%b\r\n%b" % (len(chunk), b" LAST" if last and number == len(chunks) else b"", chunk)
        for number, chunk in enumerate(chunks, 1)
    )


CUTS = st.lists(st.integers(0, 5000), max_size=12)
CRUMBS = st.lists(
    st.sampled_from([b"\r\n", b".", b"\r\n.\r\n", b"a", b"BDAT 3\r\n", b"\xe4", b"word", b"RSET\r\n"]), max_size=30
).map(b"".join)
ANY_CRUMBS = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b"\0", b"a", b"\r\n.\r\n", b"x" * 600, b"x" * 998]), max_size=20
).map(b"".join)


class ContentTests(SynchronousTestCase):
    """What comes out of chunks."""

    def test_every_split_of_one_message(self) -> None:
        """Cut into two or three chunks anywhere, and those cut into two pieces anywhere, it is the same message."""
        for first in range(len(MESSAGE) + 1):
            wire = START + bdat(MESSAGE[:first], MESSAGE[first:]) + b"NOOP\r\n"
            for cut in range(len(START), len(wire)):
                events = converse(greeted(), wire[:cut], wire[cut:])
                self.assertEqual(events[-2:], [c.ContentEnd(MESSAGE, None, False), c.Noop()], (first, cut))
        octets = [MESSAGE[at : at + 1] for at in range(len(MESSAGE))]
        events = converse(greeted(), START + bdat(*octets, b""))
        self.assertEqual(events[-1], c.ContentEnd(MESSAGE, None, False))

    @given(CRUMBS, CUTS, CUTS)
    @example(b"a\r\n", [2], [])
    def test_any_chunks_and_any_pieces(self, content: bytes, chunks: list[int], cuts: list[int]) -> None:
        pieces = split(content, chunks) or [b""]
        wire = bdat(*pieces) + b"QUIT\r\n"
        connection = greeted()
        converse(connection, START)
        events = converse(connection, *split(wire, cuts))
        whole = content if not content or content.endswith(b"\r\n") else content + b"\r\n"
        self.assertEqual(events[-2:], [c.ContentEnd(whole, None, not whole.isascii(), plain=is_plain(whole)), c.Quit()])

    @given(ANY_CRUMBS, CUTS)
    @example(b"a\r", [1])
    @example(b"\r\n", [1])
    @example(b"a\r\nb\r", [])
    def test_the_same_is_refused_as_after_data(self, content: bytes, cuts: list[int]) -> None:
        chunked = ChunkDecoder(5000)
        text = b"".join([chunked.take(piece, False) for piece in split(content, cuts)]) + chunked.take(b"", True)
        dotted = ContentDecoder(5000)
        whole = content if not content or content.endswith(b"\r\n") else content + b"\r\n"
        got, rest = dotted.feed((b"\r\n" + whole).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")
        self.assertEqual(rest, b"")
        self.assertEqual(chunked.flaw is None, dotted.flaw is None)
        if chunked.flaw is None:
            self.assertEqual(text, got)
            self.assertEqual(chunked.size, dotted.size)

    @given(ANY_CRUMBS, CUTS)
    def test_mended(self, content: bytes, cuts: list[int]) -> None:
        """As lone CR and LF become CRLF after DATA, so here, and wherever it is cut."""

        def text(*pieces: bytes) -> bytes:
            decoder = ChunkDecoder(10**6, replace=True)
            found = b"".join([decoder.take(piece, False) for piece in pieces]) + decoder.take(b"", True)
            return b"" if decoder.flaw is not None else found

        self.assertEqual(text(*split(content, cuts)), text(content))

    def test_flaws(self) -> None:
        for content, flaw in (
            (b"a\nb\r\n", BARE_NEWLINE),
            (b"a\rb\r\n", BARE_NEWLINE),
            (b"a\r", BARE_NEWLINE),
            (b"\0", NUL),
            (b"x" * 999, LONG_LINE),
            (b"x" * 998, None),
        ):
            end = converse(greeted(), START + bdat(content))[-1]
            assert isinstance(end, c.ContentEnd)
            self.assertEqual(end.flaw, flaw, content[:5])

    def test_the_last_one_may_be_empty(self) -> None:
        for message, content in ((b"a\r\n", b"a\r\n"), (b"a", b"a\r\n"), (b"a\r", None), (b"", b"")):
            end = converse(greeted(), START + bdat(message, b""))[-1]
            assert isinstance(end, c.ContentEnd)
            self.assertEqual(None if end.flaw else end.data, content)
        self.assertEqual(
            converse(greeted(), START + b"BDAT 0 LAST\r\n")[-1], c.ContentEnd(b"", None, False, plain=True)
        )

    def test_what_is_given_out_is_bounded(self) -> None:
        connection = greeted()
        converse(connection, START + b"BDAT 9000\r\n")
        connection.receive(b"x\r\n" * 1000)
        self.assertEqual(connection.next_event(), c.Content(b"x\r\n" * 1000))
        self.assertEqual(connection.buffered, 0)


class BinaryTests(SynchronousTestCase):
    """BODY=BINARYMIME (RFC 3030 §3): octets as they are."""

    BINARY = START.replace(b"example>\r\nRCPT", b"example> BODY=binarymime\r\nRCPT")

    @given(ANY_CRUMBS, CUTS, CUTS)
    @example(b"a\r", [1], [])
    @example(b"\r\n.\r\nQUIT\r\n", [], [2])
    def test_octet_for_octet(self, content: bytes, chunks: list[int], cuts: list[int]) -> None:
        wire = bdat(*(split(content, chunks) or [b""])) + b"QUIT\r\n"
        connection = greeted()
        converse(connection, self.BINARY)
        connection.limit = 1 << 20
        end, goodbye = converse(connection, *split(wire, cuts))[-2:]
        assert isinstance(end, c.ContentEnd)
        self.assertEqual((end.data, end.flaw, goodbye), (content, None, c.Quit()))

    def test_too_large(self) -> None:
        connection = greeted()
        end = converse(connection, self.BINARY + bdat(b"\0" * (connection.limit + 1)))[-1]
        assert isinstance(end, c.ContentEnd)
        self.assertEqual(end.flaw, too_large(connection.limit))

    def test_not_by_data(self) -> None:
        """The envelope stays, and BDAT may follow."""
        events = converse(greeted(), self.BINARY + b"DATA\r\n" + bdat(b"\0\r"))
        self.assertEqual([(reply.code, reply.enhanced) for reply in refusals(events)], [(503, "5.5.1")])
        self.assertEqual(events[-1], c.ContentEnd(b"\0\r", None, False))

    def test_the_next_message_is_text_again(self) -> None:
        again = START.removeprefix(b"EHLO x\r\n")
        for between in (bdat(b"\0"), b"RSET\r\n", bdat(b"\0", last=False) + b"RSET\r\n"):
            connection = greeted()
            converse(connection, self.BINARY + between)
            end = converse(connection, again + bdat(b"\0"))[-1]
            assert isinstance(end, c.ContentEnd)
            self.assertEqual(end.flaw, NUL)
            self.assertEqual(converse(connection, again + b"DATA\r\n")[-1], c.Data())


class FramingTests(SynchronousTestCase):
    """The octets of a chunk are no commands, whatever becomes of it."""

    TRAP = b"RSET\r\nMAIL FROM:<evil@far.example>\r\n"

    def refused(self, before: bytes, code: int, state: str, last: bool = False) -> ServerConnection:
        connection = greeted()
        converse(connection, before)
        for cuts in ([], list(range(100))):
            events = converse(connection, *split(bdat(self.TRAP, last=last) + b"NOOP\r\n", cuts))
            self.assertEqual([reply.code for reply in refusals(events)], [code])
            self.assertEqual((events[-1], connection.state), (c.Noop(), state))
            connection = greeted()
            converse(connection, before)
        return connection

    def test_out_of_order(self) -> None:
        self.refused(b"", 503, "fresh")
        self.refused(b"EHLO x\r\n", 503, "greeted")
        self.refused(b"EHLO x\r\nMAIL FROM:<a@b.example>\r\n", 554, "spoilt")
        self.refused(b"EHLO x\r\nMAIL FROM:<a@b.example>\r\n", 554, "greeted", last=True)

    def test_after_a_flaw_nothing_goes_on(self) -> None:
        """Neither another chunk nor a new message is taken until RSET, or until the last chunk."""
        events = converse(
            greeted(),
            START + bdat(b"bad\nline", self.TRAP, last=False) + b"RCPT TO:<a@b.example>\r\nDATA\r\nMAIL FROM:<>\r\n"
            b"BDAT 3 LAST\r\nabcMAIL FROM:<>\r\n",
        )
        self.assertEqual([reply.code for reply in refusals(events)], [503] * 5)
        flawed = [event for event in events if isinstance(event, c.ChunkEnd)]
        self.assertEqual([event.flaw for event in flawed], [BARE_NEWLINE])
        self.assertIsInstance(events[-1], c.Mail)

    def test_a_policy_refuses(self) -> None:
        connection = greeted()
        events = converse(
            connection,
            START + bdat(self.TRAP, last=False) + b"RSET\r\nMAIL FROM:<>\r\n",
            answer=lambda event: NO if isinstance(event, c.Chunk) else fitting(event),
        )
        self.assertEqual([type(event) for event in events[3:]], [c.Chunk, c.Reset, c.Mail])

    def test_reset_forgets_what_came(self) -> None:
        again = START.removeprefix(b"EHLO x\r\n")
        for reset in (b"RSET\r\n", b"EHLO x\r\n"):
            events = converse(greeted(), START + bdat(b"lost\r", last=False) + reset + again + bdat(b"kept"))
            end = events[-1]
            assert isinstance(end, c.ContentEnd)
            # (converse gathers what was given out before as well)
            self.assertTrue(end.data.endswith(b"kept\r\n"))
            self.assertFalse(end.flaw)

    def test_data_between_chunks(self) -> None:
        events = converse(greeted(), START + bdat(b"a", last=False) + b"DATA\r\n" + bdat(b"b"))
        self.assertEqual([reply.code for reply in refusals(events)], [503])
        self.assertEqual(events[-1], c.ContentEnd(b"ab\r\n", None, False, plain=True))

    def test_without_a_size_the_session_ends(self) -> None:
        for argument in (b"", b"x", b"-1", b"1 FIRST", b"1LAST", b"9" * 21, b"1\t\xff", b"0x10", b"5 " + b" " * 600):
            for before in (b"", START):
                connection = greeted()
                events = converse(connection, before + b"BDAT " + argument + b"\r\nRSET\r\n")
                self.assertEqual(events[-1], c.Refused("BDAT", NO_CHUNK), argument)
                self.assertEqual(connection.state, "closed")

    def test_too_large(self) -> None:
        """A little beyond the limit is drained; what is far beyond ends the session."""
        limit = greeted().limit
        end = converse(greeted(), START + bdat(b"x\r\n" * limit))[-1]
        assert isinstance(end, c.ContentEnd)
        assert end.flaw is not None
        self.assertEqual((end.flaw.code, end.flaw.enhanced), (552, "5.3.4"))
        for first in (b"", bdat(b"x\r\n" * 10, last=False)):
            connection = greeted()
            events = converse(connection, START + first + b"BDAT %d\r\n" % (2 * limit + SLACK + 1))
            self.assertEqual([reply.code for reply in refusals(events)], [552])
            self.assertEqual(connection.state, "closed")

    @given(
        st.lists(
            st.one_of(
                st.binary(max_size=20).map(lambda data: bdat(data, last=False)),
                st.binary(max_size=20).map(bdat),
                st.sampled_from([START, b"RSET\r\n", b"DATA\r\n", b"NOOP\r\n", b"\r\n.\r\n", b"BDAT 4\r\n", b"x"]),
            ),
            max_size=12,
        ),
        CUTS,
    )
    def test_random_dialogues_cut_anywhere(self, parts: list[bytes], cuts: list[int]) -> None:
        wire = b"".join(parts)

        def seen(*pieces: bytes) -> list[tuple[object, ...]]:
            events = converse(greeted(), *pieces)
            return [
                (type(event), event.flaw is None) if isinstance(event, c.ContentEnd | c.ChunkEnd) else (event,)
                for event in events
            ]

        self.assertEqual(seen(*split(wire, cuts)), seen(wire))


class DecoderHoldsTests(SynchronousTestCase):
    """Nothing piles up."""

    def test_a_held_cr_is_given_with_its_lf(self) -> None:
        decoder = ChunkDecoder(100)
        self.assertEqual((decoder.take(b"a\r", False), decoder.take(b"\n", False)), (b"a", b"\r\n"))
        self.assertIsNone(decoder.flaw)
