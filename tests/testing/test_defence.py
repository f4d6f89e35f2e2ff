"""What the whole server does to strangers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.mail.events import Accepted, Rejected
from twisted_mta.policy.dns_lists import entry
from twisted_mta.testing.client import Refused
from twisted_mta.testing.server import TestServer

CLIENT = "192.0.2.1"


class Case(SynchronousTestCase):
    def serve(self, *config: str) -> TestServer:
        server = TestServer(*config, store="memory")
        self.addCleanup(server.close)
        server.add_customer("acme")
        server.add_domain("isp.example", "acme")
        server.add_user("anna@isp.example")
        return server


class NameTests(Case):
    def test_the_name_is_in_received_and_in_the_log(self) -> None:
        server = self.serve()
        server.resolver.records["1.2.0.192.in-addr.arpa"] = {"PTR": ["mail.far.example."]}
        server.resolver.records["mail.far.example"] = {"A": [CLIENT]}
        server.send("joe@far.example", "anna@isp.example")
        server.advance(1)
        self.assertIn(
            b"Received: from client.example (mail.far.example [192.0.2.1])", server.maildir("anna@isp.example")[0]
        )
        self.assertEqual(server.told(Accepted)[0].hostname, "mail.far.example")

    def test_unknown(self) -> None:
        server = self.serve()
        server.send("joe@far.example", "anna@isp.example")
        server.advance(1)
        self.assertIn(b"Received: from client.example (unknown [192.0.2.1])", server.maildir("anna@isp.example")[0])


class ListTests(Case):
    def test_listed_clients_are_refused_at_rcpt_and_users_are_not(self) -> None:
        server = self.serve('[defence]\ndns_lists = ["bl.example"]')
        server.resolver.records[entry(CLIENT, "bl.example")] = {"A": ["127.0.0.2"]}
        client = server.connect("mx", CLIENT)
        client.ehlo()
        codes = [client.ask(line).code for line in ("MAIL FROM:<joe@far.example>", "RCPT TO:<anna@isp.example>")]
        self.assertEqual(codes, [250, 550])
        told = server.told(Rejected)[0]
        self.assertEqual((told.stage, told.sender, told.recipient), ("rcpt", "joe@far.example", "anna@isp.example"))
        self.assertTrue(server.send("anna@isp.example", "anna@isp.example", auth="anna@isp.example"))


class GreetingTests(Case):
    def test_early_talkers_are_turned_away_and_others_greeted(self) -> None:
        server = self.serve('[defence]\ngreeting_delay = "2s"')
        early, patient = server.connect("mx"), server.connect("mx", "192.0.2.2")
        early.say("EHLO client.example")
        self.assertEqual((early.replies, patient.replies), ([], []))
        server.advance(2)
        self.assertEqual([early.replies[0].code, patient.replies[0].code], [554, 220])
        self.assertEqual(server.told(Rejected)[0].stage, "connect")

    def test_a_stop_does_not_wait_for_strangers(self) -> None:
        server = self.serve('[defence]\ngreeting_delay = "20s"')
        server.connect("mx").drop()
        server.connect("mx")
        server.stop()

    def test_users_do_not_wait(self) -> None:
        server = self.serve('[defence]\ngreeting_delay = "2s"')
        self.assertTrue(server.send("anna@isp.example", "anna@isp.example", auth="anna@isp.example"))


class BanTests(Case):
    """A ban on an address never locks out the customer's other addresses."""

    def test_a_ban_is_of_one_address(self) -> None:
        server = self.serve('[defence]\nauth_failures_per_hour = 3\ntarpit = "0s"', '[smtp]\nauth_delay = "0s"')
        for _ in range(3):
            client = server.connect("submission")
            for _ in range(3):
                if not client.closed:
                    client.login("anna@isp.example", "guess")
            client.drop()
        self.assertEqual(server.connect("submission").replies[0].code, 421)
        other = server.connect("submission", "198.51.100.200")
        self.assertTrue(other.mail("anna@isp.example", "anna@isp.example", auth=("anna@isp.example", "secret")))


class ReloadTests(Case):
    def test_what_is_switched_on_holds_from_then_on(self) -> None:
        server = self.serve()
        pipeline = server.parts.factories["mx"].pipeline
        self.assertFalse([hook for hook in pipeline.rcpt if "greylist" in hook.__module__])
        server.reload("[greylist]\nenabled = true")
        with self.assertRaises(Refused) as caught:
            server.send("joe@far.example", "anna@isp.example")
        self.assertEqual(caught.exception.reply.code, 451)
        server.advance(301)
        self.assertTrue(server.send("joe@far.example", "anna@isp.example"))
        server.reload("[greylist]\nenabled = false")
        self.assertTrue(server.send("new@far.example", "anna@isp.example"))
