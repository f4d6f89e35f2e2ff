"""What is refused of ``[checker.NAME]``."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.config.checks.checkers import check
from twisted_mta.config.settings import Checker, Duration, Settings


class CheckerTests(SynchronousTestCase):
    def keys(self, checker: Checker) -> list[str]:
        return [problem.key for problem in check(Settings(checker={"x": checker}))]

    def test_good(self) -> None:
        dn, query = "uid={user},dc=isp", "SELECT hash FROM users WHERE address = :address"
        for checker in (
            Checker(server="unix:/run/dovecot/auth-client"),
            Checker(server="127.0.0.1:12345"),
            Checker(kind="ldap", server="ldaps://ldap.isp.example", dn=dn),
            Checker(kind="ldap", server="ldap://[::1]:3389", base="dc=isp", filter="(mail={address})"),
            Checker(kind="sql", server="sqlite:/var/users.db", query=query),
            Checker(kind="sql", server="postgresql://mta@db.isp.example/users", query=query),
        ):
            self.assertEqual(self.keys(checker), [], checker)

    def test_bad(self) -> None:
        dn, query = "uid={user},dc=isp", "SELECT hash FROM users WHERE address = :address"
        for checker, option in (
            (Checker(), "server"),
            (Checker(server="unix:relative"), "server"),
            (Checker(server="unix:/x", timeout=Duration(0)), "timeout"),
            (Checker(kind="ldap", server="https://ldap.isp.example", dn=dn), "server"),
            (Checker(kind="ldap", server="ldap://", dn=dn), "server"),
            (Checker(kind="ldap", server="ldap://host:port", dn=dn), "server"),
            (Checker(kind="ldap", server="ldaps://x"), "dn"),
            (Checker(kind="ldap", server="ldaps://x", dn="cn=everybody"), "dn"),
            (Checker(kind="ldap", server="ldaps://x", filter="(mail=*)"), "filter"),
            (Checker(kind="ldap", server="ldaps://x", filter="(mail={address})"), "base"),
            (Checker(kind="ldap", server="ldaps://x", dn=dn, ca="/no/such"), "ca"),
            (Checker(kind="sql", server="sqlite:relative", query=query), "server"),
            (Checker(kind="sql", server="mysql://x", query=query), "server"),
            (Checker(kind="sql", server="sqlite:/x"), "query"),
            (Checker(kind="sql", server="sqlite:/x", query="SELECT x::address FROM y"), "query"),
        ):
            self.assertEqual(self.keys(checker), [f"checker.x.{option}"], checker)
