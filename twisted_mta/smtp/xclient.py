"""XCLIENT: a trusted host, such as a proxy or filter before us, says whose session it carries from now on.

Source: Postfix's XCLIENT_README (postfix.org/XCLIENT_README.html).  The session begins anew, with the greeting; for
policies and events it is another session, of the client that was named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..directory.auth import MailAccount
from ..mail.status import MailError, Reply
from ..policy.interfaces import UNKNOWN, Peer
from ..policy.names import UNKNOWN as NO_NAME
from ..wire import commands as c
from ..wire.xclient import ATTRIBUTES, LOGIN, Claims
from . import authentication, greeting, telling, transaction

if TYPE_CHECKING:
    from .server import MtaServer

MECHANISM = "XCLIENT"
"""How a user has authenticated whom the other host names."""
_NO_LOGIN = Reply(501, "5.5.4", "LOGIN is for submission")
_NO_SUCH_USER = Reply(535, "5.7.8", "There is no such user, or not any more")


def attributes(server: MtaServer) -> str:
    """What EHLO says may be claimed."""
    return " ".join((*ATTRIBUTES, LOGIN) if server.factory.portal is not None else ATTRIBUTES)


async def xclient(server: MtaServer, command: c.XClient) -> Reply:
    """XCLIENT; the greeting."""
    factory, claims = server.factory, command.claims
    if claims.login and factory.portal is None:
        return _NO_LOGIN
    transaction.forget(server)
    server.begin_anew(_peer(server, claims))
    telling.connected(server)
    if not factory.serves(server.peer.address):
        return greeting.NOT_SERVED
    reply = await greeting.asked(server)
    if reply.positive and claims.login:
        await _login(server, claims.login)
    if reply.positive and claims.helo:
        reply = await _hello(server, claims.helo) or reply
    return reply


def _peer(server: MtaServer, claims: Claims) -> Peer:
    """The client that is behind the present one; what is not said stays as it was."""
    old = server.peer
    peer = Peer(
        session=server.factory.new_session_id(),
        address=old.address if claims.address is None else claims.address or UNKNOWN,
        port=old.port if claims.port is None else claims.port,
        listener=old.listener,
        role=old.role,
        secure=old.secure,
        tls=old.tls,
        gateway=old.gateway,
        proxy=old.proxy or old.address,
        esmtp=old.esmtp if claims.protocol is None else claims.protocol != "SMTP",
    )
    if claims.name is not None:
        peer.hostname = claims.name or NO_NAME
    if claims.here:
        peer.here = f"[{claims.here}]:{claims.here_port or 0}"
    return peer


async def _login(server: MtaServer, address: str) -> None:
    """Raises :class:`MailError` for who may not log in."""
    directory = server.factory.directory
    user = await directory.user(address)
    customer = await directory.customer(user.customer) if user is not None else None
    if user is None or customer is None or user.suspended or customer.suspended:
        raise MailError(_NO_SUCH_USER)
    server.peer.account = MailAccount(user, customer)
    server.peer.mechanism = MECHANISM
    server.wire.auth = "done"
    authentication.tell(server)


async def _hello(server: MtaServer, name: str) -> Reply | None:
    """The name in HELO, judged as if the client had said it here."""
    for hook in server.factory.pipeline.helo:
        reply = await hook(server.peer, name)
        if reply is not None:
            return reply
    server.peer.helo = name
    return None
