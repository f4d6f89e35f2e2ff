"""What the commands of a mail transaction do: HELO, EHLO, MAIL, RCPT, DATA, BDAT, the content, RSET.

Each is a coroutine that returns the reply, or raises :class:`~twisted_mta.mail.status.MailError` with it; the session
answers with that and moves on.  Source: RFC 5321 §3.3 and §4.1.1, RFC 1870 §6, RFC 6409 §4.3, RFC 3030 §2, RFC 2033 §4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..mail.status import MailError, Reply, printable
from ..policy.access import may_relay
from ..policy.interfaces import Transaction
from ..wire import commands as c
from ..wire.content import too_large
from ..wire.server import constant
from . import authentication, handling, offers

if TYPE_CHECKING:
    from ..config.settings import Settings
    from .reception import Inbound
    from .server import MtaServer

_DATA = c.Data()
SENDER_OK = constant(250, "2.1.0", "Sender OK")
RECIPIENT_OK = constant(250, "2.1.5", "Recipient OK")
SEND_CONTENT = constant(354, "", "Send the message, and end it with a dot on a line of its own")
TOO_MANY_RECIPIENTS = constant(452, "4.5.3", "Too many recipients in one transaction; send the others in another")
AUTHENTICATE = constant(530, "5.7.0", "Authentication required")
STARTTLS_FIRST = constant(530, "5.7.0", "Send STARTTLS first, then authenticate")
NEEDS_TLS = constant(530, "5.7.10", "REQUIRETLS needs TLS from here on: send STARTTLS first")
STOPPING = constant(421, "4.3.2", "The service is stopping; try again later")


async def hello(server: MtaServer, command: c.Hello) -> Reply:
    """HELO and EHLO, which also end a transaction (RFC 5321 §4.1.4)."""
    for hook in server.factory.pipeline.helo:
        reply = await hook(server.peer, command.name)
        if reply is not None:
            return reply
    forget(server)
    server.peer.helo = command.name
    server.peer.esmtp = command.extended
    if server.peer.certificate is not None:
        await authentication.identify(server)
    return offers.hello_reply(server, command.extended)


async def mail(server: MtaServer, command: c.Mail) -> Reply:
    """MAIL."""
    peer, factory = server.peer, server.factory
    if factory.sessions.draining:
        return STOPPING
    if peer.account is None and peer.role == "submission":
        return STARTTLS_FIRST if server.wire.auth == "needs-tls" else AUTHENTICATE
    limit = factory.reception.message_bytes(peer)
    if command.size > limit:
        return too_large(limit)
    if not peer.secure and "REQUIRETLS" in command.params:  # RFC 8689 §2
        return NEEDS_TLS
    transaction = Transaction(command.sender, factory.clock.seconds(), command.size, command.body)
    changed: Reply | None = None
    if command.params:
        transaction.params.update(command.params)
        if not handling.PARAMETERS.isdisjoint(command.params):
            transaction.handling, changed = handling.asked(factory.settings, peer, command.params, transaction.started)
    for hook in factory.pipeline.mail:
        reply = await hook(peer, transaction)
        if reply is not None:
            return reply
    server.transaction = transaction
    return changed or SENDER_OK


async def rcpt(server: MtaServer, command: c.Rcpt) -> Reply:
    """RCPT."""
    peer, factory, transaction = server.peer, server.factory, server.transaction
    assert transaction is not None
    if len(transaction.recipients) >= factory.settings.smtp.recipients:
        return TOO_MANY_RECIPIENTS
    recipient = command.recipient
    if recipient == c.POSTMASTER:
        recipient = postmaster(factory.settings)
    resolution = await factory.directory.resolve(recipient)
    for hook in factory.pipeline.rcpt:
        reply = await hook(peer, transaction, recipient, resolution)
        if reply is not None:
            return reply
    # The stages say all this in better words; it is said again here so that no pipeline makes an open relay.
    if resolution.kind == "remote":
        if command.routed:
            return Reply(550, "5.7.1", "Relaying denied: source routes are not followed")
        if not may_relay(peer):
            return Reply(550, "5.7.1", f"Relaying denied: {printable(recipient)}")
    elif resolution.kind == "unknown":
        return Reply(550, "5.1.1", f"There is no mailbox {printable(recipient)} here")
    if command.notify or command.orcpt:
        if transaction.wishes is None:
            transaction.wishes = {}
        transaction.wishes[len(transaction.recipients)] = (command.notify, command.orcpt)
    transaction.recipients.append(recipient)
    transaction.resolutions.append(resolution)
    return RECIPIENT_OK


def postmaster(settings: Settings) -> str:
    """Whom ``RCPT TO:<postmaster>`` without a domain means (RFC 5321 §4.5.1)."""
    local = settings.local
    if local.postmaster:
        return local.postmaster
    return f"postmaster@{local.domains[0]}" if local.domains else "postmaster"


async def data(server: MtaServer, command: c.Data) -> Reply:
    """DATA."""
    peer, factory, transaction = server.peer, server.factory, server.transaction
    assert transaction is not None
    for hook in factory.pipeline.data:
        reply = await hook(peer, transaction)
        if reply is not None:
            return reply
    server.inbound = factory.reception.begin(peer, transaction, factory.pipeline.content)
    server.wire.limit = factory.reception.message_bytes(peer)
    return SEND_CONTENT


async def chunk(server: MtaServer, command: c.Chunk) -> Reply:
    """BDAT (RFC 3030 §2).  The first of a message begins what DATA does; a positive reply is not sent."""
    return await data(server, _DATA) if server.inbound is None else SEND_CONTENT


def content(server: MtaServer, event: c.Content) -> None:
    """A piece of the content."""
    inbound = server.inbound
    assert inbound is not None
    waiting = inbound.write(event.data)
    if waiting is not None:
        server.wait(waiting)


async def chunk_end(server: MtaServer, event: c.ChunkEnd) -> Reply:
    """The end of a chunk that is not the last."""
    inbound = server.inbound
    assert inbound is not None
    if event.flaw is not None:
        forget(server)
        raise MailError(event.flaw)
    if event.data:
        waiting = inbound.write(event.data)
        if waiting is not None:
            await waiting
    return Reply(250, "2.0.0", f"{event.size} octets received")


def refused(server: MtaServer, event: c.Refused) -> None:
    """A command that is refused for its form or its place.  Such a BDAT ends the message (RFC 3030 §2)."""
    if event.verb == "BDAT":
        forget(server)
    server.reply(event.reply)


def forget(server: MtaServer) -> None:
    """Forget the transaction, and a message that has begun with BDAT."""
    server.transaction = None
    inbound, server.inbound = server.inbound, None
    if inbound is not None:
        inbound.abort()


async def content_end(server: MtaServer, event: c.ContentEnd) -> Reply:
    """The end of the content."""
    inbound, server.inbound = server.inbound, None
    assert inbound is not None
    if event.flaw is not None:
        inbound.abort()
        raise MailError(event.flaw)
    if event.data:
        waiting = inbound.write(event.data)
        if waiting is not None:
            await waiting
    try:
        reply = await inbound.finish(event.eight_bit, event.plain)
    except MailError as error:
        _answer_each(server, inbound, error.reply)
        raise
    _answer_each(server, inbound, reply)
    server.peer.messages += 1
    return reply


def _answer_each(server: MtaServer, inbound: Inbound, reply: Reply) -> None:
    """In LMTP, have each recipient told what became of the message for it (RFC 2033 §4.2)."""
    if inbound.refused and server.transaction is not None:
        server.wire.each = [inbound.refused.get(recipient, reply) for recipient in server.transaction.recipients]
