"""What each command does: the table that a session takes its commands by, and those that concern the session alone.

Source: RFC 5321 §4.1.1.5 (RSET) and §4.1.1.10 (QUIT), RFC 3207 §4 (STARTTLS).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from ..mail.status import Reply
from ..wire import commands as c
from ..wire.server import constant
from . import authentication, inquiries, runs, transaction, xclient
from .tls import HANDSHAKE

if TYPE_CHECKING:
    from .server import MtaServer

OK = constant(250, "2.0.0", "OK")
QUIT = constant(221, "2.0.0", "Goodbye")
READY_FOR_TLS = constant(220, "2.0.0", "Ready to start TLS")


def start_tls(server: MtaServer, _: c.Command) -> None:
    """STARTTLS.  The stock server keeps the session's state, and what the client had sent behind the command."""
    server.reply(READY_FOR_TLS)
    server.flush()
    authentication.logout(server)
    peer = server.peer
    peer.helo, peer.esmtp, peer.secure = "", False, True
    server.transaction = None
    server.startedTLS = True
    server.wire.started_tls()
    server.wire.auth = authentication.standing(server)
    server.deadline = server.factory.clock.seconds() + HANDSHAKE
    server.transport.startTLS(server.factory.creator)


def quit_session(server: MtaServer, _: c.Command) -> None:
    """QUIT."""
    server.reason = server.reason or "quit"
    server.reply(QUIT)


def reset(server: MtaServer, _: c.Command) -> None:
    """RSET."""
    transaction.forget(server)
    server.reply(OK)


def _says(reply: Reply) -> Callable[[MtaServer, Any], None]:
    return lambda server, event: server.reply(reply)


def _asks(command: Callable[[MtaServer, Any], Coroutine[Any, Any, Reply]]) -> Callable[[MtaServer, Any], None]:
    return lambda server, event: server.ask(command(server, event))


HANDLERS: dict[type[c.Command], Callable[[MtaServer, Any], None]] = {
    c.Hello: _asks(transaction.hello),
    c.Mail: _asks(transaction.mail),
    c.Rcpt: _asks(transaction.rcpt),
    c.Data: _asks(transaction.data),
    c.Chunk: _asks(transaction.chunk),
    c.ChunkEnd: _asks(transaction.chunk_end),
    c.Content: transaction.content,
    c.ContentEnd: _asks(transaction.content_end),
    c.Reset: reset,
    c.Noop: _says(OK),
    c.Quit: quit_session,
    c.Verify: _asks(inquiries.verify),
    c.Expand: _asks(inquiries.expand),
    c.Help: lambda server, event: server.reply(inquiries.help_for(server, event)),
    c.Etrn: _asks(runs.etrn),
    c.StartTls: start_tls,
    c.Auth: authentication.begin,
    c.AuthResponse: authentication.respond,
    c.XClient: _asks(xclient.xclient),
    c.Refused: transaction.refused,
}
"""What each command does; the stock server finds it by ``getattr``, which lets a client choose."""
