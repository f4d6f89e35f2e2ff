"""Content by BDAT (RFC 3030), over the whole server."""

from __future__ import annotations

from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.smtp.test_server import HELLO, MAIL, RCPT, Says
from tests.smtp.world import World
from twisted_mta.mail.events import Rejected
from twisted_mta.mail.status import Reply

CONTENT = b"Subject: x\r\n\r\n.\r\nHello\r\n"


class ChunkTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.client = self.world.session()
        self.client.read()
        self.client.say(HELLO)

    def chunk(self, data: bytes, last: str = "") -> bytes:
        self.client.server.dataReceived(f"BDAT {len(data)}{last}\r\n".encode() + data)
        return self.client.read()

    def test_message(self) -> None:
        self.client.say(MAIL, RCPT)
        self.assertEqual(self.chunk(CONTENT[:12]), b"250 2.0.0 12 octets received\r\n")
        self.assertEqual(self.chunk(CONTENT[12:]), b"250 2.0.0 12 octets received\r\n")
        self.assertEqual(self.chunk(b"", " LAST")[:20], b"250 2.0.0 queued as ")
        ((new, content),) = self.world.store.messages
        self.assertTrue(content.endswith(CONTENT))
        self.assertEqual((new.message.size, new.message.body), (len(content), "7BIT"))
        self.assertEqual(self.world.scheduler.offered[0][1], content)

    def test_pipelined(self) -> None:
        """RFC 3030 §4.2: all in one go, two messages one behind the other."""
        one = f"{MAIL}\r\n{RCPT}\r\nBDAT {len(CONTENT)}\r\n".encode() + CONTENT + b"BDAT 2 LAST\r\nx\xe4"
        self.client.server.dataReceived(one + one + b"QUIT\r\n")
        codes = [line[:3] for line in self.client.read().splitlines()]
        self.assertEqual(codes, [b"250"] * 8 + [b"221"])
        self.assertEqual([new.message.body for new, _ in self.world.store.messages], ["8BITMIME"] * 2)

    def test_begun_and_forgotten(self) -> None:
        for end in ("RSET", HELLO):
            self.client.say(MAIL, RCPT)
            self.chunk(CONTENT)
            begun = self.world.store.begun[-1]
            self.client.say(end)
            self.assertEqual(begun.aborted, 1, end)
            self.assertIsNone(self.client.server.inbound)
        self.client.say(MAIL, RCPT)
        self.chunk(b"Subject: y\r\n\r\n", " LAST")
        ((_, content),) = self.world.store.messages
        self.assertNotIn(b"Hello", content)

    def test_the_connection_is_lost_in_a_chunk(self) -> None:
        """Exim's CVE-2026-45185: nothing of the message remains, and nothing more is read."""
        self.client.say(MAIL, RCPT)
        self.chunk(CONTENT)
        self.client.server.dataReceived(b"BDAT 100 LAST\r\nhalf")
        self.client.server.connectionLost(Failure(ConnectionLost()))
        self.client.server.dataReceived(b"x" * 96 + b"NOOP\r\n")
        self.assertEqual(self.world.store.begun[0].aborted, 1)
        self.assertEqual(self.world.store.messages, [])
        self.assertEqual(self.client.read(), b"")

    def test_a_chunk_that_is_flawed(self) -> None:
        self.client.say(MAIL, RCPT)
        self.assertEqual(self.chunk(b"Subject: x\n\n")[:9], b"550 5.5.2")
        self.assertEqual(self.world.store.begun[0].aborted, 1)
        self.assertEqual(self.chunk(b"MAIL FROM:<evil@far.example>\r\n", " LAST")[:9], b"503 5.5.1")
        self.assertEqual([event.stage for event in self.world.of(Rejected)], ["content"])
        self.client.say(MAIL, RCPT)
        self.assertEqual(self.chunk(CONTENT, " LAST")[:3], b"250")

    def test_a_chunk_that_would_be_too_large(self) -> None:
        """Refused at once, with what had begun: the session ends, as it would with DATA."""
        self.client.say(MAIL, RCPT)
        self.chunk(CONTENT)
        self.client.server.dataReceived(b"BDAT 99999999999 LAST\r\nabc")
        self.assertEqual(self.client.read()[:9], b"552 5.3.4")
        self.assertEqual(self.world.store.begun[0].aborted, 1)
        self.assertTrue(self.client.transport.disconnecting)

    def test_a_policy_refuses(self) -> None:
        world = World(stages=[Says("data", Reply(451, "4.7.1", "Not now"))])
        self.client = world.session()
        self.client.read()
        self.client.say(HELLO, MAIL, RCPT)
        self.assertEqual(self.chunk(b"RSET\r\n" * 100)[:9], b"451 4.7.1")
        self.assertEqual(self.chunk(b"RSET\r\n", " LAST")[:9], b"503 5.5.1")
        self.assertEqual([event.stage for event in world.of(Rejected)], ["data"])
        self.assertEqual(world.store.begun, [])

    def test_a_slow_store_pauses_the_client(self) -> None:
        self.client.say(MAIL, RCPT)
        self.world.store.slow = True
        self.assertEqual(self.chunk(CONTENT), b"")
        self.world.store.slow = False
        self.world.store.writes[0].callback(None)
        self.assertEqual(self.client.read(), b"250 2.0.0 24 octets received\r\n")
