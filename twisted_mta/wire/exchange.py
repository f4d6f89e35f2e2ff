"""What the client's state machine says and is told: values, with their waits.

Source: RFC 5321 §4.5.3.2 (waits), §4.5.3.1.10 (too many recipients); RFC 2033; RFC 3030; RFC 6152; RFC 3461; RFC 6531;
RFC 8689.
"""

from __future__ import annotations

import enum
import re

import msgspec

from ..mail.envelope import ByMode, Return
from ..mail.status import Reply


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

_TOO_MANY = re.compile(r"too many (?:\w+ )?recipients", re.IGNORECASE)


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
