"""An SMTP client of a server in memory: it says what a test wants, and hears every reply."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from ..mail.status import Reply
from ..smtp.tls import ClientTls, client_context, tls_facts
from ..wire.replies import ReplyParser
from ..wire.stuffing import stuff

MESSAGE = b"Subject: test\r\n\r\nHello.\r\n"
"""What is sent where a test does not care."""


class Refused(AssertionError):
    """The server did not take a message: ``command`` is the line it refused, ``reply`` what it said."""

    def __init__(self, command: str, reply: Reply) -> None:
        super().__init__(f"{command} was refused: {reply}")
        self.command = command
        self.reply = reply


class MemoryClient(Protocol):
    """One session.  ``flush`` has the network carry what was written.

    ``replies`` is everything that was heard, the greeting first; ``closed`` is whether the connection is over.
    """

    def __init__(self, flush: Callable[[], None], hostname: str = "client.example", lmtp: bool = False) -> None:
        self.hostname = hostname
        self.lmtp = lmtp
        self.replies: list[Reply] = []
        self.extensions: dict[str, str] = {}
        self.closed = False
        self._flush = flush
        self._parser = ReplyParser()
        self._greeted = False
        self._authenticated = ""

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        """Hear replies."""
        self.replies += self._parser.receive(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        """The connection is over."""
        self.closed = True

    # Bytes

    def send_raw(self, data: bytes) -> list[Reply]:
        """Send bytes as they are; the replies that this brings at once."""
        heard = len(self.replies)
        transport: Any = self.transport
        transport.write(data)
        self._flush()
        return self.replies[heard:]

    def say(self, *lines: str | bytes) -> list[Reply]:
        """Send lines, all in one write; the replies that they bring at once."""
        return self.send_raw(b"".join(_octets(line) + b"\r\n" for line in lines))

    def ask(self, line: str | bytes) -> Reply:
        """Send a line; its one reply.  Raises AssertionError when there is none, or there are several."""
        replies = self.say(line)
        if len(replies) != 1:
            raise AssertionError(f"{line!r} brought {len(replies)} replies: {'; '.join(map(str, replies)) or 'none'}")
        return replies[0]

    def drop(self) -> None:
        """Cut the connection."""
        transport: Any = self.transport
        transport.abortConnection()
        self._flush()

    # Commands

    def ehlo(self) -> Reply:
        """EHLO, or LHLO; what the server offers is in ``extensions``, names in upper case with their words."""
        reply = self.ask(f"{'LHLO' if self.lmtp else 'EHLO'} {self.hostname}")
        self._greeted = reply.positive
        lines = reply.text.split("\n")[1:] if reply.positive else ()
        self.extensions = {name.upper(): words for name, _, words in (line.partition(" ") for line in lines)}
        return reply

    @property
    def secure(self) -> str:
        """The version and cipher of TLS; "" while there is none."""
        transport: Any = self.transport
        has_tls: bool = ISSLTransport.providedBy(self.transport)
        return tls_facts(transport.getHandle()) if has_tls else ""

    def starttls(self) -> Reply:
        """STARTTLS and the handshake, in earnest; what was offered before is forgotten (RFC 3207 §4.2)."""
        reply = self.ask("STARTTLS")
        if reply.positive:
            self.begin_tls()
            self._greeted, self.extensions = False, {}
        return reply

    def begin_tls(self) -> None:
        """The client's side of a handshake.  Raises AssertionError if it fails."""
        transport: Any = self.transport
        transport.startTLS(ClientTls(client_context()))
        self._flush()
        if self.closed:
            raise AssertionError("the TLS handshake failed")

    def xclient(self, claims: str) -> Reply:
        """XCLIENT with these attributes, after which the session begins anew."""
        reply = self.ask(f"XCLIENT {claims}")
        self._greeted, self.extensions, self._authenticated = False, {}, ""
        return reply

    def login(self, user: str, password: str) -> Reply:
        """AUTH PLAIN, after EHLO and STARTTLS where they are still to be said.

        The reply; one to a failed attempt may come only after a while on the clock: None of it yet is an
        AssertionError.
        """
        self._prepare(secure=True)
        words = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
        reply = self.ask(f"AUTH PLAIN {words}")
        if reply.positive:
            self._authenticated = user
        return reply

    def mail(
        self,
        sender: str,
        recipients: str | Sequence[str],
        content: str | bytes = MESSAGE,
        auth: tuple[str, str] | None = None,
        params: str = "",
    ) -> str:
        """Send a message; the id that the server gave it.  Raises :class:`Refused` at the first refusal, of one
        recipient too, and resets the transaction.  By LMTP the message has to be taken for all of them:
        :meth:`deliver` is for others.

        ``auth`` is a user and a password to log in with before, where that has not been done.  ``params`` are MAIL's,
        such as "SIZE=100 BY=60;R" (not for LMTP).  LF in ``content`` goes out as CRLF.
        """
        everybody = [recipients] if isinstance(recipients, str) else recipients
        if self.lmtp:
            replies = self.deliver(sender, everybody, content)
            for recipient, reply in zip(everybody, replies, strict=True):
                self._must(f"the content for {recipient}", reply)
            return replies[0].text.rpartition(" ")[2]
        self._prepare(secure=auth is not None)
        if auth is not None and self._authenticated != auth[0]:
            self._must(f"AUTH PLAIN of {auth[0]}", self.login(*auth))
        mail = f"MAIL FROM:<{sender}> {params}".rstrip()
        for command in (mail, *(f"RCPT TO:<{recipient}>" for recipient in everybody), "DATA"):
            self._must(command, self.ask(command))
        replies = self.send_raw(stuff(_octets(content)))
        if len(replies) != 1:
            raise AssertionError(f"the content brought {len(replies)} replies, the session is closed: {self.closed}")
        return self._must("the content", replies[0]).text.rpartition(" ")[2]

    def deliver(self, sender: str, recipients: Sequence[str], content: str | bytes = MESSAGE) -> list[Reply]:
        """Send a message by LMTP (RFC 2033); what became of it for each recipient, be it at RCPT or at the end.

        Raises :class:`Refused` when the sender is, or nobody is left.
        """
        self._prepare(secure=False)
        self._must("MAIL", self.ask(f"MAIL FROM:<{sender}>"))
        outcome = [self.ask(f"RCPT TO:<{recipient}>") for recipient in recipients]
        self._must("DATA", self.ask("DATA"))
        ends = iter(self.send_raw(stuff(_octets(content))))
        outcome = [next(ends) if reply.positive else reply for reply in outcome]
        if left := list(ends):
            raise AssertionError(f"there are {len(left)} replies too many: {'; '.join(map(str, left))}")
        return outcome

    def quit(self) -> Reply:
        """QUIT."""
        return self.ask("QUIT")

    def _prepare(self, secure: bool) -> None:
        if not self._greeted:
            self._must("EHLO", self.ehlo())
        if secure and not self.secure and "STARTTLS" in self.extensions:
            self._must("STARTTLS", self.starttls())
            self._must("EHLO", self.ehlo())

    def _must(self, command: str, reply: Reply) -> Reply:
        if not reply.positive:
            if not self.closed and self._greeted:
                self.say("RSET")
            raise Refused(command, reply)
        return reply


def _octets(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
