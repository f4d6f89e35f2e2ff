"""Accepting from a line, under an epoll reactor of the tests' own and real sockets."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any
from unittest import mock

from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from twisted_mta.runtime import accepting
from twisted_mta.runtime.accepting import ADMITTED, LINED_UP, Acceptor, filled, waited
from twisted_mta.runtime.sockets import adopt, bind

TURNS = 500
WORDS = b"421 4.3.2 Too busy\r\n"


class Gatekeeper:
    """Lets in as ``rule`` says; ``asked`` is what about."""

    words = WORDS

    def __init__(self) -> None:
        self.rule: Callable[[int], bool] = lambda number: True
        self.asked: list[tuple[float, str, float]] = []
        self.behind: Callable[[], bool] = lambda: False

    def admits(self, now: float, waited: float, address: str, filled: float) -> bool:
        self.asked.append((waited, address, filled))
        return self.rule(len(self.asked))


class Greeter(Protocol):
    def connectionMade(self) -> None:
        self.transport.write(b"220 hello\r\n")  # type: ignore[union-attr]


class Case(SynchronousTestCase):
    backlog = 100

    def setUp(self) -> None:
        try:
            from twisted.internet.epollreactor import EPollReactor
        except ImportError as error:
            raise SkipTest("no epoll here") from error
        self.reactor: Any = EPollReactor()  # type: ignore[no-untyped-call]
        self.addCleanup(self.reactor._poller.close)
        self.gate = Gatekeeper()
        self.made: list[Protocol] = []
        listening = bind("127.0.0.1", 0, self.backlog)
        self.address = listening.getsockname()
        self.port: Any = adopt(self.reactor, listening, Factory.forProtocol(self.make), gate=self.gate)
        self.addCleanup(self.reactor.removeAll)
        self.addCleanup(self.port.stopListening)
        self.patch(accepting, "waited", lambda client: self.wait)
        self.wait = 1.5

    def make(self) -> Protocol:
        self.made.append(Greeter())
        return self.made[-1]

    def clients(self, count: int) -> list[socket.socket]:
        made = []
        for _ in range(count):
            made.append(socket.create_connection(self.address, 5))
            self.addCleanup(made[-1].close)
        return made

    def heard(self, client: socket.socket) -> bytes:
        """All that is said until the end, or until it falls silent."""
        client.settimeout(0.05)
        said = b""
        try:
            while data := client.recv(1000):
                said += data
        except TimeoutError:
            return said
        except ConnectionResetError:
            pass
        return said + b"END"


class AcceptorTests(Case):
    def test_a_few_in_a_turn(self) -> None:
        self.wait = 0.0
        self.clients(ADMITTED + 3)
        self.port.doRead()
        self.assertEqual(len(self.made), ADMITTED)
        self.port.doRead()
        self.assertEqual(len(self.made), ADMITTED + 3)
        self.port.doRead()

    def test_more_in_a_turn_where_there_is_a_line(self) -> None:
        self.clients(LINED_UP + 3)
        self.port.doRead()
        self.assertEqual(len(self.made), LINED_UP)

    def test_no_more_where_other_work_has_come_off_badly(self) -> None:
        self.gate.behind = lambda: True
        self.clients(ADMITTED + 3)
        self.port.doRead()
        self.assertEqual(len(self.made), ADMITTED)

    def test_refused_at_once_without_a_session(self) -> None:
        """Those who have waited too long stand first; they are told so, and do not count for what a turn serves."""
        old, new = self.clients(20), self.clients(2)
        self.gate.rule = lambda number: number > 20
        self.port.doRead()
        self.assertEqual([self.heard(one) for one in old], [WORDS + b"END"] * 20)
        self.assertEqual([self.heard(one) for one in new], [b"220 hello\r\n"] * 2)
        self.assertEqual(len(self.made), 2)
        self.assertEqual(self.gate.asked[0], (1.5, "127.0.0.1", 22 / self.backlog - 0.01))

    def test_refusals_are_bounded_too(self) -> None:
        self.patch(accepting, "REFUSED", 5)
        self.clients(12)
        self.gate.rule = lambda number: False
        counts = []
        for _ in range(3):
            self.port.doRead()
            counts.append(len(self.gate.asked))
        self.assertEqual(counts, [5, 10, 12])

    def test_nothing_can_be_said(self) -> None:
        (client,) = self.clients(1)
        self.gate.words, self.gate.rule = b"", lambda number: False
        self.port.doRead()
        self.assertEqual(self.heard(client), b"END")

    def test_who_is_gone_harms_nobody(self) -> None:
        gone, there = self.clients(2)
        gone.close()
        self.gate.rule = lambda number: False
        self.port.doRead()
        self.assertEqual(self.heard(there), WORDS + b"END")

    def test_only_the_first_is_looked_at_where_there_is_no_line(self) -> None:
        self.wait = 0.0
        self.clients(5)
        self.port.doRead()
        self.assertEqual((len(self.made), len(self.gate.asked)), (5, 1))

    def test_nobody_is_looked_at_a_moment_after_there_was_nobody(self) -> None:
        clock = [100.0]
        self.patch(accepting, "monotonic", lambda: clock[0])
        self.port.doRead()
        self.clients(1)
        clock[0] += accepting.FRESH / 2
        self.port.doRead()
        self.assertEqual((len(self.made), self.gate.asked), (1, []))
        self.clients(1)
        clock[0] += 1.0
        self.port.doRead()
        self.assertEqual((len(self.made), len(self.gate.asked)), (2, 1))

    def test_a_fault_ends_that_connection_alone(self) -> None:
        """With the gate's words, where nothing had been said."""
        first, second = self.clients(2)
        faults: list[Exception] = [MemoryError("none left")]

        def build(address: Any) -> Protocol:
            if faults:
                raise faults.pop()
            return self.make()

        self.port.factory.buildProtocol = build
        self.port.doRead()
        self.assertEqual(self.heard(first), WORDS + b"END")
        self.assertEqual(self.heard(second), b"220 hello\r\n")
        self.assertEqual(len(self.flushLoggedErrors(MemoryError)), 1)

    def test_a_session_that_fails_as_it_begins_is_closed(self) -> None:
        (client,) = self.clients(1)
        self.patch(Greeter, "connectionMade", lambda self: 1 / 0)
        self.port.doRead()
        for _ in range(TURNS):
            self.reactor.runUntilCurrent()
            self.reactor.doIteration(0.001)
            if self.heard(client).endswith(b"END"):
                break
        else:
            self.fail("it is left open")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_nobody_wants_it(self) -> None:
        (client,) = self.clients(1)
        self.port.factory.buildProtocol = lambda address: None
        self.port.doRead()
        self.assertEqual(self.heard(client), b"END")

    def test_other_troubles_are_the_stock_methods(self) -> None:
        """Which keeps a file descriptor for want of one, and says so."""
        stock = mock.Mock()
        self.port.doRead._stock = stock
        real = self.port.socket
        self.port.socket = mock.Mock(_accept=mock.Mock(side_effect=OSError(errno.EMFILE, "too many")))
        self.addCleanup(setattr, self.port, "socket", real)
        self.port.doRead()
        self.assertEqual((stock.call_count, self.port.numberAccepts), (1, 1))

    def test_no_gate(self) -> None:
        acceptor = Acceptor(self.port, None, 1)
        self.clients(2)
        acceptor()
        self.assertEqual(len(self.made), 1)


class KernelTests(SynchronousTestCase):
    """What the system tells."""

    def setUp(self) -> None:
        if not hasattr(socket, "TCP_INFO"):
            raise SkipTest("this system does not tell")
        self.listening = bind("127.0.0.1", 0, 8)
        self.addCleanup(self.listening.close)

    def test_how_long_somebody_has_waited(self) -> None:
        """Also of a client that has spoken since.  The time is the kernel's own, so only that it passes is known."""
        client = socket.create_connection(self.listening.getsockname())
        self.addCleanup(client.close)
        server, _ = self.listening.accept()
        self.addCleanup(server.close)
        client.sendall(b"EHLO\r\n")
        first = waited(server)
        self.assertLess(first, 5.0)
        for _ in range(10_000_000):
            if waited(server) >= first + 0.02:
                break
        else:
            self.fail("it never waits")

    def test_how_many_wait(self) -> None:
        crowd = []
        for number in range(7):
            self.assertEqual(filled(self.listening), number / 8, number)
            crowd.append(socket.create_connection(self.listening.getsockname()))
            self.addCleanup(crowd[-1].close)

    def test_no_socket_of_that_kind(self) -> None:
        one, other = socket.socketpair()
        for end in (one, other):
            self.addCleanup(end.close)
        self.assertEqual((waited(one), filled(one)), (0.0, 0.0))
