"""Sessions from the first byte to the last: order, limits, time, pressure, the end."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.mail.smtp import ESMTP, SMTPFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.smtp.world import NOW, World, account, codes
from twisted_mta.mail.events import Accepted, Connected, Disconnected, Rejected, no_events
from twisted_mta.mail.status import MailError, Reply
from twisted_mta.policy.interfaces import Policy
from twisted_mta.smtp.server import BUFFER

HELLO = "EHLO far.example"
MAIL = "MAIL FROM:<joe@far.example>"
RCPT = "RCPT TO:<ann@isp.example>"
GONE = Failure(ConnectionDone())


class Waits(Policy):
    """Answers a hook when the test says so."""

    def __init__(self, *hooks: str) -> None:
        self.waiting: list[Deferred[Reply | None]] = []
        self.peers: list[Any] = []
        for hook in hooks:
            setattr(self, hook, self._wait)

    async def _wait(self, peer: Any, *rest: Any) -> Reply | None:
        answer: Deferred[Reply | None] = Deferred()
        self.waiting.append(answer)
        return await answer

    def closed(self, peer: Any) -> None:
        self.peers.append(peer)


class Says(Policy):
    """Answers one hook with a reply, or raises it."""

    def __init__(self, hook: str, reply: Reply | Exception) -> None:
        async def answer(*rest: Any) -> Reply:
            if isinstance(reply, Exception):
                raise reply
            return reply

        setattr(self, hook, answer)


class GreetingTests(SynchronousTestCase):
    def test_is_twisteds(self) -> None:
        world = World()
        self.assertIsInstance(world.factory, SMTPFactory)
        self.assertIsInstance(world.session().server, ESMTP)

    def test_banner(self) -> None:
        self.assertEqual(World(banner="no relay").session().read(), b"220 mx.isp.example no relay\r\n")

    def test_extensions(self) -> None:
        client = World(message_bytes=1234).session()
        client.read()
        self.assertEqual(
            client.say(HELLO).split(b"\r\n"),
            [
                b"250-mx.isp.example",
                b"250-PIPELINING",
                b"250-SIZE 1234",
                b"250-8BITMIME",
                b"250-ENHANCEDSTATUSCODES",
                b"250-DSN",
                b"250-CHUNKING",
                b"250-BINARYMIME",
                b"250-SMTPUTF8",
                b"250-HELP",
                b"250-LIMITS RCPTMAX=1000",
                b"250-DELIVERBY",
                b"250 MT-PRIORITY MIXER",
                b"",
            ],
        )
        self.assertEqual(client.say("HELO far.example"), b"250 mx.isp.example\r\n")

    def test_policy_refuses_the_connection(self) -> None:
        world = World(stages=[Says("connect", Reply(554, "5.7.1", "Not you"))])
        client = world.session()
        self.assertEqual(client.read(), b"554 5.7.1 Not you\r\n")
        self.assertFalse(client.transport.disconnecting)
        self.assertEqual(codes(client.say("EHLO far.example")), [503])
        self.assertEqual(codes(client.say("QUIT")), [221])
        self.assertTrue(client.transport.disconnecting)
        self.assertEqual(world.of(Rejected)[0].stage, "connect")
        client.server.connectionLost(GONE)
        self.assertEqual(world.of(Disconnected)[0].reason, "refused")

    def test_policy_takes_its_time(self) -> None:
        wait = Waits("connect")
        client = World(stages=[wait]).session()
        client.server.dataReceived(b"EHLO far.example\r\n")
        self.assertEqual(client.read(), b"")
        wait.waiting[0].callback(None)
        self.assertEqual(codes(client.read()), [220, 250])

    def test_too_many_sessions(self) -> None:
        world = World(connections=2)
        first, second, third = (world.session() for _ in range(3))
        self.assertEqual([codes(one.read()) for one in (first, second, third)], [[220], [220], [421]])
        self.assertTrue(third.transport.disconnecting)
        for one in (third, first):
            one.server.connectionLost(GONE)
        self.assertEqual(codes(world.session().read()), [220])

    def test_addresses(self) -> None:
        world = World()
        for address in ("192.0.2.7", "::ffff:192.0.2.7"):
            world.session(address)
        world.session("2001:db8::7%eth0")
        self.assertEqual([event.client for event in world.of(Connected)], ["192.0.2.7", "192.0.2.7", "2001:db8::7"])


class OrderTests(SynchronousTestCase):
    """Replies in order, and one write for a group (RFC 2920)."""

    def test_group_in_one_write(self) -> None:
        client = World().session()
        client.say(HELLO)
        client.transport.writes = 0
        self.assertEqual(client.codes(MAIL, RCPT, "RCPT TO:<bob@isp.example>", "DATA"), [250, 250, 250, 354])
        self.assertEqual(client.transport.writes, 1)

    def test_commands_behind_the_content(self) -> None:
        client = World().session()
        client.say(HELLO, MAIL, RCPT, "DATA")
        client.transport.writes = 0
        client.server.dataReceived(b"A: b\r\n\r\nc\r\n.\r\nNOOP\r\n" + MAIL.encode() + b"\r\nQUIT\r\n")
        self.assertEqual(codes(client.read()), [250, 250, 250, 221])
        self.assertEqual(client.transport.writes, 1)
        self.assertTrue(client.transport.disconnecting)

    def test_nothing_overtakes_a_policy_that_waits(self) -> None:
        wait = Waits("mail", "rcpt", "data")
        world = World(stages=[wait])
        client = world.session()
        client.say(HELLO)
        self.assertEqual(client.say(MAIL, RCPT, "RCPT TO:<bob@isp.example>", "DATA", "NOOP"), b"")
        for reply, expected in ((None, 250), (Reply(450, "4.7.1", "Greylisted"), 450), (None, 250)):
            self.assertEqual(len(wait.waiting), 1)
            wait.waiting.pop().callback(reply)
            self.assertEqual(codes(client.read()), [expected])
        wait.waiting.pop().callback(Reply(550, "5.7.1", "No"))
        self.assertEqual(codes(client.read()), [550, 250])

    def test_a_directory_that_waits(self) -> None:
        world = World()
        client = world.session()
        client.say(HELLO)
        world.directory.slow = True
        self.assertEqual(client.codes(MAIL, RCPT, "NOOP"), [250])
        world.directory.waiting.pop().callback(None)
        self.assertEqual(codes(client.read()), [250, 250])

    def test_commit_that_waits(self) -> None:
        world = World()
        world.store.slow_commit = True
        client = world.session()
        client.say(HELLO, MAIL, RCPT, "DATA")
        client.server.dataReceived(b"A: b\r\n\r\nc\r\n.\r\nNOOP\r\n")
        self.assertEqual(client.read(), b"")
        self.assertEqual(world.of(Accepted), [])
        world.store.commits.pop().callback(None)
        self.assertEqual(codes(client.read()), [250, 250])
        self.assertEqual(len(world.of(Accepted)), 1)

    def test_data_without_recipients(self) -> None:
        client = World().session()
        self.assertEqual(client.codes(HELLO, MAIL, "RCPT TO:<nobody@isp.example>", "DATA")[1:], [250, 250, 550, 554])


class RefusalTests(SynchronousTestCase):
    def test_policies(self) -> None:
        for hook, before, line, stage in (
            ("helo", (), HELLO, "helo"),
            ("mail", (HELLO,), MAIL, "mail"),
            ("rcpt", (HELLO, MAIL), RCPT, "rcpt"),
            ("data", (HELLO, MAIL, RCPT), "DATA", "data"),
        ):
            world = World(stages=[Says(hook, Reply(550, "5.7.1", "No"))])
            client = world.session()
            client.say(*before)
            self.assertEqual(client.say(line), b"550 5.7.1 No\r\n")
            (event,) = world.of(Rejected)
            self.assertEqual((event.stage, event.reply), (stage, "550 5.7.1 No"))
            self.assertFalse(client.transport.disconnecting)

    def test_content_policy(self) -> None:
        world = World(stages=[Says("content", Reply(550, "5.7.1", "No such words"))])
        client = world.session()
        client.say(HELLO)
        self.assertEqual(client.send(b"A: b\r\n\r\nc"), b"550 5.7.1 No such words\r\n")
        self.assertEqual(world.store.begun[0].aborted, 1)
        (event,) = world.of(Rejected)
        self.assertEqual((event.stage, event.sender), ("content", "joe@far.example"))

    def test_content_policy_that_waits_holds_the_body(self) -> None:
        wait = Waits("content")
        world = World(stages=[wait])
        client = world.session()
        client.say(HELLO, MAIL, RCPT, "DATA")
        client.server.dataReceived(b"A: b\r\n\r\nfirst\r\n")
        client.server.dataReceived(b"second\r\n.\r\nNOOP\r\n")
        self.assertEqual((world.store.begun[0].data, client.read()), (b"", b""))
        wait.waiting.pop().callback(None)
        self.assertEqual(codes(client.read()), [250, 250])
        self.assertTrue(world.store.messages[0][1].endswith(b"A: b\r\n\r\nfirst\r\nsecond\r\n"))

    def test_421_of_a_policy_closes(self) -> None:
        world = World(stages=[Says("mail", Reply(421, "4.7.0", "Go away"))])
        client = world.session()
        client.say(HELLO)
        self.assertEqual(client.codes(MAIL, "NOOP"), [421])
        self.assertTrue(client.transport.disconnecting)

    def test_fault_of_a_policy_is_temporary(self) -> None:
        client = World(stages=[Says("mail", ZeroDivisionError())]).session()
        client.say(HELLO)
        self.assertEqual(client.codes(MAIL, "NOOP"), [451, 250])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_directory_that_is_down(self) -> None:
        world = World()
        world.directory.failure = MailError(Reply(451, "4.3.0", "The directory is down"))
        client = world.session()
        client.say(HELLO)
        self.assertEqual(client.codes(MAIL, RCPT), [250, 451])

    def test_relaying(self) -> None:
        """Without any stage at all nothing is relayed; who may is told by the same rule as in the access stage."""
        world = World()
        client = world.session()
        client.say(HELLO, MAIL)
        for path, code in (
            ("joe@other.example", 550),
            ("joe%other.example@isp.example", 550),
            ("other.example!joe@isp.example", 550),
            ('"joe@other.example"@isp.example', 550),
            ("@isp.example:joe@other.example", 550),
            ("joe@other.example@isp.example", 501),
            ("joe", 501),
            ("nobody@isp.example", 550),
            ("@other.example:ann@isp.example", 250),
            ("ANN@ISP.EXAMPLE", 250),
            ("postmaster", 250),
        ):
            self.assertEqual(client.codes(f"RCPT TO:<{path}>"), [code], path)
        client.server.peer.relaying = True
        self.assertEqual(client.codes("RCPT TO:<joe@other.example>"), [250])
        self.assertEqual(client.codes("RCPT TO:<@isp.example:joe@other.example>"), [550])


class LimitTests(SynchronousTestCase):
    def test_errors(self) -> None:
        client = World(errors=3).session()
        client.read()
        self.assertEqual(client.codes(*["FOO"] * 6), [500, 500, 500, 421])
        self.assertTrue(client.transport.disconnecting)

    def test_commands(self) -> None:
        client = World(commands=3).session()
        client.read()
        self.assertEqual(client.codes(*["NOOP"] * 6), [250, 250, 250, 421])
        self.assertTrue(client.transport.disconnecting)

    def test_recipients(self) -> None:
        world = World(recipients=100)
        client = world.session()
        client.say(HELLO, MAIL)
        self.assertEqual(client.codes(*[RCPT] * 101), [250] * 100 + [452])
        self.assertEqual(client.codes("DATA"), [354])

    def test_declared_size(self) -> None:
        world = World(message_bytes=1000)
        client = world.session()
        client.say(HELLO)
        self.assertEqual(client.codes(f"{MAIL} SIZE=1000", "RSET", f"{MAIL} SIZE=1001"), [250, 250, 552])

    def test_size(self) -> None:
        world = World(message_bytes=1000)
        client = world.session()
        client.say(HELLO)
        self.assertEqual(codes(client.send((b"x" * 98 + b"\r\n") * 10)), [250])
        said = client.send((b"x" * 98 + b"\r\n") * 10 + b"y")
        self.assertEqual(said, b"552 5.3.4 The message is larger than 1000 octets\r\n")
        self.assertEqual(client.codes("NOOP"), [250])

    def test_a_customers_size(self) -> None:
        world = World(message_bytes=10_000)
        client = world.session()
        client.server.peer.account = account(message_bytes=500)
        client.say(HELLO)
        self.assertEqual(client.codes(f"{MAIL} SIZE=501"), [552])
        self.assertEqual(codes(client.send((b"x" * 98 + b"\r\n") * 6)), [552])

    def test_far_too_large(self) -> None:
        client = World(message_bytes=1000).session()
        client.say(HELLO, MAIL, RCPT, "DATA")
        for _ in range(100):
            client.server.dataReceived((b"x" * 98 + b"\r\n") * 10)
        self.assertEqual(codes(client.read()), [552])
        self.assertTrue(client.transport.disconnecting)

    def test_hops(self) -> None:
        client = World(hops=3).session()
        client.say(HELLO)
        self.assertEqual(codes(client.send(b"Received: x\r\n" * 3 + b"\r\n")), [250])
        self.assertEqual(client.send(b"Received: x\r\n" * 4 + b"\r\n")[:9], b"554 5.4.6")

    def test_header_section(self) -> None:
        world = World(header_bytes=1000)
        client = world.session()
        client.say(HELLO)
        self.assertEqual(client.send(b"A: b\r\n" * 200)[:9], b"552 5.3.4")
        self.assertEqual(client.codes("NOOP"), [250])
        self.assertEqual(world.store.begun[0].aborted, 1)


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


class BoundTests(SynchronousTestCase):
    def test_idle_session_is_small(self) -> None:
        """What a session holds of ours, before and after it has handed in a message: at most 3 KiB."""
        world = World()
        world.factory.events = world.reception.events = no_events
        session = world.session()
        session.say(HELLO)
        session.send(b"A: b\r\n\r\n" + b"x" * 900)
        transport = session.transport
        for after_a_message in (False, True):
            gc.collect()
            tracemalloc.start()
            try:
                kept = []
                for _ in range(100):
                    server = world.factory.buildProtocol(None)
                    transport.unregisterProducer()
                    server.makeConnection(transport)
                    server.dataReceived(b"EHLO far.example\r\n")
                    if after_a_message:
                        server.dataReceived(b"MAIL FROM:<joe@far.example>\r\nRCPT TO:<ann@isp.example>\r\nDATA\r\n")
                        server.dataReceived(b"A: b\r\n\r\n" + b"x" * 900 + b"\r\n.\r\n")
                    kept.append(server)
                    transport.clear()
                    world.store.messages.clear()
                    world.store.begun.clear()
                    world.scheduler.offered.clear()
                gc.collect()
                size = tracemalloc.get_traced_memory()[0] / len(kept)
            finally:
                tracemalloc.stop()
            self.assertLess(size, 3 << 10)

    @given(
        st.lists(
            st.one_of(
                st.sampled_from([HELLO, MAIL, RCPT, "DATA", "RSET", "QUIT", "AUTH PLAIN", ".", "A: b", "", "\n", "\0"]),
                st.text(st.characters(max_codepoint=255), max_size=30),
            ).map(lambda line: line.encode("latin-1") + b"\r\n"),
            max_size=25,
        ),
        st.lists(st.integers(0, 400), max_size=10),
    )
    def test_whatever_a_peer_sends(self, lines: list[bytes], cuts: list[int]) -> None:
        """No exception, no trace in the log, and the books balance: each message begun is committed or aborted."""
        world = World(errors=10)
        client = world.session()
        wire = b"".join(lines)
        places = sorted({cut % (len(wire) + 1) for cut in cuts} | {0, len(wire)})
        for start, end in itertools.pairwise(places):
            client.server.dataReceived(wire[start:end])
        said = client.read()
        self.assertTrue(said.endswith(b"\r\n"))
        self.assertNotRegex(said, rb"[^\r]\n|\r[^\n]")
        client.server.connectionLost(GONE)
        self.assertEqual(len(world.sessions), 0)
        taken = len(world.store.messages)
        self.assertEqual(taken + sum(one.aborted for one in world.store.begun), len(world.store.begun))
        self.assertEqual(len(world.of(Accepted)), taken)

    def test_stage_that_fails_at_the_end(self) -> None:
        class Broken(Policy):
            def closed(self, peer: Any) -> None:
                raise ZeroDivisionError

        world = World(stages=[Broken()])
        world.session().server.connectionLost(GONE)
        self.assertEqual((len(world.sessions), len(world.of(Disconnected))), (0, 1))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class HelpTests(SynchronousTestCase):
    def test_small_commands(self) -> None:
        client = World().session()
        client.read()
        self.assertEqual(
            client.codes("NOOP x", "HELP", "HELP MAIL", "VRFY ann", "EXPN list", "RSET", "TURN", "STARTTLS"),
            [250, 214, 214, 252, 502, 250, 500, 503],
        )
        self.assertEqual(client.codes(HELLO, "STARTTLS", "AUTH PLAIN"), [250, 502, 503])

    def test_time_is_the_clocks(self) -> None:
        world = World()
        world.session()
        self.assertEqual(world.of(Connected)[0].time, NOW)
