"""Sessions behind a PROXY header."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.smtp.proxied import PATIENCE, ProxyFactory


class Session(Protocol):
    def __init__(self) -> None:
        self.received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data


class Transport(StringTransport):
    """Gives data to whoever is its protocol, as TCP does."""

    protocol: Any

    def come(self, data: bytes) -> None:
        self.protocol.dataReceived(data)


class ProxiedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        inner = Factory.forProtocol(Session)
        self.factory = ProxyFactory(inner, ("192.0.2.0/28",), self.clock)

    def connect(self, address: str = "192.0.2.1") -> Transport:
        peer = IPv4Address("TCP", address, 999)
        transport = Transport(peerAddress=peer)
        transport.protocol = self.factory.buildProtocol(peer)
        transport.protocol.makeConnection(transport)
        return transport

    def test_client(self) -> None:
        transport = self.connect()
        transport.come(b"PROXY TCP4 203.0.113.9 192.0.2.1 4000 2")
        self.assertNotIsInstance(transport.protocol, Session)
        transport.come(b"5\r\nEHLO x\r\n")
        self.assertIsInstance(transport.protocol, Session)
        self.assertEqual((transport.getPeer().host, transport.getPeer().port), ("203.0.113.9", 4000))
        self.assertIs(transport.protocol.transport, transport)
        transport.come(b"QUIT\r\n")
        self.assertEqual(transport.protocol.received, b"EHLO x\r\nQUIT\r\n")
        self.clock.advance(PATIENCE)
        self.assertFalse(transport.disconnecting)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_ipv6_client(self) -> None:
        transport = self.connect()
        transport.come(b"PROXY TCP6 2001:db8::9 2001:db8::1 4000 25\r\n")
        self.assertEqual(transport.getPeer().host, "2001:db8::9")

    def test_the_proxy_itself(self) -> None:
        transport = self.connect()
        transport.come(b"PROXY UNKNOWN\r\n")
        self.assertEqual(transport.getPeer().host, "192.0.2.1")
        self.assertIsInstance(transport.protocol, Session)

    def test_others_are_served_as_they_are(self) -> None:
        """A header from elsewhere is a client's line, and no more."""
        transport = self.connect("198.51.100.1")
        transport.come(b"PROXY TCP4 203.0.113.9 192.0.2.1 4000 25\r\n")
        self.assertEqual(transport.getPeer().host, "198.51.100.1")
        self.assertIn(b"PROXY", transport.protocol.received)

    def test_no_header(self) -> None:
        transport = self.connect()
        transport.come(b"EHLO x\r\n")
        self.assertTrue(transport.disconnecting or transport.disconnected)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_silence(self) -> None:
        transport = self.connect()
        self.clock.advance(PATIENCE)
        self.assertTrue(transport.disconnecting or transport.disconnected)

    def test_gone(self) -> None:
        transport = self.connect()
        transport.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.clock.getDelayedCalls(), [])
