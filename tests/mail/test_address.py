"""Addresses and their one canonical form (RFC 5321 §4.1.2, §4.1.3, §4.5.3.1)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.mail import address
from twisted_mta.mail.address import Address, AddressError, canonical, parse_address


class ParseTests(SynchronousTestCase):
    def test_good(self) -> None:
        for text, wanted in (
            ("ann@isp.example", "ann@isp.example"),
            ("Ann.B+x@ISP.Example", "Ann.B+x@isp.example"),
            ('"ann"@isp.example', "ann@isp.example"),
            ('"a b"@isp.example', '"a b"@isp.example'),
            ('"a\\"b"@isp.example', '"a\\"b"@isp.example'),
            ('"a@b"@isp.example', '"a@b"@isp.example'),
            ("ann@[192.0.2.1]", "ann@[192.0.2.1]"),
            ("ann@[ipv6:2001:DB8:0::1]", "ann@[IPv6:2001:db8::1]"),
            ("ann@b\u00fccher.example", "ann@xn--bcher-kva.example"),
            ("\u00e4nn@isp.example", "\u00e4nn@isp.example"),
            ("a\u0308nn@b\u00fccher.example", "\u00e4nn@xn--bcher-kva.example"),
            ('"\u00e4 nn"@isp.example', '"\u00e4 nn"@isp.example'),
            ("\u7528\u6237@\u4f8b\u5b50.example", "\u7528\u6237@xn--fsqu00a.example"),
            ("\u00e4" * 32 + "@isp.example", "\u00e4" * 32 + "@isp.example"),
            ("a" * 64 + "@isp.example", "a" * 64 + "@isp.example"),
        ):
            self.assertEqual(canonical(text), wanted)

    def test_bad(self) -> None:
        for text in (
            "ann",
            "@isp.example",
            "ann@",
            "a b@isp.example",
            "a..b@isp.example",
            ".a@isp.example",
            "a.@isp.example",
            'a"b@isp.example',
            '"a@isp.example',
            '"a"b@isp.example',
            '""',
            "a@b@isp.example",
            "ann@isp..example",
            "ann@.example",
            "ann@isp.example.",
            "ann@-isp.example",
            "ann@isp-.example",
            "ann@is p.example",
            "ann@" + "a" * 64 + ".example",
            "ann@[192.0.2.1",
            "ann@[192.0.2]",
            "ann@[IPv6:::::]",
            "ann@[2001:db8::1]",
            "a" * 65 + "@isp.example",
            "a@" + ".".join(["b" * 60] * 5),
            "a\u200bnn@isp.example",
            "a\u00a0nn@isp.example",
            "a\u0085nn@isp.example",
            "a\u202enn@isp.example",
            "\ud800@isp.example",
            "\u00e4" * 33 + "@isp.example",
            "ann@isp.example\r\n",
            "ann\0@isp.example",
        ):
            error = self.assertRaises(AddressError, canonical, text)
            self.assertIn(error.reply.code, (501, 553), text)
            self.assertFalse(error.temporary)

    def test_null_sender(self) -> None:
        self.assertEqual(canonical(""), "")

    @given(st.text(max_size=40))
    def test_only_address_error_escapes_and_canonical_stays(self, text: str) -> None:
        try:
            once = canonical(text)
        except AddressError:
            return
        self.assertEqual(canonical(once), once)
        self.assertTrue(once.isprintable())

    @given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=64))
    def test_any_local_part_comes_back(self, local: str) -> None:
        """Whatever is in a quoted string is the same after it was written and read again."""
        made = str(Address(local, "isp.example"))
        self.assertEqual(parse_address(made), Address(local, "isp.example"))


class PartTests(SynchronousTestCase):
    def test_parts(self) -> None:
        self.assertEqual(address.domain_of('"a@b"@isp.example'), "isp.example")
        self.assertEqual(address.local_of('"a@b"@isp.example'), '"a@b"')
        self.assertEqual((address.domain_of(""), address.local_of("")), ("", ""))

    def test_detail(self) -> None:
        for local, delimiter, wanted in (
            ("ann+lists", "+", ("ann", "lists")),
            ("ann+a+b", "+", ("ann", "a+b")),
            ("ann+", "+", ("ann", "")),
            ("+ann", "+", ("+ann", "")),
            ("ann", "+", ("ann", "")),
            ("ann+lists", "", ("ann+lists", "")),
            ("ann-lists", "-", ("ann", "lists")),
        ):
            self.assertEqual(address.detail_split(local, delimiter), wanted)

    def test_lookup_key(self) -> None:
        self.assertEqual(address.lookup_key("Ann@isp.example"), "ann@isp.example")
