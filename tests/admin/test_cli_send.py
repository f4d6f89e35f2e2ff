"""mta send."""

from __future__ import annotations

import re
from io import BytesIO

from hypothesis import given
from hypothesis import strategies as st

from tests.admin.case import CliCase
from twisted_mta.admin.local_mail import lines_of


class Send(CliCase):
    def setUp(self) -> None:
        super().setUp()
        self.populate()

    def sent(self, *args: str, text: str | bytes) -> tuple[dict[str, object], str]:
        """What is queued, and its content."""
        value = self.json("send", *args, input=text)
        [*found] = [one for one in self.json("queue", "list") if one["id"] == value["id"]]
        content = self.run_mta("queue", "cat", value["id"]).stdout_bytes.decode()
        return {"sender": found[0]["sender"], "customer": found[0]["customer"], "due": found[0]["next_attempt"],
                "to": sorted(r["address"] for one in found for r in one["recipients"]), "id": value["id"],
                "destinations": sorted(one["destination"] for one in found)}, content  # fmt: skip

    def test_bare_text(self) -> None:
        sent, content = self.sent("--from", "a@b.example", "--to", "x@c.example", text="Hello\n.\nWorld")
        self.assertEqual((sent["sender"], sent["to"], sent["customer"]), ("a@b.example", ["x@c.example"], ""))
        self.assertEqual(sent["due"], self.clock.now)
        self.assertRegex(content, re.compile(
            r"\AReceived: by mx1\.isp\.example \(twisted-mta, from userid \d+\)\s+id \w{16};\s+"
            r"Mon, 23 Nov 2026 12:00:00 \+0000\r\n"
            r"From: <a@b\.example>\r\nDate: Mon, 23 Nov 2026 12:00:00 \+0000\r\n"
            r"Message-ID: <\w{16}@mx1\.isp\.example>\r\n\r\nHello\r\n\.\r\nWorld", re.DOTALL))  # fmt: skip

    def test_header_names_the_recipients(self) -> None:
        text = (
            "Subject: hi\nTo: X <x@c.example>, carl@acme.example\nCc: sales@acme.example\nBcc: s@d.example,\n"
            " t@e.example\nReturn-Path: <z@z>\nMessage-ID: <own@id>\nDate: today\nFrom: Me <me@acme.example>\n\nbody\n"
        )
        sent, content = self.sent(text=text)
        self.assertEqual(sent["sender"], "me@acme.example")
        self.assertEqual(sent["to"], ["carl@acme.example", "s@d.example", "t@e.example", "x@c.example"])
        self.assertEqual(
            sent["destinations"], ["maildir:acme.example", "smtp:c.example", "smtp:d.example", "smtp:e.example"]
        )
        for gone in ("Bcc", "Return-Path", "s@d.example", "t@e.example"):
            self.assertNotIn(gone, content)
        self.assertEqual(content.count("Message-ID:"), 1)
        self.assertEqual(content.count("Date:"), 1)
        self.assertTrue(content.endswith("\r\n\r\nbody\r\n"))

    def test_the_story_begins_here(self) -> None:
        sent, _ = self.sent("--from", "<>", "--to", "x@c.example", text="Hello\n")
        lines = self.out("trace", str(sent["id"]))
        self.assertIn("  From        <>", lines)
        self.assertIn("  12:00:00.000           accepted   from this machine", lines)

    def test_on_behalf_of_a_user(self) -> None:
        sent, _ = self.sent("--user", "anna@acme.example", "--to", "x@c.example", text="Hello\n")
        self.assertEqual((sent["sender"], sent["customer"]), ("anna@acme.example", "acme"))
        self.assertEqual(self.json("usage", "acme")["usage"]["recipients_per_day"]["used"], 1)

    def test_quotas_hold(self) -> None:
        to = [arg for n in range(101) for arg in ("--to", f"x{n}@c.example")]
        said = self.error("send", "--user", "anna@acme.example", *to, input="Hello\n", code=4)
        self.assertIn("recipients", said)
        self.assertEqual(self.json("queue", "list"), [])

    def test_refusals_send_nothing(self) -> None:
        cases = [
            (["--user", "anna@acme.example", "--from", "boss@other.example", "--to", "x@c.example"], 1,
             "anna@acme.example may not send as boss@other.example"),
            (["--from", "a@b.example", "--to", "nobody@acme.example", "--to", "x@c.example"], 1, "550 5.1.1"),
            (["--from", "a@b.example", "--to", "not an address"], 1, "not an address: "),
            (["--from", "a@b.example"], 1, "to whom?"),
            (["--user", "nobody@acme.example", "--to", "x@c.example"], 3, "there is no user"),
            (["--to", "x@c.example", "/no/such/file"], 1, "No such file"),
        ]  # fmt: skip
        self.shut(self.store())
        for args, code, words in cases:
            self.assertIn(words, self.error("send", *args, input="Subject: x\n\nHello\n", code=code))
        self.assertEqual(self.json("queue", "list"), [])
        self.assertEqual(self.out("queue", "verify"), ["The queue is in order."])

    def test_the_suspended_send_nothing(self) -> None:
        self.run_mta("customer", "set", "acme", "--suspend")
        self.error("send", "--user", "anna@acme.example", "--to", "x@c.example", input="x\n", code=1)

    def test_large(self) -> None:
        body = b"x" * 76 + b"\n"
        _, content = self.sent("--from", "a@b.example", "--to", "x@c.example", text=b"Subject: big\n\n" + body * 5000)
        self.assertTrue(content.endswith("\r\n\r\n" + ("x" * 76 + "\r\n") * 5000))
        self.configure("[smtp]\nmessage_bytes = 100000\n")
        self.error("send", "--from", "a@b.example", "--to", "x@c.example", input=body * 5000, code=1)

    def test_file(self) -> None:
        file = self.base / "message"
        file.write_bytes(b"Subject: x\r\n\r\nfrom a file\r\n")
        _, content = self.sent("--from", "a@b.example", "--to", "x@c.example", str(file), text="")
        self.assertTrue(content.endswith("from a file\r\n"))


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"." * 40000]), max_size=12), st.integers(1, 9))
def test_lines_end_with_crlf_however_they_are_split(parts: list[bytes], step: int) -> None:
    class Slow(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(step if len(data) < 1000 else size)

    data = b"".join(parts)
    got = b"".join(lines_of(Slow(data)))
    assert got == re.sub(rb"\r\n|\r|\n", b"\r\n", data)
