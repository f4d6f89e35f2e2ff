"""The client's side of SMTP and LMTP as a state machine.  Sans-I/O: bytes in, events and bytes out.

Source: RFC 5321 §3, §4.2, §4.5.3.2; RFC 2920 (PIPELINING); RFC 3207 (STARTTLS); RFC 1870 (SIZE); RFC 6152 (8BITMIME);
RFC 3461 (DSN); RFC 6531 (SMTPUTF8); RFC 3030 (BINARYMIME); RFC 8689 (REQUIRETLS); RFC 2033 (LMTP).  One
:class:`ClientConnection` is one connection; it carries any number of transactions after another.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import ClassVar

from ..mail.status import Reply
from . import envelope, starttls
from .capabilities import NONE, Capabilities, parse_capabilities
from .exchange import (
    BLOCK_TIMEOUT,
    HANDSHAKE_TIMEOUT,
    STAGES,
    TIMEOUTS,
    Closed,
    Event,
    Finished,
    Outcome,
    Ready,
    SendContent,
    StartTls,
    State,
    Transfer,
    too_many_recipients,
)
from .replies import ReplyError, ReplyParser, shortened
from .starttls import NoTls, TlsPolicy


class ClientConnection:
    """One connection to a server.  ``hostname`` is our name in EHLO; ``lmtp``: speak LMTP.

    The shell gives what arrives to :meth:`receive`, sends what :meth:`take` has after each call, and does what the
    events say.  After :class:`Closed` nothing more comes.
    """

    __slots__ = (
        "_accepted",
        "_binary",
        "_confused",
        "_expected",
        "_lmtp",
        "_mail_ok",
        "_name",
        "_out",
        "_outcomes",
        "_parser",
        "_policy",
        "_unsent",
        "capabilities",
        "secure",
        "state",
    )

    def __init__(self, hostname: str, *, tls: TlsPolicy = "none", lmtp: bool = False) -> None:
        self._name = hostname.encode("ascii")
        if re.search(rb"[^!-~]", self._name) or not self._name:
            raise ValueError(f"not a host name: {hostname!r}")
        self._policy = tls
        self._lmtp = lmtp
        self._parser = ReplyParser()
        self._out: list[bytes] = []
        self._expected: deque[tuple[str, int]] = deque([("greeting", 0)])
        self._outcomes: list[Outcome | None] = []
        self._accepted: list[int] = []
        self._unsent: deque[tuple[int, bytes]] = deque()
        self._mail_ok = False
        self._confused = False
        self._binary = False
        self.capabilities: Capabilities = NONE
        self.secure = False
        self.state = State.OPENING

    # What the shell calls

    def take(self) -> bytes:
        """What is to be sent now; b"" for nothing."""
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out.clear()
        return data

    @property
    def timeout(self) -> float | None:
        """Seconds that the server may take for what is awaited now; None while nothing is (idle)."""
        if self.state is State.CONTENT:
            return BLOCK_TIMEOUT
        if self.state is State.HANDSHAKE:
            return HANDSHAKE_TIMEOUT
        return TIMEOUTS[self._expected[0][0]] if self._expected else None

    @property
    def stage(self) -> str:
        """What is under way, in words for a reply of our own: "waiting for the greeting" …"""
        if self.state is State.CONTENT:
            return "sending the content"
        if self.state is State.HANDSHAKE:
            return "the TLS handshake"
        if not self._expected:
            return "idle"
        return f"waiting for {STAGES[self._expected[0][0]]}"

    def receive(self, data: bytes) -> list[Event]:
        """What the server's bytes mean.  Never raises for what a server says."""
        events: list[Event] = []
        if self.state is State.CLOSED:
            return events
        if self.state is State.HANDSHAKE:
            return self._broken(events, "sent clear text after it had agreed to STARTTLS")
        try:
            replies = self._parser.receive(data)
        except ReplyError as error:
            return self._broken(events, f"broke the protocol: {error}")
        for number, reply in enumerate(replies, 1):
            self._reply(reply, events)
            last = type(events[-1]) if events else None
            if last is StartTls and (number < len(replies) or self._parser.pending):
                # Somebody between us and the server may have added words in clear that would be taken for the
                # server's under TLS (CVE-2024-34083, RFC 3207 §6).
                events.clear()
                return self._broken(events, "sent clear text after it had agreed to STARTTLS")
            if last is Closed:
                break
        return events

    def secured(self) -> None:
        """The TLS handshake is done.  All that the server said before is forgotten (RFC 3207 §4.2)."""
        if self.state is not State.HANDSHAKE:
            raise RuntimeError("no TLS handshake was due")
        self.secure = True
        self.capabilities = NONE
        self._parser = ReplyParser()
        self._hello()

    def begin(self, transfer: Transfer) -> list[Event]:
        """Begin a transaction; the connection must be ready.  What the server's offers rule out is over at once."""
        if self.state is not State.READY:
            raise RuntimeError(f"a transaction cannot begin while the connection is {self.state.value}")
        self._outcomes = [None] * len(transfer.recipients)
        self._accepted = []
        self._mail_ok = self._confused = False
        self._binary = transfer.binary
        events: list[Event] = []
        offers = self.capabilities
        secured = self.secure and self._policy == "require"
        refusal = envelope.refusal(transfer, offers, secured=secured, lmtp=self._lmtp)
        if refusal is not None:
            self._decide(range(len(self._outcomes)), Outcome(refusal, False))
            self._finish(events)
            return events
        commands: list[tuple[int, bytes]] = []
        for index in range(len(transfer.recipients)):
            command = envelope.rcpt(transfer, index, offers)
            if isinstance(command, Reply):
                self._outcomes[index] = Outcome(command, False)
            else:
                commands.append((index, command))
        if not commands:
            self._finish(events)
            return events
        self.state = State.ENVELOPE
        beyond = (transfer.utf8 and offers.smtputf8) or not all(command.isascii() for _, command in commands)
        self._out.append(envelope.mail(transfer, offers, beyond))
        self._expected.append(("mail", 0))
        if offers.pipelining:
            # RFC 2920 §3.1: MAIL, RCPT and, as the last of the group, DATA in one go.
            for index, command in commands:
                self._out.append(command)
                self._expected.append(("rcpt", index))
            if not self._binary:
                self._out.append(b"DATA\r\n")
                self._expected.append(("data", 0))
            self._unsent.clear()
        else:
            self._unsent = deque(commands)
        return events

    def content_sent(self) -> None:
        """All of the content and the final dot have been handed to the transport."""
        if self.state is not State.CONTENT:
            raise RuntimeError("no content was due")
        self.state = State.RESULT
        if self._lmtp:  # RFC 2033 §4.2: one reply for each recipient that was accepted
            self._expected.extend(("dot", index) for index in self._accepted)
        else:
            self._expected.append(("dot", -1))

    def quit(self) -> None:
        """Say goodbye; :class:`Closed` follows.  Only while ready."""
        if self.state is not State.READY:
            raise RuntimeError("only an idle connection can quit")
        self._out.append(b"QUIT\r\n")
        self._expected.append(("quit", 0))
        self.state = State.QUITTING

    def connection_lost(self, reply: Reply) -> list[Event]:
        """The connection has ended or is given up; ``reply`` says why in our words."""
        events: list[Event] = []
        if self.state is not State.CLOSED:
            self._lost(Outcome(reply, False), events)
        return events

    # Replies

    def _reply(self, reply: Reply, events: list[Event]) -> None:
        if reply.code == 421 and self.state is not State.QUITTING:
            # RFC 5321 §3.8: may come in answer to anything, or unasked, before the server closes.
            self._lost(Outcome(shortened(reply), True), events)
        elif self._expected:
            step, index = self._expected.popleft()
            self._STEPS[step](self, reply, index, events)
        elif self.state is State.CONTENT and reply.code >= 400:
            # Refused before the end: what has been sent cannot be taken back, so the connection has to go.
            self._decide(self._accepted, Outcome(shortened(reply), True))
            self._lost(Outcome(shortened(reply), True), events)
        else:
            self._broken(events, f"answered what was not asked: {shortened(reply, 80)}")

    def _on_greeting(self, reply: Reply, index: int, events: list[Event]) -> None:
        if reply.code // 100 == 2:
            self._hello()
        else:  # RFC 5321 §3.1: 554 instead of 220, or 521 (RFC 7504), or some 4yz
            self._lost(Outcome(shortened(reply), True), events)

    def _hello(self) -> None:
        self.state = State.OPENING
        self._out.append((b"LHLO " if self._lmtp else b"EHLO ") + self._name + b"\r\n")
        self._expected.append(("ehlo", 0))

    def _on_ehlo(self, reply: Reply, index: int, events: list[Event]) -> None:
        if reply.code // 100 == 2:
            self.capabilities = parse_capabilities(reply)
            self._choose_tls(events)
        elif reply.permanent and not self._lmtp and not self.secure:
            # RFC 5321 §3.2: an old server that does not know EHLO.
            self._out.append(b"HELO " + self._name + b"\r\n")
            self._expected.append(("helo", 0))
        else:
            self._lost(Outcome(shortened(reply), True), events)

    def _on_helo(self, reply: Reply, index: int, events: list[Event]) -> None:
        if reply.code // 100 == 2:
            self._choose_tls(events)
        else:
            self._lost(Outcome(shortened(reply), True), events)

    def _choose_tls(self, events: list[Event]) -> None:
        choice = starttls.choose(self._policy, self.capabilities, secure=self.secure, lmtp=self._lmtp)
        if choice is True:
            self._out.append(b"STARTTLS\r\n")
            self._expected.append(("starttls", 0))
        else:
            self._go_on(choice or None, events)

    def _on_starttls(self, reply: Reply, index: int, events: list[Event]) -> None:
        if reply.code // 100 == 2:
            self.state = State.HANDSHAKE
            events.append(StartTls())
        else:
            self._go_on(starttls.refused(self._policy, reply), events)

    def _go_on(self, missing: NoTls | None, events: list[Event]) -> None:
        if missing is None:
            self._become_ready(events)
        else:
            self._lost(Outcome(missing.reply, False), events, missing.polite)

    def _on_mail(self, reply: Reply, index: int, events: list[Event]) -> None:
        kind = reply.code // 100
        if kind == 2:
            self._mail_ok = True
            if self._unsent:
                self._next_recipient()
        elif kind == 3:
            self._broken(events, f"answered MAIL with {reply.code}")
        else:
            self._decide(range(len(self._outcomes)), Outcome(shortened(reply), True))
            if not self._expected:
                self._finish(events)

    def _next_recipient(self) -> None:
        index, command = self._unsent.popleft()
        self._out.append(command)
        self._expected.append(("rcpt", index))

    def _on_rcpt(self, reply: Reply, index: int, events: list[Event]) -> None:
        kind = reply.code // 100
        if kind == 3:
            self._broken(events, f"answered RCPT with {reply.code}")
            return
        if kind == 2:
            self._accepted.append(index)
            self._confused = not self._mail_ok
        else:
            if reply.code == 552 and too_many_recipients(reply):
                reply = Reply(452, "4.5.3", reply.text)  # RFC 5321 §4.5.3.1.10
            self._decide((index,), Outcome(shortened(reply), True))
        if self._expected:  # pipelined: more answers are on their way
            return
        if self._unsent:
            self._next_recipient()
        elif not self._accepted:
            self._finish(events)
        elif not self._binary:
            self._out.append(b"DATA\r\n")
            self._expected.append(("data", 0))
        elif self._mail_ok:
            self.state = State.CONTENT
            events.append(SendContent(chunk=True))
        else:
            self._broken(events, "took recipients without a sender")

    def _on_data(self, reply: Reply, index: int, events: list[Event]) -> None:
        kind = reply.code // 100
        if kind == 2 or (kind == 3 and reply.code != 354):
            self._broken(events, f"answered DATA with {reply.code}")
        elif kind != 3:
            self._decide(self._accepted, Outcome(shortened(reply), True))
            self._finish(events)
        elif self._accepted and self._mail_ok:
            self.state = State.CONTENT
            events.append(SendContent())
        elif self._confused or self._lmtp:
            # It refused MAIL and took recipients all the same, or (LMTP) would answer an empty message with nothing.
            self._broken(events, "agreed to DATA without a sender or recipients")
        else:
            # RFC 2920 §3.1: nobody was accepted and DATA was all the same: send the dot alone.
            self._out.append(b".\r\n")
            self._expected.append(("empty", 0))

    def _on_empty(self, reply: Reply, index: int, events: list[Event]) -> None:
        self._mail_ok = False  # that was the end of the transaction, whatever the answer
        self._finish(events)

    def _on_dot(self, reply: Reply, index: int, events: list[Event]) -> None:
        if reply.code // 100 == 3:
            self._broken(events, f"answered the content with {reply.code}")
            return
        self._decide(self._accepted if index < 0 else (index,), Outcome(shortened(reply), True))
        if not self._expected:
            self._mail_ok = False
            self._finish(events)

    def _on_rset(self, reply: Reply, index: int, events: list[Event]) -> None:
        if reply.code // 100 == 2:
            self._become_ready(events)
        else:
            self._lost(Outcome(shortened(reply), True), events)

    def _on_quit(self, reply: Reply, index: int, events: list[Event]) -> None:
        self.state = State.CLOSED
        events.append(Closed(None))

    _STEPS: ClassVar[dict[str, Callable[[ClientConnection, Reply, int, list[Event]], None]]] = {
        "greeting": _on_greeting,
        "ehlo": _on_ehlo,
        "helo": _on_helo,
        "starttls": _on_starttls,
        "mail": _on_mail,
        "rcpt": _on_rcpt,
        "data": _on_data,
        "empty": _on_empty,
        "dot": _on_dot,
        "rset": _on_rset,
        "quit": _on_quit,
    }

    # The transaction

    def _decide(self, indexes: range | list[int] | tuple[int, ...], outcome: Outcome) -> None:
        outcomes = self._outcomes
        for index in indexes:
            if outcomes[index] is None:
                outcomes[index] = outcome

    def _finish(self, events: list[Event]) -> None:
        """All recipients have their outcome."""
        events.append(Finished(tuple(o for o in self._outcomes if o is not None), dot_sent=self.state is State.RESULT))
        self._outcomes = []
        if self._mail_ok:  # the server is still in the transaction
            self._mail_ok = False
            self.state = State.RESETTING
            self._out.append(b"RSET\r\n")
            self._expected.append(("rset", 0))
        else:
            self._become_ready(events)

    def _become_ready(self, events: list[Event]) -> None:
        self.state = State.READY
        events.append(Ready())

    def _broken(self, events: list[Event], what: str) -> list[Event]:
        self._lost(Outcome(Reply(451, "4.5.0", f"The server {what}"), False), events)
        return events

    def _lost(self, outcome: Outcome, events: list[Event], polite: bool = False) -> None:
        dot_sent = self.state is State.RESULT
        self.state = State.CLOSED
        self._expected.clear()
        self._out.clear()
        if self._outcomes:
            self._decide(range(len(self._outcomes)), outcome)
            outcomes = tuple(o for o in self._outcomes if o is not None)
            self._outcomes = []
            events.append(Finished(outcomes, lost=True, dot_sent=dot_sent))
        events.append(Closed(outcome, polite))
