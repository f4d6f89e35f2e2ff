"""The grammar of SMTP commands: the table of verbs, and what makes a command of the words behind one.

Source: RFC 5321 §4.1.1 and §4.1.2, §4.5.3.1.4 (lines), RFC 3030 §2 (BDAT), RFC 4954 §4 (AUTH), RFC 3207 §4 (STARTTLS),
RFC 2033 §4.1 (LHLO), RFC 6531 §3.7.4.2 (VRFY, EXPN), RFC 1985 §5 (ETRN).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import msgspec

from ..mail.address import AddressError, canonical, canonical_domain
from ..mail.status import Reply
from . import commands as c
from .handling import BY_LIMIT, HOLD_LIMIT, PRIORITY_LIMIT
from .notification import ENVID_LIMIT, NOTIFY_LIMIT, ORCPT_LIMIT, ascii_orcpt, parse_notify
from .parameters import BODIES, MAIL_PARAMS, RCPT_PARAMS, parse_params
from .xclient import XclientError
from .xclient import parse as parse_claims

# One path (RFC 5321 §4.1.2).  Possessive repeats: no input makes this go back and forth.
_PATH = r'<((?:[^<>"\\ \t]++|"(?:[^"\\]|\\.)*+")*+)>(?:[ \t]+(.*))?'
_FROM = re.compile(rf"FROM:[ \t]*+{_PATH}", re.IGNORECASE)
_TO = re.compile(rf"TO:[ \t]*+{_PATH}", re.IGNORECASE)
_HOP = r"@(?:[A-Za-z0-9._-]++|\[[^\[\]]*+\])"
_ROUTE = re.compile(rf"{_HOP}(?:,{_HOP})*+:(?=.)")
_CHUNK = re.compile(r"([0-9]{1,20})(?:[ \t]+(LAST))?", re.IGNORECASE)
_MECHANISM = re.compile(r"[A-Z0-9_-]{1,20}")
_NODE = re.compile(r"[!-~]{1,255}")
_NAME = re.compile(r"[!-~]{1,255}")

_SYNTAX_FROM = Reply(501, "5.5.4", "Syntax: MAIL FROM:<address> [parameters]")
_SYNTAX_TO = Reply(501, "5.5.4", "Syntax: RCPT TO:<address> [parameters]")
_NO_ARGUMENT = Reply(501, "5.5.4", "This command takes no argument")
_DATA, _RESET, _NOOP, _QUIT, _START_TLS = c.Data(), c.Reset(), c.Noop(), c.Quit(), c.StartTls()
_NO_PARAMS: dict[str, str] = {}


def _mailbox(path: str, enhanced: str) -> str:
    try:
        return canonical(path)
    except AddressError as error:
        raise c.CommandError(Reply(error.reply.code, enhanced or error.reply.enhanced, error.reply.text)) from None


def _unrouted(path: str) -> tuple[str, bool]:
    """A path without its source route, and whether it had one."""
    if path.startswith("@"):
        route = _ROUTE.match(path)
        if route is None:
            raise c.CommandError(Reply(501, "5.1.3", "The source route is not well formed"))
        return path[route.end() :], True
    return path, False


def mail(argument: str) -> c.Mail:
    """MAIL's argument.  A space after the colon is let pass: RFC 5321 §3.3 forbids it, and printers send it."""
    match = _FROM.fullmatch(argument)
    if match is None:
        raise c.CommandError(_SYNTAX_FROM)
    path, rest = match.groups()
    if path.startswith("@"):
        path = _unrouted(path)[0]
    sender = _mailbox(path, "5.1.7") if path else ""
    if not rest:
        return c.Mail(sender, 0, "7BIT", _NO_PARAMS)
    params = parse_params(rest, MAIL_PARAMS)
    body = BODIES[params["BODY"].upper()] if "BODY" in params else "7BIT"
    return c.Mail(sender, int(params.get("SIZE", "0")), body, params)


def rcpt(argument: str) -> c.Rcpt:
    """RCPT's argument."""
    match = _TO.fullmatch(argument)
    if match is None:
        raise c.CommandError(_SYNTAX_TO)
    path, rest = match.groups()
    routed = False
    if path.startswith("@"):
        path, routed = _unrouted(path)
    notify = orcpt = ""
    if rest:
        params = parse_params(rest, RCPT_PARAMS)
        notify, orcpt = parse_notify(params.get("NOTIFY", "")) or "", ascii_orcpt(params.get("ORCPT", ""))
    if path.lower() == c.POSTMASTER:
        return c.Rcpt(c.POSTMASTER, routed, notify, orcpt)
    if not path:
        raise c.CommandError(Reply(501, "5.1.3", "The null address is for senders only"))
    return c.Rcpt(_mailbox(path, ""), routed, notify, orcpt)


def hello(verb: str, argument: str) -> c.Hello:
    """The argument of HELO, EHLO or LHLO: RFC 5321 §4.1.4 forbids to insist on a true name, so any printable word will
    do."""
    if not _NAME.fullmatch(argument):
        raise c.CommandError(Reply(501, "5.5.4", f"Syntax: {verb} hostname"))
    return c.Hello(argument, verb != "HELO")


def bdat(argument: str) -> c.Chunk:
    """BDAT's argument (RFC 3030 §2)."""
    match = _CHUNK.fullmatch(argument)
    if match is None:
        raise c.CommandError(Reply(501, "5.5.4", "Syntax: BDAT chunk-size [LAST]"))
    return c.Chunk(int(match[1]), match[2] is not None)


def auth(argument: str) -> c.Auth:
    """AUTH's argument (RFC 4954 §4)."""
    mechanism, _, initial = argument.partition(" ")
    mechanism = mechanism.upper()
    if not _MECHANISM.fullmatch(mechanism) or " " in initial:
        raise c.CommandError(Reply(501, "5.5.4", "Syntax: AUTH mechanism [initial-response]"))
    return c.Auth(mechanism, initial.encode("ascii") if initial else None)


def xclient(argument: str) -> c.XClient:
    """XCLIENT's argument (Postfix's XCLIENT_README)."""
    try:
        return c.XClient(parse_claims(argument))
    except XclientError as error:
        raise c.CommandError(Reply(501, "5.5.4", f"XCLIENT: {error}")) from None


def etrn(argument: str) -> c.Etrn:
    """ETRN's argument (RFC 1985 §5.2)."""
    option, node = (argument[0], argument[1:]) if argument[:1] in ("@", "#") else ("", argument)
    if not _NODE.fullmatch(node):
        raise c.CommandError(Reply(501, "5.5.4", "Syntax: ETRN domain"))
    if option == "#":
        return c.Etrn(option, node)
    try:
        return c.Etrn(option, canonical_domain(node))
    except AddressError:
        raise c.CommandError(Reply(501, "5.5.4", "ETRN wants the name of a domain")) from None


def _bare(command: c.Command) -> Callable[[str], c.Command]:
    def parse(argument: str) -> c.Command:
        if argument:
            raise c.CommandError(_NO_ARGUMENT)
        return command

    return parse


def _about(make: Callable[[str, bool], c.Command], verb: str, argument: str) -> c.Command:
    """The argument of VRFY and EXPN (RFC 5321 §4.1.1.6, RFC 6531 §3.7.4.2)."""
    name, _, last = argument.rpartition(" ")
    utf8 = last.upper() == "SMTPUTF8" and bool(name.strip())
    if not argument:
        raise c.CommandError(Reply(501, "5.5.4", f"Syntax: {verb} name"))
    return make(name.strip() if utf8 else argument, utf8)


def _whatever(command: c.Command) -> Callable[[str], c.Command]:
    return lambda argument: command


class Verb(msgspec.Struct, frozen=True):
    """A command's name, its parser, and the longest line it may come in, CRLF included."""

    name: str
    parse: Callable[[str], c.Command]
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
        Verb("VRFY", partial(_about, c.Verify, "VRFY")),
        Verb("EXPN", partial(_about, c.Expand, "EXPN")),
        Verb("HELP", c.Help),
        Verb("ETRN", etrn),
        Verb("STARTTLS", _bare(_START_TLS)),
        Verb("AUTH", auth, AUTH_LIMIT),
        Verb("XCLIENT", xclient, XCLIENT_LIMIT),
    )
}
