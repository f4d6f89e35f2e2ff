"""How a session begins: who the client is as far as the connection tells, and whether it is greeted.

Source: RFC 5321 §3.1 and §4.3.1, RFC 3207 §4, RFC 8314 §3.3 (implicit TLS), RFC 7504.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.interfaces import ISSLTransport, ITLSTransport

from ..mail.status import Reply
from ..policy.interfaces import Peer
from ..wire.server import constant
from . import authentication, telling
from .peers import descriptor, peer_address
from .tls import HANDSHAKE
from .transaction import STOPPING

if TYPE_CHECKING:
    from .server import MtaServer

TOO_BUSY = constant(421, "4.3.2", "Too many sessions are open here; try again later")
SPOKE_FIRST = constant(554, "5.5.1", "You spoke before the greeting: wait for it (RFC 5321 section 4.3.1)")
NOT_SERVED = constant(554, "5.7.1", "You are not one of those who are served here")


def begin(server: MtaServer) -> None:
    """A client has connected: have it greeted, unless there are too many sessions or it is not served."""
    factory, transport = server.factory, server.transport
    address, port = peer_address(transport.getPeer())
    secure = ISSLTransport.providedBy(transport)
    wants_tls = factory.tls is not None and factory.listener.tls == "starttls"
    server.canStartTLS = wants_tls and not secure and ITLSTransport.providedBy(transport)
    server.since = now = factory.clock.seconds()
    server.peer = Peer(
        session=factory.new_session_id(),
        address=address,
        port=port,
        listener=factory.name,
        role=factory.listener.role,
        secure=secure,
        gateway=factory.lmtp and factory.listener.relay,
        claims=factory.believes(address),
    )
    server.wire.xclient = server.peer.claims
    if secure:
        server.wire.tls = "up"
    elif server.canStartTLS:
        server.wire.tls = "offered"
    server.wire.replace = factory.settings.smtp.bare_newline == "replace"
    server.wire.auth = authentication.standing(server)
    server.deadline = now + (HANDSHAKE if secure else factory.settings.smtp.timeout)
    transport.registerProducer(server, True)
    crowded = not factory.has_room(address, descriptor(transport))
    factory.sessions.add(server)
    telling.connected(server)
    if crowded or factory.sessions.draining:
        server.answered(STOPPING if factory.sessions.draining else TOO_BUSY)
    elif factory.listener.role == "nomail":
        server.answered(factory.greeting)
    elif not factory.serves(address):
        server.answered(NOT_SERVED)
    elif factory.pipeline.connect:
        server.ask(asked(server))
    else:
        server.answered(factory.greeting)


async def asked(server: MtaServer) -> Reply:
    """What the stages of policy say to a client that has connected: the greeting, or a refusal."""
    for hook in server.factory.pipeline.connect:
        reply = await hook(server.peer)
        if reply is not None:
            return reply
    if server.peer.guarded and server.wire.buffered and not server.peer.proxy:
        return SPOKE_FIRST
    return server.factory.greeting
