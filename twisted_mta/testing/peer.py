"""An SMTP or LMTP server in memory that obeys, or fails exactly as told: the other side of tests of the client.

:class:`Peer` is the server, a Twisted protocol that works over any transport; :class:`PeerFactory` makes them and keeps
what they took.  :class:`MemoryNetwork` is a reactor whose ``connectTCP`` and ``connectUNIX`` lead to such factories
through memory, on a clock that only tests move.  Deterministic, and bounded as any server is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet import protocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure as TwistedFailure

MAX_COMMAND = 4096
MAX_CONTENT = 64 << 20
_PATH = re.compile(rb"<([^>]*)>(.*)")


@attrs.frozen
class Mail:
    """One message that a peer took.  ``content`` is without dot-stuffing and final dot, CRLF as they came; by BDAT it
    is what came, octet for octet."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    parameters: str = ""
    secure: bool = False


@attrs.define(kw_only=True)
class Behaviour:
    """How a peer behaves.  As it is, it takes everything.

    ``replies`` answers a command with something else than what is usual; its keys are "greeting", "EHLO", "HELO",
    "LHLO", "STARTTLS", "MAIL", "RCPT", "RCPT:address", "DATA", "content", "content:address" (LMTP), "RSET", "QUIT", its
    values whole replies without the last CRLF.  A list of values is used up one by one, then all is usual again.
    ``disconnect``: the same keys, and "body" (in the middle of the content): the connection ends there, without an
    answer.  ``silent``: the same keys: nothing is answered.  ``inject`` is sent right after the 220 to STARTTLS.
    """

    name: str = "peer.example"
    extensions: Sequence[str] = ("PIPELINING", "SIZE 10240000", "8BITMIME", "ENHANCEDSTATUSCODES")
    lmtp: bool = False
    replies: Mapping[str, str | list[str]] = attrs.Factory(dict)
    disconnect: frozenset[str] | set[str] = frozenset()
    silent: frozenset[str] | set[str] = frozenset()
    inject: bytes = b""
    max_recipients: int = 1000
    tls: Any = None


class Peer(protocol.Protocol):
    """One session with a client.  ``commands`` has every command line as it came."""

    def __init__(self, behaviour: Behaviour, took: Callable[[Mail], None]) -> None:
        self.behaviour = behaviour
        self.commands: list[str] = []
        self._took = took
        self._buffer = b""
        self._in_content = False
        self._chunk: tuple[int, bool] | None = None
        self._chunks = b""
        self._secure = False
        self._gone = False
        self._reset()

    def _reset(self) -> None:
        self._sender: str | None = None
        self._parameters = ""
        self._chunks = b""
        self._recipients: list[str] = []

    def connectionMade(self) -> None:  # noqa: N802
        """Greet."""
        self._say("greeting", f"220 {self.behaviour.name} ESMTP")

    def connectionLost(self, reason: TwistedFailure = connectionDone) -> None:  # noqa: N802
        """The client is gone."""
        self._gone = True

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        """Commands and content, in whatever pieces."""
        self._buffer += data
        while not self._gone and self._next():
            pass

    def _next(self) -> bool:
        if self._chunk is not None:
            return self._take_chunk(*self._chunk)
        return self._content() if self._in_content else self._command()

    def _command(self) -> bool:
        line, found, rest = self._buffer.partition(b"\r\n")
        if not found:
            if len(line) > MAX_COMMAND:
                self._leave()
            return False
        self._buffer = rest
        text = line.decode("utf-8", "backslashreplace")
        self.commands.append(text)
        verb = text[:4].upper() if text[:8].upper() != "STARTTLS" else "STARTTLS"
        handler = self._HANDLERS.get(verb)
        if handler is None:
            self._say(verb, "500 5.5.1 unknown command")
        else:
            handler(self, line)
        return True

    def _do_hello(self, line: bytes) -> None:
        verb = line[:4].decode().upper()
        self._reset()
        lines = [self.behaviour.name] if verb == "HELO" else [self.behaviour.name, *self.behaviour.extensions]
        if self.behaviour.tls is not None and not self._secure and verb != "HELO":
            lines.append("STARTTLS")
        usual = "\r\n".join([f"250-{word}" for word in lines[:-1]] + [f"250 {lines[-1]}"])
        self._say(verb, usual)

    def _do_starttls(self, line: bytes) -> None:
        if self._say("STARTTLS", "220 2.0.0 go ahead") and self.behaviour.tls is not None:
            transport: Any = self.transport
            if self.behaviour.inject:
                transport.write(self.behaviour.inject)
            transport.startTLS(self.behaviour.tls)
            self._secure = True

    def _do_mail(self, line: bytes) -> None:
        match = _PATH.search(line)
        if self._sender is not None or match is None:
            self._say("MAIL", "503 5.5.1 nested MAIL" if match else "501 5.5.4 syntax")
        elif self._say("MAIL", "250 2.1.0 Ok"):
            self._sender = match[1].decode("utf-8", "backslashreplace")
            self._parameters = match[2].decode("utf-8", "backslashreplace").strip()

    def _do_rcpt(self, line: bytes) -> None:
        match = _PATH.search(line)
        if self._sender is None or match is None:
            self._say("RCPT", "503 5.5.1 need MAIL" if match else "501 5.5.4 syntax")
            return
        address = match[1].decode("utf-8", "backslashreplace")
        usual = "250 2.1.5 Ok"
        if len(self._recipients) >= self.behaviour.max_recipients:
            usual = "452 4.5.3 too many recipients"
        if self._say(f"RCPT:{address}", usual, "RCPT"):
            self._recipients.append(address)

    def _do_data(self, line: bytes) -> None:
        if not self._recipients:
            self._say("DATA", "554 5.5.1 no valid recipients")
        elif self._say("DATA", "354 go on"):
            self._in_content = True

    def _do_bdat(self, line: bytes) -> None:
        words = line.split()
        if not 2 <= len(words) <= 3 or not words[1].isdigit() or int(words[1]) > MAX_CONTENT:
            self._leave()
            return
        self._chunk = (int(words[1]), len(words) == 3 and words[2].upper() == b"LAST")

    def _take_chunk(self, size: int, last: bool) -> bool:
        """RFC 3030 §2: so many octets, whatever they are."""
        if "body" in self.behaviour.disconnect and self._buffer:
            self._leave()
            return False
        if len(self._buffer) < size:
            return False
        chunk, self._buffer, self._chunk = self._buffer[:size], self._buffer[size:], None
        if not self._recipients:
            self._say("BDAT", "554 5.5.1 no valid recipients")
        elif last:
            content, self._chunks = self._chunks + chunk, b""
            self._end_of_content(content)
        elif self._say("BDAT", f"250 2.0.0 {size} octets"):
            self._chunks += chunk
        return True

    def _content(self) -> bool:
        if "body" in self.behaviour.disconnect and self._buffer:
            self._leave()
            return False
        if self._buffer.startswith(b".\r\n"):
            content, rest = b"", self._buffer[3:]
        else:
            content, found, rest = self._buffer.partition(b"\r\n.\r\n")
            if not found:
                if len(content) > MAX_CONTENT:
                    self._leave()
                return False
            content += b"\r\n"
        self._buffer = rest
        self._in_content = False
        content = content.replace(b"\r\n..", b"\r\n.")
        if content.startswith(b".."):
            content = content[1:]
        self._end_of_content(content)
        return True

    def _end_of_content(self, content: bytes) -> None:
        sender, recipients, parameters = self._sender or "", tuple(self._recipients), self._parameters
        self._reset()
        usual = "250 2.0.0 Ok: queued"
        if self.behaviour.lmtp:
            taken = tuple(one for one in recipients if self._say(f"content:{one}", usual, "content"))
        else:
            taken = recipients if self._say("content", usual) else ()
        if taken:
            self._took(Mail(sender, taken, content, parameters, self._secure))

    def _do_rset(self, line: bytes) -> None:
        self._reset()
        self._say("RSET", "250 2.0.0 Ok")

    def _do_noop(self, line: bytes) -> None:
        self._say("NOOP", "250 2.0.0 Ok")

    def _do_quit(self, line: bytes) -> None:
        self._say("QUIT", "221 2.0.0 bye")
        self._leave()

    _HANDLERS: Mapping[str, Callable[[Peer, bytes], None]] = {
        "EHLO": _do_hello,
        "HELO": _do_hello,
        "LHLO": _do_hello,
        "STARTTLS": _do_starttls,
        "MAIL": _do_mail,
        "RCPT": _do_rcpt,
        "DATA": _do_data,
        "BDAT": _do_bdat,
        "RSET": _do_rset,
        "NOOP": _do_noop,
        "QUIT": _do_quit,
    }

    def _say(self, key: str, usual: str, general: str = "") -> bool:
        """Answer a command; whether positively."""
        behaviour = self.behaviour
        keys = [key, general] if general else [key]
        if self._gone or any(one in behaviour.silent for one in keys):
            return False
        if any(one in behaviour.disconnect for one in keys):
            self._leave()
            return False
        reply = usual
        for one in keys:
            told = behaviour.replies.get(one)
            if isinstance(told, list):
                told = told.pop(0) if told else None
            if told is not None:
                reply = told
                break
        transport: Any = self.transport
        transport.write(reply.encode() + b"\r\n")
        if reply.startswith("421"):
            self._leave()
        return reply[0] in "23"

    def _leave(self) -> None:
        self._gone = True
        transport: Any = self.transport
        transport.loseConnection()


class PeerFactory(protocol.ServerFactory):
    """Makes peers that behave alike.  ``mails`` is what they took, ``peers`` every session there was."""

    noisy = False

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or Behaviour()
        self.mails: list[Mail] = []
        self.peers: list[Peer] = []

    def buildProtocol(self, addr: Any) -> Peer:  # noqa: N802
        """One more session."""
        peer = Peer(self.behaviour, self.mails.append)
        peer.factory = self
        self.peers.append(peer)
        return peer

    @property
    def commands(self) -> list[str]:
        """Every command of every session, in the order of sessions."""
        return [command for peer in self.peers for command in peer.commands]
