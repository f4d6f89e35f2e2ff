"""Whom the claims of a token name, and which of them are refused (RFC 7519 §4.1, RFC 7662 §2.2, RFC 8725 §3)."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.directory.tokens import CLAIMS, ISSUER, NOW
from twisted_mta.config.settings import Duration, OAuth
from twisted_mta.directory.claims import FOREVER, Granted, TokenRefused, judge

JWT = OAuth(issuer=ISSUER, audience=("mail", "smtp"), scopes=("mail.send",))
ASKED = OAuth(kind="introspection", issuer=ISSUER, audience=("mail",))


class ClaimTests(SynchronousTestCase):
    def judged(self, server: OAuth = JWT, now: float = NOW, **claims: Any) -> Granted:
        told = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
        return judge(told, server, now)

    def refused(self, server: OAuth = JWT, now: float = NOW, **claims: Any) -> str:
        with self.assertRaises(TokenRefused) as caught:
            self.judged(server, now, **claims)
        return caught.exception.status

    def test_good(self) -> None:
        self.assertEqual(self.judged(), Granted("ann@isp.example", NOW + 300))
        self.assertEqual(self.judged(ASKED), Granted("ann@isp.example", NOW + 300))

    def test_expiry(self) -> None:
        self.judged(now=NOW + 300 + 59)
        self.refused(now=NOW + 300 + 60)
        self.refused(OAuth(issuer=ISSUER, audience=("mail",), leeway=Duration(0)), now=NOW + 300)
        self.refused(exp=None)
        for bad in (True, "soon", [], {}, float("nan"), float("inf"), 1e300, ""):
            self.refused(exp=bad)

    def test_a_server_that_is_asked_need_not_tell_when_it_ends(self) -> None:
        self.assertEqual(self.judged(ASKED, exp=None).expires, FOREVER)
        self.assertEqual(self.judged(ASKED, exp=str(int(NOW + 9))).expires, NOW + 9)
        self.refused(ASKED, exp=str(int(NOW - 90)))

    def test_not_yet(self) -> None:
        for name in ("nbf", "iat"):
            self.judged(**{name: NOW + 60})
            self.refused(**{name: NOW + 61})
            self.refused(**{name: "now"})

    def test_issuer(self) -> None:
        for issuer in (None, "", ISSUER + "/", ISSUER.upper(), [ISSUER]):
            self.refused(iss=issuer)
        self.judged(ASKED, iss=None)
        self.refused(ASKED, iss="https://else.example")

    def test_audience(self) -> None:
        self.judged(aud="smtp")
        for audience in (None, "", [], "mail smtp", ["account"], {"mail": 1}, [["mail"]], 7):
            self.refused(aud=audience)
        self.refused(ASKED, aud=None)
        self.judged(OAuth(kind="introspection"), aud=None)

    def test_scope(self) -> None:
        self.judged(scope=None, scp="mail.send other")
        self.judged(scope=None, scp=["mail.send"])
        for scope in (None, "", "mail", "mail.sendx", "MAIL.SEND", 7):
            self.assertEqual(self.refused(scope=scope), "insufficient_scope")

    def test_bound_tokens(self) -> None:
        """A token that only the holder of a key may use is not for whoever bears it (RFC 7800, RFC 8705, RFC 9449)."""
        self.refused(cnf={"x5t#S256": "abc"})

    def test_user(self) -> None:
        for email in (None, "", 7, ["ann@isp.example"]):
            self.refused(email=email)
        for verified in (False, "false"):
            self.refused(email_verified=verified)
        self.judged(email_verified=True)
        named = OAuth(issuer=ISSUER, audience=("mail",), user="preferred_username", domain="isp.example")
        self.assertEqual(self.judged(named, preferred_username="bob").username, "bob@isp.example")
        self.assertEqual(self.judged(named, preferred_username="b@x.example").username, "b@x.example")

    @given(
        st.dictionaries(
            st.sampled_from(("iss", "aud", "exp", "nbf", "iat", "scope", "scp", "email", "email_verified", "cnf")),
            st.none()
            | st.booleans()
            | st.floats()
            | st.integers()
            | st.text(max_size=4)
            | st.lists(st.text(max_size=3)),
        ),
        st.sampled_from((JWT, ASKED)),
    )
    def test_only_a_refusal_escapes(self, claims: dict[str, Any], server: OAuth) -> None:
        with contextlib.suppress(TokenRefused):
            judge(claims, server, NOW)
