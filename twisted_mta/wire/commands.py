"""SMTP commands as a server reads them: one value for each, and the parsers that make them.  Sans-I/O.

Source: RFC 5321 §4.1.1 and §4.1.2, RFC 1870 §3 (SIZE), RFC 6152 §2 (BODY), RFC 4954 §3 to §5 (AUTH), RFC 3207 §4,
RFC 3461 §4 (RET, ENVID, NOTIFY, ORCPT), RFC 3030 §2 (BDAT) and §3 (BINARYMIME), RFC 6531 §3.4 (SMTPUTF8),
RFC 2033 §4.1 (LHLO), RFC 4865 §4 (HOLDFOR, HOLDUNTIL), RFC 2852 §4 (BY), RFC 6710 §3 (MT-PRIORITY), RFC 1985 §5 (ETRN).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import msgspec

from ..mail.address import AddressError, canonical, canonical_domain
from ..mail.envelope import Body
from ..mail.status import MailError, Reply, printable
from .handling import (
    BY_LIMIT,
    HOLD_LIMIT,
    PRIORITY_LIMIT,
    parse_by,
    parse_date,
    parse_interval,
    parse_priority,
)
from .notification import ENVID_LIMIT, NOTIFY_LIMIT, ORCPT_LIMIT, ascii_orcpt, decode_envid, decode_orcpt, parse_notify
from .xclient import Claims, XclientError
from .xclient import parse as parse_claims

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
    the session is to be ended."""

    data: bytes
    flaw: Reply | None
    eight_bit: bool
    lost: bool = False


# One path (RFC 5321 §4.1.2).  Possessive repeats: no input makes this go back and forth.
_PATH = r'<((?:[^<>"\\ \t]++|"(?:[^"\\]|\\.)*+")*+)>(?:[ \t]+(.*))?'
_FROM = re.compile(rf"FROM:[ \t]*+{_PATH}", re.IGNORECASE)
_TO = re.compile(rf"TO:[ \t]*+{_PATH}", re.IGNORECASE)
_HOP = r"@(?:[A-Za-z0-9._-]++|\[[^\[\]]*+\])"
_ROUTE = re.compile(rf"{_HOP}(?:,{_HOP})*+:(?=.)")
_PARAM = re.compile("([A-Za-z0-9][A-Za-z0-9-]*+)(?:=([!-<>-~\u0080-\U0010ffff]+))?")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+")
_DIGITS = re.compile(r"[0-9]{1,20}")
_CHUNK = re.compile(r"([0-9]{1,20})(?:[ \t]+(LAST))?", re.IGNORECASE)
_MECHANISM = re.compile(r"[A-Z0-9_-]{1,20}")
_NODE = re.compile(r"[!-~]{1,255}")
_NAME = re.compile(r"[!-~]{1,255}")

_SYNTAX_FROM = Reply(501, "5.5.4", "Syntax: MAIL FROM:<address> [parameters]")
_SYNTAX_TO = Reply(501, "5.5.4", "Syntax: RCPT TO:<address> [parameters]")
_NO_ARGUMENT = Reply(501, "5.5.4", "This command takes no argument")
_DATA, _RESET, _NOOP, _QUIT, _START_TLS = Data(), Reset(), Noop(), Quit(), StartTls()
_NO_PARAMS: dict[str, str] = {}
_BODIES: dict[str, Body] = {"7BIT": "7BIT", "8BITMIME": "8BITMIME", "BINARYMIME": "BINARYMIME"}


def _size(value: str) -> None:
    if not _DIGITS.fullmatch(value):
        raise CommandError(Reply(501, "5.5.4", "SIZE= wants a number of at most 20 digits"))


def _body(value: str) -> None:
    if value.upper() not in _BODIES:
        raise CommandError(Reply(501, "5.5.4", "BODY= is 7BIT, 8BITMIME or BINARYMIME"))


def _auth_sender(value: str) -> None:
    if value != "<>" and not _XTEXT.fullmatch(value):
        raise CommandError(Reply(501, "5.5.4", "AUTH= wants an address in xtext, or <>"))


def _ret(value: str) -> None:
    if value.upper() not in ("FULL", "HDRS"):
        raise CommandError(Reply(501, "5.5.4", "RET= is FULL or HDRS"))


def _envid(value: str) -> None:
    if decode_envid(value) is None:
        words = f"ENVID= wants at most {ENVID_LIMIT} characters of xtext that stand for printable ASCII"
        raise CommandError(Reply(501, "5.5.4", words))


def _smtputf8(value: str) -> None:
    if value:
        raise CommandError(Reply(501, "5.5.4", "SMTPUTF8 has no value"))


def _requiretls(value: str) -> None:
    if value:
        raise CommandError(Reply(501, "5.5.4", "REQUIRETLS has no value"))


def _hold_for(value: str) -> None:
    if parse_interval(value) is None:
        raise CommandError(Reply(501, "5.5.4", "HOLDFOR= wants from 1 to 999999999 seconds"))


def _hold_until(value: str) -> None:
    if parse_date(value) is None:
        raise CommandError(Reply(501, "5.5.4", "HOLDUNTIL= wants a date and time such as 2030-12-31T23:59:00Z"))


def _by(value: str) -> None:
    if parse_by(value) is None:
        words = "BY= wants seconds, a semicolon and N or R, such as 3600;R; with R the seconds are more than 0"
        raise CommandError(Reply(501, "5.5.4", words))


def _mt_priority(value: str) -> None:
    if parse_priority(value) is None:
        raise CommandError(Reply(501, "5.5.4", "MT-PRIORITY= wants a number from -9 to 9"))


def _notify(value: str) -> None:
    if parse_notify(value) is None:
        raise CommandError(Reply(501, "5.5.4", "NOTIFY= is NEVER, or a list of SUCCESS, FAILURE and DELAY"))


def _orcpt(value: str) -> None:
    if decode_orcpt(value) is None:
        words = "ORCPT= wants a type, a semicolon and an address in xtext that stands for printable ASCII"
        raise CommandError(Reply(501, "5.5.4", words))


_MAIL_PARAMS: dict[str, Callable[[str], None]] = {
    "SIZE": _size,
    "BODY": _body,
    "AUTH": _auth_sender,
    "RET": _ret,
    "ENVID": _envid,
    "SMTPUTF8": _smtputf8,
    "REQUIRETLS": _requiretls,
    "HOLDFOR": _hold_for,
    "HOLDUNTIL": _hold_until,
    "BY": _by,
    "MT-PRIORITY": _mt_priority,
}
_RCPT_PARAMS: dict[str, Callable[[str], None]] = {"NOTIFY": _notify, "ORCPT": _orcpt}


def _params(text: str, known: dict[str, Callable[[str], None]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in text.split():
        match = _PARAM.fullmatch(word)
        if match is None:
            raise CommandError(Reply(501, "5.5.4", f"{printable(word, 40)}: this is not a parameter"))
        name, value = match[1].upper(), match[2] or ""
        check = known.get(name)
        if check is None:  # RFC 5321 §4.1.1.11
            raise CommandError(Reply(555, "5.5.4", f"{printable(name, 40)}: this parameter is not supported"))
        if name in found:
            raise CommandError(Reply(501, "5.5.4", f"{name}: this parameter is given twice"))
        check(value)
        found[name] = value
    return found


def _mailbox(path: str, enhanced: str) -> str:
    try:
        return canonical(path)
    except AddressError as error:
        raise CommandError(Reply(error.reply.code, enhanced or error.reply.enhanced, error.reply.text)) from None


def _unrouted(path: str) -> tuple[str, bool]:
    """A path without its source route, and whether it had one."""
    if path.startswith("@"):
        route = _ROUTE.match(path)
        if route is None:
            raise CommandError(Reply(501, "5.1.3", "The source route is not well formed"))
        return path[route.end() :], True
    return path, False


def mail(argument: str) -> Mail:
    """MAIL's argument.  A space after the colon is let pass: RFC 5321 §3.3 forbids it, and printers send it."""
    match = _FROM.fullmatch(argument)
    if match is None:
        raise CommandError(_SYNTAX_FROM)
    path, rest = match.groups()
    if path.startswith("@"):
        path = _unrouted(path)[0]
    sender = _mailbox(path, "5.1.7") if path else ""
    if not rest:
        return Mail(sender, 0, "7BIT", _NO_PARAMS)
    params = _params(rest, _MAIL_PARAMS)
    body = _BODIES[params["BODY"].upper()] if "BODY" in params else "7BIT"
    return Mail(sender, int(params.get("SIZE", "0")), body, params)


def rcpt(argument: str) -> Rcpt:
    """RCPT's argument."""
    match = _TO.fullmatch(argument)
    if match is None:
        raise CommandError(_SYNTAX_TO)
    path, rest = match.groups()
    routed = False
    if path.startswith("@"):
        path, routed = _unrouted(path)
    notify = orcpt = ""
    if rest:
        params = _params(rest, _RCPT_PARAMS)
        notify, orcpt = parse_notify(params.get("NOTIFY", "")) or "", ascii_orcpt(params.get("ORCPT", ""))
    if path.lower() == POSTMASTER:
        return Rcpt(POSTMASTER, routed, notify, orcpt)
    if not path:
        raise CommandError(Reply(501, "5.1.3", "The null address is for senders only"))
    return Rcpt(_mailbox(path, ""), routed, notify, orcpt)


def hello(verb: str, argument: str) -> Hello:
    """The argument of HELO, EHLO or LHLO: RFC 5321 §4.1.4 forbids to insist on a true name, so any printable word will
    do."""
    if not _NAME.fullmatch(argument):
        raise CommandError(Reply(501, "5.5.4", f"Syntax: {verb} hostname"))
    return Hello(argument, verb != "HELO")


def bdat(argument: str) -> Chunk:
    """BDAT's argument (RFC 3030 §2)."""
    match = _CHUNK.fullmatch(argument)
    if match is None:
        raise CommandError(Reply(501, "5.5.4", "Syntax: BDAT chunk-size [LAST]"))
    return Chunk(int(match[1]), match[2] is not None)


def auth(argument: str) -> Auth:
    """AUTH's argument (RFC 4954 §4)."""
    mechanism, _, initial = argument.partition(" ")
    mechanism = mechanism.upper()
    if not _MECHANISM.fullmatch(mechanism) or " " in initial:
        raise CommandError(Reply(501, "5.5.4", "Syntax: AUTH mechanism [initial-response]"))
    return Auth(mechanism, initial.encode("ascii") if initial else None)


def xclient(argument: str) -> XClient:
    """XCLIENT's argument (Postfix's XCLIENT_README)."""
    try:
        return XClient(parse_claims(argument))
    except XclientError as error:
        raise CommandError(Reply(501, "5.5.4", f"XCLIENT: {error}")) from None


def etrn(argument: str) -> Etrn:
    """ETRN's argument (RFC 1985 §5.2)."""
    option, node = (argument[0], argument[1:]) if argument[:1] in ("@", "#") else ("", argument)
    if not _NODE.fullmatch(node):
        raise CommandError(Reply(501, "5.5.4", "Syntax: ETRN domain"))
    if option == "#":
        return Etrn(option, node)
    try:
        return Etrn(option, canonical_domain(node))
    except AddressError:
        raise CommandError(Reply(501, "5.5.4", "ETRN wants the name of a domain")) from None


def _bare(command: Command) -> Callable[[str], Command]:
    def parse(argument: str) -> Command:
        if argument:
            raise CommandError(_NO_ARGUMENT)
        return command

    return parse


def _about(make: Callable[[str, bool], Command], verb: str, argument: str) -> Command:
    """The argument of VRFY and EXPN (RFC 5321 §4.1.1.6, RFC 6531 §3.7.4.2)."""
    name, _, last = argument.rpartition(" ")
    utf8 = last.upper() == "SMTPUTF8" and bool(name.strip())
    if not argument:
        raise CommandError(Reply(501, "5.5.4", f"Syntax: {verb} name"))
    return make(name.strip() if utf8 else argument, utf8)


def _whatever(command: Command) -> Callable[[str], Command]:
    return lambda argument: command


class Verb(msgspec.Struct, frozen=True):
    """A command's name, its parser, and the longest line it may come in, CRLF included."""

    name: str
    parse: Callable[[str], Command]
    limit: int = 512  # RFC 5321 §4.5.3.1.4


MAIL_LIMIT = (
    512
    + 26
    + 17
    + 500
    + len(" ENVID= RET=FULL SMTPUTF8 REQUIRETLS")
    + ENVID_LIMIT
    + HOLD_LIMIT
    + BY_LIMIT
    + PRIORITY_LIMIT
)
"""RFC 1870 §3 asks for 26 octets more, RFC 6152 §2 for 17, RFC 4954 §3 for 500, RFC 3461 §4 for its parameters, RFC
6531 §3.1 for 10, RFC 4865 §4 for 34, RFC 2852 §2 for 17, RFC 6710 §3 for 15."""
RCPT_LIMIT = 512 + len(" NOTIFY= ORCPT=") + NOTIFY_LIMIT + ORCPT_LIMIT
"""RFC 3461 §4 asks for its parameters."""
XCLIENT_LIMIT = 2048
"""Names of 255 octets in NAME, HELO and LOGIN may take three times as many in xtext."""
AUTH_LIMIT = 12288
"""RFC 4954 §4."""

VERBS: dict[bytes, Verb] = {
    verb.name.encode("ascii"): verb
    for verb in (
        Verb("HELO", partial(hello, "HELO")),
        Verb("EHLO", partial(hello, "EHLO")),
        Verb("LHLO", partial(hello, "LHLO")),
        Verb("MAIL", mail, MAIL_LIMIT),
        Verb("RCPT", rcpt, RCPT_LIMIT),
        Verb("DATA", _bare(_DATA)),
        Verb("BDAT", bdat),
        Verb("RSET", _bare(_RESET)),
        Verb("NOOP", _whatever(_NOOP)),
        Verb("QUIT", _bare(_QUIT)),
        Verb("VRFY", partial(_about, Verify, "VRFY")),
        Verb("EXPN", partial(_about, Expand, "EXPN")),
        Verb("HELP", Help),
        Verb("ETRN", etrn),
        Verb("STARTTLS", _bare(_START_TLS)),
        Verb("AUTH", auth, AUTH_LIMIT),
        Verb("XCLIENT", xclient, XCLIENT_LIMIT),
    )
}
