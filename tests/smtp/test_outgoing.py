"""Large content on its way out, by itself: what is read when, and how it ends."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tests.delivery.sending import Content
from twisted_mta.smtp.outgoing import Outgoing
from twisted_mta.wire.stuffing import OneChunk, Plain


class OutgoingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.transport = StringTransport()
        self.told: list[str] = []
        self.wanted = True
        self.outgoing = Outgoing(
            self.transport,
            wanted=lambda: self.wanted,
            complete=lambda: self.told.append("complete"),
            moved=lambda: self.told.append("moved"),
        )

    def send(self, pieces: list[bytes], encoder: Plain | OneChunk | None = None) -> Deferred[None]:
        self.content = Content(pieces)
        return Deferred.fromCoroutine(self.outgoing.send(self.content, encoder or Plain()))

    def test_the_end_is_announced_before_it_is_written(self) -> None:
        """The answer may come with the write."""
        self.successResultOf(self.send([b"a\r\n", b"b\r\n"]))
        self.assertEqual(self.told, ["moved", "complete", "moved"])
        self.assertEqual(self.transport.value(), b"a\r\nb\r\n.\r\n")
        self.assertIsNone(self.transport.producer)

    def test_a_lost_connection_ends_it_while_it_waits(self) -> None:
        self.outgoing.pauseProducing()
        sending = self.send([b"a\r\n"])
        self.assertNoResult(sending)
        self.outgoing.stopProducing()
        self.successResultOf(sending)
        self.assertEqual((self.transport.value(), self.content.reads, self.told), (b"", 0, []))

    def test_what_is_not_wanted_any_more_is_not_written(self) -> None:
        self.outgoing.pauseProducing()
        sending = self.send([b"a\r\n", b"b\r\n"])
        self.wanted = False
        self.outgoing.resumeProducing()
        self.successResultOf(sending)
        self.assertEqual((self.transport.value(), self.told), (b"", ["moved"]))
        self.assertIsNone(self.transport.producer)

    def test_a_size_that_is_wrong_is_never_the_end(self) -> None:
        """A server that was told of fewer octets would take the others for commands (RFC 3030 §2)."""
        for size in (5, 7):
            self.setUp()
            self.failureResultOf(self.send([b"a\r\n", b"b\r\n"], OneChunk(size)), ValueError)
            self.assertNotIn("complete", self.told)
            self.assertIsNone(self.transport.producer)
