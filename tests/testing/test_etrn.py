"""ETRN (RFC 1985) against a whole server: who may ask for what, what is answered, and what comes of it."""

from __future__ import annotations

from tests.testing.world import ANNA, BERT, BOB, WorldCase
from twisted_mta.mail.events import Delivered, Operator, Rejected, Service
from twisted_mta.smtp import runs
from twisted_mta.testing.case import configured
from twisted_mta.testing.client import MemoryClient

HOUR = 3600.0
NETWORK = "[relay]\nnetworks = ['192.0.2.0/24']\n"


class EtrnCase(WorldCase):
    def user(self, name: str = ANNA) -> MemoryClient:
        client = self.server.connect("submission")
        client.login(name, "secret")
        return client

    def neighbour(self) -> MemoryClient:
        client = self.server.connect("mx")
        client.ehlo()
        return client

    def ask(self, client: MemoryClient, words: str) -> str:
        reply = client.ask(f"ETRN {words}")
        return f"{reply.code} {reply.text}"


class Who(EtrnCase):
    """The policy."""

    def test_a_user_for_domains_of_the_customer(self) -> None:
        self.server.add_customer("other")
        self.server.add_domain("other.example", "other")
        client = self.user()
        self.assertIn("ETRN", client.extensions)
        self.assertEqual(self.ask(client, "isp.example"), "251 OK, no messages waiting for node isp.example")
        for domain in ("other.example", "else.example", "sub.isp.example"):
            self.assertEqual(
                self.ask(client, domain), f"459 Node {domain} not allowed: it is no domain of yours", domain
            )
        self.assertEqual([event.stage for event in self.server.told(Rejected)], ["etrn"] * 3)

    def test_a_user_who_was_suspended_meanwhile(self) -> None:
        client = self.user()
        self.server.parts.directory.set_user(ANNA, suspended=True)
        self.assertEqual(self.ask(client, "isp.example")[:3], "459")

    def test_nobody_without_a_login(self) -> None:
        client = self.server.connect("submission")
        client.ehlo()
        self.assertEqual(self.ask(client, "isp.example")[:3], "530")

    @configured(NETWORK)
    def test_a_network_for_any_domain(self) -> None:
        client = self.neighbour()
        self.assertIn("ETRN", client.extensions)
        self.assertEqual(self.ask(client, "Else.Example"), "251 OK, no messages waiting for node else.example")
        stranger = self.server.connect("mx", address="203.0.113.9")
        stranger.ehlo()
        self.assertEqual(self.ask(stranger, "isp.example")[:3], "459")

    def test_not_offered(self) -> None:
        client = self.neighbour()
        self.assertNotIn("ETRN", client.extensions)
        self.assertEqual(self.ask(client, "isp.example")[:3], "502")

    @configured("[extensions]\netrn = []\n")
    def test_switched_off(self) -> None:
        client = self.user()
        self.assertNotIn("ETRN", client.extensions)
        self.assertEqual(self.ask(client, "isp.example")[:3], "502")

    def test_order_and_form(self) -> None:
        client = self.user()
        for words, code in (("", 501), ("a b", 501), ("@", 501), ("not..a.domain", 501), ("@isp.example", 458),
                            ("#queue", 458)):  # fmt: skip
            self.assertEqual(client.ask(f"ETRN {words}".rstrip()).code, code, words)
        client.ask(f"MAIL FROM:<{ANNA}>")
        self.assertEqual(self.ask(client, "isp.example")[:3], "503")
        client.ask("RSET")
        self.assertEqual(self.ask(client, "isp.example")[:3], "251")
        early = self.server.connect("mx")
        self.assertEqual(early.say("ETRN isp.example")[-1].code, 503)


class Runs(EtrnCase):
    """What comes of it."""

    def blocked(self, count: int = 1, **more: str) -> None:
        """Mail for bob waits, and his host is well again."""
        remote = self.server.remote("else.example", failure="refused")
        for number in range(count):
            self.server.send(ANNA, f"b{number}@else.example", auth=ANNA)
        self.server.advance(10)
        remote.recover()
        self.remote = remote

    @configured(NETWORK)
    def test_what_waits_goes_at_once(self) -> None:
        self.blocked(3)
        client = self.neighbour()
        self.assertEqual(self.ask(client, "else.example"), "253 OK, 3 pending messages for node else.example started")
        self.server.advance(2)
        self.assertEqual(len(self.remote.taken), 3)
        operators = self.server.told(Operator)
        self.assertEqual([(event.action, event.who) for event in operators], [("run", "etrn 192.0.2.1")] * 3)
        (told,) = [event for event in self.server.told(Service) if event.what == "etrn"]
        self.assertEqual(told.detail, "else.example by etrn 192.0.2.1: 3 messages")

    @configured(NETWORK + "connections_per_destination = 5\n")
    def test_though_the_destination_is_dead(self) -> None:
        other = self.server.remote("third.example", failure="refused")
        for number in range(40):
            self.server.send(ANNA, f"t{number}@third.example", auth=ANNA)
        self.blocked(40)
        states = {state.destination: state.dead for state in self.server.parts.scheduler.snapshot()}
        self.assertEqual(states, {"smtp:else.example": True, "smtp:third.example": True})
        attempts = other.attempts
        self.ask(self.neighbour(), "else.example")
        self.server.advance(5)
        self.assertEqual(len(self.remote.taken), 40)
        self.assertEqual(other.attempts, attempts, "no other dead destination is tried for that")

    @configured(NETWORK)
    def test_what_is_held_or_dated_stays(self) -> None:
        self.server.remote("else.example")
        self.server.send(ANNA, BOB, auth=ANNA, params="HOLDFOR=86400")
        self.assertEqual(self.ask(self.neighbour(), "else.example")[:3], "251")
        self.server.advance(HOUR)
        self.assertEqual(self.server.told(Delivered), [])
        self.server.operate("hold")
        self.assertEqual(self.ask(self.neighbour(), "else.example")[:3], "251")
        self.server.advance(HOUR)
        self.assertEqual(self.server.told(Delivered), [])

    @configured(NETWORK + "smarthost = 'relay.example:25'\n")
    def test_one_domain_of_a_smarthost(self) -> None:
        remote = self.server.remote("", "relay.example", failure="refused")
        self.server.send(ANNA, BOB, auth=ANNA)
        self.server.send(ANNA, "x@third.example", auth=ANNA)
        self.server.advance(10)
        remote.recover()
        self.assertEqual(self.ask(self.neighbour(), "else.example")[:5], "253 O")
        self.server.advance(2)
        self.assertEqual(remote.taken, [(ANNA, BOB)])

    @configured("[local]\nlmtp = 'unix:/run/lmtp'\n")
    def test_a_customers_mailboxes(self) -> None:
        remote = self.server.remote_socket("/run/lmtp", lmtp=True)
        remote.fail("refused")
        self.server.send(ANNA, BERT, auth=ANNA)
        self.server.advance(10)
        remote.recover()
        self.assertEqual(self.ask(self.user(), "isp.example")[:5], "253 O")
        self.server.advance(2)
        self.assertEqual(remote.taken, [(ANNA, BERT)])

    @configured(NETWORK)
    def test_a_long_queue_is_run_in_the_background(self) -> None:
        self.patch(runs, "PAGE", 3)
        self.blocked(10)
        self.assertEqual(
            self.ask(self.neighbour(), "else.example"), "252 OK, pending messages for node else.example started"
        )
        self.server.advance(5)
        self.assertEqual(len(self.remote.taken), 10)
        self.assertEqual(self.server.parts.reception.runs._under_way, 0)


class Rates(EtrnCase):
    """The limits."""

    @configured(NETWORK)
    def test_the_same_domain_again(self) -> None:
        client = self.neighbour()
        self.assertEqual(self.ask(client, "else.example")[:3], "251")
        self.assertEqual(self.ask(client, "else.example")[:3], "458")
        self.assertEqual(self.ask(client, "third.example")[:3], "251")
        self.server.advance(61)
        self.assertEqual(self.ask(client, "else.example")[:3], "251")

    @configured(NETWORK)
    def test_too_many_at_once(self) -> None:
        self.server.parts.reception.runs._under_way = runs.RUNS
        self.assertEqual(self.ask(self.neighbour(), "else.example")[:3], "458")

    @configured(NETWORK)
    def test_what_is_remembered_is_bounded(self) -> None:
        self.patch(runs, "KNOWN", 3)
        client = self.neighbour()
        for number in range(6):
            self.ask(client, f"d{number}.example")
        asked = self.server.parts.reception.runs.asked
        self.assertEqual(list(asked.own), ["d3.example", "d4.example", "d5.example"])
        self.server.advance(61)
        self.assertEqual(asked.own, {})

    @configured(NETWORK)
    def test_all_workers_count_together(self) -> None:
        """What one is asked for the others hear of, and of its end."""
        asked = self.server.parts.tallies["etrn"]
        told: list[tuple[str, int]] = []
        asked.changed = lambda node, count: told.append((node, count))
        client = self.neighbour()
        self.ask(client, "else.example")
        self.server.advance(30)
        self.ask(client, "third.example")
        self.assertEqual(told, [("else.example", 1), ("third.example", 1)])
        self.server.advance(31)
        self.assertEqual(told[2:], [("else.example", 0)])
        self.server.advance(30)
        self.assertEqual(told[3:], [("third.example", 0)])
        asked.elsewhere("else.example", 1)
        refusal = "458 Unable to queue messages for node else.example: it was asked for just now, ask again in 60 s"
        self.assertEqual(self.ask(client, "else.example"), refusal)
        asked.elsewhere("else.example", 0)
        self.assertEqual(self.ask(client, "else.example")[:3], "251")

    @configured(NETWORK + "[extensions]\netrn_interval = '0s'\n")
    def test_no_interval(self) -> None:
        client = self.neighbour()
        self.assertEqual([self.ask(client, "else.example")[:3] for _ in range(3)], ["251"] * 3)
