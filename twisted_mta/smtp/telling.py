"""The events of a session, and of a message that it brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from twisted.python.failure import Failure

from ..mail.envelope import Message, Recipient
from ..mail.events import Accepted, Connected, Disconnected, Rejected, TlsFailed
from ..mail.status import Reply, printable
from ..policy.interfaces import Peer, Transaction
from ..wire import commands as c

if TYPE_CHECKING:
    from .server import MtaServer

_STAGES: dict[type[c.Command], str] = {
    c.Connect: "connect",
    c.Hello: "helo",
    c.Mail: "mail",
    c.Rcpt: "rcpt",
    c.Data: "data",
    c.Chunk: "data",
    c.ChunkEnd: "content",
    c.ContentEnd: "content",
    c.Etrn: "etrn",
}


def connected(server: MtaServer) -> None:
    """A session has begun."""
    peer = server.peer
    server.factory.events(
        Connected(
            time=server.since,
            session=peer.session,
            client=peer.address,
            port=peer.port,
            listener=peer.listener,
            role=peer.role,
            proxy=peer.proxy,
            here=peer.here,
        )
    )


def accepted(
    peer: Peer, transaction: Transaction, message: Message, recipients: Sequence[Recipient], release: float
) -> Accepted:
    """A message that is about to be stored for ``recipients``; ``release``: until when it is held back, 0 if not."""
    told = Accepted(
        time=message.arrived,
        id=message.id,
        session=peer.session,
        client=peer.address,
        listener=peer.listener,
        helo=peer.helo,
        protocol=message.protocol,
        sender=message.sender,
        recipients=tuple([recipient.address for recipient in recipients]),
        size=message.size,
        seconds=max(0.0, message.arrived - transaction.started),
        user=message.user,
        customer=message.customer,
        message_id=message.message_id,
        tls=peer.tls,
        mechanism=peer.mechanism,
        hostname=peer.hostname,
        requiretls=message.requiretls,
        certificate=peer.certificate.fingerprint if peer.certificate is not None else "",
    )
    handling = message.handling
    if handling is None:
        return told
    return msgspec.structs.replace(
        told,
        release=release,
        deliver_by=handling.deliver_by,
        by_mode=handling.by_mode,
        priority=handling.priority,
    )


def rejected(server: MtaServer, command: c.Command, reply: Reply, limit: str = "") -> None:
    """A command was refused by policy, quota or a fault; nothing is told of other commands than a transaction's."""
    stage = _STAGES.get(type(command))
    if stage is None:
        return
    peer, under_way = server.peer, server.transaction
    sender = under_way.sender if under_way is not None else command.sender if isinstance(command, c.Mail) else ""
    server.factory.events(
        Rejected(
            time=server.factory.clock.seconds(),
            session=peer.session,
            client=peer.address,
            listener=peer.listener,
            stage=stage,
            reply=str(reply),
            helo=command.name if isinstance(command, c.Hello) else peer.helo,
            sender=sender,
            recipient=command.recipient if isinstance(command, c.Rcpt) else "",
            user=peer.user,
            customer=peer.customer,
            limit=limit,
            hostname=peer.hostname,
        )
    )


def rejected_each(server: MtaServer, replies: Sequence[Reply]) -> None:
    """What the recipients of a message were told one by one (RFC 2033): those that were refused."""
    under_way = server.transaction
    assert under_way is not None
    peer, now = server.peer, server.factory.clock.seconds()
    for recipient, reply in zip(under_way.recipients, replies, strict=True):
        if not reply.positive:
            server.factory.events(
                Rejected(
                    time=now,
                    session=peer.session,
                    client=peer.address,
                    listener=peer.listener,
                    stage="content",
                    reply=str(reply),
                    helo=peer.helo,
                    sender=under_way.sender,
                    recipient=recipient,
                    hostname=peer.hostname,
                )
            )


def tls_failed(server: MtaServer, reason: Failure) -> None:
    """A connection was lost before its TLS handshake was through."""
    peer = server.peer
    words = printable(str(reason.value)) or type(reason.value).__name__
    server.factory.events(
        TlsFailed(
            time=server.factory.clock.seconds(),
            session=peer.session,
            client=peer.address,
            listener=peer.listener,
            reason=words,
        )
    )


def disconnected(server: MtaServer, reason: str) -> None:
    """A session is over."""
    peer, now = server.peer, server.factory.clock.seconds()
    server.factory.events(
        Disconnected(
            time=now,
            session=peer.session,
            client=peer.address,
            listener=peer.listener,
            reason=reason,
            seconds=max(0.0, now - server.since),
            commands=peer.commands,
            messages=peer.messages,
            errors=peer.errors,
        )
    )
