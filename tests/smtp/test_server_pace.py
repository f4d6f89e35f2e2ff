"""A session's pace and end: silence, pressure, a client that is gone, a service that stops."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.smtp.world import GONE, HELLO, MAIL, RCPT, Waits, World, codes
from twisted_mta.mail.events import Accepted, Disconnected
from twisted_mta.smtp.server import BUFFER


class TimeTests(SynchronousTestCase):
    def test_silence(self) -> None:
        world = World(timeout=300)
        client = world.session()
        client.read()
        world.clock.advance(290)
        client.say("NOOP")
        world.clock.advance(290)
        self.assertEqual(client.read(), b"")
        world.clock.advance(12)
        self.assertEqual(client.read()[:9], b"421 4.4.2")
        self.assertTrue(client.transport.disconnecting)
        client.server.connectionLost(GONE)
        self.assertEqual(world.of(Disconnected)[0].reason, "timeout")

    def test_trickled_command(self) -> None:
        """Octets do not buy time, only whole commands do."""
        world = World(timeout=300)
        client = world.session()
        client.read()
        for _ in range(32):
            client.server.dataReceived(b"x")
            world.clock.advance(10)
        self.assertEqual(client.read()[:3], b"421")

    def test_trickled_content(self) -> None:
        world = World(timeout=300)
        client = world.session()
        client.say(HELLO, MAIL, RCPT, "DATA")
        for _ in range(32):
            client.server.dataReceived(b"x\r\n")
            world.clock.advance(10)
        self.assertEqual(client.read()[:3], b"421")
        client.server.connectionLost(GONE)
        self.assertEqual(world.store.begun[0].aborted, 1)

    def test_slow_but_steady_content(self) -> None:
        world = World(timeout=300)
        client = world.session()
        client.say(HELLO, MAIL, RCPT, "DATA")
        for _ in range(100):
            client.server.dataReceived((b"x" * 98 + b"\r\n") * 20)
            world.clock.advance(15)
        client.server.dataReceived(b".\r\n")
        self.assertEqual(codes(client.read()), [250])

    def test_our_own_time_is_not_the_clients(self) -> None:
        wait = Waits("mail")
        world = World(stages=[wait], timeout=300)
        client = world.session()
        client.say(HELLO, MAIL)
        world.clock.advance(900)
        wait.waiting.pop().callback(None)
        self.assertEqual(codes(client.read()), [250])

    def test_client_that_does_not_go(self) -> None:
        world = World()
        client = world.session()
        client.say("QUIT")
        self.assertFalse(client.transport.aborted)
        world.clock.advance(12)
        self.assertTrue(client.transport.aborted)

    def test_no_timer_is_left(self) -> None:
        world = World()
        client = world.session()
        client.server.connectionLost(GONE)
        self.assertEqual(world.clock.getDelayedCalls(), [])


class PressureTests(SynchronousTestCase):
    def test_reading_stops_while_a_command_is_pending(self) -> None:
        wait = Waits("mail")
        client = World(stages=[wait], commands=10**6).session()
        client.say(HELLO, MAIL)
        client.server.dataReceived(b"NOOP\r\n" * (BUFFER // 6))
        self.assertEqual(client.transport.producerState, "producing")
        client.server.dataReceived(b"NOOP\r\n")
        self.assertEqual(client.transport.producerState, "paused")
        wait.waiting.pop().callback(None)
        self.assertEqual(client.transport.producerState, "producing")
        self.assertEqual(len(codes(client.read())), BUFFER // 6 + 2)

    def test_reading_stops_while_the_store_is_slow(self) -> None:
        world = World()
        world.store.slow = True
        client = world.session()
        client.say(HELLO, MAIL, RCPT, "DATA")
        block = b"A: b\r\n\r\n" + (b"x" * 98 + b"\r\n") * 1000
        for _ in range(3):
            client.server.dataReceived(block)
        self.assertEqual(client.transport.producerState, "paused")
        self.assertLess(client.server.wire.buffered, BUFFER + 2 * len(block))
        self.assertLess(world.store.begun[0].size, 2 * len(block))
        while world.store.writes:
            world.store.writes.pop().callback(None)
        self.assertEqual(client.transport.producerState, "producing")
        world.store.slow = False
        client.server.dataReceived(b".\r\n")
        self.assertEqual(codes(client.read()), [250])

    def test_client_that_never_reads(self) -> None:
        """The transport pauses its producer when its buffer is full: then no command is run and nothing is read."""
        client = World(errors=10**6, commands=10**6).session()
        client.read()
        written = client.transport.write

        def write(data: bytes) -> None:
            written(data)
            if len(client.transport.value()) > 1 << 16:
                client.server.pauseProducing()

        client.transport.write = write  # type: ignore[method-assign]
        client.server.dataReceived(b"EHLO x\r\n" * 8000)
        self.assertLess(len(client.transport.value()), 1 << 17)
        self.assertEqual(client.transport.producerState, "paused")
        ran = client.server.peer.commands
        self.assertLess(ran, 2000)
        client.server.dataReceived(b"NOOP\r\n")
        self.assertEqual(client.server.peer.commands, ran)
        while client.server.peer.commands < 8001:
            client.read()
            client.server.resumeProducing()
        self.assertEqual(client.transport.producerState, "producing")

    def test_registers_as_producer_and_leaves(self) -> None:
        client = World().session()
        self.assertIs(client.transport.producer, client.server)
        client.say("QUIT")
        self.assertIsNone(client.transport.producer)


class EndTests(SynchronousTestCase):
    def test_quit(self) -> None:
        wait = Waits()
        world = World(stages=[wait])
        client = world.session()
        client.say(HELLO)
        world.clock.advance(3)
        self.assertEqual(client.codes("QUIT", "NOOP"), [221])
        client.server.connectionLost(GONE)
        (event,) = world.of(Disconnected)
        self.assertEqual((event.reason, event.seconds, event.commands), ("quit", 3.0, 2))
        self.assertEqual(wait.peers, [client.server.peer])

    def test_lost_in_the_content(self) -> None:
        world = World()
        client = world.session()
        client.say(HELLO, MAIL, RCPT, "DATA")
        client.server.dataReceived(b"A: b\r\n\r\nhalf a")
        client.server.connectionLost(GONE)
        self.assertEqual((world.store.begun[0].aborted, world.store.messages), (1, []))
        self.assertEqual(world.of(Disconnected)[0].reason, "lost")

    def test_lost_while_the_commit_is_under_way(self) -> None:
        """The message is ours: it goes its way, though nobody hears the 250."""
        world = World()
        world.store.slow_commit = True
        client = world.session()
        client.say(HELLO)
        client.send(b"A: b\r\n\r\nc")
        client.server.connectionLost(GONE)
        world.store.commits.pop().callback(None)
        self.assertEqual(len(world.of(Accepted)), 1)
        self.assertEqual(len(world.scheduler.offered), 1)
        self.assertEqual(world.store.begun[0].aborted, 0)

    def test_lost_while_a_policy_waits(self) -> None:
        wait = Waits("mail")
        client = World(stages=[wait]).session()
        client.say(HELLO, MAIL)
        client.server.connectionLost(GONE)
        wait.waiting.pop().callback(None)
        self.assertEqual(client.read(), b"")

    def test_drain(self) -> None:
        world = World()
        idle, busy, later = (world.session() for _ in range(3))
        idle.say(HELLO)
        busy.say(HELLO, MAIL, RCPT, "DATA")
        later.say(HELLO, MAIL, RCPT)
        drained: list[None] = []
        world.sessions.drain(60).addCallback(drained.append)
        self.assertEqual(idle.read()[:9], b"421 4.3.2")
        self.assertTrue(idle.transport.disconnecting)
        self.assertEqual(codes(world.session().read()), [421])
        self.assertEqual(later.codes("DATA"), [354])
        for one in (busy, later):
            one.server.dataReceived(b"A: b\r\n\r\nc\r\n.\r\n")
            self.assertEqual(codes(one.read()), [250, 421])
            self.assertTrue(one.transport.disconnecting)
        self.assertEqual(drained, [])
        for session in list(world.sessions._open):
            session.connectionLost(GONE)  # type: ignore[attr-defined]
        self.assertEqual(drained, [None])
        self.assertEqual(world.clock.getDelayedCalls(), [])

    def test_drain_by_force(self) -> None:
        world = World()
        client = world.session()
        client.say(HELLO, MAIL)
        world.sessions.drain(60)
        world.clock.advance(61)
        self.assertTrue(client.transport.aborted)

    def test_drain_of_nothing(self) -> None:
        self.assertIsNone(self.successResultOf(World().sessions.drain(60)))
