"""Passwords that others check: the real Dovecot, slapd and PostgreSQL, and SQLite; and what is said when they are down.

Users of ours without a password log in by whoever knows it; quotas and senders are the directory's.
"""

from __future__ import annotations

import shutil
import signal
import smtplib
import sqlite3
from base64 import b64encode
from typing import Any, ClassVar

import psycopg
import pytest

from tests.e2e.case import ServiceCase
from tests.peers import wait_for
from tests.peers.authdaemons import DovecotAuth, Postgresql, Slapd
from tests.peers.process import LOOPBACK, free_port, peer_dir
from twisted_mta.directory.passwords import hash_password

pytestmark = pytest.mark.peer

FAST = {"smtp": {"auth_delay": "1ms"}}
EVE, STRANGER = "eve@demo.example", "mallory@demo.example"
TRICKS = ("*@demo.example", "eve)(mail=*@demo.example", "' or '1'='1@demo.example", "eve,ou=people@demo.example")


class CheckerCase(ServiceCase):
    __test__ = False
    passwords: ClassVar[dict[str, str]] = {EVE: "eve's päss", STRANGER: "secret"}

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.mta.cli("user", "add", EVE, "--no-password")

    def auth(self, user: str, password: str) -> int:
        """The code of the answer."""
        with smtplib.SMTP(LOOPBACK, self.mta.submission, timeout=20) as session:
            session.ehlo()
            return session.docmd("AUTH", "PLAIN " + b64encode(f"\0{user}\0{password}".encode()).decode())[0]

    def check_logins(self) -> None:
        self.assertEqual(self.auth(EVE, "wrong"), 535)
        self.assertEqual(self.auth(EVE, self.passwords[EVE]), 235)
        self.assertEqual(self.auth(EVE.title(), self.passwords[EVE]), 235)
        self.assertEqual(self.auth("ann@demo.example", self.mta.password), 235)
        self.assertEqual(self.auth(STRANGER, self.passwords[STRANGER]), 535, "whom the directory does not know")
        for trick in TRICKS:
            self.assertEqual(self.auth(trick, self.passwords[EVE]), 535, trick)
        self.assertNotIn(self.passwords[EVE], self.mta.output())
        self.assertEqual([e for e in self.mta.events("auth-failed") if e.get("temporary")], [])

    def check_down(self) -> None:
        """Nobody knows: 454 4.7.0 for a password that was not asked about yet, right or wrong; our own users log in."""
        for password in ("wrong", f"{self.passwords[EVE]} "):
            self.assertEqual(self.auth(EVE, password), 454)
        self.assertEqual(self.auth("ann@demo.example", self.mta.password), 235)
        self.assertNotIn(self.passwords[EVE], self.mta.output())


class DovecotTests(CheckerCase):
    __test__ = True
    peer: ClassVar[DovecotAuth]

    @classmethod
    def prepare(cls) -> None:
        cls.peer = DovecotAuth(cls.passwords)
        cls.addClassCleanup(cls.peer.close)
        cls.peer.start()
        cls.settings = {**FAST, "checker": {"dovecot": {"kind": "dovecot", "server": f"unix:{cls.peer.socket}"}}}

    def test_logins(self) -> None:
        self.check_logins()
        self.peer.kill()
        self.check_down()
        self.peer.socket.unlink(missing_ok=True)
        self.peer.start()
        wait_for("Dovecot is asked again", lambda: self.auth(EVE, "wrong") == 535)


class LdapTests(CheckerCase):
    __test__ = True
    peer: ClassVar[Slapd]

    @classmethod
    def prepare(cls) -> None:
        cls.peer = peer = Slapd(cls.passwords)
        cls.addClassCleanup(peer.close)
        peer.start()
        secret = peer.folder / "admin"
        secret.write_text(f"{peer.admin_password}\n")
        cls.by_dn = {
            "kind": "ldap",
            "server": f"ldaps://localhost:{peer.tls_port}",
            "dn": "uid={user},ou=people,dc=demo,dc=example",
            "ca": str(peer.ca),
            "timeout": "3s",
        }
        cls.by_search = {
            "kind": "ldap",
            "server": f"ldap://{LOOPBACK}:{peer.port}",
            "base": "dc=demo,dc=example",
            "filter": "(&(objectClass=inetOrgPerson)(mail={address}))",
            "dn": peer.admin,
            "password_file": str(secret),
            "timeout": "3s",
        }
        cls.settings = {**FAST, "checker": {"ldap": cls.by_dn}}

    by_dn: ClassVar[dict[str, Any]]
    by_search: ClassVar[dict[str, Any]]

    def test_logins(self) -> None:
        """By the DN over ldaps, by a search after a reload, not with a certificate of nobody's, and down."""
        self.check_logins()
        self.reload({**self.by_dn, "dn": "", **self.by_search})
        self.check_logins()
        self.reload({**self.by_dn, "base": "", "filter": "", "password_file": "", "ca": ""})
        self.assertEqual(self.auth(EVE, "another"), 454)
        self.reload(self.by_dn | {"ca": str(self.peer.ca)})
        self.assertEqual(self.auth(EVE, "another"), 535)
        self.peer.kill()
        self.check_down()

    def reload(self, table: dict[str, Any]) -> None:
        before = len(self.mta.events("service", what="reload"))
        self.mta.write_config({"checker": {"ldap": table}})
        self.mta.signal(signal.SIGHUP)
        wait_for("the reload", lambda: len(self.mta.events("service", what="reload")) > before)


class SqlTests(CheckerCase):
    __test__ = True
    server: ClassVar[Postgresql]

    @classmethod
    def prepare(cls) -> None:
        cls.server = Postgresql()
        cls.addClassCleanup(cls.server.close)
        cls.server.start()
        with psycopg.connect(cls.server.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE users (address text PRIMARY KEY, hash text)")
            for address, password in cls.passwords.items():
                connection.execute("INSERT INTO users VALUES (%s, %s)", (address, hash_password(password)))
        cls.settings = {
            **FAST,
            "checker": {
                "db": {
                    "kind": "sql",
                    "server": cls.server.url,
                    "query": "SELECT hash::text FROM users WHERE address = :address AND address LIKE '%@demo%'",
                    "timeout": "3s",
                }
            },
        }

    def test_logins(self) -> None:
        self.check_logins()
        self.server.kill()
        self.check_down()
        (self.server.data / "postmaster.pid").unlink(missing_ok=True)
        self.server.start()
        self.assertEqual(self.auth(EVE, "wrong"), 535)


class SqliteTests(CheckerCase):
    __test__ = True

    @classmethod
    def prepare(cls) -> None:
        cls.path = (folder := peer_dir("sqlite")) / "users.db"
        cls.addClassCleanup(shutil.rmtree, folder)
        with sqlite3.connect(cls.path) as connection:
            connection.execute("CREATE TABLE users (address TEXT, password TEXT)")
            connection.executemany("INSERT INTO users VALUES (?, ?)", cls.passwords.items())
        query = "SELECT password = :password FROM users WHERE address = :user || '@' || :domain"
        # One that is always down stands beside it: a password that another finds right is right.
        cls.settings = {
            **FAST,
            "checker": {
                "down": {"kind": "dovecot", "server": f"{LOOPBACK}:{free_port()}", "timeout": "1s"},
                "db": {"kind": "sql", "server": f"sqlite:{cls.path}", "query": query},
            },
        }

    path: ClassVar[Any]

    def test_logins(self) -> None:
        self.assertEqual(self.auth(EVE, self.passwords[EVE]), 235)
        self.assertEqual(self.auth(EVE, "wrong"), 454, "the one that is down might know better")
        self.assertEqual(self.auth("ann@demo.example", self.mta.password), 235)
