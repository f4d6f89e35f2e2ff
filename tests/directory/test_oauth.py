"""Tokens as credentials: who judges them, what is asked and kept, and what happens while a server is down."""

from __future__ import annotations

import json
import tempfile
from base64 import b64decode
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError as Refusing
from twisted.trial.unittest import SynchronousTestCase

from tests.directory.tokens import CLAIMS, ISSUER, NOW, OTHER_RSA, RSA, jwk, jwks, token
from tests.directory.web import Answer, Request, WebServer
from twisted_mta.config.settings import Duration, Local, OAuth, Settings
from twisted_mta.directory import fetching
from twisted_mta.directory.claims import Granted, TokenRefused
from twisted_mta.directory.memory import MemoryDirectory
from twisted_mta.directory.oauth import BearerToken, TokenCache, TokenChecker
from twisted_mta.mail.status import MailError

WEB = "http://127.0.0.1:8080"
ACTIVE = {**CLAIMS, "active": True}
OPAQUE = "ya29.opaque-token"


class TokenCase(SynchronousTestCase):
    """``web`` is a server in memory that answers by ``answers`` (path to answer)."""

    def setUp(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.web = WebServer(self.answer)
        self.clock = self.web.net
        self.directory = MemoryDirectory(Local(), self.clock)
        self.directory.add_customer("acme")
        self.directory.add_domain("isp.example", "acme")
        self.directory.add_user("ann@isp.example", "")
        self.directory.add_user("bob@isp.example", "")

    def answer(self, request: Request) -> Answer:
        return self.answers.get(request.path.partition("?")[0], (404, b""))

    def make(self, **servers: OAuth) -> TokenChecker:
        checker = TokenChecker(Settings(oauth=servers), self.clock, self.directory)
        self.addCleanup(checker.stop)
        return checker

    def ask(self, checker: TokenChecker, text: str, user: str = "") -> Deferred[Any]:
        asked = checker.requestAvatarId(BearerToken(user, text))
        self.clock.flush()
        return asked

    def granted(self, checker: TokenChecker, text: str, user: str = "") -> str:
        return bytes(self.successResultOf(self.ask(checker, text, user))).decode()

    def refused(self, checker: TokenChecker, text: str, user: str = "") -> str:
        failure = self.failureResultOf(self.ask(checker, text, user), TokenRefused)
        self.assertIsInstance(failure.value, UnauthorizedLogin)
        return str(failure.value.status)

    def unavailable(self, checker: TokenChecker, text: str) -> None:
        failure = self.failureResultOf(self.ask(checker, text), MailError)
        self.assertEqual((failure.value.reply.code, failure.value.reply.enhanced), (454, "4.7.0"))

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.web.requests]


class SignedTests(TokenCase):
    def signed(self, **more: Any) -> OAuth:
        return OAuth(**{"issuer": ISSUER, "keys": f"{WEB}/keys", "audience": ("mail",), **more})

    def setUp(self) -> None:
        super().setUp()
        self.answers["/keys"] = (200, jwks(jwk(RSA, "one")))

    def test_good(self) -> None:
        checker = self.make(isp=self.signed())
        for user in ("", "ann@isp.example", "Ann@ISP.example"):
            self.assertEqual(self.granted(checker, token(), user), "ann@isp.example")
        self.assertEqual(self.paths, ["/keys"])

    def test_refused(self) -> None:
        checker = self.make(isp=self.signed(scopes=("mail.send",)))
        self.assertEqual(self.refused(checker, token({"exp": NOW - 100})), "invalid_token")
        self.assertEqual(self.refused(checker, token({"scope": "openid"})), "insufficient_scope")
        self.assertEqual(self.refused(checker, token(key=OTHER_RSA)), "invalid_token")
        self.assertEqual(self.refused(checker, token({"email": "eve@isp.example"})), "invalid_token")
        self.assertEqual(self.refused(checker, token({"email": "postmaster"})), "invalid_token")
        self.assertEqual(self.refused(checker, token({"iss": "https://else.example"})), "invalid_token")
        self.assertEqual(self.refused(checker, OPAQUE), "invalid_token")

    def test_another_users(self) -> None:
        checker = self.make(isp=self.signed())
        for user in ("bob@isp.example", "eve@isp.example", "nonsense", "ann@isp.example.x"):
            self.assertEqual(self.refused(checker, token(), user), "invalid_token")

    def test_a_file(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "keys.json"
            path.write_bytes(jwks(jwk(RSA, "one")))
            settings = Settings(oauth={"isp": self.signed(keys=str(path))})
            checker = TokenChecker(settings, self.clock, self.directory)
            self.assertEqual(self.granted(checker, token()), "ann@isp.example")
            path.write_bytes(jwks(jwk(OTHER_RSA, "two")))
            self.assertEqual(self.granted(checker, token()), "ann@isp.example")
            checker.reconfigure(settings)
            self.assertEqual(self.refused(checker, token()), "invalid_token")
            self.assertEqual(self.granted(checker, token(key=OTHER_RSA, kid="two")), "ann@isp.example")
            path.write_bytes(b"{}")
            self.assertRaises(ValueError, checker.reconfigure, settings)
            self.assertEqual(self.granted(checker, token(key=OTHER_RSA, kid="two")), "ann@isp.example")
        self.assertEqual(self.paths, [])

    def test_discovery(self) -> None:
        where = {"issuer": f"{WEB}/realm", "jwks_uri": f"{WEB}/keys"}
        self.answers["/realm/.well-known/openid-configuration"] = (200, json.dumps(where).encode())
        checker = self.make(isp=self.signed(keys="", issuer=f"{WEB}/realm"))
        self.assertEqual(checker.configuration, f"{WEB}/realm/.well-known/openid-configuration")
        self.assertEqual(self.granted(checker, token({"iss": f"{WEB}/realm"})), "ann@isp.example")
        self.assertEqual(self.paths, ["/realm/.well-known/openid-configuration", "/keys"])

    def test_a_configuration_that_is_not_believed(self) -> None:
        for where in (
            {"issuer": f"{WEB}/other", "jwks_uri": f"{WEB}/keys"},
            {"issuer": f"{WEB}/realm", "jwks_uri": "http://else.example/keys"},
            {"issuer": f"{WEB}/realm", "jwks_uri": "file:///etc/passwd"},
            {"issuer": f"{WEB}/realm"},
            ["issuer"],
        ):
            self.answers["/realm/.well-known/openid-configuration"] = (200, json.dumps(where).encode())
            checker = self.make(isp=self.signed(keys="", issuer=f"{WEB}/realm"))
            self.unavailable(checker, token({"iss": f"{WEB}/realm"}))

    def test_new_keys_are_fetched_in_time(self) -> None:
        checker = self.make(isp=self.signed())
        self.granted(checker, token())
        self.answers["/keys"] = (200, jwks(jwk(OTHER_RSA, "two")))
        self.clock.advance(3599)
        fresh = {"exp": NOW + 100_000}
        self.granted(checker, token(fresh))
        self.assertEqual(self.paths, ["/keys"])
        self.clock.advance(2)
        self.granted(checker, token(fresh))  # the old ones serve who comes first; nobody waits
        self.assertEqual(self.paths, ["/keys"] * 2)
        self.assertEqual(self.refused(checker, token(fresh)), "invalid_token")
        self.granted(checker, token(fresh, key=OTHER_RSA, kid="two"))

    def test_an_unknown_key_is_looked_for(self) -> None:
        """At once, but not again and again: what names keys is anybody's token."""
        checker = self.make(isp=self.signed())
        self.granted(checker, token())
        self.clock.advance(31)
        self.answers["/keys"] = (200, jwks(jwk(RSA, "one"), jwk(OTHER_RSA, "two")))
        self.assertEqual(self.granted(checker, token(key=OTHER_RSA, kid="two")), "ann@isp.example")
        for number in range(5):
            self.assertEqual(self.refused(checker, token(kid=f"made-up-{number}")), "invalid_token")
        self.assertEqual(self.paths, ["/keys"] * 2)

    def test_keys_that_cannot_be_had_again(self) -> None:
        checker = self.make(isp=self.signed(stale=Duration(86400.0)))
        self.granted(checker, token())
        self.answers["/keys"] = (503, b"")
        forever = token({"exp": NOW + 1_000_000})
        for _ in range(23):
            self.clock.advance(3600)
            self.assertEqual(self.granted(checker, forever), "ann@isp.example")
        self.unavailable(checker, token({"exp": NOW + 1_000_000}, kid="two"))  # perhaps it is new
        self.clock.advance(3700)
        self.unavailable(checker, forever)
        self.answers["/keys"] = (200, jwks(jwk(RSA, "one")))
        self.clock.advance(31)
        self.assertEqual(self.granted(checker, forever), "ann@isp.example")

    def test_no_keys_yet(self) -> None:
        """454 at once after the first has waited; all who come at the same time share one question."""
        for answer in (None, (500, b""), (200, b"no keys"), (301, b""), b"nonsense\r\n\r\n"):
            self.answers["/keys"] = answer
            self.web.requests.clear()
            checker = self.make(isp=self.signed())
            first, second = (checker.requestAvatarId(BearerToken("", token())) for _ in range(2))
            self.clock.flush()
            self.clock.advance(5)
            self.clock.flush()
            for asked in (first, second):
                self.failureResultOf(asked, MailError)
            self.unavailable(checker, token())
            self.assertEqual(self.paths, ["/keys"])

    def test_a_clock_that_steps_back(self) -> None:
        checker = self.make(isp=self.signed())
        self.granted(checker, token())
        self.clock.rightNow -= 86400
        early = token({"iat": None})
        self.assertEqual(self.granted(checker, early), "ann@isp.example")
        self.assertEqual(self.paths, ["/keys"] * 2)

    def test_bounds_of_an_answer(self) -> None:
        self.answers["/keys"] = (200, jwks(jwk(RSA, "one")) + b" " * fetching.MAX_ANSWER)
        self.unavailable(self.make(isp=self.signed()), token())


class AskedTests(TokenCase):
    def asked(self, **more: Any) -> OAuth:
        return OAuth(**{"kind": "introspection", "endpoint": f"{WEB}/introspect", "audience": ("mail",), **more})

    def setUp(self) -> None:
        super().setUp()
        self.tell(ACTIVE)

    def tell(self, document: Any, status: int = 200) -> None:
        self.answers["/introspect"] = (status, json.dumps(document).encode())

    def test_good(self) -> None:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("s:cret%\n")
            file.flush()
            checker = self.make(isp=self.asked(client_id="m:ta", client_secret_file=file.name))
        self.assertEqual(self.granted(checker, OPAQUE), "ann@isp.example")
        (request,) = self.web.requests
        self.assertEqual((request.method, request.path), ("POST", "/introspect"))
        self.assertEqual(parse_qs(request.body), {"token": [OPAQUE], "token_type_hint": ["access_token"]})
        # RFC 6749 §2.3.1: both are form-encoded before they are joined
        self.assertEqual(b64decode(request.headers["authorization"].split()[1]), b"m%3Ata:s%3Acret%25")

    def test_a_server_that_does_not_decode_our_login(self) -> None:
        def answer(request: Request) -> Answer:
            raw = b64decode(request.headers["authorization"].split()[1]) == b"m:ta:s:cret%"
            return (200, json.dumps(ACTIVE).encode()) if raw else (401, b"")

        self.web.answer = answer
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("s:cret%")
            file.flush()
            checker = self.make(isp=self.asked(client_id="m:ta", client_secret_file=file.name, cache=Duration(0.0)))
        for count in (2, 3, 4):
            self.assertEqual(self.granted(checker, OPAQUE), "ann@isp.example")
            self.assertEqual(len(self.paths), count)

    def test_refused(self) -> None:
        for document in (
            {"active": False},
            {**ACTIVE, "active": "true"},
            {**ACTIVE, "active": 1},
            {**ACTIVE, "aud": "other"},
            {**ACTIVE, "exp": NOW - 100},
            CLAIMS,
        ):
            self.tell(document)
            self.assertEqual(self.refused(self.make(isp=self.asked()), OPAQUE), "invalid_token")

    def test_no_verdict(self) -> None:
        """What is wrong with us or with the server is not the user's fault (RFC 7662 §2.3)."""
        for answer in ((401, b""), (400, b""), (403, b""), (500, b""), (200, b"[]"), (200, b"{"), b"no HTTP\r\n", None):
            self.answers["/introspect"] = answer  # type: ignore[assignment]
            checker = self.make(isp=self.asked())
            asked = self.ask(checker, OPAQUE)
            self.clock.advance(5)
            self.clock.flush()
            self.assertEqual(self.failureResultOf(asked, MailError).value.reply.code, 454, answer)
        self.clock.hosts[("127.0.0.1", 8080)] = Refusing()
        asked = self.ask(self.make(isp=self.asked()), OPAQUE)
        self.clock.advance(0.3)  # the endpoint looks for another address
        self.assertEqual(self.failureResultOf(asked, MailError).value.reply.code, 454)

    def test_remembered(self) -> None:
        checker = self.make(isp=self.asked(cache=Duration(120.0)))
        for seconds in (0, 60, 59):
            self.clock.advance(seconds)
            self.granted(checker, OPAQUE)
        self.assertEqual(len(self.paths), 1)
        self.tell({"active": False})
        self.clock.advance(2)
        self.refused(checker, OPAQUE)
        self.refused(checker, OPAQUE)  # what is refused is not remembered
        self.assertEqual(len(self.paths), 3)

    def test_never_remembered(self) -> None:
        checker = self.make(isp=self.asked(cache=Duration(0.0)))
        self.granted(checker, OPAQUE)
        self.granted(checker, OPAQUE)
        self.assertEqual(len(self.paths), 2)

    def test_remembered_until_it_ends(self) -> None:
        self.tell({**ACTIVE, "exp": NOW + 10})
        checker = self.make(isp=self.asked(leeway=Duration(0.0)))
        self.granted(checker, OPAQUE)
        self.clock.advance(10)
        self.refused(checker, OPAQUE)

    def test_a_kept_connection_that_was_closed(self) -> None:
        checker = self.make(isp=self.asked(cache=Duration(0.0)))
        self.granted(checker, OPAQUE)
        self.assertEqual(len(self.clock.attempts), 1)
        for client, _ in list(self.clock.connections):
            client.other.loseConnection()
        # the end is noticed only once the next question is on its way
        self.assertEqual(self.granted(checker, OPAQUE), "ann@isp.example")

    def test_few_at_once(self) -> None:
        """Others wait for their turn, all within the time limit; too many are told at once."""
        self.answers["/introspect"] = None
        checker = self.make(isp=self.asked(connections=2))
        asked = [checker.requestAvatarId(BearerToken("", f"{OPAQUE}{n}")) for n in range(fetching.PENDING + 3)]
        self.clock.flush()
        self.assertEqual(len(self.web.requests), 2)
        self.failureResultOf(asked[-1], MailError)
        self.assertNoResult(asked[-2])
        self.clock.advance(5)
        self.clock.flush()
        for one in asked[:-1]:
            self.failureResultOf(one, MailError)
        self.tell(ACTIVE)
        self.assertEqual(self.granted(checker, OPAQUE), "ann@isp.example")

    def test_turns_are_passed_on(self) -> None:
        checker = self.make(isp=self.asked(connections=1, cache=Duration(0.0)))
        asked = [checker.requestAvatarId(BearerToken("", OPAQUE)) for _ in range(20)]
        self.clock.flush()
        for one in asked:
            self.assertEqual(self.successResultOf(one), b"ann@isp.example")
        self.assertEqual(len(self.clock.attempts), 1)

    def test_tokeninfo(self) -> None:
        told = {"aud": "mail", "email": "ann@isp.example", "email_verified": "true", "exp": str(int(NOW + 9))}
        self.answers["/tokeninfo"] = (200, json.dumps(told).encode())
        server = self.asked(kind="tokeninfo", endpoint=f"{WEB}/tokeninfo")
        checker = self.make(google=server)
        self.assertEqual(self.granted(checker, "a+b/c="), "ann@isp.example")
        self.assertEqual(self.paths, ["/tokeninfo?access_token=a%2Bb%2Fc%3D"])
        self.answers["/tokeninfo"] = (400, b'{"error": "invalid_token"}')
        self.assertEqual(self.refused(checker, "other"), "invalid_token")

    def test_discovery(self) -> None:
        where = {"issuer": WEB, "introspection_endpoint": f"{WEB}/introspect"}
        self.answers["/.well-known/openid-configuration"] = (200, json.dumps(where).encode())
        checker = self.make(isp=self.asked(endpoint="", issuer=WEB, cache=Duration(0.0)))
        self.tell({**ACTIVE, "iss": WEB})
        self.granted(checker, OPAQUE)
        self.granted(checker, OPAQUE)
        self.assertEqual(self.paths, ["/.well-known/openid-configuration", "/introspect", "/introspect"])


class SeveralTests(TokenCase):
    def servers(self) -> dict[str, OAuth]:
        return {
            "signed": OAuth(issuer=ISSUER, keys=f"{WEB}/keys", audience=("mail",), scopes=("openid",)),
            "one": OAuth(kind="introspection", issuer="https://one.example", endpoint=f"{WEB}/one", audience=("mail",)),
            "two": OAuth(kind="introspection", endpoint=f"{WEB}/two", audience=("mail",)),
        }

    def setUp(self) -> None:
        super().setUp()
        inactive = (200, b'{"active": false}')
        self.answers |= {"/keys": (200, jwks(jwk(RSA, "one"))), "/one": inactive, "/two": inactive}

    def test_a_token_is_shown_to_its_issuer_alone(self) -> None:
        checker = self.make(**self.servers())
        self.granted(checker, token())
        self.refused(checker, token(key=OTHER_RSA))
        self.assertEqual(self.paths, ["/keys"])
        self.refused(checker, token({"iss": "https://one.example"}))
        self.assertEqual(self.paths, ["/keys", "/one"])
        self.refused(checker, token({"iss": "https://else.example"}))
        self.assertEqual(self.paths, ["/keys", "/one", "/two"])

    def test_an_opaque_one_to_each_in_turn(self) -> None:
        checker = self.make(**self.servers())
        self.refused(checker, OPAQUE)
        self.assertEqual(self.paths, ["/one", "/two"])
        self.answers["/two"] = (200, json.dumps(ACTIVE).encode())
        self.assertEqual(self.granted(checker, OPAQUE), "ann@isp.example")

    def test_one_that_is_down(self) -> None:
        """Its users are told to come again; whoever the other knows gets in."""
        checker = self.make(**self.servers())
        self.answers["/one"] = (503, b"")
        self.unavailable(checker, OPAQUE)
        self.answers["/two"] = (200, json.dumps(ACTIVE).encode())
        self.assertEqual(self.granted(checker, OPAQUE), "ann@isp.example")

    def test_what_clients_are_told(self) -> None:
        checker = self.make(**self.servers())
        self.assertEqual((checker.scope, checker.configuration), ("", ""))
        checker = self.make(signed=self.servers()["signed"])
        self.assertEqual(checker.scope, "openid")
        self.assertFalse(self.make())

    def test_reload_keeps_what_stays_as_it_was(self) -> None:
        checker = self.make(**self.servers())
        self.granted(checker, token())
        checker.reconfigure(Settings(oauth={"signed": self.servers()["signed"]}))
        self.granted(checker, token())
        self.assertEqual(self.paths, ["/keys"])
        checker.reconfigure(Settings())
        self.refused(checker, token())


class CacheTests(SynchronousTestCase):
    def test_bounds(self) -> None:
        clock = WebServer(lambda _: None).net
        cache = TokenCache(clock, 60, size=2)
        for text in ("a", "b", "a", "c"):
            cache.add(text, Granted("ann@isp.example", NOW + 100))
        self.assertEqual((len(cache), cache.get("b"), cache.get("a") is not None), (2, None, True))
        clock.rightNow -= 1
        self.assertIsNone(cache.get("a"))
        self.assertNotIn("ann-token", repr(cache.__dict__))

    def test_no_token_is_kept(self) -> None:
        cache = TokenCache(WebServer(lambda _: None).net, 60)
        cache.add("a-secret-token", Granted("ann@isp.example", NOW + 100))
        self.assertNotIn("a-secret-token", repr(cache.__dict__))
