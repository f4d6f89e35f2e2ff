"""Replies of a server, RFC 5321 §4.2."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.mail.status import Reply
from twisted_mta.wire.replies import MAX_LINE, MAX_LINES, ReplyError, ReplyParser, shortened

_SAID = st.lists(
    st.sampled_from(
        [b"250", b"550", b"999", b" ", b"-", b"\r\n", b"\r", b"\n", b"2.1.0 ", b"5.1.1 ", b"Ok", b"\0", b"\xc3\xa9"]
    ),
    max_size=20,
).map(b"".join)


def read(data: bytes) -> list[Reply]:
    return ReplyParser().receive(data)


class ReplyTests(SynchronousTestCase):
    """One server's words."""

    def assertRefused(self, data: bytes) -> None:
        self.assertRaises(ReplyError, read, data)

    def test_one_line(self) -> None:
        self.assertEqual(read(b"250 2.1.0 Ok\r\n"), [Reply(250, "2.1.0", "Ok")])

    def test_without_enhanced_code(self) -> None:
        self.assertEqual(read(b"220 mx.example.org ESMTP\r\n"), [Reply(220, "", "mx.example.org ESMTP")])

    def test_code_alone(self) -> None:
        self.assertEqual(read(b"250\r\n"), [Reply(250)])

    def test_several_lines(self) -> None:
        self.assertEqual(
            read(b"550-5.7.1 You are\r\n550-5.7.1 on a list:\r\n550 5.7.1 go away\r\n"),
            [Reply(550, "5.7.1", "You are\non a list:\ngo away")],
        )

    def test_enhanced_code_of_another_class_is_words(self) -> None:
        """RFC 2034 §4: the class must agree with the code."""
        self.assertEqual(read(b"450 5.1.1 odd\r\n"), [Reply(450, "", "5.1.1 odd")])

    def test_version_number_is_no_enhanced_code(self) -> None:
        self.assertEqual(read(b"250 2.10.2000 x\r\n"), [Reply(250, "", "2.10.2000 x")])

    def test_codes_disagree(self) -> None:
        """RFC 5321 §4.2.1: the code of each line must be the same."""
        self.assertRefused(b"250-a\r\n550 b\r\n")

    def test_bare_lf(self) -> None:
        self.assertRefused(b"550 no such <x\n250 y>\r\n")

    def test_bare_lf_at_the_end(self) -> None:
        self.assertRefused(b"250 ok\n")

    def test_bare_cr(self) -> None:
        self.assertRefused(b"250 o\rk\r\n")

    def test_nul(self) -> None:
        self.assertRefused(b"250 o\0k\r\n")

    def test_not_a_code(self) -> None:
        for line in (b"+OK", b"25", b"250ok", b"150 x", b"650 x", b"", b"250_x"):
            self.assertRefused(line + b"\r\n")

    def test_line_too_long(self) -> None:
        self.assertRefused(b"250 " + b"x" * MAX_LINE + b"\r\n")

    def test_line_that_never_ends(self) -> None:
        parser = ReplyParser()
        with self.assertRaises(ReplyError):
            for _ in range(MAX_LINE):
                parser.receive(b"250 xx")

    def test_too_many_lines(self) -> None:
        self.assertRefused(b"250-x\r\n" * (MAX_LINES + 1))

    def test_control_characters_are_made_visible(self) -> None:
        self.assertEqual(read(b"550 \x1b[31mred\r\n")[0].text, "\\x1b[31mred")

    def test_pending(self) -> None:
        parser = ReplyParser()
        parser.receive(b"250-x\r\n")
        self.assertTrue(parser.pending)
        parser.receive(b"250 x\r\n")
        self.assertFalse(parser.pending)

    def test_shortened(self) -> None:
        self.assertEqual(len(shortened(Reply(550, "5.0.0", "x" * 3000)).text), 500)

    @given(_SAID, st.lists(st.integers(0, 40), max_size=5))
    def test_any_split_gives_the_same(self, said: bytes, cuts: list[int]) -> None:
        def run(pieces: list[bytes]) -> list[Reply] | str:
            parser = ReplyParser()
            replies: list[Reply] = []
            for piece in pieces:
                try:
                    replies += parser.receive(piece)
                except ReplyError:
                    return "error"
            return replies

        edges = [0, *sorted(min(cut, len(said)) for cut in cuts), len(said)]
        pieces = [said[a:b] for a, b in itertools.pairwise(edges)]
        self.assertEqual(run(pieces), run([said]))

    @given(st.binary(max_size=300))
    def test_only_its_own_error_escapes(self, said: bytes) -> None:
        try:
            replies = read(said)
        except ReplyError:
            return
        for reply in replies:
            self.assertTrue(200 <= reply.code < 600 and reply.text.replace("\n", "").isprintable())
