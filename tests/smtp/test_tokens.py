"""OAUTHBEARER and XOAUTH2 in sessions of a whole server in memory (RFC 7628, RFC 4954)."""

from __future__ import annotations

import json
import tempfile
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

from twisted.logger import eventAsText, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.directory.tokens import ISSUER, NOW, OTHER_RSA, RSA, jwk, jwks, token
from twisted_mta.admin.eventlog import EventLog
from twisted_mta.config.settings import Log
from twisted_mta.mail.events import Authenticated, AuthFailed
from twisted_mta.mail.status import Reply
from twisted_mta.testing.client import MemoryClient
from twisted_mta.testing.server import TestServer

ANN = "ann@isp.example"


def oauthbearer(text: str, user: str = ANN) -> str:
    words = f"n,{f'a={user}' if user else ''},\x01host=mx.isp.example\x01auth=Bearer {text}\x01\x01"
    return b64encode(words.encode()).decode()


def xoauth2(text: str, user: str = ANN) -> str:
    return b64encode(f"user={user}\x01auth=Bearer {text}\x01\x01".encode()).decode()


class TokenSessionTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.keys = Path(folder.name) / "keys.json"
        self.keys.write_bytes(jwks(jwk(RSA, "one")))
        self.table = f"""
            [oauth.isp]
            issuer = "{ISSUER}"
            keys = "{self.keys}"
            audience = ["mail"]
            scopes = ["mail.send"]
            """
        self.logged: list[Any] = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)
        self.server = TestServer(self.table, "[smtp]\nauth_delay = '0s'", now=NOW)
        self.addCleanup(self.server.close)
        self.server.add_customer("isp")
        self.server.add_domain("isp.example", "isp")
        for name in ("ann", "bob"):
            self.server.add_user(f"{name}@isp.example", f"{name}'s password")

    def client(self, secure: bool = True) -> MemoryClient:
        client = self.server.connect("submission")
        client.ehlo()
        if secure:
            client.starttls()
            client.ehlo()
        return client

    def told(self, reply: Reply) -> Any:
        self.assertEqual(reply.code, 334, reply)
        return json.loads(b64decode(reply.text))

    def test_offered(self) -> None:
        client = self.client()
        self.assertIn("OAUTHBEARER XOAUTH2", client.extensions["AUTH"])
        self.server.reload("[submission]\nmechanisms = ['PLAIN', 'OAUTHBEARER']")
        client.ehlo()
        self.assertEqual(client.extensions["AUTH"], "PLAIN OAUTHBEARER")
        self.assertEqual(client.ask(f"AUTH XOAUTH2 {xoauth2(token())}").code, 504)

    def test_passwords_switched_off(self) -> None:
        """RFC 4954 §6: 534 5.7.9 for a mechanism that policy finds too weak, before a password is sent."""
        self.server.reload("[submission]\nmechanisms = ['OAUTHBEARER']")
        client = self.client()
        for words in ("PLAIN", "LOGIN", f"PLAIN {b64encode(b'x').decode()}"):
            self.assertEqual(str(client.ask(f"AUTH {words}"))[:9], "534 5.7.9")
        self.assertEqual(str(client.ask("AUTH CRAM-MD5"))[:9], "504 5.5.4")
        self.assertEqual([e for e in self.server.events if isinstance(e, AuthFailed)], [])

    def test_not_without_a_server_that_is_known(self) -> None:
        with TestServer() as server:
            client = server.connect("submission")
            client.ehlo()
            client.starttls()
            client.ehlo()
            self.assertNotIn("OAUTH", client.extensions["AUTH"])
            self.assertEqual(client.ask(f"AUTH OAUTHBEARER {oauthbearer(token())}").code, 504)

    def test_not_in_clear(self) -> None:
        self.assertEqual(str(self.client(secure=False).ask("AUTH OAUTHBEARER"))[:10], "538 5.7.11")

    def test_good(self) -> None:
        for mechanism, words in (
            ("OAUTHBEARER", oauthbearer(token())),
            ("OAUTHBEARER", oauthbearer(token(), "")),
            ("XOAUTH2", xoauth2(token())),
        ):
            client = self.client()
            self.assertEqual(str(client.ask(f"AUTH {mechanism} {words}")), "235 2.7.0 Authenticated")
            self.assertEqual(client.ask(f"AUTH {mechanism} {words}").code, 503)
            self.assertEqual(client.ask(f"MAIL FROM:<{ANN}>").code, 250)
            event = [e for e in self.server.events if isinstance(e, Authenticated)][-1]
            self.assertEqual((event.user, event.customer, event.mechanism), (ANN, "isp", mechanism))

    def test_in_two_steps(self) -> None:
        client = self.client()
        self.assertEqual(str(client.ask("AUTH OAUTHBEARER")), "334 ")
        self.assertEqual(client.ask(oauthbearer(token())).code, 235)

    def test_the_largest_line(self) -> None:
        """RFC 4954 §4: 12288 octets, CRLF included."""
        for mechanism, words in (("OAUTHBEARER", oauthbearer), ("XOAUTH2", xoauth2)):
            client = self.client()
            start = len(f"AUTH {mechanism} ")
            text = words(token({"filler": "x" * 6300}))
            self.assertLess(len(text) + start, 12287)
            self.assertGreater(len(text), 11800)
            self.assertEqual(client.ask(f"AUTH {mechanism} {text}").code, 235)

    def test_the_dance(self) -> None:
        """RFC 7628 §3.2.3: the failure in JSON first, the reply after the client's dummy, and another try is free."""
        expired = token({"exp": NOW - 100})
        for dummy, said in (("AQ==", "535 5.7.8"), ("", "535 5.7.8"), ("MAIL FROM:<>", "501 5.5.2")):
            client = self.client()
            told = self.told(client.ask(f"AUTH OAUTHBEARER {oauthbearer(expired)}"))
            self.assertEqual(told, {"status": "invalid_token", "scope": "mail.send"})
            self.assertEqual(str(client.ask(dummy))[:9], said)
            self.assertEqual(client.ask(f"AUTH OAUTHBEARER {oauthbearer(token())}").code, 235)

    def test_the_dance_of_xoauth2(self) -> None:
        client = self.client()
        told = self.told(client.ask(f"AUTH XOAUTH2 {xoauth2(token({'scope': 'openid'}))}"))
        self.assertEqual(told, {"status": "403", "schemes": "bearer", "scope": "mail.send"})
        reply = client.ask("")
        self.assertEqual(str(reply)[:9], "535 5.7.8")
        self.assertIn("scope", reply.text)

    def test_refused(self) -> None:
        for text, user in (
            (token(key=OTHER_RSA), ANN),
            (token({"email": "bob@isp.example"}), ANN),
            (token({"email": "eve@isp.example"}), "eve@isp.example"),
            (token({"aud": "other"}), ANN),
            ("opaque", ANN),
        ):
            client = self.client()
            self.told(client.ask(f"AUTH OAUTHBEARER {oauthbearer(text, user)}"))
            self.assertEqual(client.ask("AQ==").code, 535)
            self.assertEqual(client.ask(f"MAIL FROM:<{ANN}>").code, 530)
            failed = [e for e in self.server.events if isinstance(e, AuthFailed)][-1]
            self.assertEqual((failed.user, failed.temporary), (user, False))

    def test_suspended(self) -> None:
        self.server.parts.directory.set_user(ANN, suspended=True)
        client = self.client()
        self.told(client.ask(f"AUTH OAUTHBEARER {oauthbearer(token())}"))
        self.assertEqual(str(client.ask("AQ=="))[:10], "525 5.7.13")

    def test_asking_how_to_get_a_token(self) -> None:
        """RFC 7628 §4.3; nobody's guess."""
        client = self.client()
        words = b64encode(b"n,,\x01auth=\x01\x01").decode()
        for _ in range(5):
            self.assertEqual(self.told(client.ask(f"AUTH OAUTHBEARER {words}"))["scope"], "mail.send")
            self.assertEqual(client.ask("AQ==").code, 535)
        self.assertEqual([e for e in self.server.events if isinstance(e, AuthFailed)], [])

    def test_guesses_are_counted(self) -> None:
        client = self.client()
        for _ in range(2):
            self.told(client.ask(f"AUTH OAUTHBEARER {oauthbearer('guess')}"))
            self.assertEqual(client.ask("AQ==").code, 535)
        self.assertEqual(str(client.ask(f"AUTH OAUTHBEARER {oauthbearer('guess')}"))[:9], "421 4.7.0")
        self.assertTrue(client.closed)

    def test_guesses_slow_down(self) -> None:
        self.server.reload("[smtp]\nauth_delay = '4s'")
        client = self.client()
        self.assertEqual(client.say(f"AUTH OAUTHBEARER {oauthbearer('guess', '')}"), [])
        self.server.advance(5)
        self.assertEqual(client.replies[-1].code, 334)
        # whoever else shows a token and says no name is not slowed
        client.drop()
        other = self.server.connect("submission", "198.51.100.99")
        other.ehlo()
        other.starttls()
        other.ehlo()
        self.assertEqual(other.ask(f"AUTH OAUTHBEARER {oauthbearer(token(), '')}").code, 235)

    def test_a_server_that_is_down(self) -> None:
        """454 4.7.0 at once, nobody's guess, and the client may go on."""
        table = self.table.replace(f'keys = "{self.keys}"', 'keys = "https://127.0.0.1:9/keys"')
        with TestServer(table, now=NOW) as server:
            checker = server.parts.tokens
            ((_, judge),) = checker._made.values()

            async def down(_: str) -> Any:
                raise ZeroDivisionError

            judge.granted = down  # type: ignore[method-assign]
            client = server.connect("submission")
            client.ehlo()
            client.starttls()
            client.ehlo()
            for _ in range(4):
                self.assertEqual(str(client.ask(f"AUTH OAUTHBEARER {oauthbearer(token())}"))[:9], "454 4.7.0")
            self.assertEqual({e.temporary for e in server.events if isinstance(e, AuthFailed)}, {True})
            self.assertEqual(client.ask("NOOP").code, 250)

    def test_cancelled_and_malformed(self) -> None:
        client = self.client()
        for words, said in (
            ("*", "501 5.7.0"),
            ("!", "501 5.5.2"),
            ("AAAA", "501 5.5.2"),
            ("x" * 12290, "500 5.5.6"),
            (b64encode(b"p=tls-exporter,,\x01auth=Bearer x\x01\x01").decode(), "501 5.5.2"),
        ):
            client.ask("AUTH OAUTHBEARER")
            self.assertEqual(str(client.ask(words))[:9], said, words[:20])
        self.told(client.ask(f"AUTH OAUTHBEARER {oauthbearer('guess')}"))
        self.assertEqual(client.ask("*").code, 501)

    def test_reload(self) -> None:
        client = self.client()
        self.keys.write_bytes(b"{}")
        self.assertRaises(ValueError, self.server.reload)
        self.assertEqual(client.ask(f"AUTH OAUTHBEARER {oauthbearer(token())}").code, 235)
        self.keys.write_bytes(jwks(jwk(OTHER_RSA, "two")))
        self.server.reload()
        client = self.client()
        self.told(client.ask(f"AUTH OAUTHBEARER {oauthbearer(token())}"))

    def test_no_token_is_told(self) -> None:
        """Neither the event log, in both forms, nor the program's own has any of it, however the login ends."""
        good, bad = token(), token({"exp": NOW - 100})
        secrets = ["a-Guessed-Token", "ann's password", *good.split("."), *bad.split(".")]
        for text in (good, bad, "a-Guessed-Token"):
            for mechanism, words in (("OAUTHBEARER", oauthbearer(text)), ("XOAUTH2", xoauth2(text))):
                client = self.client()
                client.say(f"AUTH {mechanism} {words}")
                client.say("AQ==")
                client.say(f"AUTH {mechanism} {words}x")
                secrets.append(words[40:-8])
        client = self.client()
        plain = b64encode(f"\0{ANN}\0ann's password".encode()).decode()
        client.say(f"AUTH PLAIN {plain}")
        secrets.append(plain[20:])
        client = self.client()
        client.say("AUTH LOGIN")
        client.say(b64encode(ANN.encode()))
        secrets.append(b64encode(b"a-Guessed-Token").decode())
        client.say(secrets[-1])
        self.assertTrue([e for e in self.server.events if isinstance(e, AuthFailed | Authenticated)])
        words = [repr(self.server.events), *map(eventAsText, self.logged), *map(repr, self.logged)]
        for form in ("text", "json"):
            path = self.keys.parent / f"log.{form}"
            log = EventLog(Log(format=form, file=str(path)), "mx", reactor=self.server.clock)  # type: ignore[arg-type]
            for event in self.server.events:
                log(event)
            log.close()
            words.append(path.read_text())
        self.assertIn("OAUTHBEARER", words[-1])
        for secret in secrets:
            for text in words:
                self.assertNotIn(secret, text)
