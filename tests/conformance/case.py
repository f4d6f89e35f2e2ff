"""What the tests of RFC 5321's rules share.  ``docs/rfc5321.md`` lists them, each with its rule."""

from __future__ import annotations

from collections.abc import Sequence

from tests.testing.world import ANNA, WorldCase
from twisted_mta.mail.status import Reply
from twisted_mta.testing.client import MemoryClient

STRANGER, RELAYED = "203.0.113.9", "192.0.2.1"
JOE = "joe@far.example"
SECOND = "second.example"
TEXT = b"Subject: test\r\n\r\nHello.\r\n"


def codes(replies: Sequence[Reply]) -> list[int]:
    """Their codes."""
    return [reply.code for reply in replies]


class ListeningClient(MemoryClient):
    """Keeps the octets that the server sends in ``heard``."""

    heard = b""

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        super().dataReceived(data)


class RuleCase(WorldCase):
    """A server for "isp.example", whose clients in 192.0.2.0/24 may relay; errors neither slow a session nor end it."""

    store = "memory"
    config = """
        [relay]
        networks = ["192.0.2.0/24"]
        [smtp]
        errors = 1000
        [defence]
        tarpit = "0s"
    """

    def client(self, *lines: str, address: str = STRANGER, listener: str = "mx") -> MemoryClient:
        """A client that has said these lines, by default EHLO, and was answered positively."""
        client = self.server.connect(listener, address)
        for line in lines or ("EHLO client.example",):
            reply = client.ask(line)
            self.assertTrue(reply.positive, f"{line}: {reply}")
        return client

    def begun(self, *recipients: str, sender: str = JOE, address: str = STRANGER) -> MemoryClient:
        """A client that has said all but DATA."""
        rcpts = [f"RCPT TO:<{recipient}>" for recipient in recipients or (ANNA,)]
        return self.client("EHLO client.example", f"MAIL FROM:<{sender}>", *rcpts, address=address)

    def hand_in(self, client: MemoryClient, content: bytes = TEXT) -> Reply:
        """DATA and content that is as it is on the wire, but for the dot that ends it; the last reply."""
        self.assertEqual(client.ask("DATA").code, 354)
        replies = client.send_raw(content + b".\r\n")
        self.assertEqual(len(replies), 1)
        return replies[0]

    def arrived(self, user: str = ANNA) -> list[bytes]:
        """The messages in a mailbox, with CRLF for their LFs."""
        self.server.advance(2)
        return [message.replace(b"\n", b"\r\n") for message in self.server.maildir(user)]

    def fields_and_rest(self, message: bytes) -> tuple[list[bytes], bytes]:
        """The header fields of a message, unfolded, and what follows them."""
        head, _, rest = message.partition(b"\r\n\r\n")
        return head.replace(b"\r\n\t", b" ").replace(b"\r\n ", b" ").split(b"\r\n"), rest
