"""What is refused of ``[oauth.NAME]``."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.config.checks.oauth import check, url_flaw
from twisted_mta.config.settings import Duration, OAuth, Settings, Submission

ISSUER = "https://login.isp.example/realms/isp"
JWT: dict[str, Any] = {"issuer": ISSUER, "audience": ("mail",)}
ASKED: dict[str, Any] = {"kind": "introspection", "endpoint": "https://login.isp.example/introspect"}


class OAuthTests(SynchronousTestCase):
    def problems(self, **servers: OAuth) -> list[tuple[str, str]]:
        return [(problem.key, problem.severity) for problem in check(Settings(oauth=servers))]

    def test_good(self) -> None:
        for server in (
            OAuth(**JWT),
            OAuth(**JWT, keys="https://login.isp.example/keys", scopes=("mail.send", "https://mail.google.com/")),
            OAuth(**JWT, keys=__file__),
            OAuth(**ASKED, audience=("mail",), client_id="mta", client_secret_file=__file__),
            OAuth(kind="introspection", **JWT),
            OAuth(kind="tokeninfo", endpoint="https://oauth2.googleapis.com/tokeninfo", audience=("x",)),
            OAuth(issuer="http://127.0.0.1:8080", audience=("mail",)),
        ):
            self.assertEqual(self.problems(x=server), [], server)

    def test_bad(self) -> None:
        for server, option in (
            (OAuth(audience=("mail",)), "issuer"),
            (OAuth(issuer=ISSUER), "audience"),
            (OAuth(**{**JWT, "issuer": "login.isp.example"}), "issuer"),
            (OAuth(**{**JWT, "issuer": "http://login.isp.example"}), "issuer"),
            (OAuth(**JWT, keys="http://login.isp.example/keys"), "keys"),
            (OAuth(**JWT, keys="relative.json"), "keys"),
            (OAuth(**JWT, keys="/no/such"), "keys"),
            (OAuth(**JWT, ca="/no/such"), "ca"),
            (OAuth(**JWT, algorithms=()), "algorithms"),
            (OAuth(**JWT, user=""), "user"),
            (OAuth(**JWT, scopes=("a b",)), "scopes"),
            (OAuth(**JWT, scopes=("",)), "scopes"),
            (OAuth(**JWT, timeout=Duration(0)), "timeout"),
            (OAuth(**JWT, refresh=Duration(0)), "refresh"),
            (OAuth(kind="introspection", audience=("mail",)), "endpoint"),
            (OAuth(kind="tokeninfo", audience=("mail",)), "endpoint"),
            (OAuth(kind="tokeninfo", endpoint="https://x.example"), "audience"),
            (OAuth(**ASKED, audience=("m",), client_id="mta"), "client_secret_file"),
            (OAuth(**ASKED, audience=("m",), client_secret_file=__file__), "client_id"),
        ):
            self.assertEqual(self.problems(x=server), [(f"oauth.x.{option}", "error")], server)

    def test_doubtful(self) -> None:
        self.assertEqual(self.problems(x=OAuth(**ASKED)), [("oauth.x.audience", "warning")])
        server = OAuth(**JWT, endpoint="https://x.example")
        self.assertEqual(self.problems(x=server), [("oauth.x.endpoint", "warning")])
        settings = Settings(oauth={"x": OAuth(**JWT)}, submission=Submission(mechanisms=("PLAIN",)))
        self.assertEqual([problem.key for problem in check(settings)], ["submission.mechanisms"])

    def test_one_issuer_twice(self) -> None:
        self.assertEqual(self.problems(x=OAuth(**JWT), y=OAuth(**JWT)), [("oauth.y.issuer", "error")])

    def test_urls(self) -> None:
        for text in ("https://x.example", "https://[2001:db8::1]:8443/x?y=z", "http://[::1]/", "http://localhost:80/x"):
            self.assertEqual(url_flaw(text), "", text)
        for text in (
            "",
            "x",
            "/x",
            "ftp://x.example",
            "file:///etc/passwd",
            "https://",
            "https://x:port/",
            "https://[::1",
            "https://x.example:0",
            "https://a:b@x.example",
            "https://x.example/#y",
            "https://x.example/a b",
            "https://ü.example",
            "http://127.0.0.1.x.example/",
        ):
            self.assertNotEqual(url_flaw(text), "", text)
