"""The short way through the reactor's turn, under an epoll reactor of the tests' own and real sockets."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from twisted_mta.runtime import quick
from twisted_mta.runtime.certificates import self_signed
from twisted_mta.runtime.sockets import adopt, bind

TURNS = 2000
"""Turns of the reactor, of at most 10 ms each, after which a test has failed."""


class Kept(Protocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.data = b""
        self.lost: Failure | None = None
        self.paused = False
        self.fault: Exception | None = None
        self.says: Callable[[Any], None] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        if self.fault is not None:
            raise self.fault
        if self.says is not None:
            self.says(self.transport)

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment]
        self.lost = reason

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        pass


class Quick(SynchronousTestCase):
    def setUp(self) -> None:
        try:
            from twisted.internet.epollreactor import EPollReactor
        except ImportError as error:
            raise SkipTest("no epoll here") from error
        self.reactor: Any = EPollReactor()  # type: ignore[no-untyped-call]
        self.addCleanup(self.reactor._poller.close)
        self.assertTrue(quick.quicken(self.reactor))
        self.made: list[Kept] = []
        listening = bind("127.0.0.1", 0)
        address = listening.getsockname()
        port = adopt(self.reactor, listening, Factory.forProtocol(self.make))
        self.addCleanup(self.reactor.removeAll)
        self.addCleanup(port.stopListening)
        self.client = socket.create_connection(address)
        self.addCleanup(self.client.close)
        self.client.setblocking(False)
        self.until(lambda: bool(self.made and self.made[0].connected))
        self.server = self.made[0]

    def make(self) -> Kept:
        self.made.append(Kept())
        return self.made[-1]

    def until(self, done: Callable[[], bool]) -> None:
        for _ in range(TURNS):
            if done():
                return
            self.reactor.runUntilCurrent()
            self.reactor.doIteration(0.01)
        self.fail("it never came about")

    def test_private_names(self) -> None:
        """What is called of the reactor is there; another release of Twisted may want another turn here."""
        self.assertIs(type(self.server.transport), quick.QuickServer)
        self.assertIsNot(
            self.reactor.doIteration.__func__ if hasattr(self.reactor.doIteration, "__func__") else None,
            type(self.reactor).doPoll,
        )

    def test_reads(self) -> None:
        """What comes reaches the protocol, without a logging context around it."""
        with mock.patch("twisted.python.log.callWithLogger", side_effect=AssertionError("the long way")):
            self.client.sendall(b"EHLO x\r\n")
            self.until(lambda: bool(self.server.data))
        self.assertEqual(self.server.data, b"EHLO x\r\n")

    def test_reads_more_than_one_buffer(self) -> None:
        sent = bytes(range(256)) * 1024
        left = memoryview(sent)
        for _ in range(TURNS):
            with contextlib.suppress(BlockingIOError):
                left = left[self.client.send(left) :] if left else left
            self.reactor.doIteration(0.01)
            if len(self.server.data) == len(sent):
                break
        self.assertEqual(self.server.data, sent)

    def test_writes_at_once(self) -> None:
        """Not in the reactor's next turn."""
        self.server.transport.write(b"250 OK\r\n")  # type: ignore[union-attr]
        self.client.settimeout(10)
        self.assertEqual(self.client.recv(100), b"250 OK\r\n")

    def test_order_and_backpressure(self) -> None:
        """What the kernel does not take waits, the producer is paused, and nothing overtakes it."""
        transport: Any = self.server.transport
        transport.registerProducer(self.server, True)
        pieces = [bytes([65 + number]) * (1 << 20) for number in range(8)]
        for piece in pieces:
            transport.write(piece)
        transport.write(b"end")
        self.assertTrue(self.server.paused)
        got = bytearray()

        def read() -> bool:
            with contextlib.suppress(BlockingIOError):
                got.extend(self.client.recv(1 << 20))
            return got.endswith(b"end")

        self.until(read)
        self.assertEqual(bytes(got), b"".join(pieces) + b"end")
        self.until(lambda: not self.server.paused)

    def turn(self) -> None:
        """Exactly one turn of the reactor, for which there is something to do."""
        self.reactor.runUntilCurrent()
        self.reactor.doIteration(10)

    def test_accepts(self) -> None:
        """Without a logging context."""
        short = mock.patch("twisted.python.log.callWithLogger", side_effect=AssertionError("the long way"))
        with short, socket.create_connection(self.client.getpeername()):
            self.until(lambda: len(self.made) == 2)

    def test_leaves_at_once(self) -> None:
        """With the reply to QUIT, in the turn that has read it, and with nothing asked of epoll but to forget it."""

        def leave(transport: Any) -> None:
            transport.write(b"221 bye\r\n")
            transport.loseConnection()

        self.server.says = leave
        transport: Any = self.server.transport
        descriptor = transport.fileno()
        self.client.sendall(b"QUIT\r\n")
        with mock.patch.object(self.reactor, "addWriter", side_effect=AssertionError("the long way")):
            self.turn()
        assert self.server.lost is not None
        self.server.lost.trap(ConnectionDone)
        self.assertNotIn(descriptor, self.reactor._selectables)
        self.assertFalse(transport.connected)
        self.assertEqual(transport.fileno(), -1)
        self.client.settimeout(10)
        self.assertEqual(self.client.recv(100), b"221 bye\r\n")
        self.assertEqual(self.client.recv(100), b"")
        transport.loseConnection()
        transport.abortConnection()
        transport.write(b"late")

    def test_leaves_once_all_is_sent(self) -> None:
        """What the kernel does not take is sent before the end."""
        lines = b"250 line\r\n" * (1 << 19)

        def leave(transport: Any) -> None:
            transport.write(lines)
            transport.loseConnection()
            transport.write(b"221 bye\r\n")

        self.server.says = leave
        self.client.sendall(b"QUIT\r\n")
        self.turn()
        self.assertIsNone(self.server.lost)
        got = bytearray()

        def read() -> bool:
            with contextlib.suppress(BlockingIOError):
                got.extend(self.client.recv(1 << 20))
            return self.server.lost is not None

        self.until(read)
        self.client.settimeout(10)
        while data := self.client.recv(1 << 20):
            got += data
        self.assertEqual(bytes(got), lines + b"221 bye\r\n")

    def test_ends_outside_of_a_read(self) -> None:
        """As Twisted's own: in the next turn."""
        transport: Any = self.server.transport
        transport.write(b"421 bye\r\n")
        transport.loseConnection()
        self.assertIsNone(self.server.lost)
        self.until(lambda: self.server.lost is not None)
        self.client.settimeout(10)
        self.assertEqual(self.client.recv(100), b"421 bye\r\n")
        self.assertEqual(self.client.recv(100), b"")

    def test_another_one_is_told_to_end_in_a_read(self) -> None:
        """It is closed, too: what it is reading itself is not for the reactor to guess."""
        with socket.create_connection(self.client.getpeername()) as other:
            self.until(lambda: len(self.made) == 2)
            self.server.says = lambda _: self.made[1].transport.loseConnection()  # type: ignore[union-attr]
            self.client.sendall(b"x")
            self.until(lambda: self.made[1].lost is not None)
            other.settimeout(10)
            self.assertEqual(other.recv(1), b"")
        self.assertIsNone(self.server.lost)

    def test_fails_while_it_leaves(self) -> None:
        """A protocol that fails at the end is logged, and the reactor lives."""

        def fail(reason: object) -> None:
            raise ZeroDivisionError("a fault")

        self.server.connectionLost = fail  # type: ignore[method-assign]
        self.server.says = lambda transport: transport.loseConnection()
        self.client.sendall(b"QUIT\r\n")
        self.turn()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.client.settimeout(10)
        self.assertEqual(self.client.recv(1), b"")

    def test_names(self) -> None:
        """For diagnostics."""
        transport: Any = self.server.transport
        self.assertEqual(transport.logPrefix(), "Kept,0,127.0.0.1")
        self.assertEqual(repr(transport), "<QuickServer #0 from 127.0.0.1>")
        self.assertEqual(transport.getPeer().port, self.client.getsockname()[1])

    def connect(self) -> Kept:
        """One that was made by us, to ourselves."""
        made = Kept()
        factory = ClientFactory()
        factory.buildProtocol = lambda addr: made  # type: ignore[method-assign,assignment]
        factory.noisy = False
        quick.connect(self.reactor, *self.client.getpeername(), factory, 10)
        self.until(lambda: bool(made.connected and len(self.made) == 2))
        return made

    def test_connects(self) -> None:
        """What was connected writes at once, and reads without a logging context."""
        made, other = self.connect(), self.made[1]
        transport: Any = made.transport
        self.assertIs(type(transport), quick.QuickClient)
        with mock.patch("twisted.python.log.callWithLogger", side_effect=AssertionError("the long way")):
            transport.write(b"EHLO x\r\n")
            self.turn()
            self.assertEqual(other.data, b"EHLO x\r\n")
            other.transport.write(b"250 OK\r\n")  # type: ignore[union-attr]
            self.turn()
        self.assertEqual(made.data, b"250 OK\r\n")
        transport.loseConnection()
        self.until(lambda: made.lost is not None and other.lost is not None)

    def test_cannot_connect(self) -> None:
        free = bind("127.0.0.1", 0)
        address = free.getsockname()
        free.close()
        factory, failed = ClientFactory(), []
        factory.noisy = False
        factory.clientConnectionFailed = lambda _, reason: failed.append(reason)  # type: ignore[method-assign]
        quick.connect(self.reactor, *address, factory, 10)
        self.until(lambda: bool(failed))
        failed[0].trap(Refused)

    def test_tls(self) -> None:
        """Under TLS, what is written goes out at once too; both ends see the handshake and each other's octets."""
        pair = self_signed(Path(self.mktemp()), "mx.test.example")
        certificate = PrivateCertificate.loadPEM(pair.key + pair.certificate)  # type: ignore[no-untyped-call]
        made, other = self.connect(), self.made[1]
        ours: Any = made.transport
        theirs: Any = other.transport
        sent = b"line\r\n" * 12_000  # as much as TLS does not keep for a moment, by the clock of the global reactor
        with mock.patch.object(self.reactor, "addWriter", side_effect=AssertionError("the long way")):
            theirs.startTLS(certificate.options())
            ours.startTLS(CertificateOptions())
            self.until(lambda: ours.getHandle().get_cipher_name() and theirs.getHandle().get_cipher_name())
        ours.write(sent)
        theirs.write(sent)
        self.until(lambda: made.data == other.data == sent)
        theirs.loseConnection()
        self.until(lambda: made.lost is not None and other.lost is not None)

    def test_end(self) -> None:
        self.client.sendall(b"QUIT\r\n")
        self.client.close()
        self.until(lambda: self.server.lost is not None)
        self.assertEqual(self.server.data, b"QUIT\r\n")
        self.server.lost.trap(ConnectionDone)  # type: ignore[union-attr]

    def test_reset(self) -> None:
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()
        self.until(lambda: self.server.lost is not None)
        self.server.lost.trap(ConnectionLost, ConnectionDone)  # type: ignore[union-attr]

    def test_written_after_the_end(self) -> None:
        """A reply to a client that is gone raises nothing, and the protocol is told."""
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()
        self.server.transport.write(b"250 OK\r\n")  # type: ignore[union-attr]
        self.until(lambda: self.server.lost is not None)

    def test_protocol_fails(self) -> None:
        """The connection ends, the fault is logged, and the reactor lives."""
        self.server.fault = ZeroDivisionError("a fault")
        self.client.sendall(b"x")
        self.until(lambda: self.server.lost is not None)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        with contextlib.suppress(BlockingIOError):
            self.assertEqual(self.client.recv(1), b"")

    def test_no_memory_for_what_was_read(self) -> None:
        """The protocol is told how much that was, if it wants to know; another's connection ends."""
        lost: list[int] = []
        self.patch(quick, "_view", mock.MagicMock(__getitem__=mock.Mock(side_effect=MemoryError)))
        self.made[0].starved = lost.append  # type: ignore[attr-defined]
        self.client.send(b"hello")
        self.until(lambda: bool(lost))
        self.assertEqual((lost, self.made[0].data, self.made[0].lost), ([5], b"", None))
        del self.made[0].starved  # type: ignore[attr-defined]
        self.client.send(b"hello")
        self.until(lambda: self.made[0].lost is not None)
        self.assertEqual(len(self.flushLoggedErrors(MemoryError)), 1)

    def test_paused(self) -> None:
        """Nothing is read while the protocol does not want it."""
        transport: Any = self.server.transport
        transport.pauseProducing()
        self.client.sendall(b"x")
        for _ in range(5):
            self.reactor.doIteration(0.001)
        self.assertEqual(self.server.data, b"")
        transport.resumeProducing()
        self.until(lambda: self.server.data == b"x")


class Others(SynchronousTestCase):
    def test_another_reactor(self) -> None:
        """Its turn is its own."""
        clock = MemoryReactorClock()
        self.assertFalse(quick.quicken(clock))
        self.assertFalse(hasattr(clock, "doIteration"))
        quick.connect(clock, "127.0.0.1", 25, ClientFactory(), 10)
        self.assertEqual(clock.tcpClients[0][:2], ("127.0.0.1", 25))
