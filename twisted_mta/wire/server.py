"""The server's side of an SMTP session, sans-I/O: bytes in, commands out, one at a time.

Source: RFC 5321 §2.3.8 (lines), §4.5.3.1 (sizes), RFC 2920 (pipelining),
RFC 3207 §4 (STARTTLS), RFC 4954 §4 (AUTH), RFC 3030 §2 (BDAT) and §3 (BINARYMIME), RFC 2033 §4 (LMTP).

A caller feeds :meth:`ServerConnection.receive` and takes events from :meth:`ServerConnection.next_event`.  After a
command there is no further event until :meth:`ServerConnection.answer` has its reply, however much a client has
pipelined: so replies are in order whatever takes how long, and a command is judged in the state that the reply before
it has led to.

STARTTLS ends a group of commands (RFC 2920 §3.1, RFC 3207 §4).  A client that sends anything behind it before the
handshake is refused and its session ended: what came in clear never reaches the session that TLS protects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from ..mail.status import Reply
from . import commands as c
from .content import SLACK, BinaryDecoder, ChunkDecoder, ContentDecoder, too_large
from .lines import JUNK, MAX_JUNK, NO_CHUNK, judge, too_long
from .order import LMTP_ORDER, ORDER, AuthState, State, TlsState
from .verbs import bdat

_JUNK = c.Refused("", JUNK)

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

    ``limit`` (octets of a message) and ``replace`` (see :class:`~.content.ContentDecoder`) hold for the next content;
    ``tls``, ``auth`` and ``xclient`` say what STARTTLS, AUTH and XCLIENT are to be told.  All five may be set at any
    time.  Nothing that a peer sends raises.  The first command is :class:`~.commands.Connect`, whose reply is the
    greeting.

    With ``lmtp`` it is LMTP (RFC 2033): LHLO takes the place of HELO and EHLO, and the end of the content is answered
    once for each recipient that was accepted.  ``each`` may be set to those replies, in the order of RCPT, before that
    end is answered; else all get the one reply.
    """

    __slots__ = (
        "_buffer",
        "_chunk",
        "_content",
        "_drain",
        "_junk",
        "_overlong",
        "_position",
        "_recipients",
        "auth",
        "binary",
        "each",
        "limit",
        "lmtp",
        "order",
        "pending",
        "replace",
        "state",
        "tls",
        "utf8",
        "xclient",
    )

    def __init__(
        self,
        limit: int,
        replace: bool = False,
        tls: TlsState = "none",
        auth: AuthState = "none",
        *,
        lmtp: bool = False,
    ) -> None:
        self._buffer = b""
        self._position = 0
        self.utf8 = False
        self.binary = False
        self._junk = 0
        self._overlong: c.Refused | None = None
        self._content: ContentDecoder | None = None
        self._chunk: c.Chunk | None = None  # as announced, while the octets are awaited
        self._drain = 0  # octets to come of chunks that are refused, or of the present one
        self.pending: c.Command | None = c.Connect()
        self.state: State = "connect"
        self.limit = limit
        self.replace = replace
        self.tls: TlsState = tls
        self.auth: AuthState = auth
        self.lmtp = lmtp
        self.order: Mapping[str, Mapping[State, Reply]] = LMTP_ORDER if lmtp else ORDER
        self.xclient = False
        self.each: Sequence[Reply] | None = None
        self._recipients = 0  # accepted in this transaction; counted in LMTP alone

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
        if self.pending is not None or (not self._buffer and self._chunk is None):
            return None
        if self.state == "content":
            return self._next_content()
        if self._chunk is not None:
            return self._next_chunk(self._chunk)
        if self._drain and not self._skip():
            return None
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
            event = judge(self, buffer[start:end])
        self.pending = event
        return event

    def answer(self, reply: Reply) -> bytes:
        """Answer the command last given; the octets to send.  421 closes, as 221 to QUIT.

        Raises :class:`ProtocolError` when no command is waiting.
        """
        pending = self.pending
        if pending is None:
            raise ProtocolError(f"no command waits for {reply}")
        self.pending = None
        code = reply.code
        kind = type(pending)
        answers = self._answers(pending, reply) if self.lmtp else encode(reply)
        if code == 421:
            self.close()
        elif code < 400:
            if kind in _AFTER:
                self.state = _AFTER[kind]
                if kind is c.Data:
                    self._content = ContentDecoder(self.limit, self.replace)
                elif kind is c.Mail:
                    self.utf8 = "SMTPUTF8" in pending.params  # type: ignore[attr-defined]
                    self.binary = pending.body == "BINARYMIME"  # type: ignore[attr-defined]
                elif kind is c.Hello:
                    self._content = None
                elif kind is c.Quit:
                    self.close()
            elif kind is c.ContentEnd:
                self._end_content(pending)
            elif kind is c.Chunk:
                self._begin_chunk(pending)
                return b""
            elif kind is c.ChunkEnd:
                self.state = "chunks"
            elif kind is c.Reset:
                self._content = None
                if self.state != "fresh":
                    self.state = "greeted"
            elif kind is c.Auth or kind is c.AuthResponse:
                self.state = "auth" if code == 334 else "greeted"
                if code == 235:
                    self.auth = "done"
            elif isinstance(pending, c.XClient):
                self.state = "greeted" if pending.claims.helo else "fresh"
                self._content = None
        elif kind is c.ContentEnd:
            self._end_content(pending)
        elif kind is c.Chunk:
            self._refuse_chunk(pending)
        elif kind is c.ChunkEnd:
            self._content = None
            self.state = "spoilt"
        elif kind is c.Connect or (kind is c.XClient and code != 501):
            self.state = "refused"
        elif self.state == "auth":
            self.state = "greeted"
        if self._drain > 2 * self.limit + SLACK:  # as with DATA: too much to wait for its end
            self.close()
        return answers

    def _answers(self, pending: c.Command, reply: Reply) -> bytes:
        """The octets of a reply in LMTP: as many as there are recipients where the last of the content is answered
        (RFC 2033 §4.2, §4.3), be it by a refusal of the last BDAT; also a recipient named twice has two."""
        kind = type(pending)
        each, self.each = self.each, None
        if reply.positive and kind is c.Rcpt:
            self._recipients += 1
        elif reply.positive and kind in (c.Mail, c.Hello, c.Reset):
            self._recipients = 0
        elif self._recipients and (kind is c.ContentEnd or self._ends(pending, reply)):
            number, self._recipients = self._recipients, 0
            if each is not None and len(each) != number:
                raise ProtocolError(f"{len(each)} replies for {number} recipients")
            return b"".join(map(encode, each)) if each is not None else encode(reply) * number
        return encode(reply)

    def _ends(self, pending: c.Command, reply: Reply) -> bool:
        """Whether this is the refusal of a BDAT that is the last of its message."""
        if isinstance(pending, c.Chunk):
            return pending.last and not reply.positive
        # The state has moved on already: see _refuse_chunk.
        return isinstance(pending, c.Refused) and pending.verb == "BDAT" and self.state == "greeted"

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
        self._chunk = None
        self._drain = 0
        self._buffer = b""
        self._position = 0

    def _unfinished(self) -> c.Command | None:
        """No line is complete: see that it does not grow for ever."""
        size = self.buffered
        if self._overlong is None:
            # One octet more than there is will come at least, as the last one may be the CR of its end.
            self._overlong = too_long(self, self._buffer[self._position : self._position + 9], size + 1)
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
            self.pending = c.ContentEnd(data, decoder.flaw, decoder.eight_bit, rest is None, decoder.plain)
            return self.pending
        return c.Content(data) if data else None

    def announced(self, argument: bytes, refusal: Reply | None) -> c.Command:
        """See :class:`~.lines.Standing`."""
        try:
            command = bdat(argument.decode("ascii").strip(" \t"))
        except (UnicodeDecodeError, c.CommandError):
            return c.Refused("BDAT", NO_CHUNK)
        size = 0 if self._content is None else self._content.size
        if refusal is None and size + command.size > 2 * self.limit + SLACK:
            refusal = too_large(self.limit)
        if refusal is None:
            return command
        if self.state in ("refused", "fresh", "greeted"):
            self._drain = command.size
        else:
            self._refuse_chunk(command)
        return c.Refused("BDAT", refusal)

    def _begin_chunk(self, command: c.Command) -> None:
        assert isinstance(command, c.Chunk)
        if self._content is None:
            self._content = BinaryDecoder(self.limit) if self.binary else ChunkDecoder(self.limit, self.replace)
        self._chunk = command
        self._drain = command.size
        self.state = "chunk"

    def _refuse_chunk(self, command: c.Command) -> None:
        """The rest of the message cannot be taken for one, as its middle or its beginning is missing."""
        assert isinstance(command, c.Chunk)
        self._content = None
        self._drain = command.size
        self.state = "greeted" if command.last else "spoilt"

    def _next_chunk(self, chunk: c.Chunk) -> c.Command | None:
        decoder, start = self._content, self._position
        assert isinstance(decoder, ChunkDecoder)
        data = self._buffer[start : start + self._drain]
        self._drain -= len(data)
        self._advance(len(data))
        if self._drain:
            text = decoder.take(data, False)
            return c.Content(text) if text else None
        text = decoder.take(data, chunk.last)
        self._chunk = None
        if chunk.last:
            self.pending = c.ContentEnd(text, decoder.flaw, decoder.eight_bit, False, decoder.plain)
        else:
            self.pending = c.ChunkEnd(text, decoder.flaw, chunk.size)
        return self.pending

    def _skip(self) -> bool:
        """Drop octets of a chunk that was refused; whether something is left behind them."""
        size = min(self._drain, self.buffered)
        self._drain -= size
        self._advance(size)
        return bool(self._buffer)

    def _advance(self, size: int) -> None:
        """Octets have been used."""
        self._position += size
        if self._position == len(self._buffer):
            self._buffer = b""
            self._position = 0

    def _end_content(self, end: c.Command) -> None:
        self._content = None
        self.state = "greeted"
        if isinstance(end, c.ContentEnd) and end.lost:
            self.close()


@lru_cache(256)
def encode(reply: Reply) -> bytes:
    """The reply's octets; those of replies that are sent again and again are made once."""
    return reply.encode()


def constant(code: int, enhanced: str, text: str) -> Reply:
    """A reply of fixed words that is sent often."""
    reply = Reply(code, enhanced, text)
    encode(reply)
    return reply
