"""LMTP (RFC 2033) on the server's side: who is served, what each recipient is told, what is stored."""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tests.smtp.world import Client, World, codes
from twisted_mta.mail.envelope import Recipient
from twisted_mta.mail.events import Accepted, Rejected
from twisted_mta.mail.status import MailError, Reply
from twisted_mta.queue.interfaces import NewDelivery, Routing
from twisted_mta.smtp.individually import unroutable, without

FULL = MailError(Reply(452, "4.3.1", "The disk is full"))
ANN, BOB, LIST = "ann@isp.example", "bob@isp.example", "list@isp.example"


class LmtpCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(role="lmtp")

    def begin(self, *recipients: str, address: str = "127.0.0.1") -> Client:
        client = self.world.session(address)
        commands = ["LHLO mail.isp.example", "MAIL FROM:<joe@far.example>", *(f"RCPT TO:<{one}>" for one in recipients)]
        self.assertEqual(client.codes(*commands), [220] + [250] * len(commands))
        return client

    def stored(self) -> list[tuple[str, ...]]:
        """Of each message that was stored, the recipients."""
        return [
            tuple(recipient.address for delivery in new.deliveries for recipient in delivery.recipients)
            for new, _ in self.world.store.messages
        ]


class ServedTests(LmtpCase):
    """LMTP asks for no password."""

    def test_this_machine_alone(self) -> None:
        for address, code in (
            ("127.0.0.1", 220),
            ("127.9.9.9", 220),
            ("::1", 220),
            ("192.0.2.7", 554),
            ("10.0.0.1", 554),
        ):
            self.assertEqual(codes(self.world.session(address).read()), [code], address)
        self.assertEqual([event.stage for event in self.world.of(Rejected)], ["connect", "connect"])

    def test_the_networks_that_are_named(self) -> None:
        listener = attrs.evolve(self.world.factory.listener, clients=("192.0.2.0/28",))
        self.world = World(listener=listener)
        for address, code in (("192.0.2.7", 220), ("192.0.2.17", 554), ("127.0.0.1", 554)):
            self.assertEqual(codes(self.world.session(address).read()), [code], address)

    def test_so_on_other_listeners_if_they_say_so(self) -> None:
        listener = attrs.evolve(World().factory.listener, clients=("192.0.2.0/28",))
        world = World(listener=listener)
        self.assertEqual(codes(world.session("192.0.2.7").read()), [220])
        self.assertEqual(codes(world.session("192.0.2.99").read()), [554])
        self.assertEqual(codes(World().session("192.0.2.99").read()), [220])

    def test_greeting(self) -> None:
        self.assertEqual(self.world.session("::1").read(), b"220 mx.isp.example LMTP\r\n")

    def test_offers(self) -> None:
        """RFC 2033 §5 wants PIPELINING and ENHANCEDSTATUSCODES, and 8BITMIME; the rest is as in SMTP."""
        client = self.world.session("::1")
        client.read()
        offered = {line[4:].split()[0] for line in client.say("LHLO x").split(b"\r\n")[1:] if line}
        wanted = b"PIPELINING ENHANCEDSTATUSCODES 8BITMIME SIZE DSN SMTPUTF8 CHUNKING LIMITS".split()
        self.assertLessEqual(set(wanted), offered)
        self.assertNotIn(b"AUTH", offered)

    def test_no_relay(self) -> None:
        client = self.begin()
        self.assertEqual(client.codes("RCPT TO:<joe@far.example>", f"RCPT TO:<{ANN}>"), [550, 250])

    def test_relay_for_gateways(self) -> None:
        self.world = World(listener=attrs.evolve(self.world.factory.listener, relay=True))
        client = self.begin()
        self.assertEqual(client.codes("RCPT TO:<joe@far.example>", "RCPT TO:<nobody@isp.example>"), [250, 550])
        self.assertEqual(client.codes("RCPT TO:<@isp.example:joe@far.example>"), [550])


class OutcomeTests(LmtpCase):
    """One reply for each recipient (RFC 2033 §4.2)."""

    def test_all_are_taken(self) -> None:
        client = self.begin(ANN, BOB)
        self.assertEqual(client.codes("DATA", "Subject: x", "", "."), [354, 250, 250])
        self.assertEqual(self.stored(), [(ANN, BOB)])
        new, content = self.world.store.messages[0]
        self.assertEqual(new.message.protocol, "LMTP")
        self.assertIn(b"with LMTP id ", content)

    def test_one_is_not_taken(self) -> None:
        self.world.router.refused = {BOB}
        client = self.begin(ANN, BOB, LIST)
        said = client.say("DATA", "Subject: x", "", ".", "NOOP")
        self.assertEqual(codes(said), [354, 250, 550, 250, 250])
        self.assertIn(b"550 5.4.6 ", said)
        self.assertEqual(self.stored(), [(ANN, LIST)])
        (accepted,) = self.world.of(Accepted)
        self.assertEqual(accepted.recipients, (ANN, LIST))
        self.assertEqual(self.world.store.messages[0][0].message.recipients, 2)
        (rejected,) = self.world.of(Rejected)
        self.assertEqual((rejected.stage, rejected.recipient, rejected.sender), ("content", BOB, "joe@far.example"))

    def test_none_is_taken(self) -> None:
        self.world.router.refused = {ANN, BOB}
        client = self.begin(ANN, BOB)
        self.assertEqual(client.codes("DATA", "Subject: x", "", ".", "NOOP"), [354, 550, 550, 250])
        self.assertEqual(self.stored(), [])
        self.assertEqual([event.recipient for event in self.world.of(Rejected)], [ANN, BOB])

    def test_by_smtp_it_bounces_later(self) -> None:
        self.world = World(role="mx")
        self.world.router.refused = {BOB}
        client = self.world.session()
        client.say("EHLO x", "MAIL FROM:<joe@far.example>", f"RCPT TO:<{ANN}>", f"RCPT TO:<{BOB}>")
        self.assertEqual(client.codes("DATA", "Subject: x", "", "."), [354, 250])
        self.assertEqual(self.stored(), [(ANN, BOB)])

    def test_named_twice(self) -> None:
        client = self.begin(ANN, ANN)
        self.assertEqual(client.codes("DATA", "Subject: x", "", "."), [354, 250, 250])

    def test_by_bdat(self) -> None:
        self.world.router.refused = {ANN}
        client = self.begin(ANN, BOB)
        self.assertEqual(client.codes("BDAT 4", "ab", "BDAT 4 LAST"), [250])
        self.assertEqual(client.codes("cd", "NOOP"), [550, 250, 250])
        self.assertEqual(self.stored(), [(BOB,)])

    def test_the_store_refuses(self) -> None:
        """What is wrong with the whole message is told to each."""
        self.world.store.failure = FULL
        client = self.begin(ANN, BOB)
        self.assertEqual(client.codes("DATA", "Subject: x", "", ".", "NOOP"), [354, 452, 452, 250])
        self.world.store.failure = None
        self.world.router.failure = MailError(Reply(451, "4.3.0", "The directory does not answer"))
        self.assertEqual(client.codes("MAIL FROM:<>", f"RCPT TO:<{ANN}>", "DATA"), [250, 250, 354])
        self.assertEqual(client.codes("Subject: x", "", "."), [451])

    def test_a_flaw_in_the_content(self) -> None:
        client = self.begin(ANN, BOB)
        self.assertEqual(client.codes("DATA", b"a\nb", ".", "NOOP"), [354, 550, 550, 250])

    def test_the_replies_wait_for_the_disk(self) -> None:
        self.world.store.slow_commit = True
        client = self.begin(ANN, BOB)
        self.assertEqual(client.codes("DATA", "Subject: x", "", "."), [354])
        self.world.store.commits.pop().callback(None)
        self.assertEqual(codes(client.read()), [250, 250])

    def test_the_client_has_gone(self) -> None:
        """It goes its way all the same, and nothing is said to nobody."""
        self.world.router.refused = {BOB}
        self.world.store.slow_commit = True
        client = self.begin(ANN, BOB)
        client.say("DATA", "Subject: x", "", ".")
        client.transport.loseConnection()
        client.server.connectionLost(None)  # type: ignore[arg-type]
        self.world.store.commits.pop().callback(None)
        self.assertEqual(self.stored(), [(ANN,)])
        self.assertEqual(len(self.world.of(Accepted)), 1)


class UnroutableTests(SynchronousTestCase):
    """Which recipients lead nowhere, of what the router says."""

    NO = Reply(550, "5.1.1", "Unknown")

    def of(self, *names: str, expanded: dict[str, tuple[str, ...]], refused: dict[str, str]) -> set[str]:
        recipients = tuple(Recipient(name, name) for name in names)
        pairs = tuple((Recipient(address, original), self.NO) for address, original in refused.items())
        return set(unroutable(recipients, Routing((), expanded, pairs)))

    def test_aliases(self) -> None:
        a, b = "a@isp.example", "b@isp.example"
        for targets, refused, expected in (
            ({a: ("gone@isp.example",)}, {"gone@isp.example": a}, {a}),
            ({a: ("gone@isp.example", "x@far.example")}, {"gone@isp.example": a}, set()),
            ({a: ("c@isp.example",), "c@isp.example": ("Gone@isp.example",)}, {"gone@isp.example": a}, {a}),
            ({a: ("gone@isp.example", a)}, {"gone@isp.example": a}, set()),
            ({a: ("gone@isp.example",), b: ("x@far.example",)}, {"gone@isp.example": a}, {a}),
            ({}, {a: a, b: b}, {a, b}),
            ({}, {}, set()),
        ):
            self.assertEqual(self.of(a, b, expanded=targets, refused=refused), expected, (targets, refused))

    def test_the_others(self) -> None:
        ann, bob, alias = (Recipient(name, name) for name in (ANN, BOB, LIST))
        part = Recipient("gone@isp.example", LIST)
        routing = Routing((NewDelivery("maildir:isp.example", (ann,)),), {}, ((bob, self.NO), (part, self.NO)))
        taken, left = without({BOB: self.NO}, (ann, bob, alias), routing)
        self.assertEqual((taken, left.refused), ((ann, alias), ((part, self.NO),)))
        with self.assertRaises(MailError):
            without({BOB: self.NO}, (bob,), routing)
