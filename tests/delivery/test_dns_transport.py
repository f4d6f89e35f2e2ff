"""The resolver's sockets, on loopback: a DNS server of ours, and hand-made datagrams."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import dns.flags
import dns.message
import dns.rrset
from twisted.internet import reactor as _reactor
from twisted.internet.base import BaseConnector
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from twisted_mta.config.settings import Dns, Duration
from twisted_mta.delivery.dns import DnsNoName, DnsTemporary, Mx, Resolver
from twisted_mta.delivery.dns_transport import Exchanger
from twisted_mta.testing.zones import ZoneServer

reactor: Any = _reactor


def run(coroutine: Coroutine[Any, Any, Any]) -> Deferred[Any]:
    return Deferred.fromCoroutine(coroutine)


class ZoneTests(TestCase):
    """Against a whole server."""

    def setUp(self) -> None:
        many = [f"{number} mx{number}.a-long-name-to-fill-the-answer.example." for number in range(60)]
        self.zones = ZoneServer({"d.example": {"MX": ["10 mx.example."]}, "many.example": {"MX": many}})
        self.addCleanup(self.zones.close)
        settings = Dns(servers=(f"127.0.0.1:{self.zones.port}",), timeout=Duration(2.0), attempts=1)
        self.resolver = Resolver(settings, reactor)

    def test_udp(self) -> Deferred[Any]:
        async def scenario() -> None:
            self.assertEqual(await self.resolver.mx("d.example"), [Mx(10, "mx.example")])
            self.assertEqual(self.zones.queries, [("d.example", "MX", "udp")])

        return run(scenario())

    def test_tcp_after_truncation(self) -> Deferred[Any]:
        async def scenario() -> None:
            self.assertEqual(len(await self.resolver.mx("many.example")), 60)
            self.assertEqual([way for _, _, way in self.zones.queries], ["udp", "tcp"])

        return run(scenario())

    def test_no_name(self) -> Deferred[Any]:
        return self.assertFailure(run(self.resolver.mx("none.example")), DnsNoName)

    def test_servfail(self) -> Deferred[Any]:
        self.zones.broken.add("d.example")
        return self.assertFailure(run(self.resolver.mx("d.example")), DnsTemporary)


class _Answers(DatagramProtocol):
    """Sends what ``make`` says for a query; keeps where queries came from."""

    def __init__(self, make: Any) -> None:
        self.make = make
        self.ports: list[int] = []
        self.ids: list[int] = []

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        query = dns.message.from_wire(datagram)
        self.ports.append(addr[1])
        self.ids.append(query.id)
        transport: Any = self.transport
        for wire in self.make(query):
            transport.write(wire, addr)


class DatagramTests(TestCase):
    """What is an answer, and what is somebody else's."""

    def serve(self, make: Any) -> tuple[str, int]:
        self.answers = _Answers(make)
        port = reactor.listenUDP(0, self.answers, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return "127.0.0.1", port.getHost().port

    @staticmethod
    def good(query: dns.message.Message, address: str = "192.0.2.1") -> dns.message.Message:
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text("d.example.", 60, "IN", "A", address))
        return response

    def exchange(self, server: tuple[str, int], timeout: float = 5.0, tcp: bool = False) -> Deferred[Any]:
        return run(Exchanger(reactor)(server, dns.message.make_query("d.example", "A"), timeout, tcp))

    def test_forged_answers_are_ignored(self) -> Deferred[Any]:
        """RFC 5452 §9: wrong id, wrong question, no answer at all, rubbish; then the real one."""

        def make(query: dns.message.Message) -> list[bytes]:
            other_id = self.good(query, "192.0.2.66")
            other_id.id ^= 1
            other_name = self.good(dns.message.make_query("e.example", "A", id=query.id), "192.0.2.66")
            return [
                other_id.to_wire(),
                other_name.to_wire(),
                query.to_wire(),
                b"\xff" * 40,
                b"",
                self.good(query).to_wire(),
            ]

        async def scenario() -> None:
            response = await self.exchange(self.serve(make))
            self.assertEqual(response.answer[0][0].address, "192.0.2.1")

        return run(scenario())

    def test_silence(self) -> Deferred[Any]:
        async def scenario() -> None:
            self.assertIsNone(await self.exchange(self.serve(lambda query: []), 0.01))

        return run(scenario())

    def test_nobody_listens(self) -> Deferred[Any]:
        """The port is known to be closed at once, not after the time-out."""

        async def scenario() -> None:
            port = reactor.listenUDP(0, DatagramProtocol(), interface="127.0.0.1")
            number = port.getHost().port
            await port.stopListening()
            self.assertIsNone(await self.exchange(("127.0.0.1", number), 60.0))

        return run(scenario())

    def test_no_way_there(self) -> Deferred[Any]:
        async def scenario() -> None:
            query = dns.message.make_query("d.example", "MX")
            # The kernel refuses to connect a datagram socket to the broadcast address, as it does without a route.
            self.assertIsNone(await Exchanger(reactor)(("255.255.255.255", 53), query, 30.0, False))

        return run(scenario())

    def test_no_port_is_free(self) -> Deferred[Any]:
        def refuse(*args: Any, **more: Any) -> None:
            raise CannotListenError("", 0, OSError(24, "Too many open files"))

        self.patch(reactor, "listenUDP", refuse)

        async def scenario() -> None:
            self.assertIsNone(await self.exchange(("127.0.0.1", 53), 60.0))

        return run(scenario())

    def test_each_question_has_its_port_and_id(self) -> Deferred[Any]:
        async def scenario() -> None:
            server = self.serve(lambda query: [self.good(query).to_wire()])
            waiting = [self.exchange(server) for _ in range(20)]
            for one in waiting:
                await one
            self.assertEqual(len(set(self.answers.ports)), 20)
            self.assertGreater(len(set(self.answers.ids)), 15)

        return run(scenario())


class TimeoutTests(TestCase):
    """A server that never answers the call for TCP."""

    def test_connecting_takes_too_long(self) -> None:
        clock: Any = Clock()

        class Waiting:
            def failIfNotConnected(self, reason: Exception) -> None:
                connector.connectionFailed(Failure(reason))

        class Connector(BaseConnector):
            def _makeTransport(self) -> Any:
                return Waiting()

            def getDestination(self) -> Any:
                return None

        def connect(host: str, port: int, factory: Any, timeout: float) -> None:
            nonlocal connector
            connector = Connector(factory, timeout, clock)
            connector.connect()

        connector: Any = None
        clock.connectTCP = connect
        query = dns.message.make_query("d.example", "MX")
        answer = run(Exchanger(clock)(("127.0.0.1", 53), query, 2.0, True))
        self.assertNoResult(answer)
        clock.advance(2.0)
        self.assertIsNone(self.successResultOf(answer))
        self.assertEqual(clock.getDelayedCalls(), [])


class StreamTests(TestCase):
    """TCP."""

    def serve(self, *pieces: Any) -> tuple[str, int]:
        """A server that answers with these pieces; None closes; a callable makes one of the query."""

        class Server(Protocol):
            def dataReceived(self, data: bytes) -> None:
                query = dns.message.from_wire(data[2:])
                transport: Any = self.transport
                for piece in pieces:
                    if piece is None:
                        transport.loseConnection()
                    else:
                        wire = piece(query) if callable(piece) else piece
                        transport.write(wire)

        port = reactor.listenTCP(0, Factory.forProtocol(Server), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return "127.0.0.1", port.getHost().port

    async def ask(self, server: tuple[str, int]) -> Any:
        answer = await Exchanger(reactor)(server, dns.message.make_query("d.example", "A"), 5.0, True)
        await self.settle()
        return answer

    def settle(self) -> Deferred[None]:
        """A turn of the reactor, in which the connection ends."""
        done: Deferred[None] = Deferred()
        reactor.callLater(0.01, done.callback, None)
        return done

    def test_in_pieces(self) -> Deferred[Any]:
        def wire(query: dns.message.Message) -> bytes:
            response = DatagramTests.good(query).to_wire()
            return len(response).to_bytes(2, "big") + response

        async def scenario() -> None:
            answer = await self.ask(self.serve(lambda q: wire(q)[:1], lambda q: wire(q)[1:9], lambda q: wire(q)[9:]))
            self.assertEqual(answer.answer[0][0].address, "192.0.2.1")

        return run(scenario())

    def test_closed(self) -> Deferred[Any]:
        async def scenario() -> None:
            self.assertIsNone(await self.ask(self.serve(b"\0", None)))

        return run(scenario())

    def test_rubbish(self) -> Deferred[Any]:
        async def scenario() -> None:
            self.assertIsNone(await self.ask(self.serve(b"\0\x04abcd")))

        return run(scenario())

    def test_refused(self) -> Deferred[Any]:
        async def scenario() -> None:
            port = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
            number = port.getHost().port
            await port.stopListening()
            self.assertIsNone(await self.ask(("127.0.0.1", number)))

        return run(scenario())
