"""Replies, and a peer's words made printable (RFC 5321 §4.2, RFC 2034, RFC 3463)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.mail.status import MailError, Reply, printable


class ReplyTests(SynchronousTestCase):
    def test_wire(self) -> None:
        self.assertEqual(Reply(250, "2.1.0", "OK").encode(), b"250 2.1.0 OK\r\n")
        self.assertEqual(Reply(354, "", "Go on").encode(), b"354 Go on\r\n")
        self.assertEqual(Reply(250, "", "mx\nSIZE 1\nHELP").encode(), b"250-mx\r\n250-SIZE 1\r\n250 HELP\r\n")
        self.assertEqual(Reply(550, "5.1.1", "a\nb").encode(), b"550-5.1.1 a\r\n550 5.1.1 b\r\n")

    def test_words(self) -> None:
        self.assertEqual(str(Reply(550, "5.1.1", "a\nb")), "550 5.1.1 a b")
        self.assertEqual(str(Reply(354, "", "Go on")), "354 Go on")

    def test_classes(self) -> None:
        for code, positive, temporary, permanent in (
            (250, True, False, False),
            (354, True, False, False),
            (421, False, True, False),
            (554, False, False, True),
        ):
            reply = Reply(code)
            self.assertEqual((reply.positive, reply.temporary, reply.permanent), (positive, temporary, permanent))

    def test_status(self) -> None:
        self.assertEqual(Reply(550, "5.1.1").status, "5.1.1")
        self.assertEqual([Reply(code).status for code in (250, 354, 421, 554)], ["2.0.0", "3.0.0", "4.0.0", "5.0.0"])

    def test_error(self) -> None:
        self.assertTrue(MailError(Reply(451, "4.3.0", "Later")).temporary)
        self.assertEqual(str(MailError(Reply(550, "5.1.1", "No"))), "550 5.1.1 No")


class PrintableTests(SynchronousTestCase):
    def test_control_characters(self) -> None:
        self.assertEqual(printable("a\r\nb\x1b[1m\x7f"), "a\\x0d\\x0ab\\x1b[1m\\x7f")
        self.assertEqual(printable(b"a\xff\n"), "a\\xff\\x0a")
        self.assertEqual(printable("\u202eevil\u2028"), "\\u202eevil\\u2028")

    def test_limit(self) -> None:
        self.assertEqual(printable("x" * 300, 10), "x" * 9 + "…")

    @given(st.one_of(st.text(), st.binary()))
    def test_one_line_of_bounded_length(self, words: str | bytes) -> None:
        shown = printable(words)
        self.assertEqual(len(shown.splitlines()), min(1, len(shown)))
        self.assertLessEqual(len(shown), 200 * 6)
        shown.encode("utf-8")
