"""A client's connection in the states that tests begin with, and what its events say in short."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.wire.client import ClientConnection
from twisted_mta.wire.exchange import Closed, Event, Finished, Transfer

PLAIN = Transfer("a@isp.example", ("x@example.org",), 10)
TWO = Transfer("a@isp.example", ("x@example.org", "y@example.org"), 10)
PIPELINING = b"250-mx\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8BITMIME\r\n"


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def codes(event: Event) -> list[str]:
    assert isinstance(event, Finished)
    return [f"{outcome.reply.code}{'' if outcome.remote else ' ours'}" for outcome in event.outcomes]


class Case(SynchronousTestCase):
    """Connections in the states that tests begin with."""

    def opened(self, ehlo: bytes = PIPELINING, **more: Any) -> ClientConnection:
        connection = ClientConnection("mta.isp.example", **more)
        connection.receive(b"220 mx ESMTP\r\n")
        connection.take()
        self.assertEqual(kinds(connection.receive(ehlo)), ["Ready"])
        self.assertEqual(connection.take(), b"")
        return connection

    def begun(self, transfer: Transfer = PLAIN, ehlo: bytes = PIPELINING, **more: Any) -> ClientConnection:
        connection = self.opened(ehlo, **more)
        self.assertEqual(connection.begin(transfer), [])
        connection.take()
        return connection

    def assertClosed(self, event: Event, code: int, enhanced: str, remote: bool) -> None:
        assert isinstance(event, Closed)
        assert event.outcome is not None
        self.assertEqual(
            (event.outcome.reply.code, event.outcome.reply.enhanced, event.outcome.remote), (code, enhanced, remote)
        )
