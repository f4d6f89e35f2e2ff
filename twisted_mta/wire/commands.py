"""SMTP commands as a server reads them: one value for each, which :mod:`.verbs` makes of lines.

Source: RFC 5321 §4.1.1, RFC 3030 §2 (BDAT), RFC 4954 §4 (AUTH), RFC 3207 §4 (STARTTLS), RFC 3461 §4 (NOTIFY, ORCPT),
RFC 6531 §3.7 (VRFY and EXPN with SMTPUTF8), RFC 1985 §5 (ETRN).
"""

from __future__ import annotations

import msgspec

from ..mail.envelope import Body
from ..mail.status import MailError, Reply
from .xclient import Claims

POSTMASTER = "postmaster"
"""The one recipient that needs no domain (RFC 5321 §4.1.1.3)."""


class CommandError(MailError):
    """A command is not well formed; ``reply`` says how."""


class Command(msgspec.Struct, frozen=True, gc=False):
    """What :class:`~.server.ServerConnection` gives for a line: to be answered before the next one is given."""


class Connect(Command, frozen=True, gc=False):
    """The connection itself, to be answered with the greeting, or a refusal (RFC 5321 §3.1)."""


class Hello(Command, frozen=True, gc=False):
    """HELO, or EHLO (LMTP: LHLO) if ``extended``.  ``name`` is printable ASCII without spaces, and whatever the client
    likes."""

    name: str
    extended: bool


class Mail(Command, frozen=True):
    """MAIL.  ``sender`` is canonical, "" for the null sender; ``size`` is 0 if not declared; ``params`` are the
    parameters as given, names in upper case."""

    sender: str
    size: int
    body: Body
    params: dict[str, str]


class Rcpt(Command, frozen=True, gc=False):
    """RCPT.  ``recipient`` is canonical, or :data:`POSTMASTER`.  ``routed``: it came with a source route, of which
    only the last mailbox is left (RFC 5321 §4.1.1.3 and appendix C).  ``notify`` (in one order) and ``orcpt`` (as
    given) are RFC 3461's parameters, "" where they are not given."""

    recipient: str
    routed: bool
    notify: str = ""
    orcpt: str = ""


class Data(Command, frozen=True, gc=False):
    """DATA, to be answered with 354 or a refusal."""


class Chunk(Command, frozen=True, gc=False):
    """BDAT: ``size`` octets of content follow, the ``last`` ones or not (RFC 3030 §2).  A positive reply is not sent:
    the content is given next, and its end is what is answered."""

    size: int
    last: bool


class Reset(Command, frozen=True, gc=False):
    """RSET."""


class Noop(Command, frozen=True, gc=False):
    """NOOP."""


class Quit(Command, frozen=True, gc=False):
    """QUIT."""


class Verify(Command, frozen=True, gc=False):
    """VRFY.  ``name`` as it was given; ``utf8``: the reply may have UTF-8 in it (RFC 6531 §3.7.4.2)."""

    name: str
    utf8: bool = False


class Expand(Command, frozen=True, gc=False):
    """EXPN; the rest is as with VRFY."""

    name: str
    utf8: bool = False


class Etrn(Command, frozen=True, gc=False):
    """ETRN.  ``option`` is "", "@" (with subdomains) or "#" (a queue's name); ``node`` a domain, in A-labels and lower
    case, or as it came behind "#" (RFC 1985 §5)."""

    option: str
    node: str


class Help(Command, frozen=True, gc=False):
    """HELP; ``topic`` is "" if none was named."""

    topic: str = ""


class StartTls(Command, frozen=True, gc=False):
    """STARTTLS, with nothing behind it; after 220 the handshake follows."""


class Auth(Command, frozen=True, gc=False):
    """AUTH.  ``mechanism`` is in upper case, ``initial`` the initial response as it came, still encoded."""

    mechanism: str
    initial: bytes | None


class AuthResponse(Command, frozen=True, gc=False):
    """A line that follows a 334, still encoded."""

    line: bytes


class XClient(Command, frozen=True, gc=False):
    """XCLIENT: what the peer says of the client for whom it speaks."""

    claims: Claims


class Refused(Command, frozen=True, gc=False):
    """A line that is to be answered with ``reply`` and does nothing; ``verb`` is its command, "" if it has none.
    A 421 ends the session."""

    verb: str
    reply: Reply


class Content(Command, frozen=True, gc=False):
    """A piece of the content of a message, without stuffed dots.  The only event that is not answered."""

    data: bytes


class ChunkEnd(Command, frozen=True, gc=False):
    """A chunk that is not the last is complete with ``data``; ``flaw`` is as in :class:`ContentEnd`.  ``size`` is that
    of the chunk."""

    data: bytes
    flaw: Reply | None
    size: int


class ContentEnd(Command, frozen=True, gc=False):
    """The content is complete with ``data``.  ``flaw`` is the refusal that the content itself calls for.
    ``eight_bit``: it is not pure ASCII.  ``lost``: the client went on far beyond every limit, no end was found, and
    the session is to be ended.  ``plain``: it may be sent on as it is, with no dot to be stuffed."""

    data: bytes
    flaw: Reply | None
    eight_bit: bool
    lost: bool = False
    plain: bool = False
