"""The server's side of an SMTP session, sans-I/O: bytes in, commands out, one at a time.

Source: RFC 5321 §4.1.4 (order of commands), §4.1.1 and §2.3.8 (lines), §4.5.3.1 (sizes), RFC 2920 (pipelining),
RFC 3207 §4 (STARTTLS), RFC 4954 §4 (AUTH).

A caller feeds :meth:`ServerConnection.receive` and takes events from :meth:`ServerConnection.next_event`.  After a
command there is no further event until :meth:`ServerConnection.answer` has its reply, however much a client has
pipelined: so replies are in order whatever takes how long, and a command is judged in the state that the reply before
it has led to.

STARTTLS ends a group of commands (RFC 2920 §3.1, RFC 3207 §4).  A client that sends anything behind it before the
handshake is refused and its session ended: what came in clear never reaches the session that TLS protects.
"""

from __future__ import annotations

from typing import Literal

from ..mail.status import Reply
from . import commands as c
from .content import ContentDecoder
from .sasl import MAX_LINE as MAX_AUTH_LINE
from .sasl import TOO_LONG

State = Literal["connect", "fresh", "greeted", "mail", "rcpt", "content", "auth", "tls", "closed"]
TlsState = Literal["none", "offered", "up"]
AuthState = Literal["none", "needs-tls", "offered", "done"]

MAX_JUNK = 1 << 16
"""Octets of one overlong line after which a client is cut off."""

TOO_LONG_LINE = Reply(500, "5.5.2", "The line is too long")
JUNK = Reply(421, "4.7.0", "The line does not end: closing")
BARE_IN_COMMAND = Reply(500, "5.5.2", "A command ends with CRLF and has no other CR, LF or NUL")
NOT_ASCII = Reply(500, "5.5.2", "A command is written in ASCII")
NOT_ASCII_ADDRESS = Reply(553, "5.6.7", "Addresses beyond ASCII are not supported")
UNKNOWN = Reply(500, "5.5.1", "This command is not known")
OTHER_PROTOCOL = Reply(421, "4.7.0", "This is an SMTP server: closing")
BEHIND_STARTTLS = Reply(421, "4.7.0", "Commands were sent behind STARTTLS: closing")
_HELLO_FIRST = Reply(503, "5.5.1", "Say EHLO or HELO first")
_IN_TRANSACTION = Reply(503, "5.5.1", "Not while a message is under way: send it, or RSET")
_NO_MAIL = Reply(503, "5.5.1", "Send MAIL first")
_NO_RECIPIENTS = Reply(554, "5.5.1", "There are no valid recipients")

_OTHER_PROTOCOLS = frozenset((b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"DELETE", b"PATCH", b"TRACE"))
"""A browser that was led here: nothing it says behind its first line may be taken for commands."""

_LONG_LINE = c.Refused("", TOO_LONG_LINE)
_LONG_RESPONSE = c.Refused("AUTH", TOO_LONG)
_JUNK = c.Refused("", JUNK)

_ANYTIME: dict[State, Reply] = {}
_ORDER: dict[str, dict[State, Reply]] = {
    "HELO": _ANYTIME,
    "EHLO": _ANYTIME,
    "MAIL": {"fresh": _HELLO_FIRST, "mail": _IN_TRANSACTION, "rcpt": _IN_TRANSACTION},
    "RCPT": {"fresh": _HELLO_FIRST, "greeted": _NO_MAIL},
    "DATA": {"fresh": _HELLO_FIRST, "greeted": _NO_MAIL, "mail": _NO_RECIPIENTS},
    "RSET": _ANYTIME,
    "NOOP": _ANYTIME,
    "QUIT": _ANYTIME,
    "VRFY": _ANYTIME,
    "EXPN": _ANYTIME,
    "HELP": _ANYTIME,
    "STARTTLS": {"fresh": _HELLO_FIRST, "mail": _IN_TRANSACTION, "rcpt": _IN_TRANSACTION},
    "AUTH": {"fresh": _HELLO_FIRST, "mail": _IN_TRANSACTION, "rcpt": _IN_TRANSACTION},
}
"""What each command is told in a state where it is out of order (RFC 5321 §4.1.4, RFC 3207 §4, RFC 4954 §4)."""

_TLS_REFUSALS: dict[str, Reply] = {
    "none": Reply(502, "5.5.1", "STARTTLS is not offered here"),
    "up": Reply(503, "5.5.1", "TLS is up already"),
}
_AUTH_REFUSALS: dict[str, Reply] = {
    "none": Reply(503, "5.5.1", "AUTH is not offered here"),
    "needs-tls": Reply(538, "5.7.11", "Send STARTTLS first: passwords are not taken in clear"),
    "done": Reply(503, "5.5.1", "You have authenticated already"),
}

_AFTER: dict[type[c.Command], State] = {
    c.Connect: "fresh",
    c.Hello: "greeted",
    c.Mail: "mail",
    c.Rcpt: "rcpt",
    c.Data: "content",
    c.Quit: "closed",
    c.StartTls: "tls",
}
"""Where a positive reply to a command leads; to all others the state does not change."""


class ProtocolError(Exception):
    """The caller, never the peer, used a :class:`ServerConnection` wrongly."""


class ServerConnection:
    """One session; :mod:`~twisted_mta.wire.server` says how to use it.

    ``limit`` (octets of a message) and ``replace`` (see :class:`~.content.ContentDecoder`) hold for the next DATA;
    ``tls`` and ``auth`` say what STARTTLS and AUTH are to be told.  All four may be set at any time.  Nothing that a
    peer sends raises.  The first command is :class:`~.commands.Connect`, whose reply is the greeting.
    """

    __slots__ = (
        "_buffer",
        "_content",
        "_junk",
        "_overlong",
        "_position",
        "auth",
        "limit",
        "pending",
        "replace",
        "state",
        "tls",
    )

    def __init__(self, limit: int, replace: bool = False, tls: TlsState = "none", auth: AuthState = "none") -> None:
        self._buffer = b""
        self._position = 0
        self._junk = 0
        self._overlong: c.Refused | None = None
        self._content: ContentDecoder | None = None
        self.pending: c.Command | None = c.Connect()
        self.state: State = "connect"
        self.limit = limit
        self.replace = replace
        self.tls: TlsState = tls
        self.auth: AuthState = auth

    @property
    def buffered(self) -> int:
        """Octets received and not yet looked at: the caller stops reading when they are too many."""
        return len(self._buffer) - self._position

    def receive(self, data: bytes) -> None:
        """Take what the peer sent.  Once closed, it is dropped."""
        if self.state == "closed":
            return
        if self._buffer:
            self._buffer = self._buffer[self._position :] + data
            self._position = 0
        else:
            self._buffer = data

    def next_event(self) -> c.Command | None:
        """The next event; None when more bytes, or an answer, must come first."""
        if self.pending is not None or not self._buffer:
            return None
        if self.state == "content":
            return self._next_content()
        buffer, start = self._buffer, self._position
        end = buffer.find(b"\r\n", start)
        if end < 0:
            return self._unfinished()
        if end + 2 == len(buffer):
            self._buffer = b""
            self._position = 0
        else:
            self._position = end + 2
        if self._overlong is not None:
            event: c.Command = self._overlong if self._junk + end - start <= MAX_JUNK else _JUNK
            self._overlong = None
        else:
            event = self._command(buffer[start:end])
        self.pending = event
        return event

    def answer(self, reply: Reply) -> bytes:
        """Answer the command last given; the octets to send.  421 closes, as 221 to QUIT and any refusal of Connect.

        Raises :class:`ProtocolError` when no command is waiting.
        """
        pending = self.pending
        if pending is None:
            raise ProtocolError(f"no command waits for {reply}")
        self.pending = None
        code = reply.code
        kind = type(pending)
        if code == 421:
            self.close()
        elif code < 400:
            if kind in _AFTER:
                self.state = _AFTER[kind]
                if kind is c.Data:
                    self._content = ContentDecoder(self.limit, self.replace)
                elif kind is c.Quit:
                    self.close()
            elif kind is c.ContentEnd:
                self._end_content(pending)
            elif kind is c.Reset:
                if self.state != "fresh":
                    self.state = "greeted"
            elif kind is c.Auth or kind is c.AuthResponse:
                self.state = "auth" if code == 334 else "greeted"
                if code == 235:
                    self.auth = "done"
        elif kind is c.ContentEnd:
            self._end_content(pending)
        elif kind is c.Connect:
            self.close()
        elif self.state == "auth":
            self.state = "greeted"
        return encode(reply)

    def started_tls(self) -> None:
        """The handshake follows: forget all the client said (RFC 3207 §4.2).  ``auth`` is the caller's to set."""
        self.state = "fresh"
        self.tls = "up"
        self._buffer = b""
        self._position = 0

    def close(self) -> None:
        """Take nothing more."""
        self.state = "closed"
        self.pending = None
        self._content = None
        self._buffer = b""
        self._position = 0

    def _command(self, line: bytes) -> c.Command:
        overlong = self._check_length(line, len(line) + 2)
        if overlong is not None:
            return overlong if len(line) <= MAX_JUNK else _JUNK
        if b"\n" in line or b"\r" in line or b"\0" in line:
            return c.Refused("", BARE_IN_COMMAND)
        if self.state == "auth":
            return c.AuthResponse(line)
        word, _, rest = line.partition(b" ")
        verb = c.VERBS.get(word) or c.VERBS.get(word.upper())
        if verb is None:
            return c.Refused("", OTHER_PROTOCOL if word.upper() in _OTHER_PROTOCOLS else UNKNOWN)
        name = verb.name
        refusal = _ORDER[name].get(self.state)
        if refusal is None:
            if name == "STARTTLS":
                refusal = _TLS_REFUSALS.get(self.tls) or (BEHIND_STARTTLS if self._buffer else None)
            elif name == "AUTH":
                refusal = _AUTH_REFUSALS.get(self.auth)
        if refusal is not None:
            return c.Refused(name, refusal)
        try:
            return verb.parse(rest.decode("ascii").strip(" \t"))
        except UnicodeDecodeError:
            return c.Refused(name, NOT_ASCII_ADDRESS if name in ("MAIL", "RCPT") else NOT_ASCII)
        except c.CommandError as error:
            return c.Refused(name, error.reply)

    def _check_length(self, start: bytes, size: int) -> c.Refused | None:
        """The refusal of a line of ``size`` octets, CRLF included, if it is too long; ``start`` is how it begins."""
        if size <= 512:
            return None
        if self.state == "auth":
            return _LONG_RESPONSE if size > MAX_AUTH_LINE else None
        verb = c.VERBS.get(start[:9].partition(b" ")[0].upper())
        if verb is None or size > verb.limit:
            return _LONG_RESPONSE if verb is not None and verb.name == "AUTH" else _LONG_LINE
        return None

    def _unfinished(self) -> c.Command | None:
        """No line is complete: see that it does not grow for ever."""
        size = self.buffered
        if self._overlong is None:
            # One octet more than there is will come at least, as the last one may be the CR of its end.
            self._overlong = self._check_length(self._buffer[self._position : self._position + 9], size + 1)
            if self._overlong is None:
                return None
            self._junk = 0
        # Drop what will be refused, but keep a CR that may be half of the end.
        half = self._buffer.endswith(b"\r")
        self._junk += size - half
        self._buffer = b"\r" if half else b""
        self._position = 0
        if self._junk > MAX_JUNK:
            self.pending = _JUNK
        return self.pending

    def _next_content(self) -> c.Command | None:
        decoder = self._content
        assert decoder is not None
        data, rest = decoder.feed(self._buffer[self._position :] if self._position else self._buffer)
        self._position = 0
        self._buffer = rest or b""
        if rest is not None or decoder.overrun:
            self.pending = c.ContentEnd(data, decoder.flaw, decoder.eight_bit, rest is None)
            return self.pending
        return c.Content(data) if data else None

    def _end_content(self, end: c.Command) -> None:
        self._content = None
        self.state = "greeted"
        if isinstance(end, c.ContentEnd) and end.lost:
            self.close()


_ENCODED: dict[Reply, bytes] = {}


def encode(reply: Reply) -> bytes:
    """The reply's octets; those registered with :func:`constant` are made once."""
    return _ENCODED.get(reply) or reply.encode()


def constant(code: int, enhanced: str, text: str) -> Reply:
    """A reply of fixed words that is sent often."""
    reply = Reply(code, enhanced, text)
    _ENCODED[reply] = reply.encode()
    return reply
