"""Content by BDAT (RFC 3030), over the whole server."""

from __future__ import annotations

from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.smtp.world import HELLO, MAIL, RCPT, Says, World
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


class BinaryTests(SynchronousTestCase):
    """BODY=BINARYMIME (RFC 3030 §3), over the whole server."""

    HEAD = b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\n\r\n"

    def setUp(self) -> None:
        self.world = World()
        self.client = self.world.session()
        self.client.read()
        self.offers = self.client.say(HELLO)

    def send(self, *chunks: bytes) -> bytes:
        self.client.say(f"{MAIL} BODY=BINARYMIME", RCPT)
        for number, chunk in enumerate(chunks, 1):
            last = " LAST" if number == len(chunks) else ""
            self.client.server.dataReceived(f"BDAT {len(chunk)}{last}\r\n".encode() + chunk)
        return self.client.read()

    def test_offered(self) -> None:
        self.assertIn(b"250-BINARYMIME\r\n", self.offers)

    def test_octet_for_octet(self) -> None:
        body = bytes(range(256)) + b"\r\n.\r\nMAIL FROM:<evil@far.example>\r\n\n.\n\r.\r" + b"x" * 5000 + b"\r"
        for chunks in ((self.HEAD + body,), (self.HEAD[:-1], b"\n" + body), (self.HEAD, body[:9], body[9:], b"")):
            self.assertIn(b"queued as", self.send(*chunks))
            new, content = self.world.store.messages[-1]
            self.assertTrue(content.endswith(b"\r\n" + self.HEAD + body))
            self.assertEqual((new.message.body, new.message.size), ("BINARYMIME", len(content)))
            self.assertEqual(self.world.scheduler.offered[-1][1], content)

    def test_the_header_is_text(self) -> None:
        for head in (
            b"Subject: x\r\n\0",
            b"Subject: x\0\r\n\r\n",
            b"Subject: x\nTo: y\r\n\r\n",
            b"Subject: x\r\n\r" + b"To: y\r\n\r\n",
            b"Subject: " + b"x" * 990 + b"\r\n\r\n",
            b"no field\r\n\r\n",
            b"\n\r\n",
        ):
            self.assertIn(b"554 5.6.0", self.send(head + b"body"), head)
        self.assertEqual(self.world.store.messages, [])

    def test_a_header_alone_or_none(self) -> None:
        for content in (b"Subject: x\r\n", b"Subject: x\r\n\r\n", b"\r\n\0", b""):
            self.assertIn(b"queued as", self.send(content))
            self.assertTrue(self.world.store.messages[-1][1].endswith(content))

    def test_a_header_without_an_end_is_not_gathered(self) -> None:
        """A binary line may be as long as the message."""
        size = self.world.settings.smtp.header_bytes
        self.assertIn(b"552 5.3.4", self.send(*[b"x" * 60000] * (size // 60000 + 2)))

    def test_too_large(self) -> None:
        self.world = World(message_bytes=1000)
        self.client = self.world.session()
        self.client.say(HELLO)
        self.assertIn(b"552 5.3.4", self.send(self.HEAD + b"\0" * 1000))
