"""What the client's state machine says and is told: values, with their waits and the form of addresses.

Source: RFC 5321 §4.5.3.2 (waits), §4.1.2 (paths), §4.5.3.1.10 (too many recipients); RFC 2033; RFC 3030; RFC 6152;
RFC 3461; RFC 6531; RFC 8689.
"""

from __future__ import annotations

import enum
import re
from typing import Literal

import msgspec

from ..mail.envelope import ByMode, Return
from ..mail.status import Reply
from .capabilities import Capabilities
from .handling import write_by
from .notification import decode_envid, decode_orcpt, parse_notify

TlsPolicy = Literal["none", "may", "encrypt", "require"]
"""STARTTLS never, when offered, always, or always with a server that offers REQUIRETLS (RFC 8689 §4.2.1)."""

NO_TLS, NO_REQUIRETLS = "5.7.10", "5.7.30"
"""What a recipient bounces with whose message requires TLS (RFC 8689 §4.2.1): TLS cannot be had, or the server (or
its name, by DNS) cannot be trusted with the message."""
NO_TLS_NOW = "4.7.10"


class State(enum.Enum):
    """Where a connection stands."""

    OPENING = "opening"  # greeting, EHLO, STARTTLS
    HANDSHAKE = "handshake"  # the shell does TLS
    READY = "ready"  # a transaction may begin
    ENVELOPE = "envelope"  # MAIL, RCPT, DATA are under way
    CONTENT = "content"  # 354 came, the dot has not been sent
    RESULT = "result"  # the dot has been sent
    RESETTING = "resetting"  # RSET is under way
    QUITTING = "quitting"  # QUIT is under way
    CLOSED = "closed"


class By(msgspec.Struct, frozen=True):
    """What is left of RFC 2852's time, in seconds, and what is to be done when it is over."""

    seconds: float
    mode: ByMode
    trace: bool = False


class Transfer(msgspec.Struct, frozen=True):
    """What one transaction is to carry.

    ``size`` is the content's octets before dot-stuffing; ``eight_bit``: it has octets beyond ASCII (RFC 6152).  ``ret``
    and ``envid``, and in ``wishes`` NOTIFY and ORCPT of each recipient, are passed on to servers that offer DSN
    (RFC 3461 §5.2.1); ``wishes`` may be empty when nobody has one.
    ``utf8``: the header section has UTF-8, and goes only to servers that offer SMTPUTF8 (RFC 6531 §3.6).
    ``binary``: the content is any octets, and goes by BDAT, only to servers that offer BINARYMIME (RFC 3030 §3).
    ``requiretls``: it goes on with REQUIRETLS, on connections of the policy "require" only (RFC 8689 §4.2.1).
    ``by`` and ``priority`` go to servers that offer DELIVERBY and MT-PRIORITY; of mode "R" a message goes to no others
    (RFC 2852 §4.1.4).
    """

    sender: str
    recipients: tuple[str, ...]
    size: int
    eight_bit: bool = False
    ret: Return = ""
    envid: str = ""
    wishes: tuple[tuple[str, str], ...] = ()
    utf8: bool = False
    binary: bool = False
    requiretls: bool = False
    by: By | None = None
    priority: int = 0


class Outcome(msgspec.Struct, frozen=True):
    """How it ended for one recipient, or for the connection.  ``remote``: the words are the server's."""

    reply: Reply
    remote: bool


class Event(msgspec.Struct, frozen=True):
    """Something the shell has to know or do."""


class StartTls(Event, frozen=True):
    """Begin the TLS handshake now, then call :meth:`ClientConnection.secured`.  Nothing more may be sent in clear."""


class Ready(Event, frozen=True):
    """A transaction may begin."""


class SendContent(Event, frozen=True):
    """Send the content dot-stuffed, with the dot that ends it, then call :meth:`ClientConnection.content_sent`.

    ``chunk``: send it as it is instead, behind ``BDAT size LAST`` (RFC 3030 §2).
    """

    chunk: bool = False


class Finished(Event, frozen=True):
    """A transaction is over.  ``outcomes``: one for each recipient, in their order.

    ``lost``: the connection ended before the server had answered for all.  ``dot_sent``: the final dot had gone out,
    so that where the connection was lost the server may have the message all the same (RFC 5321 §4.5.3.2.6).
    """

    outcomes: tuple[Outcome, ...]
    lost: bool = False
    dot_sent: bool = False


class Closed(Event, frozen=True):
    """The connection is of no more use; close it.  ``outcome`` says why, None after our own QUIT.  ``polite``: say QUIT
    first, since the server does nothing wrong."""

    outcome: Outcome | None
    polite: bool = False


TIMEOUTS = {  # seconds, RFC 5321 §4.5.3.2; the last three are not in it
    "greeting": 300.0,
    "ehlo": 300.0,
    "helo": 300.0,
    "starttls": 120.0,
    "mail": 300.0,
    "rcpt": 300.0,
    "data": 120.0,
    "dot": 600.0,
    "empty": 600.0,
    "rset": 20.0,
    "quit": 10.0,
}
HANDSHAKE_TIMEOUT = 120.0
"""Seconds for the TLS handshake."""
BLOCK_TIMEOUT = 180.0
"""Seconds in which the server must take some content, RFC 5321 §4.5.3.2.5."""

_BEYOND = "\u0080-\U0010ffff"
_PATH = r"""(?:"(?:[ !#-\[\]-~{0}]|\\[ -~])*"|[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~.{0}-]+)@[A-Za-z0-9_.:\[\]-]+"""
_MAILBOX, _MAILBOX_UTF8 = (re.compile(_PATH.format(beyond)) for beyond in ("", _BEYOND))
_TOO_MANY = re.compile(r"too many (?:\w+ )?recipients", re.IGNORECASE)


def path(address: str, utf8: bool = False) -> bytes | None:
    """An address as it is written between angle brackets, None where it cannot be.  ``utf8``: SMTPUTF8 is offered.

    Every address that goes into a command passes here, so CR, LF, NUL, spaces outside quotes and angle brackets
    cannot: nothing an address holds can become a command or a parameter.
    """
    if _MAILBOX.fullmatch(address):
        return address.encode("ascii")
    if utf8 and _MAILBOX_UTF8.fullmatch(address) and address.isprintable():
        return address.encode("utf-8")
    return None


def by_refusal(by: By, least: int | None) -> Reply | None:
    """Why a message that is to be returned by a time is not given to a server; ``least`` is what it offers."""
    if by.seconds < 1:
        return Reply(554, "5.4.7", "The time by which it had to be delivered is over")
    if least is None:
        words = "The next server can't be told by when to deliver or return the message (no DELIVERBY)"
        return Reply(554, "5.3.3", words)
    if by.seconds < least:
        words = f"It has to be delivered within {int(by.seconds)} seconds, and the next server takes {least} at least"
        return Reply(554, "5.4.7", words)
    return None


def queue_wishes(transfer: Transfer, offers: Capabilities) -> bytes:
    """BY and MT-PRIORITY as MAIL's parameters (RFC 2852 §4, RFC 6710 §3), where they are offered; b"" for none."""
    by, found = transfer.by, b""
    if by is not None and offers.deliver_by is not None:
        found = b" BY=%b" % write_by(by.seconds, by.mode, by.trace).encode("ascii")
    if transfer.priority and offers.mt_priority:
        found += b" MT-PRIORITY=%d" % transfer.priority
    return found


def report_wishes(transfer: Transfer) -> bytes:
    """RET and ENVID as MAIL's parameters (RFC 3461 §4.3 and §4.4); b"" for none."""
    ret = b" RET=%b" % transfer.ret.encode("ascii") if transfer.ret else b""
    known = transfer.envid and decode_envid(transfer.envid) is not None
    return ret + (b" ENVID=%b" % transfer.envid.encode("ascii") if known else b"")


def recipient_wishes(transfer: Transfer, index: int) -> bytes:
    """NOTIFY and ORCPT as RCPT's parameters (RFC 3461 §4.1 and §4.2); b"" for none."""
    notify, orcpt = transfer.wishes[index]
    found = b""
    if notify and parse_notify(notify):
        found += b" NOTIFY=%b" % notify.encode("ascii")
    if orcpt and decode_orcpt(orcpt):
        found += b" ORCPT=%b" % orcpt.encode("ascii")
    return found


def too_many_recipients(reply: Reply) -> bool:
    """Whether a reply to RCPT means that this transaction is full, and the recipient may go into the next one
    (RFC 5321 §4.5.3.1.10: 452, and 552 from old servers)."""
    return reply.code in {452, 552} and (
        reply.enhanced in {"4.5.3", "5.5.3"} or _TOO_MANY.search(reply.text) is not None
    )


STAGES = {
    "greeting": "the greeting",
    "ehlo": "the answer to EHLO",
    "helo": "the answer to HELO",
    "starttls": "the answer to STARTTLS",
    "mail": "the answer to MAIL",
    "rcpt": "the answer to RCPT",
    "data": "the answer to DATA",
    "empty": "the answer to an empty message",
    "dot": "the answer to the content",
    "rset": "the answer to RSET",
    "quit": "the answer to QUIT",
}


def unsendable(address: str, status: str) -> Reply:
    """Why an address for which :func:`path` gives None is refused."""
    if not address.isascii():  # RFC 6531 §3.2: only to a server with SMTPUTF8
        return Reply(553, "5.6.7", "The address has characters beyond ASCII, and the server does not offer SMTPUTF8")
    return Reply(553, status, "The address is not well formed and was not sent to the server")
