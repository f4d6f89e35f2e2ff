"""Delivery status notifications, read back by the standard library's parser."""

from __future__ import annotations

import email
import email.policy
import re
from email.message import EmailMessage
from email.message import Message as Parsed
from email.utils import parsedate_to_datetime

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.mail.envelope import Message, Recipient
from twisted_mta.mail.status import Reply
from twisted_mta.report.dsn import HEAD_LIMIT, Failure, Notice, field, header_section, write

NOW = 1_800_000_000.0
HEAD = b"From: Bob <bob@isp.example>\r\nTo: carl@example.org\r\nSubject: Lunch?\r\n\r\n"
GONE = Reply(550, "5.1.1", "No such user here\nSee https://example.org/errors")


def failure(address: str = "carl@example.org", **more: object) -> Failure:
    values = {
        "recipient": Recipient(address, address),
        "reply": GONE,
        "host": "mx.example.org",
        "remote": True,
        "last_attempt": NOW - 5,
    }
    return Failure(**values | more)


def notice(*failures: Failure, **more: object) -> Notice:
    message = Message(
        id="cs8q52c800000001",
        arrived=NOW - 100,
        sender="bob@isp.example",
        recipients=1,
        size=1,
        chunks=1,
        expires=NOW + 400_000,
        message_id=str(more.pop("original_id", "<orig@isp.example>")),
    )
    values = {
        "kind": "failed",
        "hostname": "mx1.isp.example",
        "to": "bob@isp.example",
        "message_id": "<cs8q52c800000002@mx1.isp.example>",
        "now": NOW,
        "message": message,
        "failures": failures or (failure(),),
        "head": HEAD + b"The body stays private\r\n",
        "retry_until": NOW + 400_000,
    }
    return Notice(**values | more)


def parse(raw: bytes) -> tuple[Parsed, str, list[Parsed], bytes]:
    """The message, its text for people, the field groups, and the header part's octets."""
    parsed = email.message_from_bytes(raw)
    human, status, head = parsed.get_payload()
    return parsed, human.get_payload(decode=True).decode(), status.get_payload(), head.get_payload(decode=True)


class Asked(SynchronousTestCase):
    """What a sender asked for with the parameters of RFC 3461."""

    def write(self, kind: str = "failed", content: bytes = HEAD + b"Body\r\n", **about: object) -> bytes:
        address = "carl@example.org"
        recipient = Recipient(address, address, "SUCCESS,FAILURE", "rfc822;Carl+2Bx@old.example")
        one = notice(failure(recipient=recipient), kind=kind, head=content)
        about = {"size": len(content), "ret": "FULL", "envid": "QQ+2B1"} | about
        return write(msgspec.structs.replace(one, message=msgspec.structs.replace(one.message, **about)))

    def test_fields(self) -> None:
        _, _, fields, _ = parse(self.write(ret="HDRS"))
        self.assertEqual(fields[0]["Original-Envelope-Id"], "QQ+1")
        self.assertEqual(fields[1]["Original-Recipient"], "rfc822; Carl+x@old.example")
        self.assertEqual(fields[1]["Final-Recipient"], "rfc822; carl@example.org")

    def test_the_message_is_returned(self) -> None:
        parsed = email.message_from_bytes(self.write())
        returned = parsed.get_payload()[2]
        self.assertEqual(returned.get_content_type(), "message/rfc822")
        self.assertEqual(returned.get_payload()[0].get_payload(), "Body\r\n")
        self.assertEqual(parsed["Content-Transfer-Encoding"], "7bit")

    def test_eight_bit_is_returned_as_it_is(self) -> None:
        raw = self.write(content=HEAD + "Grüße\r\n".encode())
        parsed = email.message_from_bytes(raw)
        self.assertEqual(parsed["Content-Transfer-Encoding"], "8bit")
        self.assertIn("Grüße".encode(), raw)

    def test_only_the_header(self) -> None:
        for raw in (
            self.write(ret="HDRS"),
            self.write(ret=""),
            self.write("delivered"),
            self.write("relayed"),
            self.write("delayed"),
            self.write(size=100_000, chunks=2),
        ):
            returned = email.message_from_bytes(raw).get_payload()[2]
            self.assertEqual(returned.get_content_type(), "text/rfc822-headers")
            self.assertNotIn(b"Body", raw)

    def test_success(self) -> None:
        for kind, subject in (("delivered", "Delivered: "), ("relayed", "Relayed: ")):
            parsed, human, fields, _ = parse(self.write(kind))
            self.assertEqual(fields[1]["Action"], kind)
            self.assertTrue(parsed["Subject"].startswith(subject))
            self.assertIn("You get this because you asked for it.", " ".join(human.split()))
            self.assertNotIn("Check the address", human)


class BeyondAscii(SynchronousTestCase):
    """RFC 6533."""

    ADDRESS = "bj\u00f6rn+x@example.org"

    def test_to_somebody_who_may_not_know_utf8(self) -> None:
        raw = write(notice(failure(self.ADDRESS)))
        self.assertTrue(raw.isascii())
        _, human, fields, _ = parse(raw)
        self.assertEqual(fields[1]["Final-Recipient"], "utf-8; bj\\x{F6}rn\\x{2B}x@example.org")
        self.assertEqual(fields[1]["Original-Recipient"], "utf-8; bj\\x{F6}rn\\x{2B}x@example.org")
        self.assertIn(f"<{self.ADDRESS}>", human)

    def test_to_somebody_whose_address_is_in_utf8(self) -> None:
        raw = write(
            notice(
                failure(self.ADDRESS), to="j\u00fcrgen@isp.example", head="Subject: Gr\u00fc\u00dfe\r\n\r\n".encode()
            )
        )
        parsed = email.message_from_bytes(raw, policy=email.policy.SMTPUTF8)
        self.assertIn("To: j\u00fcrgen@isp.example\r\n".encode(), raw)
        self.assertEqual(parsed["Content-Transfer-Encoding"], "8bit")
        kinds = [part.get_content_type() for part in parsed.get_payload()]
        self.assertEqual(kinds, ["text/plain", "message/global-delivery-status", "message/global-headers"])
        self.assertIn(f"Final-Recipient: utf-8; {self.ADDRESS}\r\n".encode(), raw)
        self.assertIn("Subject: Gr\u00fc\u00dfe\r\n".encode(), raw)

    def test_a_message_that_comes_back(self) -> None:
        content = "Subject: Gr\u00fc\u00dfe\r\n\r\nx\r\n".encode()
        one = notice(failure(self.ADDRESS), head=content)
        about = msgspec.structs.replace(one.message, size=len(content), ret="FULL", utf8=True)
        raw = write(msgspec.structs.replace(one, message=about))
        self.assertIn(b"Content-Type: message/global\r\n", raw)

    def test_a_binary_message_does_not_come_back(self) -> None:
        """The report is text, whatever RET says: the header section alone."""
        content = b"Subject: x\r\n\r\n\0\n"
        one = notice(failure(self.ADDRESS), head=content)
        about = msgspec.structs.replace(one.message, size=len(content), ret="FULL", body="BINARYMIME")
        raw = write(msgspec.structs.replace(one, message=about))
        self.assertNotIn(b"\0", raw)
        self.assertIn(b"Content-Type: text/rfc822-headers", raw)


class Failed(SynchronousTestCase):
    """A report of failure, field by field."""

    def setUp(self) -> None:
        self.raw = write(notice())
        self.parsed, self.human, self.fields, self.head = parse(self.raw)

    def test_header(self) -> None:
        self.assertEqual(self.parsed["From"], "Mail Delivery System <MAILER-DAEMON@mx1.isp.example>")
        self.assertEqual(self.parsed["To"], "bob@isp.example")
        self.assertEqual(self.parsed["Message-ID"], "<cs8q52c800000002@mx1.isp.example>")
        self.assertEqual(self.parsed["Auto-Submitted"], "auto-replied")
        self.assertEqual(self.parsed["In-Reply-To"], "<orig@isp.example>")
        self.assertEqual(self.parsed["MIME-Version"], "1.0")
        self.assertEqual(parsedate_to_datetime(self.parsed["Date"]).timestamp(), NOW)
        self.assertIsNone(self.parsed["Return-Path"], "the null return path is in the envelope")
        self.assertEqual(self.parsed.defects, [])

    def test_structure(self) -> None:
        self.assertEqual(self.parsed.get_content_type(), "multipart/report")
        self.assertEqual(self.parsed.get_param("report-type"), "delivery-status")
        self.assertEqual(
            [part.get_content_type() for part in self.parsed.get_payload()],
            ["text/plain", "message/delivery-status", "text/rfc822-headers"],
        )

    def test_message_fields(self) -> None:
        about = self.fields[0]
        self.assertEqual(about["Reporting-MTA"], "dns; mx1.isp.example")
        self.assertEqual(parsedate_to_datetime(about["Arrival-Date"]).timestamp(), NOW - 100)
        self.assertEqual(about["X-Queue-ID"], "cs8q52c800000001")

    def test_recipient_fields(self) -> None:
        [about] = self.fields[1:]
        self.assertEqual(about["Final-Recipient"], "rfc822; carl@example.org")
        self.assertEqual(about["Original-Recipient"], "rfc822; carl@example.org")
        self.assertEqual(about["Action"], "failed")
        self.assertEqual(about["Status"], "5.1.1")
        self.assertEqual(about["Remote-MTA"], "dns; mx.example.org")
        self.assertEqual(
            " ".join(about["Diagnostic-Code"].split()),
            "smtp; 550 5.1.1 No such user here See https://example.org/errors",
        )
        self.assertEqual(parsedate_to_datetime(about["Last-Attempt-Date"]).timestamp(), NOW - 5)
        self.assertIsNone(about["Will-Retry-Until"])

    def test_the_original_s_header_and_nothing_else(self) -> None:
        self.assertEqual(self.head, HEAD[:-2])
        self.assertNotIn(b"private", self.raw)

    def test_people_understand_it(self) -> None:
        for words in (
            "could not be delivered",
            "Subject: Lunch?",
            "<carl@example.org>",
            "mx.example.org answered:",
            "550 5.1.1 No such user here",
            "Check the address",
        ):
            self.assertIn(words, self.human)
        self.assertLessEqual(max(map(len, self.human.splitlines())), 78)

    def test_also_for_the_modern_parser(self) -> None:
        parsed = email.message_from_bytes(self.raw, policy=email.policy.SMTP)
        assert isinstance(parsed, EmailMessage)
        self.assertEqual(parsed["From"].addresses[0].addr_spec, "MAILER-DAEMON@mx1.isp.example")
        for part in parsed.walk():
            self.assertEqual(part.defects, [], part.get_content_type())
            for name in part:
                self.assertEqual(getattr(part[name], "defects", ()), (), name)


class Variants(SynchronousTestCase):
    """What differs from report to report."""

    def test_several_recipients(self) -> None:
        full = Reply(552, "5.2.2", "Quota exceeded")
        _, human, fields, _ = parse(write(notice(failure(), failure("dora@example.net", reply=full))))
        self.assertEqual([it["Status"] for it in fields[1:]], ["5.1.1", "5.2.2"])
        self.assertIn("2 recipients", human)
        self.assertIn("mailbox is full", human)

    def test_an_alias(self) -> None:
        recipient = Recipient("carl@example.org", "sales@isp.example")
        _, human, fields, _ = parse(write(notice(failure(recipient=recipient))))
        self.assertEqual(fields[1]["Final-Recipient"], "rfc822; carl@example.org")
        self.assertEqual(fields[1]["Original-Recipient"], "rfc822; sales@isp.example")
        self.assertIn("<sales@isp.example>", human)

    def test_our_own_words(self) -> None:
        late = failure(reply=Reply(451, "4.4.1", "Connection timed out"), host="", remote=False, expired=True)
        _, human, fields, _ = parse(write(notice(late)))
        self.assertIsNone(fields[1]["Remote-MTA"])
        self.assertEqual(fields[1]["Status"], "5.4.7")
        self.assertEqual(fields[1]["Diagnostic-Code"], "x-twisted-mta; 451 4.4.1 Connection timed out")
        self.assertIn("again and again", human)

    def test_delayed(self) -> None:
        parsed, human, fields, _ = parse(write(notice(failure(reply=Reply(450, "4.2.0", "Busy")), kind="delayed")))
        self.assertEqual(fields[1]["Action"], "delayed")
        self.assertEqual(fields[1]["Status"], "4.2.0")
        self.assertEqual(parsedate_to_datetime(fields[1]["Will-Retry-Until"]).timestamp(), NOW + 400_000)
        self.assertTrue(parsed["Subject"].startswith("Delayed"))
        self.assertIn("do not send it a second time", " ".join(human.split()))

    def test_to_the_postmaster(self) -> None:
        _, human, _, _ = parse(write(notice(to="root@isp.example", about_report=True)))
        self.assertIn("postmaster", human)

    def test_a_status_that_is_none(self) -> None:
        for reply, status in ((Reply(550, "", "no"), "5.0.0"), (Reply(554, "5.x", "no"), "5.0.0")):
            self.assertEqual(parse(write(notice(failure(reply=reply))))[2][1]["Status"], status)

    def test_without_a_head(self) -> None:
        self.assertEqual(parse(write(notice(head=b"")))[3], b"")

    def test_a_message_id_that_is_none(self) -> None:
        for broken in ("", "nonsense", "<a b@c>", "<a@b>\r\nBcc: x@y"):
            parsed = parse(write(notice(original_id=broken)))[0]
            self.assertIsNone(parsed["In-Reply-To"], broken)
            self.assertIsNone(parsed["Bcc"])


class Hostile(SynchronousTestCase):
    """What a peer wrote stays what it is: words."""

    def test_a_reply_makes_no_field(self) -> None:
        reply = Reply(550, "5.1.1", "no\r\nAction: delivered\r\n\r\nFinal-Recipient: rfc822; x@y\r\n--report")
        _, _, fields, _ = parse(write(notice(failure(reply=reply))))
        self.assertEqual(len(fields), 2)
        self.assertEqual(fields[1].get_all("Action"), ["failed"])
        self.assertEqual(len(fields[1].get_all("Final-Recipient")), 1)

    def test_a_host_makes_no_field(self) -> None:
        _, _, fields, _ = parse(write(notice(failure(host="mx\r\nAction: delivered"))))
        self.assertEqual(fields[1].get_all("Action"), ["failed"])

    def test_control_characters_are_shown_as_escapes(self) -> None:
        raw = write(notice(failure("a\rb\x1b[2J@example.org", reply=Reply(550, "5.1.1", "no\x07\u202eway"))))
        _, human, fields, _ = parse(raw)
        for text in (human, fields[1].as_string()):
            self.assertIn("a\\rb\\x1b[2J@example.org", text)
            self.assertIn("no\\x07\\u202eway", text)

    def test_eight_bits(self) -> None:
        head = b"Subject: Gr\xfc\xdfe\r\nX-Bad: \x00\r\n" + b"X-Long: " + b"y" * 2000 + b"\r\n\r\n"
        raw = write(notice(failure(reply=Reply(550, "5.1.1", "Empfänger unbekannt")), head=head))
        self.assertTrue(raw.isascii())
        self.assertNotIn(b"\0", raw)
        parsed, human, fields, back = parse(raw)
        self.assertEqual(back, head[:-2])
        self.assertIn("Empfänger unbekannt", human)
        self.assertIn("Empf\\xe4nger unbekannt", fields[1]["Diagnostic-Code"])
        self.assertEqual(parsed.defects, [])

    def test_a_long_head_is_cut_at_a_line(self) -> None:
        head = b"".join(b"X-%d: %s\r\n" % (n, b"z" * 60) for n in range(5000))
        back = parse(write(notice(head=head)))[3]
        self.assertTrue(HEAD_LIMIT - 100 < len(back) <= HEAD_LIMIT)
        self.assertTrue(head.startswith(back))
        self.assertTrue(back.endswith(b"z\r\n"))

    @given(
        text=st.text(max_size=3000),
        host=st.text(max_size=50),
        head=st.binary(max_size=300),
        address=st.text(min_size=1, max_size=50),
        message_id=st.text(max_size=50),
    )
    def test_anything(self, text: str, host: str, head: bytes, address: str, message_id: str) -> None:
        raw = write(
            notice(failure(address, reply=Reply(550, "5.1.1", text), host=host), head=head, original_id=message_id)
        )
        self.assertTrue(raw.isascii())
        self.assertNotIn(b"\0", raw)
        self.assertEqual(raw.count(b"\r"), raw.count(b"\r\n"))
        self.assertEqual(raw.count(b"\n"), raw.count(b"\r\n"))
        self.assertLessEqual(max(map(len, raw.split(b"\r\n"))), 998)
        parsed, _, fields, back = parse(raw)
        self.assertEqual(len(fields), 2)
        self.assertEqual(fields[1]["Action"], "failed")
        self.assertEqual(fields[1]["Status"], "5.1.1")
        self.assertEqual(len(parsed.get_all("To")), 1)
        self.assertTrue(head.replace(b"\r\n", b"\n").startswith(back.replace(b"\r\n", b"\n")), back)


class Heads(SynchronousTestCase):
    """The header section of an original."""

    def test_section(self) -> None:
        for content, section in {
            b"": b"",
            b"\r\nbody\r\n": b"",
            b"A: b\r\n\r\nbody\r\n": b"A: b\r\n",
            b"A: b\r\nC: d\r\n": b"A: b\r\nC: d\r\n",
            b"A: b\r\nC: cut": b"A: b\r\n",
            b"cut": b"",
        }.items():
            self.assertEqual(header_section(content), section, content)

    def test_limit(self) -> None:
        self.assertEqual(header_section(b"A: b\r\nC: d\r\n\r\n", 8), b"A: b\r\n")
        self.assertEqual(header_section(b"A: bbbbbbbbbbbb\r\n\r\n", 8), b"")

    def test_field(self) -> None:
        for head, text in {
            b"Subject: Hi\r\n": "Hi",
            b"X: y\r\nsubject:Hi\r\n there\r\n": "Hi there",
            b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= an alle\r\n": "Grüße an alle",
            b"Subject: =?no-such?q?x?=\r\n": "=?no-such?q?x?=",
            b"Subject: =?utf-8?b?####?=\r\n": None,
            b"Subject: a\x07b\r\n": "a b",
            b"X: y\r\n": "",
        }.items():
            got = field(head, b"subject")
            if text is not None:
                self.assertEqual(got, text, head)
            self.assertTrue(got.isprintable())

    @given(st.binary(max_size=200))
    def test_field_of_anything(self, raw: bytes) -> None:
        self.assertTrue(re.fullmatch(r"[^\r\n]*", field(b"Subject: " + raw + b"\r\n", b"subject")))
