"""The LMTP agent, RFC 2033."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.delivery.sending import make_job, outcome, settings
from twisted_mta.delivery.interfaces import IDeliveryAgent, Result
from twisted_mta.delivery.smtp_agent import LmtpAgent
from twisted_mta.testing.dns import FakeResolver
from twisted_mta.testing.network import MemoryNetwork
from twisted_mta.testing.peer import Behaviour, PeerFactory

PATH = "/run/dovecot/lmtp"
UNIX = f"lmtp:unix:{PATH}"


class LmtpTests(SynchronousTestCase):
    """One server that keeps mailboxes."""

    def deliver(
        self, behaviour: Behaviour | None = None, destination: str = UNIX, utf8: bool = False
    ) -> Sequence[Result]:
        behaviour = behaviour or Behaviour()
        behaviour.lmtp = True
        self.server = PeerFactory(behaviour)
        self.network = MemoryNetwork({PATH: self.server, ("10.0.0.5", 2424): self.server})
        resolver = FakeResolver({"store.example": {"A": ["10.0.0.5"], "MX": ["0 ."]}})
        self.agent = LmtpAgent(settings(), resolver, self.network)
        job = make_job("x@isp", "y@isp", destination=destination, utf8=utf8)
        started = Deferred.fromCoroutine(self.agent.deliver(job))
        self.network.flush()
        results: Sequence[Result] = outcome(started)
        return results

    def test_interface(self) -> None:
        self.deliver()
        verifyObject(IDeliveryAgent, self.agent)
        self.assertEqual(self.agent.name, "lmtp")

    def test_unix(self) -> None:
        results = self.deliver()
        self.assertEqual([result.reply.code for result in results], [250, 250])
        self.assertEqual(results[0].relay, f"unix:{PATH}")
        self.assertEqual(self.server.commands[0], "LHLO mta.isp.example")
        self.assertEqual(self.server.mails[0].recipients, ("x@isp", "y@isp"))

    def test_tcp(self) -> None:
        results = self.deliver(destination="lmtp:store.example:2424")
        self.assertEqual((results[0].reply.code, results[0].relay), (250, "store.example[10.0.0.5]:2424"))

    def test_one_outcome_for_each(self) -> None:
        results = self.deliver(Behaviour(replies={"content:y@isp": "452 4.2.2 full"}))
        self.assertEqual(
            [(result.reply.code, result.reply.enhanced) for result in results], [(250, "2.0.0"), (452, "4.2.2")]
        )

    def test_it_is_delivered_and_not_relayed(self) -> None:
        """What a report of success says (RFC 3464 §2.3.3)."""
        self.assertEqual({result.action for result in self.deliver()}, {"delivered"})
        extensions = ("PIPELINING", "DSN")
        self.assertEqual({result.action for result in self.deliver(Behaviour(extensions=extensions))}, {"passed"})

    def test_a_mailbox_keeps_a_header_in_utf8(self) -> None:
        """Few LMTP servers offer SMTPUTF8, and it is they who keep the mailboxes of those who use it."""
        for extensions, parameter in (((), ""), (("SMTPUTF8",), " SMTPUTF8")):
            results = self.deliver(Behaviour(extensions=extensions), utf8=True)
            self.assertEqual([result.reply.code for result in results], [250, 250])
            self.assertIn(f"MAIL FROM:<sender@isp.example>{parameter}", self.server.commands)

    def test_no_such_socket(self) -> None:
        (first, _) = self.deliver(destination="lmtp:unix:/nowhere")
        self.assertEqual((first.reply.code, first.reply.enhanced, first.relay), (451, "4.4.1", "unix:/nowhere"))

    def test_unknown_host(self) -> None:
        """Mail for our own users never bounces because our own name service does not know our own server."""
        (first, _) = self.deliver(destination="lmtp:none.example:24")
        self.assertEqual((first.reply.code, first.reply.enhanced), (451, "4.3.5"))

    def test_malformed(self) -> None:
        (first, _) = self.deliver(destination="lmtp:none:x:y")
        self.assertTrue(first.reply.temporary)

    def test_server_refuses_us(self) -> None:
        (first, _) = self.deliver(Behaviour(replies={"LHLO": "550 5.7.1 not you"}))
        self.assertEqual((first.reply.code, first.reply.enhanced), (451, "4.3.5"))

    def test_reused(self) -> None:
        self.deliver()
        started = Deferred.fromCoroutine(self.agent.deliver(make_job("z@isp", destination=UNIX)))
        self.network.flush()
        self.assertTrue(outcome(started)[0].reused)
