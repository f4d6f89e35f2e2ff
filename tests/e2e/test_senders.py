"""Mail programs of others hand mail to the running service: in clear, by STARTTLS, after a login, with octets and
addresses beyond ASCII, with a recipient who is refused; what arrives is what was sent, octet for octet."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from tests.e2e.case import ANN, BEN, ServiceCase
from tests.peers import PeerFailed, wait_for
from tests.peers.senders import (
    DovecotSubmission,
    Letter,
    PostfixSender,
    Send,
    Server,
    by_curl,
    by_exim,
    by_msmtp,
    by_nodemailer,
    by_smtplib,
    by_swaks,
)

pytestmark = pytest.mark.peer

JOE = "joe@far.example"
JUERGEN = "j\u00fcrgen@demo.example"
NOBODY = "nobody@demo.example"
HEAD = (
    "From: A <{sender}>\r\nTo: b@demo.example\r\nSubject: {mark}\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n"
    "Message-ID: <{mark}@model.example>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=iso-8859-1\r\n"
    "Content-Transfer-Encoding: 8bit\r\nX-Odd:   spaces  and\r\n\tfolds\r\n\r\n"
)
TRAPS = (
    b"one\r\n.\r\n..\r\n.dot\r\n\r\nFrom nobody\r\n trailing \t \r\n" + b"x" * 990 + b"\r\n.QUIT\r\nRSET\r\n"
    b"control \x01\x0c\x7f\r\n\r\n.\r\n\r\nend\r\n"
)
EIGHT_BIT = "Gr\u00fc\u00dfe, \xff\r\n".encode("latin-1") * 3


class SenderCase(ServiceCase):
    """What each program is tried with.  ``utf8``: it knows SMTPUTF8; ``relays``: it is no mail program but takes mail
    over and adds a trace field of its own; ``whole``: a letter of which one recipient is refused goes to nobody."""

    send: Send
    ca: ClassVar[str]
    utf8: ClassVar[bool] = True
    relays: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    marks: ClassVar[int] = 0
    settings = {"defence": {"greeting_delay": "0s"}}

    @classmethod
    def prepare(cls) -> None:
        cls.ca = cls.certify()

    @classmethod
    def setUpClass(cls) -> None:
        if cls is not SenderCase:
            super().setUpClass()
            cls.mta.add_user(JUERGEN)

    def run(self, result: object) -> None:  # type: ignore[override]
        """Only those with a program."""
        if type(self) is not SenderCase:
            super().run(result)  # type: ignore[arg-type]

    @property
    def plain(self) -> Server:
        return Server(self.mta.mx, self.ca)

    @property
    def secure(self) -> Server:
        return Server(self.mta.mx, self.ca, tls=True)

    @property
    def submission(self) -> Server:
        return Server(self.mta.submission, self.ca, tls=True, user=ANN, password=self.password)

    def letter(self, sender: str = JOE, *recipients: str, body: bytes = TRAPS) -> tuple[str, Letter]:
        """A letter, and the mark by which it is known."""
        SenderCase.marks += 1
        mark = f"letter{SenderCase.marks}"
        head = HEAD.format(sender="a@far.example", mark=mark).encode()
        return mark, Letter(sender, recipients or (BEN,), head + body)

    def found(self, mark: str, user: str) -> list[bytes]:
        files = [Path(event["file"]) for event in self.mta.events("deliver", recipient=user)]
        return [one for one in (file.read_bytes() for file in files) if f"Subject: {mark}\n".encode() in one]

    def check(self, server: Server, letter: Letter, mark: str, protocol: str, *users: str) -> bytes:
        """Hand a letter in, and look for it in mailboxes; the trace fields before it."""
        said = self.send(server, letter)
        heads = []
        for user in users or letter.recipients:
            try:
                (message,) = wait_for(f"{mark} for {user}", lambda user=user: self.found(mark, user))  # type: ignore[misc]
            except PeerFailed as error:
                raise PeerFailed(f"{error}\n{said}\n{self.log()}") from None
            content = letter.content.replace(b"\r\n", b"\n")
            self.assertEqual(message[-len(content) :], content)
            heads.append(message[: -len(content)])
        self.assertRegex(heads[0].decode(), rf"\tby mta\.demo\.example with {protocol} id ")
        self.assertEqual(heads[0].count(b"\nReceived: "), 2 if self.relays else 1, heads[0])
        self.assertTrue(heads[0].startswith(f"Return-Path: <{letter.sender}>\n".encode()), heads[0])
        return heads[0]

    def log(self) -> str:
        """What the program has to say where mail does not come."""
        return ""

    def test_in_clear(self) -> None:
        mark, letter = self.letter()
        self.check(self.plain, letter, mark, "ESMTP")

    def test_starttls(self) -> None:
        mark, letter = self.letter("tls@far.example")
        self.assertIn(b"TLSv1.3", self.check(self.secure, letter, mark, "ESMTPS"))

    def test_login(self) -> None:
        mark, letter = self.letter(ANN)
        self.check(self.submission, letter, mark, "ESMTPSA")

    def test_octets_beyond_ascii(self) -> None:
        mark, letter = self.letter(body=EIGHT_BIT + TRAPS)
        self.check(self.plain, letter, mark, "ESMTP")

    def test_addresses_beyond_ascii(self) -> None:
        if not self.utf8:
            return  # the program has no SMTPUTF8
        mark, letter = self.letter(JOE, JUERGEN)
        self.check(self.plain, letter, mark, "UTF8SMTP")

    def test_several_recipients_and_one_refused(self) -> None:
        mark, letter = self.letter(JOE, BEN, NOBODY, ANN)
        if self.whole:
            with self.assertRaisesRegex(PeerFailed, "5\\.1\\.1"):
                self.send(self.plain, letter)
            self.assertEqual(self.found(mark, BEN) + self.found(mark, ANN), [])
            return
        self.check(self.plain, letter, mark, "ESMTP", BEN, ANN)
        self.assertTrue(self.mta.wait_event("reject", recipient=NOBODY, sender=JOE))


class SwaksTests(SenderCase):
    """swaks."""

    send = staticmethod(by_swaks)
    utf8 = False


class CurlTests(SenderCase):
    """curl."""

    send = staticmethod(by_curl)


class SmtplibTests(SenderCase):
    """Python's smtplib."""

    send = staticmethod(by_smtplib)


class NodemailerTests(SenderCase):
    """nodemailer, the usual client of Node.js."""

    send = staticmethod(by_nodemailer)


class MsmtpTests(SenderCase):
    """msmtp."""

    send = staticmethod(by_msmtp)
    utf8 = False
    whole = True


class EximTests(SenderCase):
    """Exim as a sending MTA."""

    send = staticmethod(by_exim)
    relays = True


class PostfixTests(SenderCase):
    """Postfix as a sending MTA, which uses PIPELINING, SIZE, 8BITMIME, DSN and SMTPUTF8."""

    relays = True
    postfix: ClassVar[PostfixSender]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        plain = Server(cls.mta.mx, cls.ca)
        login = Server(cls.mta.submission, cls.ca, tls=True, user=ANN, password=cls.mta.password)
        routes = {JOE: plain, "tls@far.example": Server(cls.mta.mx, cls.ca, tls=True), ANN: login}
        cls.postfix = PostfixSender(routes)
        cls.addClassCleanup(cls.postfix.close)
        cls.postfix.start()

    @property
    def send(self) -> Send:  # type: ignore[override]
        return self.postfix

    def log(self) -> str:
        return self.postfix.output()


class DovecotTests(SenderCase):
    """Dovecot's submission server hands on what its clients say, command by command."""

    relays = True
    utf8 = False

    def send(self, server: Server, letter: Letter) -> str:  # type: ignore[override]
        with DovecotSubmission(server, "secret") as dovecot:
            return dovecot(server, letter)
