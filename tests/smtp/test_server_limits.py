"""What a session may take: numbers, sizes, memory."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.smtp.world import GONE, HELLO, MAIL, RCPT, World, account, codes
from twisted_mta.mail.events import Accepted, Disconnected, no_events
from twisted_mta.policy.interfaces import Policy


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

    def test_a_transaction_under_way_is_finished_beyond_the_last_command(self) -> None:
        """The client hears of the end where it has nothing to lose: at the next MAIL."""
        world = World(commands=4)
        client = world.session()
        client.say(HELLO)
        self.assertEqual(client.codes(MAIL, *[RCPT] * 5, "DATA"), [250] * 6 + [354])
        self.assertEqual(client.codes("Subject: x", "", "y", "."), [250])
        self.assertEqual(len(world.of(Accepted)), 1)
        self.assertEqual(client.codes(MAIL, RCPT, "DATA"), [421])
        self.assertTrue(client.transport.disconnecting)

    def test_one_by_chunks_is_finished_too(self) -> None:
        world = World(commands=4)
        client = world.session()
        client.say(HELLO)
        said = client.say(MAIL, RCPT, "BDAT 6", b"x: y", "BDAT 2 LAST", b"")
        self.assertEqual(codes(said)[:4], [250, 250, 250, 250])
        self.assertEqual(len(world.of(Accepted)), 1)

    def test_what_does_not_bring_a_transaction_on_ends_the_session_in_it(self) -> None:
        for line in ("NOOP", "RSET", "VRFY ann", HELLO, "HELP", "FOO"):
            client = World(commands=4).session()
            client.say(HELLO)
            self.assertEqual(client.codes(MAIL, RCPT, RCPT, RCPT, line, RCPT), [250] * 4 + [421], line)

    def test_a_transaction_has_an_end_too(self) -> None:
        """Chunks without content would go on for ever."""
        client = World(commands=4).session()
        client.say(HELLO)
        self.assertEqual(client.codes(MAIL, RCPT, *["BDAT 0"] * 8)[-2:], [250, 421])
        client = World(commands=4).session()
        client.say(HELLO)
        self.assertEqual(client.codes(MAIL, *[RCPT] * 9), [250] * 7 + [421])

    def test_goodbye_is_heard_beyond_the_last_command(self) -> None:
        client = World(commands=2).session()
        client.say(HELLO)
        self.assertEqual(client.codes("NOOP", "QUIT"), [250, 221])

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
