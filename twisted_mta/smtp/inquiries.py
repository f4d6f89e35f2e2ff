"""VRFY, EXPN and HELP.

Source: RFC 5321 §3.5 (what a reply to VRFY and EXPN means), §7.3 (252 where addresses are not told), §4.1.1.6 to
§4.1.1.8, RFC 6531 §3.7.4.2 (SMTPUTF8 with VRFY and EXPN).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..mail.address import AddressError, canonical
from ..mail.status import Reply, printable
from ..wire import commands as c
from ..wire.server import constant
from . import transaction

if TYPE_CHECKING:
    from .server import MtaServer

VERIFY = constant(252, "2.0.0", "Addresses are not verified; send mail to find out")
EXPAND = constant(502, "5.5.1", "EXPN is not served")
NOT_OURS = constant(252, "2.0.0", "That is for another host to say")
_NEEDS_UTF8 = Reply(550, "5.6.8", "The reply needs UTF-8: say SMTPUTF8 behind the name")
_AMBIGUOUS = 10
"""How many mailboxes are shown that one name may mean."""


def serves(server: MtaServer) -> bool:
    """Whether this client is told who is here (``smtp.verify_networks``)."""
    return server.factory.tells(server.peer.address)


async def verify(server: MtaServer, command: c.Verify) -> Reply:
    """VRFY: 250 with the mailbox, 550, 553 with several that may be meant; 252 where nothing is told."""
    if not serves(server):
        return VERIFY
    known: list[str] = []
    for address in _meant(server, command.name):
        resolution = await server.factory.directory.resolve(address)
        if resolution.kind == "remote":
            return NOT_OURS
        if resolution.kind != "unknown":
            known.append(resolution.mailbox if resolution.kind == "mailbox" else address)
    if not known:
        return _unknown(command.name)
    code, status = (250, "2.1.5") if len(known) == 1 else (553, "5.1.4")
    return _told(Reply(code, status, "\n".join(f"<{address}>" for address in known[:_AMBIGUOUS])), command.utf8)


async def expand(server: MtaServer, command: c.Expand) -> Reply:
    """EXPN: 250 with those for whom an alias stands, one step of the way."""
    if not serves(server):
        return EXPAND
    for address in _meant(server, command.name):
        resolution = await server.factory.directory.resolve(address)
        if resolution.kind == "remote":
            return NOT_OURS
        if resolution.kind != "unknown":
            ends = resolution.targets if resolution.kind == "alias" else (resolution.mailbox,)
            return _told(Reply(250, "2.1.5", "\n".join(f"<{end}>" for end in ends)), command.utf8)
    return _unknown(command.name)


def _meant(server: MtaServer, name: str) -> list[str]:
    """The addresses that a name may stand for: itself, or a user of one of ``local.domains`` (RFC 5321 §3.5.1)."""
    settings = server.factory.settings
    text = name[name.rfind("<") + 1 : -1] if name.endswith(">") else name
    if text.lower() == c.POSTMASTER:
        return [transaction.postmaster(settings)]
    try:
        if text.rpartition('"')[2].count("@"):
            return [canonical(text)]
        return [canonical(f"{text}@{domain}") for domain in settings.local.domains]
    except AddressError:
        return []


def _unknown(name: str) -> Reply:
    return Reply(550, "5.1.1", f"There is nobody called {printable(name, 80)} here")


def _told(reply: Reply, utf8: bool) -> Reply:
    return reply if utf8 or reply.text.isascii() else _NEEDS_UTF8


_HELP = {
    "HELO": "HELO hostname",
    "EHLO": "EHLO hostname: begins, and tells the extensions",
    "LHLO": "LHLO hostname: begins, and tells the extensions (RFC 2033)",
    "MAIL": "MAIL FROM:<address> [parameters]: begins a message; <> is the null sender",
    "RCPT": "RCPT TO:<address> [parameters]: one of those who get it",
    "DATA": "DATA: the message follows, up to a dot on a line of its own",
    "BDAT": "BDAT octets [LAST]: a part of the message follows (RFC 3030)",
    "RSET": "RSET: forgets the message that was begun",
    "NOOP": "NOOP: does nothing",
    "VRFY": "VRFY name [SMTPUTF8]: whether there is such a mailbox",
    "EXPN": "EXPN name [SMTPUTF8]: for whom an alias stands",
    "HELP": "HELP [command]: this",
    "QUIT": "QUIT: ends the session",
    "STARTTLS": "STARTTLS: begins TLS (RFC 3207)",
    "AUTH": "AUTH mechanism [initial-response]: logs in (RFC 4954)",
    "ETRN": "ETRN domain: asks for the mail that waits for it",
    "XCLIENT": "XCLIENT name=value...: says for whom you speak",
}


def help_for(server: MtaServer, command: c.Help) -> Reply:
    """HELP: what there is here, or how one command is said."""
    served = _served(server)
    if not command.topic:
        names = " ".join(served)
        return Reply(214, "2.0.0", f"Here are {names}\nHELP command: how it is said\nA person answers at postmaster")
    words = _HELP.get(command.topic.upper()) if command.topic.upper() in served else None
    if words is None:
        return Reply(504, "5.5.4", f"There is no command {printable(command.topic, 40)} here")
    return Reply(214, "2.0.0", words)


def _served(server: MtaServer) -> list[str]:
    """The commands that this client is served."""
    without = {"HELO", "EHLO"} if server.wire.lmtp else {"LHLO"}
    offered = server.extensions()
    without |= {name for name in ("STARTTLS", "AUTH", "XCLIENT", "EXPN", "ETRN") if name.encode("ascii") not in offered}
    return [name for name in _HELP if name not in without]
