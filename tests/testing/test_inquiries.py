"""VRFY, EXPN, HELP and NOOP (RFC 5321 §3.5, §4.1.1.6 to §4.1.1.9); hosts and domains that take no mail (RFC 7504)."""

from __future__ import annotations

from tests.testing.world import ANNA, BERT, BOB, WorldCase, report_of
from twisted_mta.mail.events import Disconnected, Rejected
from twisted_mta.testing.case import configured
from twisted_mta.testing.client import Refused

FRIEND = "192.0.2.25"
SALES = "sales@isp.example"


class InquiryTests(WorldCase):
    config = f"""
[smtp]
verify_networks = ["{FRIEND}"]
[local]
domains = ["isp.example", "brand.example"]
"""

    def setUp(self) -> None:
        super().setUp()
        self.server.add_domain("brand.example", "acme")
        self.server.add_user("anna@brand.example")
        self.server.add_user("cleo@brand.example")
        self.server.add_alias(SALES, ANNA, BOB)
        self.server.add_alias("utf8@isp.example", "j\u00f6rg@isp.example")

    def ask(self, line: str, address: str = FRIEND) -> tuple[int, str, str]:
        client = self.server.connect(address=address)
        client.ehlo()
        reply = client.ask(line)
        return reply.code, reply.enhanced, reply.text

    def test_strangers_are_told_nothing(self) -> None:
        """§7.3: 252, and not a code that says that there is no such mailbox."""
        for name in (ANNA, f"<{ANNA}>", "nobody@isp.example", "anna", "nobody", BOB, "two words"):
            self.assertEqual(self.ask(f"VRFY {name}", "192.0.2.1")[0], 252, name)
            self.assertEqual(self.ask(f"EXPN {name}", "192.0.2.1")[:2], (502, "5.5.1"), name)
        client = self.server.connect()
        client.ehlo()
        self.assertNotIn("EXPN", client.extensions)

    def test_friends_are(self) -> None:
        for line, expected in (
            (f"VRFY {ANNA}", (250, "2.1.5", f"<{ANNA}>")),
            (f"VRFY Anna <{ANNA.upper()}>", (250, "2.1.5", f"<{ANNA}>")),
            ("VRFY anna+lists@isp.example", (250, "2.1.5", f"<{ANNA}>")),
            (f"VRFY {SALES}", (250, "2.1.5", f"<{SALES}>")),
            ("VRFY bert", (250, "2.1.5", f"<{BERT}>")),
            ("VRFY cleo", (250, "2.1.5", "<cleo@brand.example>")),
            ("VRFY anna", (553, "5.1.4", f"<{ANNA}>\n<anna@brand.example>")),
            (f"EXPN {SALES}", (250, "2.1.5", f"<{ANNA}>\n<{BOB}>")),
            ("EXPN sales", (250, "2.1.5", f"<{ANNA}>\n<{BOB}>")),
            (f"EXPN {BERT}", (250, "2.1.5", f"<{BERT}>")),
        ):
            self.assertEqual(self.ask(line), expected, line)
        for line in (
            "VRFY nobody",
            "VRFY nobody@isp.example",
            "VRFY a b@c@d",
            "VRFY <>",
            "EXPN nobody",
            "VRFY x%y@isp.example",
        ):
            self.assertEqual(self.ask(line)[:2], (550, "5.1.1"), line)
        for line in (f"VRFY {BOB}", f"EXPN {BOB}"):
            self.assertEqual(self.ask(line)[0], 252, line)
        for line in ("VRFY", "EXPN"):
            self.assertEqual(self.ask(line)[:2], (501, "5.5.4"))
        client = self.server.connect(address=FRIEND)
        client.ehlo()
        self.assertIn("EXPN", client.extensions)

    def test_beyond_ascii(self) -> None:
        """RFC 6531 §3.7.4.2."""
        self.assertEqual(self.ask("EXPN utf8")[:2], (550, "5.6.8"))
        self.assertEqual(self.ask("EXPN utf8 SMTPUTF8")[2], "<j\u00f6rg@isp.example>")
        self.assertEqual(self.ask("VRFY j\u00f6rg@isp.example")[0], 501)
        self.assertEqual(self.ask("VRFY j\u00f6rg@isp.example SMTPUTF8")[0], 550)
        self.assertEqual(self.ask(f"VRFY {ANNA} SMTPUTF8")[0], 250)

    def test_a_transaction_goes_on(self) -> None:
        client = self.server.connect(address=FRIEND)
        client.ehlo()
        lines = ("MAIL FROM:<>", f"VRFY {ANNA}", f"RCPT TO:<{ANNA}>", "EXPN sales", "HELP", "NOOP x y", "DATA")
        self.assertEqual([reply.code for reply in client.say(*lines)], [250, 250, 250, 250, 214, 250, 354])

    def test_help(self) -> None:
        code, _, text = self.ask("HELP")
        self.assertEqual(code, 214)
        self.assertIn("EXPN", text)
        self.assertNotIn("LHLO", text)
        self.assertNotIn("EXPN", self.ask("HELP", "192.0.2.1")[2])
        self.assertTrue(self.ask("HELP mail")[2].startswith("MAIL FROM:<address>"))
        for topic in ("FOO", "LHLO", "XCLIENT", "mail from"):
            self.assertEqual(self.ask(f"HELP {topic}")[:2], (504, "5.5.4"), topic)

    def test_noop(self) -> None:
        for line in ("NOOP", "NOOP anything at all", "noop"):
            self.assertEqual(self.ask(line)[0], 250, line)


class NoMailTests(WorldCase):
    """RFC 7504."""

    @configured('[listen.mx]\nport = 2525\nrole = "nomail"')
    def test_a_host_that_takes_none(self) -> None:
        client = self.server.connect()
        (greeting,) = client.replies
        self.assertEqual((greeting.code, greeting.enhanced), (521, "5.3.2"))
        self.assertEqual([reply.code for reply in client.say("EHLO x", "MAIL FROM:<>", "QUIT")], [503, 503, 221])
        self.assertTrue(client.closed)
        self.assertEqual(self.server.told(Rejected)[0].stage, "connect")
        self.assertEqual(self.server.told(Disconnected)[0].reason, "refused")

    @configured('[relay]\nnetworks = ["192.0.2.0/24"]')
    def test_a_domain_that_takes_none(self) -> None:
        self.server.resolver.records["none.example"] = {"MX": ["0 ."]}
        self.server.remote("else.example")
        client = self.server.connect()
        with self.assertRaises(Refused) as caught:
            client.mail("x@isp.example", "joe@none.example")
        self.assertEqual((caught.exception.reply.code, caught.exception.reply.enhanced), (556, "5.1.10"))
        self.assertEqual(self.server.told(Rejected)[0].recipient, "joe@none.example")
        client.mail("x@isp.example", BOB)
        self.server.advance(5)

    @configured('[relay]\nnetworks = ["192.0.2.0/24"]\nrefuse_null_mx = false')
    def test_what_others_answer_is_final(self) -> None:
        """521 from every host of a domain, 556 at RCPT, and a null MX are bounced at once, not tried again."""
        self.server.resolver.records["none.example"] = {"MX": ["0 ."]}
        self.server.remote("closed.example", replies={"greeting": "521 5.3.2 no mail here"})
        self.server.remote("gone.example", replies={"RCPT": "556 5.1.10 no mail there"})
        for domain, status in (("none.example", "5.1.10"), ("closed.example", "5.3.2"), ("gone.example", "5.1.10")):
            self.server.connect().mail(ANNA, f"joe@{domain}")
            self.server.advance(10)
            fields = report_of(self.server.maildir(ANNA)[-1])
            self.assertEqual((fields["Action"], fields["Status"]), ("failed", status), domain)
        self.assertEqual(self.server.queue(), [])

    @configured('[relay]\nnetworks = ["192.0.2.0/24"]')
    def test_another_host_of_the_domain_may_take_it(self) -> None:
        """521 says something of one host alone (RFC 7504 §3)."""
        self.server.remote("else.example", preference=10, host="a.else.example", replies={"greeting": "521 no"})
        other = self.server.remote("else.example", preference=20, host="b.else.example")
        self.server.connect().mail("x@isp.example", BOB)
        self.server.advance(10)
        self.assertEqual(other.taken, [("x@isp.example", BOB)])
