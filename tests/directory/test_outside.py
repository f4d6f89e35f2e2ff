"""Checkers outside the directory: what they share, Dovecot's protocol, and the escaping for LDAP."""

from __future__ import annotations

import sqlite3
from base64 import b64decode
from pathlib import Path
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.config.settings import Checker, Local, Settings
from twisted_mta.directory.answers import NoAnswer
from twisted_mta.directory.auth import CredentialCache
from twisted_mta.directory.dovecot import PENDING, DovecotProtocol
from twisted_mta.directory.ldap import escape_dn, escape_filter, fill
from twisted_mta.directory.memory import MemoryDirectory, cheap_hash
from twisted_mta.directory.outside import OutsideChecker, OutsideCheckers
from twisted_mta.directory.sql import SqlSource
from twisted_mta.mail.status import MailError

HANDSHAKE = b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nSPID\t7\nCUID\t1\nCOOKIE\tab\nDONE\n"


class FakeSource:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.failure: Exception | None = None

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def good(self, address: str, password: str) -> Any:
        self.asked.append((address, password))
        return fail(self.failure) if self.failure is not None else succeed(password == "secret")


class OutsideTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = MemoryDirectory(Local(), Clock())
        self.directory.add_customer("acme")
        self.directory.add_domain("isp.example", "acme")
        self.directory.add_user("eve@isp.example", "")
        self.directory.add_user("own@isp.example", "own password")
        self.source = FakeSource()
        self.cache = CredentialCache(Clock(), 600)
        self.checker = OutsideChecker("test", self.source, self.directory, self.cache)  # type: ignore[arg-type]

    def ask(self, name: bytes, password: bytes = b"secret") -> Deferred[Any]:
        return self.checker.requestAvatarId(UsernamePassword(name, password))

    def test_granted(self) -> None:
        self.assertEqual(self.successResultOf(self.ask(b"Eve@ISP.example")), b"eve@isp.example")
        self.assertEqual(self.source.asked, [("eve@isp.example", "secret")])
        self.assertEqual(len(self.cache), 1)

    def test_refused(self) -> None:
        """Wrong; unknown to the directory; has a password of their own there.  The source is asked each time."""
        for name, password in (
            (b"eve@isp.example", b"guess"),
            (b"x@isp.example", b"secret"),
            (b"own@isp.example", b"secret"),
        ):
            self.failureResultOf(self.ask(name, password), UnauthorizedLogin)
        self.assertEqual((len(self.source.asked), len(self.cache)), (3, 0))

    def test_not_asked(self) -> None:
        for name, password in (
            (b"eve", b"secret"),
            (b"\xff@isp.example", b"s"),
            (b"eve@isp.example", b"a\0b"),
            (b"", b"s"),
        ):
            self.failureResultOf(self.ask(name, password), UnauthorizedLogin)
        self.assertEqual(self.source.asked, [])

    def test_down(self) -> None:
        self.source.failure = ZeroDivisionError("secret")
        failure = self.failureResultOf(self.ask(b"eve@isp.example"), MailError)
        self.assertEqual((failure.value.reply.code, failure.value.reply.enhanced), (454, "4.7.0"))
        self.assertNotIn("secret", failure.getTraceback())

    def test_reload_keeps_what_has_not_changed(self) -> None:
        one, other = Checker(server="unix:/one"), Checker(server="unix:/other")
        outside = OutsideCheckers(Settings(checker={"a": one, "b": other}), Clock(), self.directory, self.cache)
        outside.start()
        kept, changed = outside
        outside.reconfigure(Settings(checker={"b": attrs.evolve(other, server="unix:/x"), "a": one}))
        self.assertEqual([checker.name for checker in outside], ["b", "a"])
        self.assertIn(kept, list(outside))
        self.assertNotIn(changed, list(outside))
        outside.stop()


class DovecotTests(SynchronousTestCase):
    def connect(self, handshake: bytes = HANDSHAKE) -> DovecotProtocol:
        protocol = DovecotProtocol()
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(handshake)
        return protocol

    def test_handshake(self) -> None:
        protocol = self.connect()
        self.assertIs(self.successResultOf(protocol.ready), protocol)
        self.assertRegex(protocol.transport.value(), rb"\AVERSION\t1\t1\nCPID\t\d+\n\Z")

    def test_other_versions_and_mechanisms(self) -> None:
        for handshake in (HANDSHAKE.replace(b"VERSION\t1", b"VERSION\t2"), b"VERSION\t1\t2\nMECH\tLOGIN\nDONE\n"):
            protocol = self.connect(handshake)
            self.failureResultOf(protocol.ready, NoAnswer)
            self.assertTrue(protocol.transport.disconnecting)

    def test_answers_in_any_order(self) -> None:
        protocol = self.connect()
        protocol.transport.clear()
        answers = [protocol.ask("eve@x", password) for password in ("one", "tab\tand\nline", "three")]
        lines = protocol.transport.value().splitlines()
        self.assertEqual(len(lines), 3)
        self.assertEqual(lines[0].split(b"\t")[:4], [b"AUTH", b"1", b"PLAIN", b"service=smtp"])
        self.assertEqual(b64decode(lines[1].split(b"resp=")[1]), b"\0eve@x\0tab\tand\nline")
        protocol.dataReceived(b"FAIL\t3\tuser=eve@x\nOK\t9\nOK\t1\tuser=eve@x\nFAIL\t2\tuser=eve@x\ttemp\n")
        self.assertEqual([self.successResultOf(answers[0]), self.successResultOf(answers[2])], [True, False])
        self.failureResultOf(answers[1], NoAnswer)

    def test_lost_connection(self) -> None:
        protocol = self.connect()
        answer = protocol.ask("eve@x", "one")
        protocol.connectionLost(None)  # type: ignore[arg-type]
        self.failureResultOf(answer, NoAnswer)
        self.assertFalse(protocol.up)

    def test_bounded(self) -> None:
        protocol = self.connect()
        waiting = [protocol.ask("eve@x", "one") for _ in range(PENDING)]
        self.assertRaises(NoAnswer, protocol.ask, "eve@x", "one")
        waiting[0].addErrback(lambda _: None).cancel()
        protocol.ask("eve@x", "one")

    @given(st.lists(st.sampled_from([b"OK", b"FAIL", b"1", b"\t", b"\n", b"VERSION", b"DONE", b"\xff", b"temp"])))
    def test_nothing_escapes(self, pieces: list[bytes]) -> None:
        protocol = self.connect()
        protocol.ask("eve@x", "one").addErrback(lambda _: None)
        for piece in pieces:
            protocol.dataReceived(piece)


class EscapeTests(SynchronousTestCase):
    def test_dn(self) -> None:
        """The examples of RFC 4514 §4, and what §2.4 asks for."""
        for value, escaped in (
            ('James "Jim" Smith, III', 'James \\"Jim\\" Smith\\, III'),
            ("#a", "\\#a"),
            (" a ", "\\ a\\ "),
            (" ", "\\ "),
            ("a+b;c<d>e\\f=g", "a\\+b\\;c\\<d\\>e\\\\f\\=g"),
            ("a\0b", "a\\00b"),
            ("0#=", "0\\#\\="),
        ):
            self.assertEqual(escape_dn(value), escaped)

    def test_filter(self) -> None:
        """The examples of RFC 4515 §4."""
        for value, escaped in (("Parens R Us (for all)", "Parens R Us \\28for all\\29"), ("*", "\\2a"), ("\\", "\\5c")):
            self.assertEqual(escape_filter(value), escaped)
        self.assertEqual(escape_filter("\0"), "\\00")

    def test_filled_once(self) -> None:
        self.assertEqual(
            fill("(|(mail={address})(uid={user}))", "{domain}@x", escape_filter), "(|(mail={domain}@x)(uid={domain}))"
        )

    @given(st.text())
    def test_ldap3_reads_what_was_written(self, value: str) -> None:
        from ldap3.utils.dn import parse_dn

        if value and value.isprintable():
            self.assertEqual(len(parse_dn(f"uid={escape_dn(value)},dc=x")), 2)


class SqlTests(SynchronousTestCase):
    def good(self, query: str, password: str, rows: list[tuple[str, str]]) -> bool:
        path = Path(self.mktemp()).absolute()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE users (address TEXT, password TEXT)")
            connection.executemany("INSERT INTO users VALUES (?, ?)", rows)
        source = SqlSource("test", Checker(kind="sql", server=f"sqlite:{path}", query=query), Clock())
        return source._good("eve@x.example", password)

    def test_hash(self) -> None:
        query = "SELECT password FROM users WHERE address = :address"
        for stored in (cheap_hash("secret"), "{ARGON2ID}" + cheap_hash("secret")):
            rows = [("eve@x.example", stored)]
            self.assertEqual([self.good(query, word, rows) for word in ("secret", "guess")], [True, False])
        self.assertFalse(self.good(query, "secret", []))
        self.assertFalse(self.good(query, "", [("eve@x.example", "")]))
        self.assertRaises(NoAnswer, self.good, query, "secret", [("eve@x.example", "$6$salt$hash")])

    def test_compared_there(self) -> None:
        query = "SELECT password = :password FROM users WHERE address = :user || '@' || :domain"
        rows = [("eve@x.example", "secret")]
        self.assertEqual([self.good(query, word, rows) for word in ("secret", "guess")], [True, False])

    def test_database_that_is_not_there(self) -> None:
        settings = Checker(kind="sql", server="sqlite:/nowhere/users.db", query="SELECT :address")
        self.assertRaises(sqlite3.Error, SqlSource("test", settings, Clock())._good, "eve@x", "secret")
