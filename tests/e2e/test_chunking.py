"""BDAT (RFC 3030) against the running service: over TLS, from a program that speaks it, and cut off in the middle."""

from __future__ import annotations

import contextlib
import ssl
import time

import pytest

from tests.e2e.case import BEN, ServiceCase
from tests.peers.rawsmtp import Closed, RawSmtp

pytestmark = pytest.mark.peer

BOB = "bob@remote.example"
BIG = b"Subject: big\r\n\r\n" + b"".join(b"%06d ....................................\r\n" % n for n in range(9000))


class ChunkingTests(ServiceCase):
    """One service."""

    def begin(self, client: RawSmtp) -> None:
        self.assertIn("CHUNKING", client.starttls().text.split("\n"))
        for command in (f"MAIL FROM:<{BOB}>", f"RCPT TO:<{BEN}>"):
            self.assertEqual(client.cmd(command).code, 250)

    def test_a_large_message_in_odd_pieces(self) -> None:
        """Every octet arrives, whatever chunks and TLS records cut; all is sent before a reply is read."""
        with RawSmtp(self.mta.mx) as client:
            client.ehlo()
            self.begin(client)
            sizes = [1, 7, 65_536, 3, 100_001, 0]
            start, count = 0, 0
            for size in sizes:
                client.send(b"BDAT %d\r\n" % size + BIG[start : start + size])
                start, count = start + size, count + 1
            rest = BIG[start:]
            client.send(b"BDAT %d LAST\r\n" % len(rest) + rest)
            self.assertEqual([client.answer().code for _ in range(count + 1)], [250] * (count + 1))
        found = [message for message in self.mta.wait_mailbox(BEN) if b"Subject: big" in message]
        self.assertTrue(found[0].endswith(BIG.replace(b"\r\n", b"\n")))

    def test_tls_is_closed_in_a_chunk(self) -> None:
        """Clear text behind the end of TLS is not the rest of the chunk, nor anything else (CVE-2026-45185)."""
        with RawSmtp(self.mta.mx) as client:
            client.ehlo()
            self.begin(client)
            client.send(b"BDAT 60 LAST\r\nSubject: cut\r\n\r\n")
            assert isinstance(client.socket, ssl.SSLSocket)
            time.sleep(0.2)
            with contextlib.suppress(OSError):
                client.socket = client.socket.unwrap()
            with contextlib.suppress(OSError):
                client.socket.sendall(b"in clear" * 10 + b"\r\nNOOP\r\nRSET\r\n")
            with contextlib.suppress(Closed, OSError):
                self.assertEqual(client.rest(), b"")
        with RawSmtp(self.mta.mx) as client:
            client.ehlo()
            self.begin(client)
            self.assertEqual(client.cmd("BDAT 19 LAST\r\nSubject: behind\r\n").code, 250)
        found = self.mta.wait_mailbox(BEN)
        self.mta.wait_empty()
        self.assertEqual([message for message in found if b"Subject: cut" in message or b"in clear" in message], [])
        self.assertEqual(self.mta.queue_length(), 0)
