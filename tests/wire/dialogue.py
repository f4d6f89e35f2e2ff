"""A client in a dialogue with :class:`~twisted_mta.wire.server.ServerConnection`, and what answers it."""

from __future__ import annotations

from collections.abc import Callable

from twisted_mta.mail.status import Reply
from twisted_mta.wire import commands as c
from twisted_mta.wire.server import ServerConnection

GREETING = Reply(220, "", "mx.isp.example ESMTP")
OK = Reply(250, "2.0.0", "OK")
GO_ON = Reply(354, "", "Go on")
NO = Reply(550, "5.7.1", "No")
BYE = Reply(221, "2.0.0", "Bye")

LINES = {
    "EHLO": b"EHLO x",
    "MAIL": b"MAIL FROM:<a@b.example>",
    "RCPT": b"RCPT TO:<a@b.example>",
    "VRFY": b"VRFY a",
    "EXPN": b"EXPN a",
    "AUTH": b"AUTH PLAIN",
    "BDAT": b"BDAT 0",
}
"""What is said of a verb that is not said alone."""
REACH = {
    "fresh": b"",
    "greeted": b"EHLO x\r\n",
    "mail": b"EHLO x\r\nMAIL FROM:<a@b.example>\r\n",
    "rcpt": b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<a@b.example>\r\n",
    "chunks": b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<a@b.example>\r\nBDAT 2\r\nhi",
    "spoilt": b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<a@b.example>\r\nBDAT 2\r\n\0\0",
}
"""What leads to each state of a session that was greeted."""


def greeted(**facts: str) -> ServerConnection:
    """A session whose greeting is said."""
    connection = ServerConnection(10_000, **facts)  # type: ignore[arg-type]
    connection.answer(GREETING)
    return connection


def fitting(event: c.Command) -> Reply:
    """The reply of a server that takes everything."""
    if isinstance(event, c.Refused):
        return event.reply
    if isinstance(event, c.Data):
        return GO_ON
    if isinstance(event, c.Quit):
        return BYE
    if isinstance(event, c.ContentEnd | c.ChunkEnd) and event.flaw is not None:
        return event.flaw
    if isinstance(event, c.Auth):
        return Reply(334, "", "")
    if isinstance(event, c.AuthResponse):
        return Reply(535, "5.7.8", "No")
    return OK


def converse(
    connection: ServerConnection, *pieces: bytes, answer: Callable[[c.Command], Reply] = fitting
) -> list[c.Command]:
    """Feed pieces and answer each command; the events, with the content of a message joined in its ContentEnd."""
    events: list[c.Command] = []
    content = b""
    for piece in pieces:
        connection.receive(piece)
        while (event := connection.next_event()) is not None:
            if isinstance(event, c.Content):
                content += event.data
                continue
            if isinstance(event, c.ChunkEnd):
                content += event.data
                event = c.ChunkEnd(b"", event.flaw, event.size)
            if isinstance(event, c.ContentEnd):
                # How much is given out before a flaw depends on the pieces; it is thrown away in any case.
                whole = b"" if event.flaw is not None else content + event.data
                event = c.ContentEnd(whole, event.flaw, event.eight_bit, event.lost, event.plain)
                content = b""
                connection.answer(fitting(event))
            else:
                connection.answer(answer(event))
            events.append(event)
    return events


def refusals(events: list[c.Command]) -> list[Reply]:
    """The replies of what was refused."""
    return [event.reply for event in events if isinstance(event, c.Refused)]
