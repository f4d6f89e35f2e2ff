"""The header section, and the fields that are added to it (RFC 5322 §2.1, §2.2, §3.6; RFC 5321 §4.4)."""

from __future__ import annotations

import email.utils
import itertools
import time

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.mail import header
from twisted_mta.mail.header import Head, HeaderTooLarge

MESSAGE = (
    b"Received: from a\r\n\tby b; now\r\nreceived : from c\r\nReceived-SPF: pass\r\nFrom: Joe <joe@far.example>\r\n"
    b"Subject: folded\r\n over\r\n\ttwo lines\r\nBcc: ann@isp.example,\r\n bob@isp.example\r\n"
    b"Message-Id:<1@far.example>\r\n\r\nBody: not a field\r\nReceived: neither\r\n"
)

LINES = [b"\r\n", b"A: 1\r\n", b" x\r\n", b"word\r\n", b": y\r\n", b"Bcc: z\r\n"]


def head(*pieces: bytes, limit: int = 10_000) -> Head:
    """A head fed with pieces, what is left being put behind it."""
    made = Head(limit)
    rest = b""
    for piece in pieces:
        if made.complete:
            rest += piece
        else:
            made.feed(piece)
    made.end()
    made._rest += rest
    return made


class FindTests(SynchronousTestCase):
    def test_fields(self) -> None:
        found = head(MESSAGE)
        self.assertEqual(found.count("Received"), 2)
        self.assertIn("from", found)
        self.assertNotIn("Date", found)
        self.assertNotIn("Body", found)
        self.assertEqual(found.get("Message-ID"), b"<1@far.example>")
        self.assertEqual(found.get("subject"), b"folded over\ttwo lines")
        self.assertIsNone(found.get("To"))
        self.assertEqual(found.get_all("Received"), [b"from a\tby b; now", b"from c"])

    def test_first_and_last_field(self) -> None:
        found = head(b"From:\r\nTo: x\r\n\r\n")
        self.assertEqual((found.get("From"), found.get("To")), (b"", b"x"))

    def test_at_every_split(self) -> None:
        for cut in range(len(MESSAGE) + 1):
            found = head(MESSAGE[:cut], MESSAGE[cut:])
            self.assertEqual(found.take(), MESSAGE, cut)
            self.assertEqual(found.count("Received"), 2, cut)
        found = head(*[MESSAGE[at : at + 1] for at in range(len(MESSAGE))])
        self.assertEqual((found.take(), found.count("Received")), (MESSAGE, 2))

    def test_feed_says_when_it_is_complete(self) -> None:
        made = Head(1000)
        self.assertFalse(made.feed(b"From: x\r\n"))
        self.assertFalse(made.feed(b"\r"))
        self.assertTrue(made.feed(b"\nbody"))
        self.assertRaises(ValueError, made.feed, b"more")


class OddMessageTests(SynchronousTestCase):
    def test_empty(self) -> None:
        self.assertEqual(head().take(b"Received: x\r\n"), b"Received: x\r\n")

    def test_header_only(self) -> None:
        self.assertEqual(head(b"From: x\r\n").take(b"T: 1\r\n"), b"T: 1\r\nFrom: x\r\n")

    def test_no_header(self) -> None:
        """A blank line goes between the trace and a body that has no header section."""
        self.assertEqual(head(b"\r\nbody\r\n").take(b"T: 1\r\n"), b"T: 1\r\n\r\nbody\r\n")
        self.assertEqual(head(b"just text\r\n").take(b"T: 1\r\n"), b"T: 1\r\n\r\njust text\r\n")
        self.assertEqual(head(b" indented\r\nFrom: x\r\n").take(b"T: 1\r\n"), b"T: 1\r\n\r\n indented\r\nFrom: x\r\n")

    def test_no_blank_line(self) -> None:
        """The first line that can't be a field's begins the body."""
        found = head(b"From: x\r\nhello there\r\nTo: y\r\n")
        self.assertEqual(found.fields, b"From: x\r\n")
        self.assertEqual(found.take(), b"From: x\r\n\r\nhello there\r\nTo: y\r\n")

    def test_too_large(self) -> None:
        made = Head(100)
        made.feed(b"A: " + b"x" * 95 + b"\r\n")
        error = self.assertRaises(HeaderTooLarge, made.feed, b"B: 1\r\n")
        self.assertEqual((error.reply.code, error.reply.enhanced), (552, "5.3.4"))
        self.assertRaises(HeaderTooLarge, Head(100).feed, b"A: x\r\n" * 20 + b"\r\n")

    def test_large_body_without_header_is_no_header(self) -> None:
        self.assertTrue(Head(100).feed(b"text\r\n" * 100))

    def test_small_pieces_do_not_cost_the_square(self) -> None:
        made = Head(1 << 20)
        before = time.process_time()
        for _ in range(100_000):
            made.feed(b"A: b\r\n")
        self.assertLess(time.process_time() - before, 3.0)

    @given(
        st.lists(st.sampled_from(LINES), max_size=12).map(b"".join),
        st.lists(st.integers(0, 100), max_size=6),
    )
    def test_pieces_never_matter(self, message: bytes, cuts: list[int]) -> None:
        places = sorted({cut % (len(message) + 1) for cut in cuts} | {0, len(message)})
        pieces = [message[start:end] for start, end in itertools.pairwise(places)]
        one, many = head(message), head(*pieces)
        self.assertEqual((one.fields, one.count("Bcc")), (many.fields, many.count("Bcc")))
        taken = one.take()
        self.assertEqual(taken, many.take())
        self.assertIn(taken, (message, one.fields + b"\r\n" + message[len(one.fields) :]))


class ChangeTests(SynchronousTestCase):
    def test_remove(self) -> None:
        found = head(MESSAGE)
        self.assertEqual(found.remove("BCC"), 1)
        self.assertEqual(found.take(), MESSAGE.replace(b"Bcc: ann@isp.example,\r\n bob@isp.example\r\n", b""))
        self.assertEqual(found.remove("Bcc"), 0)

    def test_remove_first_last_and_several(self) -> None:
        found = head(b"Bcc: a\r\nBcc:\r\n b\r\nTo: x\r\nBCC : c\r\n\r\nBcc: body\r\n")
        self.assertEqual(found.remove("Bcc"), 3)
        self.assertEqual(found.take(), b"To: x\r\n\r\nBcc: body\r\n")

    def test_append_and_prepend(self) -> None:
        found = head(b"To: x\r\n\r\nbody\r\n")
        found.append(header.field("Date", "today"))
        found.prepend(header.field("First", "1"))
        self.assertIn("Date", found)
        self.assertEqual(found.take(b"T: 1\r\n"), b"T: 1\r\nFirst: 1\r\nTo: x\r\nDate: today\r\n\r\nbody\r\n")


class FieldTests(SynchronousTestCase):
    def test_folding(self) -> None:
        made = header.field("X-Words", *["word"] * 40)
        lines = made.removesuffix(b"\r\n").split(b"\r\n")
        self.assertGreater(len(lines), 2)
        self.assertTrue(all(len(line) <= 78 for line in lines))
        self.assertTrue(all(line.startswith(b"\t") for line in lines[1:]))
        self.assertEqual(made.split(), [b"X-Words:", *[b"word"] * 40])

    @given(st.lists(st.text(max_size=2000), min_size=1, max_size=5))
    def test_no_line_of_ours_breaks_out(self, words: list[str]) -> None:
        """No CR, LF or other control in a word gets into a message, and no line is too long (header injection)."""
        made = header.field("X-Peer", *words)
        self.assertTrue(made.endswith(b"\r\n"))
        first, *others = made[:-2].split(b"\r\n")
        self.assertTrue(first.startswith(b"X-Peer:"))
        self.assertTrue(all(line.startswith(b"\t") for line in others))
        for line in (first, *others):
            self.assertLessEqual(len(line), 998)
            self.assertTrue(line.replace(b"\t", b"").decode("ascii").isprintable())

    def test_injection(self) -> None:
        self.assertEqual(header.field("X", "a\r\nBcc: evil@far.example"), b"X: a\\x0d\\x0aBcc: evil@far.example\r\n")


class DateTests(SynchronousTestCase):
    @given(st.integers(0, 4_000_000_000))
    def test_as_the_library_writes_it(self, when: int) -> None:
        self.assertEqual(email.utils.parsedate_to_datetime(header.date(when + 0.9)).timestamp(), when)

    def test_form(self) -> None:
        self.assertEqual(header.date(0), "Thu, 1 Jan 1970 00:00:00 +0000")
        self.assertEqual(header.date(1_790_000_000.5), "Mon, 21 Sep 2026 14:13:20 +0000")
