"""Content made fit for servers that take less, read back by Python's own MIME parser."""

from __future__ import annotations

import email
import email.message
import email.policy
import quopri

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.pieces import split
from twisted_mta.mail.conversion import Converter, Plan, Survey, Target, quoted
from twisted_mta.mail.mime import DEPTH, HEADER_LIMIT, PARTS, Unclear

MIME = b"From: a@b.example\r\nMIME-Version: 1.0\r\n"
EIGHT = "Viele Grüße aus dem Norden\r\n".encode()


def survey(content: bytes, target: Target = "7bit", cuts: list[int] | None = None) -> Plan:
    first = Survey(target)
    for piece in split(content, cuts or []):
        first.feed(piece)
    first.finish()
    return first.plan()


def convert(content: bytes, target: Target = "7bit", cuts: list[int] | None = None) -> bytes:
    second = Converter(survey(content, target, cuts))
    return b"".join([second.convert(piece) for piece in split(content, cuts or [])]) + second.close()


def leaves(content: bytes) -> list[bytes]:
    """The decoded bodies of all parts that are no multipart and no message."""
    parsed = email.message_from_bytes(content, policy=email.policy.compat32)
    return [part.get_payload(decode=True) or b"" for part in parsed.walk() if not part.is_multipart()]  # type: ignore[misc]


def seven_bit(content: bytes) -> bool:
    """RFC 2045 §2.7."""
    lines = content.split(b"\r\n")
    return content.isascii() and b"\0" not in content and all(
        len(line) <= 998 and b"\r" not in line and b"\n" not in line for line in lines
    )  # fmt: skip


def multipart(boundary: str, *parts: bytes, subtype: str = "mixed", more: bytes = b"") -> bytes:
    mark = f"--{boundary}".encode()
    head = f'Content-Type: multipart/{subtype}; boundary="{boundary}"\r\n'.encode() + more + b"\r\n"
    return head + b"".join(mark + b"\r\n" + part + b"\r\n" for part in parts) + mark + b"--\r\n"


def part(kind: str, body: bytes, encoding: str = "8bit") -> bytes:
    return f"Content-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode() + body


class SimpleTests(SynchronousTestCase):
    """A message of one part."""

    def test_text(self) -> None:
        content = MIME + part("text/plain; charset=utf-8", EIGHT)
        self.assertEqual(
            convert(content),
            MIME + b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
            b"Viele Gr=C3=BC=C3=9Fe aus dem Norden\r\n",
        )

    def test_mostly_beyond_ascii(self) -> None:
        content = MIME + part("text/plain; charset=utf-8", "Привет мир\r\n".encode() * 20)
        self.assertIn(b"Content-Transfer-Encoding: base64\r\n", convert(content))
        self.assertEqual(leaves(convert(content)), ["Привет мир\r\n".encode() * 20])

    def test_binary(self) -> None:
        body = bytes(range(256)) * 10
        for target in ("7bit", "8bit"):
            converted = convert(MIME + part("image/png", body, "binary"), target)  # type: ignore[arg-type]
            self.assertTrue(seven_bit(converted))
            self.assertTrue(converted.endswith(b"\r\n"))
            self.assertEqual(leaves(converted), [body])

    def test_the_label_is_set_right(self) -> None:
        """What needs no encoding may still have a label that promises too much."""
        for old, target, new in (
            ("8bit", "7bit", b"7bit"),
            ("binary", "7bit", b"7bit"),
            ("binary", "8bit", b"8bit"),
            ("8bit", "8bit", b"8bit"),
            ("7bit", "7bit", b"7bit"),
            ("Base64", "7bit", b"Base64"),
        ):
            content = MIME + part("text/plain", b"SGVsbG8=\r\n", old)
            expected = MIME + part("text/plain", b"SGVsbG8=\r\n", new.decode())
            self.assertEqual(convert(content, target), expected)  # type: ignore[arg-type]

    def test_what_is_fit_stays(self) -> None:
        content = MIME + b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + EIGHT
        self.assertEqual(convert(content, "8bit"), content)

    def test_not_mime(self) -> None:
        """RFC 1428 §3."""
        converted = convert(b"Subject: x\r\n\r\n" + EIGHT)
        for field in (b"MIME-Version: 1.0", b"Content-Type: text/plain; charset=unknown-8bit"):
            self.assertIn(field + b"\r\n", converted)
        self.assertEqual(leaves(converted), [EIGHT])

    def test_no_last_crlf(self) -> None:
        """After DATA the last line has one: that of the content must not be what it is taken for."""
        for kind, encoding in (("text/plain", b"quoted-printable"), ("image/png", b"base64")):
            converted = convert(MIME + part(kind, b"Hello", "binary"))
            self.assertIn(encoding, converted)
            self.assertTrue(converted.endswith(b"\r\n"))
            self.assertEqual(leaves(converted), [b"Hello"])

    def test_the_field_may_be_folded(self) -> None:
        content = MIME + b"content-transfer-encoding:\r\n 8bit\r\nSubject: x\r\n\r\n" + EIGHT
        self.assertNotIn(b"8bit\r\n", convert(content).replace(b"unknown-8bit", b""))
        self.assertIn(b"Subject: x\r\n", convert(content))

    def test_long_lines(self) -> None:
        converted = convert(MIME + part("text/plain", b"x" * 999 + b"\r\n", "binary"), "8bit")
        self.assertTrue(seven_bit(converted))
        self.assertEqual(leaves(converted), [b"x" * 999 + b"\r\n"])
        self.assertEqual(survey(MIME + part("text/plain", b"x" * 998 + b"\r\n", "8bit"), "8bit").actions, ("",))

    def test_size(self) -> None:
        """It is about what comes out."""
        for body in (EIGHT * 900, b"Hello Hello Hello \xe4\r\n" * 3000, bytes(range(256)) * 300):
            content = MIME + part("text/plain", body)
            size, made = survey(content).size, len(convert(content))
            self.assertTrue(made <= size <= made * 1.1 + 200, (size, made))


class PartsTests(SynchronousTestCase):
    """Parts within parts."""

    NESTED = MIME + multipart(
        "one",
        multipart(
            "two", part("text/plain; charset=utf-8", EIGHT), part("text/html", b"<p>\r\n"), subtype="alternative"
        ),
        part("application/octet-stream", b"\xff\x00\r\n\r\n", "binary"),
        b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\nSubject: within\r\n\r\n" + EIGHT,
        b"\r\nneither field nor type\r\n",
        more=b"Content-Transfer-Encoding: binary\r\n",
    )

    def test_each_by_itself(self) -> None:
        converted = convert(self.NESTED)
        self.assertTrue(seven_bit(converted))
        self.assertEqual(
            leaves(converted), [EIGHT, b"<p>\r\n", b"\xff\x00\r\n\r\n", EIGHT, b"neither field nor type\r\n"]
        )
        parsed = email.message_from_bytes(converted)
        found = [it["Content-Transfer-Encoding"] for it in parsed.walk()]
        self.assertEqual(found, ["7bit", None, "quoted-printable", "7bit", "base64", "7bit", "quoted-printable", None])
        self.assertEqual([it.defects for it in parsed.walk()], [[]] * 8)
        self.assertEqual(converted.count(b"MIME-Version: 1.0"), 2)

    def test_every_split(self) -> None:
        whole = convert(self.NESTED)
        for cut in range(len(self.NESTED)):
            self.assertEqual(convert(self.NESTED, cuts=[cut]), whole)
        self.assertEqual(convert(self.NESTED, cuts=list(range(len(self.NESTED)))), whole)

    def test_nothing_to_do_is_nothing_done(self) -> None:
        """Whatever the structure, and wherever it is cut off, octets that are fit stay as they are."""
        content = self.NESTED.replace(EIGHT, b"Gruss\r\n").replace(b"\xff\x00", b"..")
        content = content.replace(b"8bit", b"7bit").replace(b"binary", b"7bit")
        for end in range(content.index(b"--one"), len(content) + 1):
            lines = content[:end]
            if not lines.endswith(b"\r\n"):
                continue
            self.assertEqual(convert(lines), lines)

    def test_the_crlf_of_two_delimiters_in_a_row(self) -> None:
        inner = multipart("two", part("text/plain", EIGHT)).removesuffix(b"\r\n")
        content = MIME + multipart("one", inner, part("text/plain", b"b"))
        self.assertIn(b"--two--\r\n--one\r\n", content)
        self.assertEqual(leaves(convert(content)), [EIGHT, b"b"])

    def test_digest(self) -> None:
        content = MIME + multipart("one", b"\r\nSubject: x\r\n\r\n" + EIGHT, subtype="digest")
        self.assertEqual(leaves(convert(content)), [EIGHT])

    def test_many_messages_side_by_side_are_not_deep(self) -> None:
        within = b"Content-Type: message/rfc822\r\n\r\nSubject: x\r\n\r\n" + EIGHT
        self.assertEqual(leaves(convert(MIME + multipart("one", *[within] * 200))), [EIGHT] * 200)

    def test_global_messages_are_like_any_file(self) -> None:
        """RFC 6532 §3.7."""
        within = "Subject: Grüße\r\n\r\nx\r\n".encode()
        converted = convert(MIME + multipart("one", part("message/global", within)))
        self.assertIn(b"Content-Transfer-Encoding: ", converted)
        self.assertTrue(seven_bit(converted))

    def test_closed_without_a_crlf(self) -> None:
        content = (MIME + multipart("one", part("text/plain", EIGHT))).removesuffix(b"\r\n")
        self.assertTrue(convert(content).endswith(b"\r\n--one--"))
        self.assertEqual(leaves(convert(content)), [EIGHT])

    @given(
        st.lists(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda text: text.encode())), max_size=4),
        st.lists(st.integers(0, 5000), max_size=6),
        st.sampled_from(["text/plain", "image/png"]),
        st.sampled_from(["7bit", "8bit"]),
    )
    @example([b"\r"], [], "text/plain", "7bit")
    @example([b"\xe4 \r\n\t"], [], "text/plain", "7bit")
    def test_nothing_is_lost(self, bodies: list[bytes], cuts: list[int], kind: str, target: Target) -> None:
        if any(b"--frontier" in body for body in bodies):
            return
        content = MIME + multipart("frontier", *(part(kind, body, "binary") for body in bodies))
        plan, converted = survey(content, target, cuts), convert(content, target, cuts)
        self.assertEqual(converted, convert(content, target))
        self.assertLessEqual(len(converted), plan.size + 100)
        # Python's parser ends lines at a lone CR or LF as well, so what was encoded is what it can be asked for.
        found = leaves(converted)
        for body, action, got in zip(bodies, plan.actions[1:], found, strict=False):
            if action:
                self.assertEqual(got, body)
        fit = converted if target == "7bit" else bytes(min(octet, 120) for octet in converted)
        self.assertTrue(seven_bit(fit))


class RefusalTests(SynchronousTestCase):
    """What is not converted, and why."""

    def refused(self, content: bytes, words: str, target: Target = "7bit") -> None:
        for cuts in ([], list(range(min(len(content), 3000)))):
            error = self.assertRaises(Unclear, survey, content, target, cuts)
            self.assertIn(words, str(error))

    def test_what_is_signed(self) -> None:
        """RFC 1847 §2.1: but only if it would have to change."""
        for within in (part("text/plain", EIGHT), multipart("two", part("text/plain", EIGHT))):
            signed = multipart("one", within, part("application/pgp-signature", b"x\r\n"), subtype="signed")
            self.refused(MIME + signed, "signature")
        fit = multipart("one", part("text/plain", b"x\r\n"), part("application/pgp-signature", b"x"), subtype="signed")
        both = MIME + multipart("out", fit, part("text/plain", EIGHT))
        self.assertIn(fit, convert(both))
        self.assertEqual(leaves(convert(both)), [b"x\r\n", b"x", EIGHT])

    def test_a_header(self) -> None:
        self.refused(b"Subject: Gr\xfc\xdfe\r\n\r\nx\r\n", "in its header")
        within = multipart("one", b"Content-Type: message/rfc822\r\n\r\nSubject: \xfc\r\n\r\nx\r\n")
        self.refused(MIME + within, "in its header")
        self.assertEqual(convert(MIME + within, "8bit"), MIME + within)

    def test_outside_of_parts(self) -> None:
        content = MIME + multipart("one", part("text/plain", b"x\r\n"))
        self.refused(content.replace(b"--one\r\n", EIGHT + b"--one\r\n"), "before or behind")
        self.refused(content + EIGHT, "before or behind")

    def test_no_encoding_within_another(self) -> None:
        for encoding in ("base64", "quoted-printable", "x-uuencode"):
            self.refused(MIME + part("text/plain", EIGHT, encoding), f"encoded in '{encoding}'")

    def test_messages_that_must_not_be_encoded(self) -> None:
        for subtype in ("partial", "external-body", "delivery-status"):
            self.refused(MIME + multipart("one", part(f"message/{subtype}", EIGHT)), f"message/{subtype}")

    def test_what_two_readers_may_see_differently(self) -> None:
        good = part("text/plain", EIGHT)
        for content, words in (
            (b"Content-Type: text/plain\r\n" + good, "two types"),
            (b"Content-Transfer-Encoding: 8bit\r\n" + good, "two encodings"),
            (multipart("one", good).replace(b'"one"', b'"one"; boundary=two'), "two boundaries"),
            (multipart("one", good).replace(b"boundary=", b"boundary*0="), "two boundaries"),
            (multipart("one", good).replace(b'; boundary="one"', b""), "without a boundary"),
            (multipart("one", good).replace(b"one", b"one "), "not well formed"),
            (multipart("one", good).replace(b'boundary="one"', b"(boundary=two) boundary=one"), "not well formed"),
            (multipart("one", b"Content-Type: text/plain\r\n\r\n--one and more\r\n" + EIGHT), "almost"),
            (multipart("one", b"Content-Type: text/plain\r\n\r\n--one" + b" " * 2000 + b"\r\n" + EIGHT), "almost"),
            (multipart("one", multipart("one", good)), "end alike"),
            (multipart("one", multipart("one--", good)), "end alike"),
            (multipart("one", b"Content-Type: text/plain\r\nno field\r\n\r\n" + EIGHT), "not well formed"),
        ):
            self.refused(MIME + content, words)

    def test_bounds(self) -> None:
        deep = part("text/plain", EIGHT)
        for level in range(DEPTH + 1):
            deep = multipart(f"level{level}.", deep)
        self.refused(MIME + deep, "too deep")
        many = MIME + multipart("one", *[b"\r\n"] * (PARTS + 1))
        self.assertIn("too many", str(self.assertRaises(Unclear, survey, many)))
        long = MIME + b"X: y\r\n" * (HEADER_LIMIT // 6 + 1)
        self.assertIn("too long", str(self.assertRaises(Unclear, survey, long + b"\r\n")))
        self.assertIn("too long", str(self.assertRaises(Unclear, survey, b"x" * (HEADER_LIMIT + 1))))

    @given(st.lists(st.sampled_from([b"\r\n", b"--b", b"--", b"x", b" ", b"\xe4", b"\r", b"\0", b"a: b\r\n", MIME,
                                     b"Content-Type: multipart/mixed; boundary=b\r\n",
                                     b"Content-Type: message/rfc822\r\n"]), max_size=30).map(b"".join),
           st.lists(st.integers(0, 200), max_size=5))  # fmt: skip
    def test_nothing_else_escapes(self, content: bytes, cuts: list[int]) -> None:
        try:
            converted = convert(content, cuts=cuts)
        except Unclear:
            return
        self.assertEqual(converted, convert(content))
        self.assertTrue(converted.isascii())


class QuotedTests(SynchronousTestCase):
    """RFC 2045 §6.7."""

    @given(st.lists(st.binary(max_size=200).map(lambda line: line.replace(b"\r", b"").replace(b"\n", b"")), max_size=5))
    @example([b"x" * 75 + b"--boundary"])
    @example([b"x" * 74 + b"---" + b"y" * 200 + b"--" + b" " * 90])
    @example([b"\xe4" * 25 + b"--b" + b"\t"])
    def test_lines(self, lines: list[bytes]) -> None:
        text = b"".join(line + b"\r\n" for line in lines)
        coded = quoted(text)
        self.assertEqual(quopri.decodestring(coded), text)
        self.assertTrue(coded.isascii())
        before = b""
        for line in coded.split(b"\r\n"):
            self.assertLessEqual(len(line), 76)
            self.assertFalse(line.endswith((b" ", b"\t")))
            self.assertFalse(before.endswith(b"=") and line.startswith(b"--"), coded)
            before = line
