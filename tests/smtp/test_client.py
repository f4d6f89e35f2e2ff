"""MtaClient itself; how it fares with servers that fail is in tests/delivery/test_smtp_agent*."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.mail.smtp import ESMTPClient
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.delivery.sending import Content
from twisted_mta.mail.status import Reply
from twisted_mta.smtp.client import MtaClient, SessionError, _tls_words
from twisted_mta.smtp.client_factory import MtaClientFactory, _connect_words
from twisted_mta.testing.network import MemoryNetwork
from twisted_mta.testing.peer import Behaviour, PeerFactory
from twisted_mta.wire.client import ClientConnection
from twisted_mta.wire.exchange import Finished, Transfer

EHLO = b"250-mx\r\n250 PIPELINING\r\n"
TRANSFER = Transfer("a@b", ("x@c",), 3)


class Transport(StringTransportWithDisconnection):
    """Keeps each write apart; may be aborted."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.aborted = False
        self.protocol: Any = None

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        super().write(data)

    def abortConnection(self) -> None:
        self.aborted = True
        self.loseConnection()


class ClientTests(SynchronousTestCase):
    """One session over a transport that only keeps what is written."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.client = MtaClient(ClientConnection("mta.isp.example"), self.clock)
        self.transport = Transport()
        self.transport.protocol = self.client
        self.client.makeConnection(self.transport)

    def ready(self) -> None:
        self.client.dataReceived(b"220 mx\r\n")
        self.client.dataReceived(EHLO)
        self.assertIs(self.successResultOf(self.client.opened), self.client)
        self.transport.clear()
        self.transport.writes.clear()

    def send(self, content: Content | None = None) -> Deferred[Finished]:
        return self.client.send(TRANSFER, content or Content([b"a\r\n"]))

    def test_is_twisteds(self) -> None:
        self.assertIsInstance(self.client, ESMTPClient)
        verifyObject(IHandshakeListener, self.client)

    def test_replies_in_any_pieces(self) -> None:
        for octet in b"220-a\r\n220 mx\r\n" + EHLO:
            self.client.dataReceived(bytes([octet]))
        self.assertTrue(self.client.ready)
        self.assertEqual(self.transport.value(), b"EHLO mta.isp.example\r\n")

    def test_closed_in_the_same_breath(self) -> None:
        """Whoever gets a session may use it: one that is over again when it is ready was never open."""
        for more in (b"421 4.3.2 bye\r\n", b"250 what for?\r\n"):
            self.setUp()
            self.client.dataReceived(b"220 mx\r\n")
            self.client.dataReceived(EHLO + more)
            self.failureResultOf(self.client.opened, SessionError)

    def test_refused_in_the_same_breath_as_asked_for(self) -> None:
        """What came with the 354 counts: no content goes out, and whoever sends is told."""
        for more, code in ((b"421 4.3.2 bye\r\n", 421), (b"554 no\r\n", 554), (b"250 what for?\r\n", 451)):
            for content in (Content([b"a\r\n"]), Content([b"a\r\n", b"b\r\n"])):
                self.setUp()
                self.ready()
                sending = self.send(content)
                self.transport.writes.clear()
                self.client.dataReceived(b"250 ok\r\n250 ok\r\n354 go\r\n" + more)
                finished = self.successResultOf(sending)
                self.assertEqual(
                    (finished.outcomes[0].reply.code, finished.lost, finished.dot_sent), (code, True, False)
                )
                self.assertEqual(self.transport.writes, [])

    def test_writes_of_a_message(self) -> None:
        self.ready()
        sending = self.send()
        self.client.dataReceived(b"250 ok\r\n250 ok\r\n354 go\r\n")
        self.client.dataReceived(b"250 ok\r\n")
        self.assertEqual(self.successResultOf(sending).outcomes[0].reply, Reply(250, "", "ok"))
        self.assertEqual(self.transport.writes, [b"MAIL FROM:<a@b>\r\nRCPT TO:<x@c>\r\nDATA\r\n", b"a\r\n.\r\n"])

    def test_not_ready(self) -> None:
        self.assertRaises(RuntimeError, self.send)
        self.ready()
        self.send()
        self.assertRaises(RuntimeError, self.send)

    def test_one_timer(self) -> None:
        """However many messages, and it is gone in the end."""
        self.ready()
        for _ in range(50):
            sending = self.send()
            self.client.dataReceived(b"250 ok\r\n250 ok\r\n354 go\r\n")
            self.client.dataReceived(b"250 ok\r\n")
            self.successResultOf(sending)
            self.client.keep(5.0)
            self.clock.advance(0.1)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.client.connectionLost(Failure(error.ConnectionDone()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_refusal_is_told_once_the_session_is_ready_again(self) -> None:
        self.ready()
        sending = self.send()
        self.client.dataReceived(b"250 ok\r\n550 no\r\n554 no\r\n")
        self.assertNoResult(sending)
        self.assertFalse(self.client.ready)
        self.client.dataReceived(b"250 reset\r\n")
        self.assertEqual(self.successResultOf(sending).outcomes[0].reply.code, 550)
        self.assertTrue(self.client.ready)

    def test_server_that_does_not_answer_rset(self) -> None:
        self.ready()
        sending = self.send()
        self.client.dataReceived(b"250 ok\r\n550 no\r\n554 no\r\n")
        self.clock.advance(20)
        self.assertEqual(self.successResultOf(sending).outcomes[0].reply.code, 550)
        self.assertTrue(self.transport.aborted)

    def test_deadline(self) -> None:
        self.client.deadline = 50.0
        self.ready()
        sending = self.send()
        self.clock.advance(51)
        finished = self.successResultOf(sending)
        self.assertTrue(finished.lost)
        self.assertIn("too long", finished.outcomes[0].reply.text)

    def test_deadline_does_not_cut_the_wait_after_the_dot(self) -> None:
        self.client.deadline = 50.0
        self.ready()
        sending = self.send()
        self.client.dataReceived(b"250 ok\r\n250 ok\r\n354 go\r\n")
        self.clock.advance(599)
        self.assertNoResult(sending)
        self.clock.advance(2)
        finished = self.successResultOf(sending)
        self.assertTrue(finished.dot_sent)
        self.assertEqual(finished.outcomes[0].reply.enhanced, "4.4.2")

    def test_refused_politely(self) -> None:
        """RFC 5321 §4.1.1.10: QUIT comes before the end, also after a 554 greeting."""
        self.client.dataReceived(b"554 no\r\n")
        self.assertEqual(self.transport.value(), b"QUIT\r\n")
        self.assertFalse(self.transport.connected)
        failure = self.failureResultOf(self.client.opened, SessionError)
        self.assertEqual((failure.value.reply.code, failure.value.remote), (554, True))

    def test_cancelled(self) -> None:
        self.client.opened.cancel()
        self.failureResultOf(self.client.opened, SessionError)
        self.assertTrue(self.transport.aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_quit(self) -> None:
        self.ready()
        closed: list[MtaClient] = []
        self.client.closed = closed.append
        self.client.quit()
        self.assertEqual(self.transport.value(), b"QUIT\r\n")
        self.client.dataReceived(b"221 bye\r\n")
        self.assertEqual(closed, [self.client])
        self.assertFalse(self.transport.connected)

    def test_nothing_after_the_end(self) -> None:
        self.ready()
        self.client.abort(Reply(451, "4.4.2", "x"))
        self.transport.clear()
        self.client.dataReceived(b"250 ok\r\n")
        self.client.quit()
        self.assertEqual(self.transport.value(), b"")

    def test_pauses(self) -> None:
        """A transport that is full gets no further chunk, and the store is not read."""
        self.ready()
        content = Content([b"a" * 10 + b"\r\n"] * 5)
        sending = self.send(content)
        write = self.transport.write

        def full(data: bytes) -> None:
            write(data)
            if self.transport.producer is not None:
                verifyObject(IPushProducer, self.transport.producer)
                self.transport.producer.pauseProducing()

        self.transport.write = full  # type: ignore[method-assign]
        self.client.dataReceived(b"250 ok\r\n250 ok\r\n354 go\r\n")
        for expected in range(1, 5):
            self.assertEqual(content.reads, expected)
            self.transport.producer.resumeProducing()
        self.assertTrue(self.transport.value().endswith(b"\r\n.\r\n"))
        self.assertIsNone(self.transport.producer)
        self.client.dataReceived(b"250 ok\r\n")
        self.successResultOf(sending)

    def test_many_chunks_without_a_pause(self) -> None:
        """Not a frame of the stack for each."""
        self.ready()
        self.send(Content([b"a\r\n"] * 5000))
        self.client.dataReceived(b"250 ok\r\n250 ok\r\n354 go\r\n")
        self.assertTrue(self.transport.value().endswith(b"a\r\n.\r\n"))

    def test_plain_content_is_not_looked_at(self) -> None:
        """What is said to need no stuffing goes out as it is, whole and in pieces; else dots are stuffed."""
        for pieces in ([b"a\r\n.b\r\n"], [b"a\r\n", b".b\r\n"]):
            for plain, sent in ((True, b"a\r\n.b\r\n.\r\n"), (False, b"a\r\n..b\r\n.\r\n")):
                self.setUp()
                self.ready()
                self.send(Content(pieces, plain=plain))
                self.transport.clear()
                self.client.dataReceived(b"250 ok\r\n250 ok\r\n354 go\r\n")
                self.assertEqual(self.transport.value(), sent)

    def test_refused_half_way_stops_reading(self) -> None:
        self.ready()
        waiting: list[Deferred[bytes]] = []

        class Slow(Content):
            def read(self, chunk: int) -> Deferred[bytes]:
                waiting.append(Deferred())
                return waiting[-1]

        sending = self.send(Slow([b"a\r\n"] * 3))
        self.client.dataReceived(b"250 ok\r\n250 ok\r\n354 go\r\n")
        self.client.dataReceived(b"552 5.3.4 too big\r\n")
        self.assertEqual(self.successResultOf(sending).outcomes[0].reply.code, 552)
        before = self.transport.value()
        waiting[0].callback(b"a\r\n")
        self.assertEqual(len(waiting), 1)
        self.assertEqual(self.transport.value(), before)


class FactoryTests(SynchronousTestCase):
    """Connecting."""

    def connect(self, network: MemoryNetwork) -> MtaClientFactory:
        factory = MtaClientFactory(lambda: ClientConnection("mta"), network, "mx[192.0.2.1]:25", "mx")
        network.connectTCP("192.0.2.1", 25, factory, 30)
        return factory

    def test_opened(self) -> None:
        network = MemoryNetwork({("192.0.2.1", 25): PeerFactory()})
        factory = self.connect(network)
        network.flush()
        client = self.successResultOf(factory.opened)
        self.assertEqual((client.place, client.host), ("mx[192.0.2.1]:25", "mx"))

    def test_refused(self) -> None:
        network = MemoryNetwork()
        factory = self.connect(network)
        network.flush()
        reply = self.failureResultOf(factory.opened, SessionError).value.reply
        self.assertEqual(reply, Reply(451, "4.4.1", "connect to mx[192.0.2.1]:25: Connection refused"))

    def test_cancelled_while_connecting(self) -> None:
        network = MemoryNetwork({("192.0.2.1", 25): None})
        factory = self.connect(network)
        factory.opened.cancel()
        self.failureResultOf(factory.opened, SessionError)
        self.assertEqual(network.getDelayedCalls(), [])

    def test_cancelled_while_it_waits_for_the_greeting(self) -> None:
        network = MemoryNetwork({("192.0.2.1", 25): PeerFactory(Behaviour(silent={"greeting"}))})
        factory = self.connect(network)
        network.flush()
        factory.opened.cancel()
        self.failureResultOf(factory.opened, SessionError)
        network.flush()
        self.assertTrue(network.connections[0][0].disconnected)
        self.assertEqual(network.getDelayedCalls(), [])

    def test_words(self) -> None:
        for reason, words in (
            (error.TimeoutError(), "Connection timed out"),
            (error.ConnectionRefusedError(), "Connection refused"),
            (error.NoRouteError(), "No route to host"),
            (error.ConnectError(101, "Network is unreachable"), "Network is unreachable"),
            (error.UserError(), "UserError"),
        ):
            self.assertIn(words, _connect_words(Failure(reason)))

    def test_tls_words(self) -> None:
        alert = SSL.Error([("SSL routines", "", "tlsv1 alert protocol version")])
        self.assertEqual(_tls_words(Failure(alert)), "tlsv1 alert protocol version")
        self.assertEqual(_tls_words(Failure(error.ConnectionDone())), "the server closed the connection")
