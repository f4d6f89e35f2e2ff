"""Nobody relays who may not: whatever a stranger says, each recipient accepted goes to a mailbox of ours.

The real server, policies, directory and router, in memory; the same tricks meet the running service in ``e2e``.
"""

from __future__ import annotations

import base64
from typing import Any

import attrs
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tests.directory.inline import Pool, hasher
from tests.directory.test_contract import now
from twisted_mta.config.settings import Listener, Local, Relay, Role, Settings
from twisted_mta.delivery.router import Router
from twisted_mta.directory.auth import CredentialCache, make_portal
from twisted_mta.directory.memory import MemoryDirectory
from twisted_mta.mail.envelope import Recipient
from twisted_mta.mail.events import no_events
from twisted_mta.policy.access import AccessPolicy
from twisted_mta.policy.connections import ConnectionPolicy
from twisted_mta.policy.interfaces import Peer, Transaction
from twisted_mta.policy.pipeline import Pipeline
from twisted_mta.policy.submission import SubmissionPolicy
from twisted_mta.policy.throttle import AuthThrottle
from twisted_mta.smtp.factory import MtaServerFactory
from twisted_mta.smtp.sessions import Sessions

OURS = "isp.example"
STRANGER, CUSTOMER = "203.0.113.9", "198.51.100.7"

TRICKS = (
    "x@else.example",
    "X@ELSE.EXAMPLE",
    "anna+x@else.example",
    f"x%else.example@{OURS}",
    f"anna%else.example@{OURS}",
    f"x%else.example%other.example@{OURS}",
    "x%else.example@[127.0.0.1]",
    f"else.example!x@{OURS}",
    f"{OURS}!else.example!x@{OURS}",
    f"else.example!x%y@{OURS}",
    f'"x@else.example"@{OURS}',
    f'"x%else.example"@{OURS}',
    f'"else.example!x"@{OURS}',
    f'"@{OURS}:x@else.example"@{OURS}',
    f"anna+x%else.example@{OURS}",
    f'"anna+x@else.example"@{OURS}',
    f"@{OURS}:x@else.example",
    f"@{OURS},@mx.{OURS}:x@else.example",
    f"@else.example:x%else.example@{OURS}",
    "x%else.example@catch.example",
    "else.example!x@catch.example",
    '"x@else.example"@catch.example',
    "anna@[127.0.0.1]",
    "anna@[IPv6:::1]",
    "anna@localhost",
    f"anna@sub.{OURS}",
    f"anna@not{OURS}",
    f"anna@{OURS}.else.example",
    f"x@else.example@{OURS}",
    f"x@{OURS}@else.example",
    f"x\\@else.example@{OURS}",
    "postmaster@else.example",
    "postmaster%else.example",
)


class Reception:
    """Takes nothing in, and remembers who got as far as DATA."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.begun: list[Transaction] = []

    def message_bytes(self, peer: Peer) -> int:
        return self.settings.smtp.message_bytes

    def begin(self, peer: Peer, transaction: Transaction, hooks: Any = ()) -> Any:
        self.begun.append(transaction)
        raise AssertionError("enough")


class Transport(StringTransport):
    """From an address of choice."""

    def __init__(self, address: str) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", address, 1025))

    def abortConnection(self) -> None:
        self.loseConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Nothing is ever paused here."""

    def unregisterProducer(self) -> None:
        """As above."""


class World:
    """A server with a directory of its own."""

    def __init__(self, networks: tuple[str, ...] = ()) -> None:
        self.clock = Clock()
        self.settings = attrs.evolve(
            Settings(hostname=f"mx.{OURS}"), relay=Relay(networks=networks), local=Local(domains=("plain.example",))
        )
        self.directory = MemoryDirectory(self.settings.local, self.clock)
        self.directory.add_customer("acme")
        for domain in (OURS, "catch.example"):
            self.directory.add_domain(domain, "acme")
        for address in (f"anna@{OURS}", f"bert@{OURS}", "fifty%off@catch.example"):
            self.directory.add_user(address, "secret")
        self.directory.add_alias("@catch.example", (f"anna@{OURS}",))
        self.router = Router(self.settings, self.directory)
        self.reception = Reception(self.settings)
        stages = (
            ConnectionPolicy(self.settings),
            AccessPolicy(self.directory, self.settings),
            SubmissionPolicy(self.directory, self.settings),
        )
        self.pipeline = Pipeline(stages)

    def session(self, role: Role = "mx", address: str = STRANGER) -> Session:
        factory = MtaServerFactory(
            role,
            Listener(role=role),
            self.settings,
            reception=self.reception,  # type: ignore[arg-type]
            directory=self.directory,
            pipeline=self.pipeline,
            throttle=AuthThrottle(self.settings, self.clock),
            sessions=Sessions(self.clock),
            events=no_events,
            clock=self.clock,
            portal=make_portal(self.directory, hasher(Pool()), CredentialCache(self.clock, 0)),
        )
        return Session(factory, address)

    def destinations(self, recipient: str) -> set[str]:
        """Where the router sends a recipient."""
        routing = now(self.router.route([Recipient(recipient, recipient)], ""))
        return {delivery.destination for delivery in routing.deliveries}


class Session:
    """One session, spoken to line by line."""

    def __init__(self, factory: MtaServerFactory, address: str) -> None:
        self.transport = Transport(address)
        self.server = factory.buildProtocol(None)
        self.server.makeConnection(self.transport)
        self.transport.clear()
        self.say("EHLO client.example")

    def say(self, line: str | bytes) -> str:
        """The last line of the answer."""
        self.server.dataReceived((line.encode() if isinstance(line, str) else line) + b"\r\n")
        answer = self.transport.value().decode()
        self.transport.clear()
        return answer.rstrip("\r\n").rpartition("\n")[2]

    def login(self, user: str = f"anna@{OURS}") -> str:
        return self.say("AUTH PLAIN " + base64.b64encode(f"\0{user}\0secret".encode()).decode())

    def accepted(self) -> list[str]:
        under_way = self.server.transaction
        return list(under_way.recipients) if under_way is not None else []


class OpenRelay(SynchronousTestCase):
    """Every trick in the book."""

    def setUp(self) -> None:
        self.world = World()

    def refused(self, session: Session, recipient: str) -> None:
        answer = session.say(f"RCPT TO:<{recipient}>")
        self.assertRegex(answer, r"^5\d\d 5\.", recipient)
        self.assertEqual(session.accepted(), [])

    def test_the_server_takes_what_it_should(self) -> None:
        session = self.world.session()
        self.assertRegex(session.say("MAIL FROM:<x@else.example>"), "^250 ")
        good = (f"anna@{OURS}", f"Bert+x@{OURS}", "who@catch.example", "fifty%off@catch.example", "postmaster")
        for recipient in good:
            self.assertRegex(session.say(f"RCPT TO:<{recipient}>"), "^250 ", recipient)
        self.assertEqual(len(session.accepted()), len(good))

    def test_strangers(self) -> None:
        for address in (STRANGER, "127.0.0.1"):
            for sender in ("x@else.example", f"anna@{OURS}", f"postmaster@{OURS}", ""):
                session = self.world.session(address=address)
                self.assertRegex(session.say(f"MAIL FROM:<{sender}>"), "^250 ")
                for trick in TRICKS:
                    session.server.peer.errors = 0
                    self.refused(session, trick)

    def test_strangers_on_submission(self) -> None:
        for address in (STRANGER, "127.0.0.1"):
            session = self.world.session("submission", address)
            for sender in ("x@else.example", f"anna@{OURS}", ""):
                self.assertRegex(session.say(f"MAIL FROM:<{sender}>"), "^530 5.7.0")
                self.assertRegex(session.say("RCPT TO:<x@else.example>"), "^503 ")
            self.assertRegex(session.say("DATA"), "^503 ")

    def test_no_login_on_mx(self) -> None:
        session = self.world.session()
        self.assertRegex(session.login(), "^5")
        self.assertRegex(session.say("MAIL FROM:<anna@isp.example>"), "^250 ")
        self.refused(session, "x@else.example")

    def test_a_failed_login_allows_nothing(self) -> None:
        session = self.world.session("submission", "127.0.0.1")
        session.say("AUTH PLAIN " + base64.b64encode(f"\0anna@{OURS}\0wrong".encode()).decode())
        self.world.clock.advance(60)
        self.assertIsNone(session.server.peer.account)
        session.transport.clear()
        self.assertRegex(session.say(f"MAIL FROM:<anna@{OURS}>"), "^530 ")

    def test_users(self) -> None:
        session = self.world.session("submission", "127.0.0.1")
        self.assertRegex(session.login(), "^235 ")
        self.assertRegex(session.say(f"MAIL FROM:<bert@{OURS}>"), "^553 5.7.1 anna@isp.example may not send as bert")
        self.assertRegex(session.say("MAIL FROM:<>"), "^550 5.7.1 ")
        self.assertRegex(session.say(f"MAIL FROM:<anna@{OURS}>"), "^250 ")
        self.assertRegex(session.say("RCPT TO:<x@else.example>"), "^250 ")
        self.assertRegex(session.say(f"RCPT TO:<nobody@{OURS}>"), "^550 5.1.1 ")

    def test_an_account_that_is_shut_sends_no_more(self) -> None:
        session = self.world.session("submission", "127.0.0.1")
        session.login()
        self.assertRegex(session.say(f"MAIL FROM:<anna@{OURS}>"), "^250 ")
        session.say("RSET")
        self.world.directory.set_customer("acme", suspended=True)
        self.assertRegex(session.say(f"MAIL FROM:<anna@{OURS}>"), "^550 5.7.13 ")

    def test_relay_networks(self) -> None:
        self.world = World(networks=("198.51.100.0/24",))
        session = self.world.session(address=CUSTOMER)
        session.say("MAIL FROM:<x@elsewhere.example>")
        self.assertRegex(session.say("RCPT TO:<x@else.example>"), "^250 ")
        other = self.world.session(address=STRANGER)
        other.say("MAIL FROM:<x@elsewhere.example>")
        self.refused(other, "x@else.example")
        submission = self.world.session("submission", CUSTOMER)
        self.assertRegex(submission.say("MAIL FROM:<x@elsewhere.example>"), "^530 ")

    def test_without_any_stage(self) -> None:
        """A pipeline somebody forgot to fill makes no open relay."""
        self.world.pipeline = Pipeline(())
        session = self.world.session()
        session.say("MAIL FROM:<x@else.example>")
        self.refused(session, "x@else.example")
        submission = self.world.session("submission")
        self.assertRegex(submission.say("MAIL FROM:<x@else.example>"), "^530 ")


parts = st.sampled_from(
    (OURS, "else.example", "catch.example", "plain.example", "127.0.0.1", "anna", "bert", "postmaster", "fifty%off")
)
glue = st.sampled_from(("@", "%", "!", ":", ",", '"', "[", "]", "\\", "+", ".", "<", ">", " ", "\t", "(", ")", "\\@"))
paths = st.lists(parts | glue, max_size=9).map("".join) | st.text(st.characters(codec="utf-8"), max_size=30)


class AnyPath(SynchronousTestCase):
    """Not only the tricks that are in a book."""

    world = World()

    @given(paths)
    @example(f"anna@{OURS}")
    def test_what_is_accepted_from_strangers_stays_here(self, path: str) -> None:
        session = self.world.session()
        session.say("MAIL FROM:<x@else.example>")
        session.server.dataReceived(f"RCPT TO:<{path}>\r\n".encode("utf-8", "surrogatepass"))
        for recipient in session.accepted():
            destinations = self.world.destinations(recipient)
            self.assertTrue(destinations, recipient)
            self.assertTrue(all(each.startswith("maildir:") for each in destinations), (recipient, destinations))
