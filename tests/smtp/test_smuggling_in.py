"""SMTP smuggling (CVE-2023-51764, -51765, -51766, CVE-2024-27305): every end of data that some server ever took.

Each test sends one message in which a second one is hidden behind such a sequence.  It must be refused, or stay one
message; the hidden commands must never be run.  What was in use in real attacks is in RFC 5321 §4.1.1.4's own words:
"only the character sequence <CRLF>.<CRLF>" ends the data.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.smtp.world import Client, World, codes
from twisted_mta.mail.events import Accepted

HIDDEN = b"MAIL FROM:<boss@isp.example>%sRCPT TO:<ann@isp.example>%sDATA%sSubject: forged%s%sYou are fired%s"
HEAD = b"From: joe@far.example\r\nSubject: innocent\r\n\r\nhello"


class SmugglingTests(SynchronousTestCase):
    """One test for each sequence.  ``_try`` does all of it, at both settings and at every place to cut the stream."""

    def _session(self, setting: str) -> tuple[World, Client]:
        world = World(bare_newline=setting)
        client = world.session()
        client.say("EHLO far.example", "MAIL FROM:<joe@far.example>", "RCPT TO:<ann@isp.example>", "DATA")
        return world, client

    def _try(self, end: bytes) -> None:
        self.assertNotIn(b"\r\n.\r\n", end)
        for newline in (b"\r\n", b"\n", b"\r"):
            hidden = HIDDEN.replace(b"%s", newline)
            content = HEAD + end + hidden
            for setting in ("reject", "replace"):
                for cut in (0, *range(len(HEAD), len(HEAD) + len(end) + 4), len(content)):
                    self._one(setting, content, cut)

    def _one(self, setting: str, content: bytes, cut: int) -> None:
        world, client = self._session(setting)
        client.server.dataReceived(content[:cut])
        client.server.dataReceived(content[cut:])
        self.assertEqual(client.read(), b"", "nothing may be answered before the real end")
        client.server.dataReceived(b"\r\n.\r\nNOOP\r\n")
        said = client.read()
        first, second = codes(said)
        self.assertEqual(second, 250, said)  # the dialogue is in step: only NOOP was run
        self.assertEqual(len(world.of(Accepted)), len(world.store.messages))
        if first == 250:
            self.assertEqual(setting, "replace")
            ((_, stored),) = world.store.messages
            self.assertIn(b"forged", stored)
            self.assertNotIn(b"\r", stored.replace(b"\r\n", b""))
            self.assertNotIn(b"\n", stored.replace(b"\r\n", b""))
        else:
            self.assertIn((first, said[4:9]), [(550, b"5.5.2"), (554, b"5.5.2")])
            self.assertEqual(world.store.messages, [])
            self.assertEqual([incoming.aborted for incoming in world.store.begun], [1])

    def test_lf_dot_lf(self) -> None:
        self._try(b"\n.\n")

    def test_lf_dot_crlf(self) -> None:
        self._try(b"\n.\r\n")

    def test_crlf_dot_lf(self) -> None:
        self._try(b"\r\n.\n")

    def test_cr_dot_cr(self) -> None:
        self._try(b"\r.\r")

    def test_cr_dot_lf(self) -> None:
        self._try(b"\r.\n")

    def test_cr_dot_crlf(self) -> None:
        self._try(b"\r.\r\n")

    def test_crlf_dot_cr(self) -> None:
        self._try(b"\r\n.\r")

    def test_lf_dot_cr(self) -> None:
        self._try(b"\n.\r")

    def test_lf_cr_dot(self) -> None:
        self._try(b"\n\r.\n\r")

    def test_crlf_nul_dot_crlf(self) -> None:
        self._try(b"\r\n\0.\r\n")

    def test_crlf_dot_nul_crlf(self) -> None:
        self._try(b"\r\n.\0\r\n")

    def test_crlf_dot_cr_nul_lf(self) -> None:
        self._try(b"\r\n.\r\0\n")

    def test_cr_nul_lf_dot_crlf(self) -> None:
        self._try(b"\r\0\n.\r\n")

    def test_crlf_dot_cr_cr_lf(self) -> None:
        self._try(b"\r\n.\r\r\n")

    def test_cr_crlf_dot_crlf(self) -> None:
        """Here CRLF.CRLF is in it all the same, and ends the message, which is refused for its CR (or mended)."""
        for setting, first in (("reject", 550), ("replace", 250)):
            world, client = self._session(setting)
            client.server.dataReceived(HEAD + b"\r\r\n.\r\nNOOP\r\n")
            self.assertEqual(codes(client.read()), [first, 250])
            self.assertEqual(len(world.store.messages), int(first == 250))

    def test_crlf_dot_space_crlf(self) -> None:
        """A dot and a space are text: one message, its stuffed dot taken off (RFC 5321 §4.5.2)."""
        world, client = self._session("reject")
        client.server.dataReceived(HEAD + b"\r\n. \r\nMAIL FROM:<boss@isp.example>\r\n.\r\nNOOP\r\n")
        self.assertEqual(codes(client.read()), [250, 250])
        self.assertTrue(world.store.messages[0][1].endswith(b"hello\r\n \r\nMAIL FROM:<boss@isp.example>\r\n"))

    def test_crlf_two_dots_crlf(self) -> None:
        world, client = self._session("reject")
        client.server.dataReceived(HEAD + b"\r\n..\r\nMAIL FROM:<boss@isp.example>\r\n.\r\nNOOP\r\n")
        self.assertEqual(codes(client.read()), [250, 250])
        self.assertTrue(world.store.messages[0][1].endswith(b"hello\r\n.\r\nMAIL FROM:<boss@isp.example>\r\n"))

    def test_bare_newlines_in_commands(self) -> None:
        """Nor does a bare LF or CR end a command: what is behind it is not another one."""
        for newline in (b"\n", b"\r"):
            world = World()
            client = world.session()
            client.read()
            said = client.say(b"EHLO far.example" + newline + b"MAIL FROM:<boss@isp.example>", "NOOP")
            self.assertEqual(codes(said), [501, 250])
