"""Whether a connection goes on in clear: every policy before every server."""

from __future__ import annotations

from typing import get_args

from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.mail.status import Reply
from twisted_mta.wire.capabilities import Capabilities
from twisted_mta.wire.starttls import NoTls, TlsPolicy, choose, refused

OFFERS = {
    "nothing": Capabilities(),
    "STARTTLS": Capabilities(starttls=True),
    "REQUIRETLS": Capabilities(starttls=True, requiretls=True),
}
CLEAR = """
    policy   nothing STARTTLS REQUIRETLS
    none     go      go       go
    may      go      ask      ask
    encrypt  4.7.4   ask      ask
    require  5.7.10  ask      ask
"""
SECURE = """
    policy   nothing STARTTLS REQUIRETLS
    none     go      go       go
    may      go      go       go
    encrypt  go      go       go
    require  5.7.30  5.7.30   go
"""


def said(choice: NoTls | bool) -> str:
    return choice.reply.enhanced if isinstance(choice, NoTls) else "ask" if choice else "go"


class StartTlsTests(SynchronousTestCase):
    def test_tables(self) -> None:
        for secure, text in ((False, CLEAR), (True, SECURE)):
            header, *rows = [line.split() for line in text.strip().splitlines()]
            self.assertEqual({row[0] for row in rows}, set(get_args(TlsPolicy)))
            for policy, *expected in rows:
                for offer, what in zip(header[1:], expected, strict=True):
                    choice = choose(policy, OFFERS[offer], secure=secure, lmtp=False)  # type: ignore[arg-type]
                    self.assertEqual(said(choice), what, (secure, policy, offer))

    def test_lmtp_is_delivery(self) -> None:
        """RFC 8689 §4.4: there the requirement ends, but what leads there is encrypted."""
        self.assertIs(choose("require", OFFERS["STARTTLS"], secure=True, lmtp=True), False)
        self.assertEqual(said(choose("require", OFFERS["nothing"], secure=False, lmtp=True)), "5.7.10")

    def test_refused(self) -> None:
        for policy, reply, expected in (
            ("may", Reply(454, "4.7.0", "Not now"), None),
            ("encrypt", Reply(454, "4.7.0", "Not now"), (451, "4.7.4", False)),
            ("encrypt", Reply(502, "5.5.1", "Never"), (451, "4.7.4", False)),
            ("require", Reply(454, "4.7.0", "Not now"), (451, "4.7.10", True)),
            ("require", Reply(502, "5.5.1", "Never"), (550, "5.7.10", True)),
        ):
            why = refused(policy, reply)  # type: ignore[arg-type]
            found = None if why is None else (why.reply.code, why.reply.enhanced, why.polite)
            self.assertEqual(found, expected, (policy, reply))
            if why is not None:
                self.assertIn(reply.text, why.reply.text)
