"""Dot-stuffing, RFC 5321 §4.5.2."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.wire.stuffing import DotStuffer, Plain, is_plain, stuff

# Short pieces of what matters, so that every boundary is met.
_PIECES = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"..", b"a", b"\0", b"\xff", b""]), max_size=30)


def normal(content: bytes) -> bytes:
    """Content with CRLF alone ending lines, the last one included, and without NUL: what is to arrive."""
    content = re.sub(rb"\r\n|\r|\n", b"\r\n", content.replace(b"\0", b""))
    return content if not content or content.endswith(b"\r\n") else content + b"\r\n"


def receive(wire: bytes) -> bytes:
    """What a strict server takes from the wire: line by line, RFC 5321 §4.5.2."""
    lines = wire.split(b"\r\n")
    end = lines.index(b".")
    assert lines[end + 1 :] == [b""], "there is something behind the end of the message"
    return b"".join((line[1:] if line.startswith(b".") else line) + b"\r\n" for line in lines[:end])


class StuffingTests(SynchronousTestCase):
    """One message, any chunks."""

    def test_empty(self) -> None:
        self.assertEqual(stuff(b""), b".\r\n")

    def test_plain(self) -> None:
        self.assertEqual(stuff(b"a\r\n"), b"a\r\n.\r\n")

    def test_last_line_without_end(self) -> None:
        self.assertEqual(stuff(b"a"), b"a\r\n.\r\n")

    def test_ends_with_cr(self) -> None:
        self.assertEqual(stuff(b"a\r"), b"a\r\n.\r\n")

    def test_first_octet_is_a_dot(self) -> None:
        self.assertEqual(stuff(b".\r\n"), b"..\r\n.\r\n")

    def test_dot_at_the_start_of_the_second_chunk(self) -> None:
        """The stock client lets this one out: the message would end here, and its rest be commands."""
        stuffer = DotStuffer()
        sent = stuffer.encode(b"a\r\n") + stuffer.encode(b".\r\nMAIL FROM:<x@y>\r\n") + stuffer.finish()
        self.assertEqual(sent, b"a\r\n..\r\nMAIL FROM:<x@y>\r\n.\r\n")

    def test_crlf_split_between_chunks(self) -> None:
        stuffer = DotStuffer()
        sent = stuffer.encode(b"a\r") + stuffer.encode(b"\n.b\r\n") + stuffer.finish()
        self.assertEqual(sent, b"a\r\n..b\r\n.\r\n")

    def test_smuggling(self) -> None:
        """Every end of data that some server takes for one (CVE-2023-51764 and its like) goes out as content."""
        ends = [
            b"\n.\n",
            b"\n.\r\n",
            b"\r.\r",
            b"\r\n.\n",
            b"\r\n.\r",
            b"\r.\n",
            b"\n.\r",
            b"\r.\r\n",
            b"\r\n\0.\r\n",
            b"\r\0\n.\r\n",
        ]
        for end in ends:
            content = b"Subject: a\r\n\r\nb" + end + b"MAIL FROM:<evil@example.org>\r\n"
            for split in range(len(content) + 1):
                stuffer = DotStuffer()
                sent = stuffer.encode(content[:split]) + stuffer.encode(content[split:]) + stuffer.finish()
                self.assertEqual(receive(sent), normal(content), (end, split))
                inside = sent[: -len(b".\r\n")]
                self.assertIsNone(re.search(rb"(?:^|[\r\n])\.(?:[\r\n]|$)", inside), (end, split))
                self.assertIsNone(re.search(rb"(?<!\r)\n|\r(?!\n)", sent), (end, split))

    @given(_PIECES)
    def test_any_chunks_give_the_same_bytes(self, pieces: list[bytes]) -> None:
        stuffer = DotStuffer()
        sent = b"".join(stuffer.encode(piece) for piece in pieces) + stuffer.finish()
        self.assertEqual(sent, stuff(b"".join(pieces)))

    @given(_PIECES)
    def test_what_arrives_is_what_was_sent(self, pieces: list[bytes]) -> None:
        content = b"".join(pieces)
        self.assertEqual(receive(stuff(content)), normal(content))

    @given(_PIECES)
    def test_plain_is_what_goes_out_as_it_is(self, pieces: list[bytes]) -> None:
        content = b"".join(pieces)
        encoder = Plain()
        sent = b"".join(encoder.encode(piece) for piece in pieces) + encoder.finish()
        self.assertEqual(is_plain(content), sent == stuff(content))
