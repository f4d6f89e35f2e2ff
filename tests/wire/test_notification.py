"""NOTIFY, ORCPT, RET, ENVID and xtext."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.wire.notification import (
    ascii_orcpt,
    decode_envid,
    decode_orcpt,
    decode_xtext,
    encode_xtext,
    parse_notify,
)

PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1)


class XtextTests(SynchronousTestCase):
    """xtext (RFC 3461 §4)."""

    @given(PRINTABLE)
    def test_round_trip(self, text: str) -> None:
        encoded = encode_xtext(text)
        self.assertEqual(decode_xtext(encoded), text)
        self.assertNotRegex(encoded, r"[ =]")

    @given(st.text())
    def test_whatever_is_decoded_is_printable_ascii(self, value: str) -> None:
        decoded = decode_xtext(value)
        self.assertTrue(decoded is None or (decoded.isascii() and decoded.isprintable()))

    def test_refused(self) -> None:
        for value in ("", "a b", "a=b", "a+4", "a+4g", "a+2b", "+0A", "+7F", "+C3+BC", "ü"):
            self.assertIsNone(decode_xtext(value), value)


class ParameterTests(SynchronousTestCase):
    """The values themselves."""

    def test_notify(self) -> None:
        self.assertEqual(parse_notify("never"), "NEVER")
        self.assertEqual(parse_notify("DELAY,failure"), "FAILURE,DELAY")
        for value in ("", ",", "NEVER,NEVER", "NEVER,DELAY", "DELAY,DELAY", "SUCCESS,,DELAY", "X"):
            self.assertIsNone(parse_notify(value), value)

    def test_orcpt(self) -> None:
        self.assertEqual(decode_orcpt("rfc822;a+2Bb@c.example"), ("rfc822", "a+b@c.example"))
        self.assertEqual(decode_orcpt("X-400;/c=us/"), None, "an equals sign is to be encoded")
        for value in ("", "rfc822", ";a", "rfc 822;a", "rfc822;+00", "rfc822;" + "a" * 494):
            self.assertIsNone(decode_orcpt(value), value)

    def test_orcpt_in_utf8(self) -> None:
        """RFC 6533 §3, and what Postfix makes of such an address."""
        for value in ("utf-8;j\\x{FC}@c.example", "utf-8;j\u00fc@c.example", "rfc822;j+C3+BC@c.example"):
            self.assertEqual(ascii_orcpt(value), "utf-8;j\\x{FC}@c.example")
            self.assertEqual(decode_orcpt(value), ("utf-8", "j\\x{FC}@c.example"))
        for value in ("rfc822;j+FC@c.example", "rfc822;j+C3+28", "rfc822;+C2+80x", "rfc822;+ED+A0+80", "x400;j+C3+BC"):
            self.assertEqual(ascii_orcpt(value).isascii(), True)
            self.assertIsNone(decode_orcpt(value), value)

    def test_envid(self) -> None:
        self.assertEqual(decode_envid("QQ+20314159"), "QQ 314159")
        self.assertIsNone(decode_envid("x" * 101))
