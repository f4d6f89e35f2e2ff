"""Logging in through the portal."""

# ruff: noqa: N815 - the names are twisted.cred's

from __future__ import annotations

from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import LoginFailed, UnauthorizedLogin
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.directory.inline import OTHER, Pool, hasher
from tests.directory.test_contract import now
from twisted_mta.config.settings import Local, Settings, Submission
from twisted_mta.directory.auth import (
    CheckerChain,
    CredentialCache,
    DirectoryChecker,
    MailRealm,
    Proven,
    ScramKeys,
    make_portal,
)
from twisted_mta.directory.interfaces import IMailAccount, User
from twisted_mta.directory.memory import MemoryDirectory
from twisted_mta.mail.status import MailError, Reply
from twisted_mta.wire.scram import Keys


@implementer(ICredentialsChecker)
class Checker:
    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked = 0

    def requestAvatarId(self, credentials: Any) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            return fail(self.answer)
        if callable(self.answer):
            return self.answer(credentials)
        return succeed(self.answer)


class AuthCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = MemoryDirectory(Local(), self.clock)
        self.directory.add_customer("acme")
        self.directory.add_domain("isp.example", "acme")
        self.directory.add_user("anna@isp.example", "secret")
        self.pool = Pool()
        self.hasher = hasher(self.pool)
        self.cache = CredentialCache(self.clock, 600)
        self.extra: list[Checker] = []

    def login(self, name: Any, password: Any) -> Deferred[Any]:
        portal = make_portal(self.directory, self.hasher, self.cache, self.extra)
        return portal.login(UsernamePassword(name, password), None, IMailAccount)

    def refused(self, name: Any, password: Any) -> None:
        self.failureResultOf(self.login(name, password), UnauthorizedLogin)

    def granted(self, name: Any, password: Any) -> Any:
        interface, account, logout = self.successResultOf(self.login(name, password))
        self.assertIs(interface, IMailAccount)
        logout()
        return account

    def reply(self, name: Any, password: Any) -> Reply:
        failure = self.failureResultOf(self.login(name, password), MailError)
        self.assertFalse(failure.check(LoginFailed) and failure.value.temporary)
        return failure.value.reply


class Login(AuthCase):
    """Names and passwords of the directory."""

    def test_interfaces(self) -> None:
        checker = DirectoryChecker(self.directory, self.hasher, self.cache)
        verifyObject(ICredentialsChecker, checker)
        verifyObject(ICredentialsChecker, CheckerChain([checker]))
        verifyObject(IRealm, MailRealm(self.directory))
        verifyObject(IMailAccount, self.granted(b"anna@isp.example", b"secret"))

    def test_granted(self) -> None:
        for name in (b"anna@isp.example", b"ANNA@Isp.Example", "Anna@isp.example", b'"anna"@isp.example'):
            account = self.granted(name, b"secret")
            self.assertEqual((account.user.address, account.customer.name), ("anna@isp.example", "acme"))

    def test_refused(self) -> None:
        for name, password in (
            (b"anna@isp.example", b"Secret"),
            (b"anna@isp.example", b""),
            (b"anna@isp.example", b"\xff"),
            (b"anna@isp.example", b"secret\0"),
            (b"anna@isp.example", b"x" * 5000),
            (b"bert@isp.example", b"secret"),
            (b"anna+x@isp.example", b"secret"),
            (b"anna", b"secret"),
            (b"", b""),
            (b"\xff@isp.example", b"secret"),
            (b"anna@isp.example\0", b"secret"),
            (b"x" * 5000, b"secret"),
        ):
            self.refused(name, password)

    def test_an_unknown_user_costs_as_much(self) -> None:
        self.refused(b"anna@isp.example", b"wrong")
        known = self.pool.jobs
        self.refused(b"nobody@isp.example", b"wrong")
        self.assertEqual(self.pool.jobs, 2 * known)
        self.refused(b"no address", b"wrong")
        self.assertEqual(self.pool.jobs, 3 * known)

    def test_a_user_without_a_password_has_none(self) -> None:
        self.directory.add_user("ldap@isp.example", "")
        for password in (b"", b"secret", b"\0"):
            self.refused(b"ldap@isp.example", password)

    def test_removed(self) -> None:
        self.granted(b"anna@isp.example", b"secret")
        self.directory.remove("user", "anna@isp.example")
        self.refused(b"anna@isp.example", b"secret")

    def test_suspended(self) -> None:
        for kind in ("user", "customer"):
            self.setUp()
            name = "acme" if kind == "customer" else "anna@isp.example"
            getattr(self.directory, f"set_{kind}")(name, suspended=True)
            failure = self.failureResultOf(self.login(b"anna@isp.example", b"secret"), UnauthorizedLogin)
            self.assertEqual((failure.value.reply.code, failure.value.reply.enhanced), (525, "5.7.13"))
            failure = self.failureResultOf(self.login(b"anna@isp.example", b"wrong"), UnauthorizedLogin)
            self.assertNotIsInstance(failure.value, MailError)  # says nothing to who does not know the password

    def test_busy(self) -> None:
        self.pool.held = True
        waiting = [self.login(b"anna@isp.example", b"secret") for _ in range(4)]
        self.assertEqual(self.reply(b"anna@isp.example", b"secret").code, 454)
        self.pool.release()
        for each in waiting:
            self.successResultOf(each)

    def test_only_mail_accounts(self) -> None:
        realm = MailRealm(self.directory)
        with self.assertRaises(NotImplementedError):
            realm.requestAvatar(b"anna@isp.example", None, IUsernamePassword)

    def test_directory_down(self) -> None:
        async def down(address: str) -> None:
            raise MailError(Reply(451, "4.3.0", "down"))

        self.granted(b"anna@isp.example", b"secret")
        self.patch(self.directory, "customer", down)
        self.assertEqual(self.reply(b"anna@isp.example", b"secret").code, 454)
        self.patch(self.directory, "user", down)
        self.assertEqual(self.reply(b"anna@isp.example", b"secret").code, 454)

    def test_rehash(self) -> None:
        self.directory.replace_hash("anna@isp.example", self.user().password_hash, OTHER.hash("secret"))
        old = self.user().password_hash
        self.refused(b"anna@isp.example", b"wrong")
        self.assertEqual(self.user().password_hash, old)
        account = self.granted(b"anna@isp.example", b"secret")
        new = self.user().password_hash
        self.assertNotEqual(new, old)
        self.assertFalse(self.hasher.outdated(new))
        self.assertEqual(account.user.password_hash, new)
        jobs = self.pool.jobs
        self.granted(b"anna@isp.example", b"secret")
        self.assertEqual(self.pool.jobs, jobs)

    def test_rehash_that_fails(self) -> None:
        self.directory.replace_hash("anna@isp.example", self.user().password_hash, OTHER.hash("secret"))

        def full(address: str, old: str, new: str, scram: str) -> bool:
            raise OSError("disk full")

        self.patch(self.directory, "replace_hash", full)
        self.granted(b"anna@isp.example", b"secret")
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_keys_at_the_first_login(self) -> None:
        """Who has no SCRAM keys yet has them once a password was good (RFC 4954 §6's transition)."""
        own = DirectoryChecker(self.directory, self.hasher, self.cache, keys=True)
        before = self.user()
        for password in (b"guess", b"secret"):
            self.assertEqual(self.user().scram, "")
            done = own.requestAvatarId(UsernamePassword(b"anna@isp.example", password))
            done.addErrback(lambda failure: failure.trap(UnauthorizedLogin))
        keys = Keys.parse(self.user().scram)
        assert keys is not None
        self.assertEqual(keys, Keys.make("secret", keys.salt, keys.iterations))
        self.assertEqual(self.user().password_hash, before.password_hash)
        self.assertNotIn("SCRAM", repr(self.user()))
        own.reconfigure(Settings(submission=Submission(mechanisms=("PLAIN",))))
        self.assertFalse(own.keys)

    def test_keys_of_other_rounds_are_made_anew(self) -> None:
        """Clients refuse to compute too many."""
        own = DirectoryChecker(self.directory, self.hasher, self.cache, keys=True)
        old = str(Keys.make("secret", iterations=70_000))
        self.directory.replace_hash("anna@isp.example", self.user().password_hash, self.user().password_hash, old)
        own.requestAvatarId(UsernamePassword(b"anna@isp.example", b"secret"))
        keys = Keys.parse(self.user().scram)
        assert keys is not None
        self.assertNotEqual(keys.iterations, 70_000)
        self.assertEqual(keys, Keys.make("secret", keys.salt, keys.iterations))

    def test_new_password_forgets_the_keys(self) -> None:
        self.directory.replace_hash("anna@isp.example", self.user().password_hash, OTHER.hash("secret"), "keys")
        self.directory.set_user("anna@isp.example", suspended=True)
        self.assertEqual(self.user().scram, "keys")
        self.directory.set_user("anna@isp.example", password="other")
        self.assertEqual(self.user().scram, "")

    def test_keys_for_scram(self) -> None:
        find = ScramKeys(self.directory, b"s" * 32).find
        made_up = now(find("anna@isp.example"))
        self.assertEqual(now(find("Anna@ISP.example")).salt, made_up.salt)
        self.assertNotEqual(now(find("nobody@isp.example")).salt, made_up.salt)
        one, other = (now(find(f"nobody@{domain}")).salt for domain in ("bücher.example", "xn--bcher-kva.EXAMPLE"))
        self.assertEqual(one, other, "two ways to write one address look alike, whether or not it exists")
        self.assertEqual(now(find("not an address")).iterations, made_up.iterations)
        real = str(Keys.make("secret", iterations=4096))
        self.directory.replace_hash("anna@isp.example", self.user().password_hash, "h", real)
        self.assertEqual(str(now(find("Anna@ISP.example"))), real)

    def test_proven(self) -> None:
        portal = make_portal(self.directory, self.hasher, self.cache)
        account = self.successResultOf(portal.login(Proven(b"Anna@isp.example"), None, IMailAccount))[1]
        self.assertEqual(account.user.address, "anna@isp.example")
        self.failureResultOf(portal.login(Proven(b"nobody@isp.example"), None, IMailAccount), UnauthorizedLogin)

    def user(self) -> User:
        user = now(self.directory.user("anna@isp.example"))
        assert user is not None
        return user


class Remembered(AuthCase):
    """Verified credentials."""

    def test_argon2_once(self) -> None:
        for _ in range(3):
            self.granted(b"anna@isp.example", b"secret")
            self.granted(b"ANNA@isp.example", b"secret")
        self.assertEqual(self.pool.jobs, 1)
        self.refused(b"anna@isp.example", b"wrong")
        self.refused(b"anna@isp.example", b"wrong")
        self.assertEqual(self.pool.jobs, 3)

    def test_expiry(self) -> None:
        self.granted(b"anna@isp.example", b"secret")
        self.clock.advance(599)
        self.granted(b"anna@isp.example", b"secret")
        self.assertEqual(self.pool.jobs, 1)
        self.clock.advance(1)
        self.granted(b"anna@isp.example", b"secret")
        self.assertEqual(self.pool.jobs, 2)

    def test_clock_back(self) -> None:
        self.clock.advance(10000)
        self.granted(b"anna@isp.example", b"secret")
        self.clock.rightNow = 0.0
        self.granted(b"anna@isp.example", b"secret")
        self.assertEqual(self.pool.jobs, 2)

    def test_changed_password(self) -> None:
        self.granted(b"anna@isp.example", b"secret")
        self.directory.set_user("anna@isp.example", password="other")
        self.refused(b"anna@isp.example", b"secret")
        self.granted(b"anna@isp.example", b"other")
        self.directory.set_user("anna@isp.example", password="secret")
        self.granted(b"anna@isp.example", b"secret")
        self.assertEqual(self.pool.jobs, 4)

    def test_suspended(self) -> None:
        self.granted(b"anna@isp.example", b"secret")
        self.directory.set_customer("acme", suspended=True)
        self.refused(b"anna@isp.example", b"secret")

    def test_never(self) -> None:
        self.cache = CredentialCache(self.clock, 0)
        self.granted(b"anna@isp.example", b"secret")
        self.granted(b"anna@isp.example", b"secret")
        self.assertEqual((self.pool.jobs, len(self.cache)), (2, 0))

    def test_bounded(self) -> None:
        cache = CredentialCache(self.clock, 600, size=3)
        users = [User(address=f"u{number}@isp.example", customer="acme", password_hash="h") for number in range(5)]
        for user in users:
            cache.add(user, "secret")
            cache.knows(users[0], "secret")
        self.assertEqual(len(cache), 3)
        self.assertEqual([cache.knows(user, "secret") for user in users], [True, False, False, True, True])

    def test_no_password_is_kept(self) -> None:
        self.granted(b"anna@isp.example", b"secret")
        self.assertNotIn("secret", repr(vars(self.cache)))
        other = CredentialCache(self.clock, 600)
        user = now(self.directory.user("anna@isp.example"))
        self.assertNotEqual(other._digest(user, "secret"), self.cache._digest(user, "secret"))


class Others(AuthCase):
    """Further checkers, asked in turn."""

    def test_granted_by_another(self) -> None:
        self.extra = [Checker(UnauthorizedLogin()), Checker(b"anna@isp.example"), Checker(RuntimeError("not asked"))]
        self.assertEqual(self.granted(b"anna", b"token").user.address, "anna@isp.example")
        self.assertEqual([checker.asked for checker in self.extra], [1, 1, 0])
        self.granted(b"anna@isp.example", b"secret")
        self.assertEqual([checker.asked for checker in self.extra], [1, 1, 0])

    def test_somebody_the_directory_does_not_know(self) -> None:
        self.extra = [Checker(b"stranger@isp.example")]
        self.refused(b"stranger@isp.example", b"secret")

    def test_a_password_kept_elsewhere_is_hashed_nowhere(self) -> None:
        self.directory.add_user("ldap@isp.example", "")
        self.extra = [Checker(b"ldap@isp.example")]
        self.granted(b"ldap@isp.example", b"right")
        self.assertEqual(self.pool.jobs, 0)

    def test_refused_elsewhere_costs_as_much_as_an_unknown_user(self) -> None:
        self.directory.add_user("ldap@isp.example", "")
        self.extra = [Checker(UnauthorizedLogin())]
        self.refused(b"nobody@isp.example", b"wrong")
        unknown = self.pool.jobs
        self.refused(b"ldap@isp.example", b"wrong")
        self.assertEqual(self.pool.jobs, 2 * unknown)
        self.assertGreater(unknown, 0)

    def test_all_refuse(self) -> None:
        self.extra = [Checker(UnauthorizedLogin())]
        self.refused(b"anna@isp.example", b"wrong")

    def test_one_is_down(self) -> None:
        for down in (MailError(Reply(451, "4.3.0", "no")), MailError(Reply(550, "5.3.0", "no")), OSError("refused")):
            self.extra = [Checker(down), Checker(UnauthorizedLogin())]
            reply = self.reply(b"anna@isp.example", b"wrong")
            self.assertEqual((reply.code, reply.enhanced), (454, "4.7.0"))
            self.granted(b"anna@isp.example", b"secret")
        self.extra = [Checker(OSError("refused")), Checker(b"anna@isp.example")]
        self.granted(b"anna@isp.example", b"token")
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 2)

    def test_one_raises_at_once(self) -> None:
        def broken(credentials: Any) -> Any:
            raise ValueError("broken")

        self.extra = [Checker(broken)]
        self.assertEqual(self.reply(b"anna@isp.example", b"wrong").code, 454)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
