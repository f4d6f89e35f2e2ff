"""What HELO and EHLO are answered with (RFC 5321 §4.1.1.1, RFC 9422 for LIMITS)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..mail.status import Reply
from . import authentication, handling, inquiries, runs, xclient

if TYPE_CHECKING:
    from .server import MtaServer


def extensions(server: MtaServer) -> dict[bytes, list[bytes] | None]:
    """What EHLO offers a session just now: each keyword with its parameters (RFC 5321 §4.1.1.1)."""
    offered: dict[bytes, list[bytes] | None] = {
        b"PIPELINING": None,
        b"SIZE": [str(server.factory.settings.smtp.message_bytes).encode("ascii")],
        b"8BITMIME": None,
        b"ENHANCEDSTATUSCODES": None,
        b"DSN": None,
        b"CHUNKING": None,
        b"BINARYMIME": None,
        b"SMTPUTF8": None,
        b"HELP": None,  # RFC 5321 §4.1.1.1: every command that §4.5.1 does not ask for
        b"LIMITS": [b"RCPTMAX=%d" % server.factory.settings.smtp.recipients],
    }
    offered |= handling.offers(server.factory.settings, server.peer.role, server.factory.clock.seconds())
    if runs.offered(server.factory.settings, server.peer.role):
        offered[b"ETRN"] = None
    if server.wire.tls == "offered":
        offered[b"STARTTLS"] = None
    elif server.wire.tls == "up":  # RFC 8689 §2: what cannot be kept in clear is not offered there
        offered[b"REQUIRETLS"] = None
    if inquiries.serves(server):
        offered[b"EXPN"] = None  # RFC 5321 §3.5.2
    if server.wire.xclient:
        offered[b"XCLIENT"] = [xclient.attributes(server).encode("ascii")]
    if server.wire.auth == "offered":
        offered[b"AUTH"] = [name.encode("ascii") for name in authentication.offered(server)]
    return offered


def hello_reply(server: MtaServer, extended: bool) -> Reply:
    """The reply to HELO, or to EHLO with what is offered just now."""
    known = server.factory.hello_replies
    told = inquiries.serves(server)
    dated = handling.stale(server.factory.settings, server.peer.role, server.factory.clock.seconds())
    key = (extended, server.wire.tls, server.wire.auth, server.wire.xclient, server.peer.certified, told, dated)
    reply = known.get(key)
    if reply is None:
        for old in [old for old in known if old[-1] != dated]:
            del known[old]
        lines = [server.host]
        if extended:
            lines += [b" ".join((word, *(values or ()))) for word, values in extensions(server).items()]
        reply = known[key] = Reply(250, "", b"\n".join(lines).decode("ascii"))
    return reply
