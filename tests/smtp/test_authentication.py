"""AUTH, from the exchange to the account (RFC 4954, RFC 6409 §4.3)."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.smtp.world import Client, World, account
from tests.wire.scramclient import ScramClient
from twisted_mta.directory.auth import IProven, ScramKeys, Suspended
from twisted_mta.directory.interfaces import IDirectory, IMailAccount, User
from twisted_mta.mail.events import Authenticated, AuthFailed
from twisted_mta.mail.status import MailError, Reply
from twisted_mta.wire.scram import Keys


@implementer(IRealm)
class Realm:
    def __init__(self) -> None:
        self.left = 0

    def requestAvatar(self, name: object, mind: object, *interfaces: object) -> Any:
        return succeed((IMailAccount, account(), self.leave))

    def leave(self) -> None:
        self.left += 1


@implementer(ICredentialsChecker)
class Checker:
    """ann's password is "secret".  ``failure`` is what it fails with all the time."""

    credentialInterfaces = (IUsernamePassword, IProven)  # noqa: N815 - the name is twisted.cred's

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.waiting: Deferred[bytes] | None = None

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes]:
        if self.failure is not None:
            return fail(self.failure)
        if self.waiting is not None:
            return self.waiting
        if IProven.providedBy(credentials):
            return succeed(credentials.username)
        if (credentials.username, credentials.password) == (b"ann@isp.example", b"secret"):
            return succeed(b"ann@isp.example")
        return fail(UnauthorizedLogin())


@implementer(IDirectory)
class Keyring:
    """A directory in which ann has keys."""

    user_keys = str(Keys.make("secret", b"salt" * 4, 4096))

    def __init__(self, down: bool = False) -> None:
        self.down = down

    async def user(self, address: str) -> User | None:
        if self.down:
            raise MailError(Reply(451, "4.3.0", "down"))
        known = User(address="ann@isp.example", customer="isp", password_hash="", scram=self.user_keys)
        return known if address == known.address else None


GOOD = b64encode(b"\0ann@isp.example\0secret").decode()
BAD = b64encode(b"\0ann@isp.example\0guess").decode()


class AuthTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.checker, self.realm = Checker(), Realm()
        self.world = World("submission", portal=Portal(self.realm, [self.checker]))
        self.client = self.greet()

    def greet(self, address: str = "127.0.0.1") -> Client:
        client = self.world.session(address)
        client.say("EHLO laptop")
        return client

    def test_offered_within_the_machine(self) -> None:
        self.assertIn(b"AUTH PLAIN LOGIN", self.client.say("EHLO laptop"))
        self.assertIn(b"AUTH PLAIN LOGIN", self.greet("::1").say("EHLO laptop"))

    def test_not_in_clear_from_elsewhere(self) -> None:
        client = self.greet("192.0.2.7")
        self.assertNotIn(b"AUTH", client.say("EHLO laptop"))
        self.assertEqual(client.codes(f"AUTH PLAIN {GOOD}"), [538])
        self.assertEqual(client.say("MAIL FROM:<ann@isp.example>")[:9], b"530 5.7.0")
        self.assertEqual(self.world.of(Authenticated), [])

    def test_not_on_mx(self) -> None:
        world = World("mx", portal=Portal(self.realm, [self.checker]))
        client = world.session("127.0.0.1")
        client.read()
        self.assertNotIn(b"AUTH", client.say("EHLO laptop"))
        self.assertEqual(client.codes(f"AUTH PLAIN {GOOD}"), [503])

    def test_required(self) -> None:
        self.assertEqual(self.client.codes("MAIL FROM:<ann@isp.example>", "RCPT TO:<joe@far.example>"), [530, 503])

    def test_plain(self) -> None:
        self.assertEqual(self.client.say(f"AUTH PLAIN {GOOD}"), b"235 2.7.0 Authenticated\r\n")
        self.assertEqual(self.client.codes("MAIL FROM:<ann@isp.example>", "RCPT TO:<joe@far.example>"), [250, 250])
        (event,) = self.world.of(Authenticated)
        self.assertEqual((event.user, event.customer, event.mechanism), ("ann@isp.example", "isp", "PLAIN"))
        self.assertEqual(self.world.throttle.good, ["ann@isp.example"])

    def test_plain_in_two_steps(self) -> None:
        self.assertEqual(self.client.say("AUTH PLAIN"), b"334 \r\n")
        self.assertEqual(self.client.codes(GOOD), [235])

    def test_login(self) -> None:
        self.assertEqual(self.client.say("auth login"), b"334 VXNlcm5hbWU6\r\n")
        self.assertEqual(self.client.say(b64encode(b"ann@isp.example")), b"334 UGFzc3dvcmQ6\r\n")
        self.assertEqual(self.client.codes(b64encode(b"secret")), [235])

    def test_twice(self) -> None:
        self.assertEqual(self.client.codes(f"AUTH PLAIN {GOOD}", f"AUTH PLAIN {GOOD}"), [235, 503])

    def test_wrong(self) -> None:
        self.assertEqual(self.client.say(f"AUTH PLAIN {BAD}")[:9], b"535 5.7.8")
        (event,) = self.world.of(AuthFailed)
        self.assertEqual((event.user, event.temporary), ("ann@isp.example", False))
        self.assertEqual(self.client.codes("MAIL FROM:<ann@isp.example>"), [530])
        self.assertEqual(self.client.codes(f"AUTH PLAIN {GOOD}"), [235])

    def test_too_often(self) -> None:
        self.assertEqual(self.client.codes(*[f"AUTH PLAIN {BAD}"] * 5), [535, 535, 421])
        self.assertTrue(self.client.transport.disconnecting)

    def test_cancelled_and_malformed(self) -> None:
        for response, said in (
            ("*", b"501 5.7.0"),
            ("!!!", b"501 5.5.2"),
            ("AAAA", b"501 5.5.2"),
            ("x" * 12300, b"500 5.5.6"),
            ("NOOP\n", b"501 5.5.2"),
        ):
            self.client.say("AUTH PLAIN")
            self.assertEqual(self.client.say(response)[:9], said, response[:10])
            self.assertEqual(self.client.codes("NOOP"), [250])
        self.assertEqual(self.client.codes("AUTH SCRAM-SHA-1"), [504])
        self.assertEqual(self.world.of(AuthFailed), [])

    def test_checker_that_is_down(self) -> None:
        """454 4.7.0, never 535 (RFC 4954 §6), and the client is not blamed."""
        self.checker.failure = MailError(Reply(454, "4.7.0", "The directory is down"))
        self.assertEqual(self.client.say(f"AUTH PLAIN {GOOD}")[:9], b"454 4.7.0")
        self.checker.failure = ZeroDivisionError()
        self.assertEqual(self.client.say(f"AUTH PLAIN {GOOD}")[:9], b"454 4.7.0")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual([event.temporary for event in self.world.of(AuthFailed)], [True, True])
        self.assertEqual(self.client.server.peer.auth_failures, 0)

    def test_suspended(self) -> None:
        self.checker.failure = Suspended()
        self.assertEqual(self.client.say(f"AUTH PLAIN {GOOD}")[:10], b"525 5.7.13")

    def test_answers_wait_for_the_throttle(self) -> None:
        self.world.throttle.seconds = 2.0
        for words, code in ((BAD, 535), (GOOD, 235)):
            self.assertEqual(self.client.codes(f"AUTH PLAIN {words}"), [])
            self.world.clock.advance(1.9)
            self.assertEqual(self.client.codes("NOOP"), [])
            self.world.clock.advance(0.2)
            self.assertEqual([int(line[:3]) for line in self.client.read().splitlines()], [code, 250])

    def test_client_that_leaves_before_the_answer(self) -> None:
        self.checker.waiting = Deferred()
        self.client.say(f"AUTH PLAIN {GOOD}")
        self.client.server.connectionLost(Failure(ConnectionDone()))
        self.checker.waiting.callback(b"ann@isp.example")
        self.assertEqual((self.world.of(Authenticated), self.realm.left), ([], 1))

    def test_logged_out_at_the_end(self) -> None:
        self.client.say(f"AUTH PLAIN {GOOD}")
        self.assertEqual(self.realm.left, 0)
        self.client.server.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.realm.left, 1)

    def scram(self, name: str = "ann@isp.example", password: str = "secret", flag: bytes = b"n") -> ScramClient:
        """Goes as far as the challenge."""
        self.client.server.factory.keys = ScramKeys(Keyring(), b"s" * 32)
        client = ScramClient(name, password, flag)
        said = self.client.say(b"AUTH SCRAM-SHA-256 " + b64encode(client.first))
        self.assertEqual(said[:4], b"334 ", said)
        self.challenge = b64decode(said[4:])
        return client

    def test_scram(self) -> None:
        client = self.scram()
        said = self.client.say(b64encode(client.final(self.challenge)))
        self.assertEqual(said, b"334 " + b64encode(b"v=" + b64encode(client.server_signature)) + b"\r\n")
        self.assertEqual(self.world.of(Authenticated), [])
        self.assertEqual(self.client.codes("", "AUTH PLAIN " + GOOD), [235, 503])
        (event,) = self.world.of(Authenticated)
        self.assertEqual((event.user, event.mechanism), ("ann@isp.example", "SCRAM-SHA-256"))

    def test_scram_is_offered_with_keys(self) -> None:
        self.assertNotIn(b"SCRAM", self.client.say("EHLO laptop"))
        self.client.server.factory.keys = ScramKeys(Keyring(), b"s" * 32)
        self.client.server.factory.hello_replies.clear()
        self.assertIn(b"AUTH PLAIN LOGIN SCRAM-SHA-256\r\n", self.client.say("EHLO laptop"))
        self.assertEqual(self.client.codes("AUTH SCRAM-SHA-256-PLUS"), [504])

    def test_scram_wrong(self) -> None:
        """A wrong password and a user who is not there look the same, and both are counted as guesses."""
        for name in ("ann@isp.example", "nobody@isp.example"):
            client = self.scram(name, "guess")
            self.assertIn(b"i=65536", self.challenge.replace(b"i=4096", b"i=65536"))
            said = self.client.say(b64encode(client.final(self.challenge)))
            self.assertEqual(said[:9], b"535 5.7.8")
            self.assertEqual(self.client.codes("MAIL FROM:<ann@isp.example>"), [530])
        self.assertEqual([event.user for event in self.world.of(AuthFailed)], ["ann@isp.example", "nobody@isp.example"])
        self.assertEqual(self.client.server.peer.auth_failures, 2)

    def test_scram_cancelled_at_the_end(self) -> None:
        """The proof is not enough: the client has to accept ours first."""
        client = self.scram()
        self.client.say(b64encode(client.final(self.challenge)))
        self.assertEqual(self.client.codes("*", "MAIL FROM:<ann@isp.example>"), [501, 530])

    def test_scram_while_the_directory_is_down(self) -> None:
        self.client.server.factory.keys = ScramKeys(Keyring(down=True), b"s" * 32)
        said = self.client.say(b"AUTH SCRAM-SHA-256 " + b64encode(ScramClient("ann@isp.example", "secret").first))
        self.assertEqual(said[:9], b"454 4.7.0")
        self.assertEqual(self.client.codes("NOOP"), [250])

    def test_no_password_is_told(self) -> None:
        self.client.say(f"AUTH PLAIN {BAD}")
        self.checker.failure = ZeroDivisionError()
        self.client.say(f"AUTH PLAIN {GOOD}")
        logged = self.flushLoggedErrors()
        for words in (repr(self.world.events), *[failure.getTraceback(detail="verbose") for failure in logged]):
            self.assertNotIn("guess", words)
            self.assertNotIn("'secret'", words)
