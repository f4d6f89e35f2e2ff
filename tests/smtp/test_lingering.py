"""The last reply reaches a client that still sends: over real sockets, where a reset would take it away."""

from __future__ import annotations

import socket
from unittest import mock

from twisted.internet import reactor, task
from twisted.internet.interfaces import IHalfCloseableDescriptor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import alsoProvides

from tests.smtp.world import HELLO, MAIL, RCPT, Client, World, codes
from twisted_mta.mail.events import Disconnected
from twisted_mta.wire.server import ServerConnection

BEGUN = f"{HELLO}\r\n{MAIL}\r\n{RCPT}\r\nDATA\r\n".encode()
LINE = b"x" * 998 + b"\r\n"


def hand_in(port: int, content: bytes) -> bytes:
    """Send it all, whatever is answered meanwhile, and then read to the end.  Raises OSError where that is a reset."""
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(BEGUN)
        client.settimeout(10)
        said = b""
        while b"354" not in said:
            said += client.recv(4096)
        client.sendall(content)
        said = b""
        while data := client.recv(4096):
            said += data
        return said


class SocketTests(TestCase):
    async def talk(self, world: World, content: bytes) -> bytes:
        port = reactor.listenTCP(0, world.factory, interface="127.0.0.1")  # type: ignore[attr-defined]
        try:
            said: bytes = await deferToThread(hand_in, port.getHost().port, content)
            while not world.of(Disconnected):  # the end of the client's side is on its way
                await task.deferLater(reactor, 0.001, lambda: None)  # type: ignore[arg-type]
            return said
        finally:
            await port.stopListening()

    async def test_there_is_no_memory_in_the_middle_of_the_content(self) -> None:
        receive = ServerConnection.receive

        def scarce(wire: ServerConnection, data: bytes) -> None:
            if wire.state == "content":
                raise MemoryError
            receive(wire, data)

        world = World()
        with mock.patch.object(ServerConnection, "receive", scarce):
            said = await self.talk(world, LINE * 4000 + b".\r\n")
        self.assertEqual(codes(said), [421])
        self.assertEqual(world.store.messages, [])

    async def test_far_too_large(self) -> None:
        """Whose end is not waited for."""
        said = await self.talk(World(message_bytes=1 << 20), LINE * 3000)
        self.assertEqual(codes(said), [552])


class BoundTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(message_bytes=10_000)
        self.client: Client = self.world.session()
        self.client.read()
        transport = self.client.transport
        alsoProvides(transport, IHalfCloseableDescriptor)
        self.ended = mock.Mock()
        transport.loseWriteConnection = self.ended  # type: ignore[attr-defined]
        with mock.patch.object(ServerConnection, "receive", side_effect=MemoryError):
            self.client.server.dataReceived(LINE)
        self.assertEqual(codes(self.client.read()), [421])
        self.assertEqual((self.ended.call_count, transport.disconnecting), (1, False))

    def test_in_octets(self) -> None:
        for _ in range(9):
            self.client.server.dataReceived(LINE)
        self.assertFalse(self.client.transport.aborted)
        self.client.server.starved(1000)
        self.assertTrue(self.client.transport.aborted)

    def test_in_time(self) -> None:
        self.client.server.dataReceived(LINE)
        self.world.clock.advance(12)
        self.assertTrue(self.client.transport.aborted)

    def test_the_client_ends_it(self) -> None:
        self.client.server.readConnectionLost()
        self.assertTrue(self.client.transport.disconnecting)
        self.assertEqual(self.ended.call_count, 1)

    def test_nothing_of_it_is_heard(self) -> None:
        self.client.server.dataReceived(BEGUN)
        self.assertEqual((self.client.read(), self.world.of(Disconnected)), (b"", []))
