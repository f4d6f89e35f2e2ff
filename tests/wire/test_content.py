"""The end of the content, dots, sizes and flaws (RFC 5321 §4.1.1.4, §4.5.2, §4.5.3.1.6; RFC 1870)."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.pieces import split
from twisted_mta.mail.status import Reply
from twisted_mta.wire.content import BARE_NEWLINE, LONG_LINE, NUL, SLACK, ContentDecoder, too_large
from twisted_mta.wire.stuffing import stuff

LIMIT = 100_000


def decode(
    *pieces: bytes, limit: int = LIMIT, replace: bool = False
) -> tuple[bytes, bytes | None, Reply | None, ContentDecoder]:
    """The content, what follows its end (None: there was no end), the flaw and the decoder."""
    decoder = ContentDecoder(limit, replace)
    content = b""
    rest: bytes | None = None
    for piece in pieces:
        if rest is not None:
            rest += piece
            continue
        data, rest = decoder.feed(piece)
        content += data
    return content, rest, decoder.flaw, decoder


def by_lines(data: bytes) -> tuple[bytes, bytes | None]:
    """A decoder as the RFC says it, a line at a time: the content and what follows."""
    content = b""
    while True:
        line, end, data = data.partition(b"\r\n")
        if not end:
            return content, None
        if line == b".":
            return content, data
        content += line.removeprefix(b".") + b"\r\n"


# Pieces of which awkward content is made.
CRUMBS = st.lists(
    st.sampled_from([b"\r\n", b".", b"\r\n.\r\n", b"a", b"\r\n..", b"word", b"\r\n.x", b"\xe4"]), max_size=30
).map(b"".join)
ANY_CRUMBS = st.lists(
    st.sampled_from([b"\r\n", b".", b"\r", b"\n", b"\0", b"a", b"\r\n.\r\n", b"\n.\n", b"\r.\r", b"x" * 600]),
    max_size=40,
).map(b"".join)
CUTS = st.lists(st.integers(0, 5000), max_size=12)


class EndTests(SynchronousTestCase):
    def test_first_line_is_the_dot(self) -> None:
        self.assertEqual(decode(b".\r\nQUIT\r\n")[:3], (b"", b"QUIT\r\n", None))

    def test_every_split_of_one_message(self) -> None:
        """Each way to cut it in two, and one octet at a time, gives the same."""
        wire = b"Subject: x\r\n\r\n..dot\r\n..x\r\nend\r\n.\r\nNOOP\r\n"
        whole = decode(wire)[:3]
        self.assertEqual(whole, (b"Subject: x\r\n\r\n.dot\r\n.x\r\nend\r\n", b"NOOP\r\n", None))
        for cut in range(len(wire) + 1):
            self.assertEqual(decode(wire[:cut], wire[cut:])[:3], whole)
        self.assertEqual(decode(*[wire[at : at + 1] for at in range(len(wire))])[:3], whole)

    @given(CRUMBS, CUTS)
    @example(b".", [1])
    def test_as_a_line_reader_has_it(self, wire: bytes, cuts: list[int]) -> None:
        """With CRLF alone, the result is that of a decoder which reads lines."""
        expected, after = by_lines(wire)
        content, rest, flaw, _ = decode(*split(wire, cuts))
        self.assertIsNone(flaw)
        self.assertEqual(rest, after)
        if after is None:
            self.assertTrue(by_lines(wire + b"\r\n")[0].startswith(content))
            self.assertTrue(content.startswith(expected[: max(0, len(expected) - 4)]))
        else:
            self.assertEqual(content, expected)

    @given(ANY_CRUMBS, CUTS, st.booleans())
    def test_only_crlf_dot_crlf_ends(self, wire: bytes, cuts: list[int], replace: bool) -> None:
        """Whatever is in it, the end is the first CRLF.CRLF (or a dot at once), and never anything else."""
        _, rest, flaw, _ = decode(*split(wire, cuts), replace=replace)
        end = (b"\r\n" + wire).find(b"\r\n.\r\n")
        self.assertEqual(rest, None if end < 0 else wire[end + 3 :])
        _, whole_rest, whole_flaw, _ = decode(wire, replace=replace)
        self.assertEqual(rest, whole_rest)
        if rest is not None:
            self.assertEqual(flaw is None, whole_flaw is None)

    @given(ANY_CRUMBS, CUTS)
    def test_what_is_taken_has_crlf_only(self, wire: bytes, cuts: list[int]) -> None:
        """Neither mode ever gives out a CR or LF that is not part of CRLF, a NUL or a long line."""
        for replace in (False, True):
            content, rest, flaw, _ = decode(*split(wire, cuts), b"\r\n.\r\n", replace=replace)
            self.assertIsNotNone(rest)
            if flaw is None:
                self.assertEqual(content.replace(b"\r\n", b"").strip(b"\r\n").count(b"\n"), 0)
                self.assertNotIn(b"\r", content.replace(b"\r\n", b""))
                self.assertNotIn(b"\0", content)
                self.assertTrue(all(len(line) <= 998 for line in content.split(b"\r\n")))
                self.assertTrue(content == b"" or content.endswith(b"\r\n"))


class PlainTests(SynchronousTestCase):
    """What may be sent on as it is."""

    @given(ANY_CRUMBS, CUTS, st.booleans())
    @example(b".", [], False)
    @example(b"a\n.b", [], True)
    @example(b"a\r\n...b", [4], False)
    def test_only_what_needs_no_stuffing(self, wire: bytes, cuts: list[int], replace: bool) -> None:
        content, _, flaw, decoder = decode(*split(wire, cuts), b"\r\n.\r\n", replace=replace)
        if flaw is None and decoder.plain:
            self.assertEqual(stuff(content), content + b".\r\n")

    @given(CRUMBS, CUTS)
    def test_all_that_came_without_stuffed_dots(self, wire: bytes, cuts: list[int]) -> None:
        expected, after = by_lines(wire)
        _, _, _, decoder = decode(*split(wire, cuts))
        if after is not None:
            sent = wire[: len(wire) - len(after) - len(b".\r\n")]
            self.assertEqual(decoder.plain, sent == expected)


class FlawTests(SynchronousTestCase):
    def test_bare_lf_and_cr(self) -> None:
        for bare in (b"a\nb", b"a\rb", b"a\r\r\nb", b"a\n\r\nb", b"\n", b"\r"):
            content, rest, flaw, _ = decode(bare + b"\r\n.\r\nQUIT\r\n")
            self.assertEqual((content, rest, flaw), (b"", b"QUIT\r\n", BARE_NEWLINE), bare)

    def test_bare_ones_are_replaced(self) -> None:
        content, rest, flaw, _ = decode(b"a\nb\rc\r\nd\r\r\n.\r\n", replace=True)
        self.assertEqual((content, rest, flaw), (b"a\r\nb\r\nc\r\nd\r\n\r\n", b"", None))

    def test_replacing_never_makes_an_end(self) -> None:
        content, rest, flaw, _ = decode(b"one\n.\nMAIL FROM:<a@b>\n.\r\nstill\r\n.\r\n", replace=True)
        self.assertEqual((content, rest, flaw), (b"one\r\n.\r\nMAIL FROM:<a@b>\r\n.\r\nstill\r\n", b"", None))

    def test_nul(self) -> None:
        for replace in (False, True):
            self.assertEqual(decode(b"a\0b\r\n.\r\n", replace=replace)[1:3], (b"", NUL))

    def test_nothing_is_given_out_after_a_flaw(self) -> None:
        decoder = ContentDecoder(LIMIT)
        self.assertEqual(decoder.feed(b"good\r\nmore")[0], b"good\r\nmore")
        self.assertEqual(decoder.feed(b"bad\n")[0], b"")
        self.assertEqual(decoder.feed(b"good again\r\n.\r\nx"), (b"", b"x"))
        self.assertIs(decoder.flaw, BARE_NEWLINE)

    def test_longest_line(self) -> None:
        """998 octets and CRLF are allowed, not one more; a stuffed dot does not count."""
        for fill in (b"", b"short\r\n", b"y" * 998 + b"\r\n", b"z" * 500 + b"\r\n"):
            self.assertIsNone(decode(fill + b"x" * 998 + b"\r\n" + fill + b".\r\n")[2])
            self.assertIsNone(decode(fill + b".." + b"x" * 997 + b"\r\n.\r\n")[2])
            self.assertEqual(decode(fill + b"x" * 999 + b"\r\n" + fill + b".\r\n")[1:3], (b"", LONG_LINE))

    def test_longest_line_at_every_split(self) -> None:
        for length, flaw in ((998, None), (999, LONG_LINE)):
            wire = b"a\r\n" + b"x" * length + b"\r\nb\r\n.\r\n"
            for cut in (1, 2, 3, 4, 500, 1000, 1001, 1002, 1003, 1004, 1005):
                self.assertIs(decode(wire[:cut], wire[cut:])[2], flaw, (length, cut))

    def test_line_without_end_is_noticed_at_once(self) -> None:
        decoder = ContentDecoder(LIMIT)
        decoder.feed(b"x" * 1500)
        self.assertIs(decoder.flaw, LONG_LINE)


class SizeTests(SynchronousTestCase):
    def test_exactly_the_limit(self) -> None:
        """SIZE counts CRLF, not the dot that is stuffed nor the end (RFC 1870 §4)."""
        content, _, flaw, decoder = decode(b"..123456\r\n.\r\n", limit=9)
        self.assertEqual((content, flaw, decoder.size), (b".123456\r\n", None, 9))

    def test_one_more(self) -> None:
        self.assertEqual(decode(b"12345678\r\n.\r\n", limit=9)[1:3], (b"", too_large(9)))

    def test_overrun(self) -> None:
        """Far beyond the limit there is no waiting for the end."""
        decoder = ContentDecoder(1000)
        line = b"x" * 98 + b"\r\n"
        for _ in range((2000 + SLACK) // 100):
            decoder.feed(line)
        self.assertFalse(decoder.overrun)
        decoder.feed(line * 2)
        self.assertTrue(decoder.overrun)

    def test_eight_bit(self) -> None:
        self.assertFalse(decode(b"ascii\r\n.\r\n")[3].eight_bit)
        self.assertTrue(decode(b"ascii\r\n", b"\xe4\r\n", b"ascii\r\n.\r\n")[3].eight_bit)

    @given(st.binary(max_size=300), CUTS)
    def test_holds_next_to_nothing(self, data: bytes, cuts: list[int]) -> None:
        decoder = ContentDecoder(LIMIT, True)
        for piece in split(data, cuts):
            _, rest = decoder.feed(piece)
            self.assertLessEqual(len(decoder._held), 4)
            if rest is not None:
                break
