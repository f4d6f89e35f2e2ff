"""The short way through the reactor's turn, under an epoll reactor of the tests' own and real sockets."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any
from unittest import mock

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from twisted_mta.runtime import quick
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

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        if self.fault is not None:
            raise self.fault

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
