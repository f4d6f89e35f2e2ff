"""A line that a client sends, judged: the command it is in the state it comes in, or why it is refused.  Sans-I/O.

Source: RFC 5321 §4.1.1 and §2.3.8 (lines), §4.5.3.1.4 (their length), §4.1.4 (order of commands), RFC 3207 §4
(STARTTLS), RFC 4954 §4 (AUTH), RFC 3030 §2 and §3 (BDAT), RFC 6531 §3.4 and §3.7.4.2 (addresses beyond ASCII).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ..mail.status import Reply
from . import commands as c
from .order import AUTH_REFUSALS, NO_XCLIENT, TLS_REFUSALS, AuthState, State, TlsState
from .sasl import MAX_LINE as MAX_AUTH_LINE
from .sasl import TOO_LONG
from .verbs import VERBS, Verb

SHORT = 512
"""Octets that any command's line may have, CRLF included (RFC 5321 §4.5.3.1.4)."""
MAX_JUNK = 1 << 16
"""Octets of one overlong line after which a client is cut off."""

TOO_LONG_LINE = Reply(500, "5.5.2", "The line is too long")
JUNK = Reply(421, "4.7.0", "The line does not end: closing")
BARE_IN_COMMAND = Reply(501, "5.5.2", "A command ends with CRLF and has no other CR, LF or NUL")
NOT_ASCII = Reply(501, "5.5.2", "A command is written in ASCII")
NOT_ASCII_ADDRESS = Reply(553, "5.6.7", "Addresses beyond ASCII need SMTPUTF8 with MAIL")
NOT_UTF8 = Reply(553, "5.6.7", "Addresses beyond ASCII are written in UTF-8")
UNKNOWN = Reply(500, "5.5.1", "This command is not known")
NO_CHUNK = Reply(421, "4.5.4", "BDAT without a valid size: what follows cannot be told from commands; closing")
BINARY_DATA = Reply(503, "5.5.1", "A message with BODY=BINARYMIME is sent with BDAT: send RSET, or BDAT")
"""RFC 3030 §3."""
OTHER_PROTOCOL = Reply(421, "4.7.0", "This is an SMTP server: closing")
BEHIND_STARTTLS = Reply(421, "4.7.0", "Commands were sent behind STARTTLS: closing")
_OTHER_PROTOCOLS = frozenset((b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"DELETE", b"PATCH", b"TRACE"))
"""A browser that was led here: nothing it says behind its first line may be taken for commands."""

_LONG_LINE = c.Refused("", TOO_LONG_LINE)
_LONG_RESPONSE = c.Refused("AUTH", TOO_LONG)
_LONG_CHUNK = c.Refused("BDAT", NO_CHUNK)
_JUNK = c.Refused("", JUNK)


class Standing(Protocol):
    """What a line is judged by: where the session stands, which is :class:`~.server.ServerConnection`'s to say.

    ``utf8`` and ``binary`` say what MAIL has announced: SMTPUTF8, and BODY=BINARYMIME.
    """

    state: State
    tls: TlsState
    auth: AuthState
    xclient: bool
    utf8: bool
    binary: bool
    order: Mapping[str, Mapping[State, Reply]]

    @property
    def buffered(self) -> int:
        """Octets that the client has sent behind the line."""

    def announced(self, argument: bytes, refusal: Reply | None) -> c.Command:
        """BDAT, refused if ``refusal`` says so.  Whatever becomes of it, its octets are no commands (RFC 3030 §2)."""


def judge(standing: Standing, line: bytes) -> c.Command:
    """What a whole line, without its CRLF, is: a command, an answer to a challenge of AUTH, or a refusal."""
    size = len(line) + 2
    if size > SHORT and (overlong := too_long(standing, line, size)) is not None:
        return overlong if len(line) <= MAX_JUNK else _JUNK
    if b"\n" in line or b"\r" in line or b"\0" in line:
        return c.Refused("BDAT", NO_CHUNK) if line[:4].upper() == b"BDAT" else c.Refused("", BARE_IN_COMMAND)
    if standing.state == "auth":
        return c.AuthResponse(line)
    word, _, rest = line.partition(b" ")
    verb = VERBS.get(word) or VERBS.get(word.upper())
    if verb is None:
        return c.Refused("", OTHER_PROTOCOL if word.upper() in _OTHER_PROTOCOLS else UNKNOWN)
    name = verb.name
    refusal = standing.order[name].get(standing.state)
    if name == "BDAT":
        return standing.announced(rest, refusal)
    if refusal is None:
        if name == "STARTTLS":
            refusal = TLS_REFUSALS.get(standing.tls) or (BEHIND_STARTTLS if standing.buffered else None)
        elif name == "AUTH":
            refusal = AUTH_REFUSALS.get(standing.auth)
        elif name == "XCLIENT" and not standing.xclient:
            refusal = NO_XCLIENT
        elif name == "DATA" and standing.binary:
            refusal = BINARY_DATA
    if refusal is not None:
        return c.Refused(name, refusal)
    try:
        return verb.parse(rest.decode("ascii").strip(" \t"))
    except UnicodeDecodeError:
        return _beyond_ascii(standing, verb, rest)
    except c.CommandError as error:
        return c.Refused(name, error.reply)


def _beyond_ascii(standing: Standing, verb: Verb, argument: bytes) -> c.Command:
    """MAIL with SMTPUTF8, and RCPT after it, may have addresses in UTF-8 (RFC 6531 §3.4), and so may VRFY and EXPN
    with SMTPUTF8 (§3.7.4.2)."""
    name = verb.name
    if name not in ("MAIL", "RCPT", "VRFY", "EXPN"):
        return c.Refused(name, NOT_ASCII)
    if name == "RCPT" and not standing.utf8:
        return c.Refused(name, NOT_ASCII_ADDRESS)
    try:
        command = verb.parse(argument.decode("utf-8").strip(" \t"))
    except UnicodeDecodeError:
        return c.Refused(name, NOT_UTF8)
    except c.CommandError as error:
        return c.Refused(name, error.reply)
    if isinstance(command, c.Verify | c.Expand) and not command.utf8:
        return c.Refused(name, NOT_ASCII)
    if isinstance(command, c.Mail) and "SMTPUTF8" not in command.params:
        return c.Refused(name, NOT_ASCII_ADDRESS)
    return command


def too_long(standing: Standing, start: bytes, size: int) -> c.Refused | None:
    """The refusal of a line of ``size`` octets, CRLF included, if it is too long; ``start`` is how it begins."""
    if size <= SHORT:
        return None
    if standing.state == "auth":
        return _LONG_RESPONSE if size > MAX_AUTH_LINE else None
    verb = VERBS.get(start[:9].partition(b" ")[0].upper())
    if verb is not None and verb.name == "BDAT":
        return _LONG_CHUNK
    if verb is None or size > verb.limit:
        return _LONG_RESPONSE if verb is not None and verb.name == "AUTH" else _LONG_LINE
    return None
