"""The SMTP and LMTP client: Twisted's :class:`~twisted.mail.smtp.ESMTPClient` around the state machine of ``wire``.

What was wrong in the stock class and is overridden here (Twisted 26.10):

- It takes clear text that follows the ``220`` to STARTTLS for the answer to EHLO under TLS, and capabilities with it.
- ``transformChunk`` stuffs the dots of each chunk by itself, so that a lone dot gets out.
- Lines end with LF; replies whose codes disagree, or that nobody asked for, are taken as they come.
- It is lock step, knows no SIZE, 8BITMIME or LMTP, has one result for a whole message, and one time-out for all waits.
- ``debug`` keeps a log of every line; ``__setattr__`` in Python makes each assignment ten times dearer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import error, interfaces
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.mail.smtp import ESMTPClient
from twisted.python.failure import Failure
from zope.interface import implementer

from ..mail.status import MailError, Reply
from ..wire.client import ClientConnection
from ..wire.exchange import Closed, Event, Finished, Outcome, Ready, SendContent, StartTls, State, Transfer
from ..wire.starttls import NO_REQUIRETLS, NO_TLS, NO_TLS_NOW
from ..wire.stuffing import DotStuffer, OneChunk, Plain, stuff
from .outgoing import Content, Outgoing
from .tls import VerifiedTls, tls_facts

NEVER = float("inf")
CLOSE_TIMEOUT = 10.0
"""Seconds that the last words may take to leave before the connection is cut."""


class SessionError(MailError):
    """No session could be had, or it ended before mail could be given.

    ``remote``: the reply's words are the server's.  ``tls``: it was the TLS handshake that failed.
    """

    def __init__(self, reply: Reply, remote: bool = False, tls: bool = False) -> None:
        super().__init__(reply)
        self.remote = remote
        self.tls = tls

    @property
    def unmet(self) -> bool:
        """Whether all that is wrong is that the message requires TLS (RFC 8689 §4.2.1)."""
        return not self.remote and self.reply.enhanced in (NO_TLS, NO_REQUIRETLS)


@implementer(interfaces.IHandshakeListener)
class MtaClient(ESMTPClient):
    """One session with a server, for any number of messages one after another.

    ``opened`` fires with the client once mail can be given, or fails with :class:`SessionError`.  ``closed`` is called
    once when the session is of no more use (set by who keeps idle sessions).  ``deadline`` (seconds of the clock) ends
    whatever is under way, but never the wait for the answer to a final dot: that would make duplicates
    (RFC 5321 §4.5.3.2.6).  ``place`` ("host[address]:port") and ``host`` are set by who connects; ``tls`` says which
    version and cipher are in use, "" in clear; ``messages`` counts what was given to ``send``.  ``trusted`` (set by who
    connects): mail that requires TLS may go here (RFC 8689 §4.2.1).
    """

    _log = Logger()
    debug = False
    transport: Any
    # The stock __setattr__ exists for a name deprecated in Twisted 13.0, at the price of every assignment.
    __setattr__ = object.__setattr__

    def __init__(
        self,
        connection: ClientConnection,
        clock: interfaces.IReactorTime,
        tls: interfaces.IOpenSSLClientConnectionCreator | None = None,
    ) -> None:
        super().__init__(None, tls, b"")  # type: ignore[no-untyped-call]
        self.opened: Deferred[MtaClient] = Deferred(lambda _: self.abort(Reply(451, "4.4.1", "The attempt was ended")))
        self.closed: Callable[[MtaClient], None] | None = None
        self._idle: float | None = None
        self.deadline = NEVER
        self.place = self.host = self.tls = ""
        self.messages = 0
        self.trusted = False
        self._connection = connection
        self._clock = clock
        self._timer: interfaces.IDelayedCall | None = None
        self._due = NEVER
        self._rings = NEVER  # when the timer does
        self._content: Content | None = None
        self._sending: Deferred[Finished] | None = None
        self._finished: Finished | None = None
        self._tls_failed = False
        self._gone = False
        self._outgoing: Outgoing | None = None

    # What agents call

    @property
    def ready(self) -> bool:
        """Whether a message can be given now."""
        return self._connection.state is State.READY and self._sending is None

    @property
    def eight_bit(self) -> bool:
        """Whether the server takes 8-bit content (RFC 6152)."""
        return self._connection.capabilities.eight_bit

    @property
    def binary(self) -> bool:
        """Whether the server takes any octets (RFC 3030 §3)."""
        offers = self._connection.capabilities
        return offers.binary and offers.chunking

    @property
    def recipients_max(self) -> int:
        """How many recipients the server takes in one transaction, 0 for any number (RFC 9422)."""
        return self._connection.capabilities.recipients

    @property
    def spent(self) -> bool:
        """Whether the server takes no more messages in this session (RFC 9422)."""
        return 0 < self._connection.capabilities.mails <= self.messages

    @property
    def dsn(self) -> bool:
        """Whether the server sees to the reports that a sender asks for (RFC 3461)."""
        return self._connection.capabilities.dsn

    @property
    def deliver_by(self) -> bool:
        """Whether the server sees to the time by which a sender wants its message delivered (RFC 2852)."""
        return self._connection.capabilities.deliver_by is not None

    def send(self, transfer: Transfer, content: Content) -> Deferred[Finished]:
        """Carry one message; only while ``ready``.  Fires when it is over and the session is ready again or lost.
        Never fails."""
        if not self.ready:
            raise RuntimeError("the session is not ready for a message")
        sending: Deferred[Finished] = Deferred()
        self._sending = sending
        self._content = content
        self.messages += 1
        self._act(self._connection.begin(transfer))
        return sending

    def keep(self, idle: float | None) -> None:
        """How long, in seconds, the session may be idle before it says QUIT; None: for ever."""
        self._idle = idle
        if idle is None and self._connection.state is State.READY:
            self._due = NEVER
        else:
            self._arm()

    def quit(self) -> None:
        """End the session: with QUIT when it is idle, at once otherwise."""
        if self.ready:
            self._connection.quit()
            self._act([])
        else:
            self.abort(Reply(451, "4.3.2", "The session was ended by us"))

    def abort(self, reply: Reply) -> None:
        """Cut the connection; what is under way ends with ``reply``."""
        self._act(self._connection.connection_lost(reply))
        self._cut()

    # What Twisted calls

    def connectionMade(self) -> None:
        """The greeting is awaited."""
        transport = self.transport
        if interfaces.ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        self._arm()

    def dataReceived(self, data: bytes) -> None:
        """The server's bytes, in whatever pieces: replaces LineReceiver's splitting at once and for all."""
        self._act(self._connection.receive(data))

    def handshakeCompleted(self) -> None:
        """TLS is up."""
        if self._connection.state is not State.HANDSHAKE:
            return
        handle = self.transport.getHandle()
        self.tls = tls_facts(handle)
        if isinstance(self.context, VerifiedTls):
            self.context.check_name(handle)
            if self.context.problem:
                self._tls_failed = True
                self.abort(_not_verified(self.context))
                return
            self.tls += " verified"
        self._tlsMode = True
        self._connection.secured()
        self._act([])

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone, by whomever."""
        self._gone = True
        outgoing, self._outgoing = self._outgoing, None
        if outgoing is not None:
            outgoing.stopProducing()
        if self._connection.state is State.HANDSHAKE:
            self._tls_failed = True
            reply = Reply(451, "4.7.5", f"The TLS handshake failed: {_tls_words(reason)}")
            if isinstance(self.context, VerifiedTls):
                reply = _not_verified(self.context) if self.context.problem else Reply(451, NO_TLS_NOW, reply.text)
        elif isinstance(reason.value, error.ConnectionDone):
            reply = Reply(451, "4.4.2", f"The server closed the connection while {self._connection.stage}")
        else:
            reply = Reply(451, "4.4.2", f"The connection was lost while {self._connection.stage}")
        self._act(self._connection.connection_lost(reply))
        self.setTimeout(None)

    def timeoutConnection(self) -> None:
        """What was awaited did not come in time."""
        connection = self._connection
        if connection.state is State.READY and self._sending is None:
            self.quit()
            return
        if connection.state is State.CLOSED:
            self._cut()
            return
        self._tls_failed = connection.state is State.HANDSHAKE
        if connection.state is not State.RESULT and self._clock.seconds() >= self.deadline:
            words = f"The attempt took too long in all; it ended while {connection.stage}"
        else:
            words = f"Timed out while {connection.stage}"
        self.abort(Reply(451, "4.7.5" if self._tls_failed else "4.4.2", words))

    # What to do

    def _act(self, events: list[Event]) -> None:
        data = self._connection.take()
        if data:
            self.transport.write(data)
        for event in events:
            kind = type(event)
            if kind is Finished:
                self._finished = event  # type: ignore[assignment]
            elif kind is Ready:
                self._became_ready()
            elif kind is SendContent:
                self._send_content(event.chunk)  # type: ignore[attr-defined]
            elif kind is StartTls:
                self.transport.startTLS(self.context)
            elif kind is Closed:
                self._end(event.outcome, event.polite)  # type: ignore[attr-defined]
        self._arm()

    def _became_ready(self) -> None:
        if self._connection.state is not State.READY:
            return  # it is over again: what follows says so, and a session that never was of use must not count as one
        opened = self.opened
        if not opened.called:
            opened.callback(self)
        self._report()

    def _report(self) -> None:
        """Tell the sender, now that the connection is ready or closed, what became of the message."""
        sending, finished = self._sending, self._finished
        if sending is not None and finished is not None:
            self._sending = self._finished = self._content = None
            sending.callback(finished)

    def _end(self, outcome: Outcome | None, polite: bool) -> None:
        if not self._gone:
            if outcome is None:
                self.transport.loseConnection()
            elif (outcome.remote or polite) and self._sending is None:
                self.transport.write(b"QUIT\r\n")  # RFC 5321 §4.1.1.10, without waiting for an answer
                self.transport.loseConnection()
            else:
                self._cut()
        closed, self.closed = self.closed, None
        if closed is not None:
            closed(self)
        if not self.opened.called:
            reply, remote = (outcome.reply, outcome.remote) if outcome else (Reply(451, "4.3.2", "Ended"), False)
            self.opened.errback(SessionError(reply, remote, self._tls_failed))
        self._report()

    def _cut(self) -> None:
        if not self._gone and self.transport is not None:
            self.transport.abortConnection()

    # Content

    def _send_content(self, chunk: bool) -> None:
        if self._connection.state is not State.CONTENT:
            return  # refused, or lost, by what came right behind the 354
        content = self._content
        assert content is not None
        if content.whole is not None:
            if chunk:
                self.transport.write(b"BDAT %d LAST\r\n%b" % (content.size, content.whole))
            else:
                self.transport.write(content.whole + b".\r\n" if content.plain else stuff(content.whole))
            self._connection.content_sent()
        else:
            encoder = OneChunk(content.size) if chunk else Plain() if content.plain else DotStuffer()
            self._outgoing = outgoing = Outgoing(
                self.transport,
                wanted=lambda: self._connection.state is State.CONTENT,
                complete=self._connection.content_sent,
                moved=self._arm,
            )
            Deferred.fromCoroutine(outgoing.send(content, encoder)).addErrback(self._unreadable)

    def _unreadable(self, failure: Failure) -> None:
        self._log.failure("The content of a message that is being sent cannot be read", failure)
        reply = failure.value.reply if isinstance(failure.value, MailError) else None
        if reply is None or not reply.temporary:
            reply = Reply(451, "4.3.0", "The content of the message could not be read")
        self.abort(reply)

    # Time

    def _arm(self) -> None:
        """Wait for what is awaited now, as long as it may take."""
        connection = self._connection
        if self._gone:
            self.setTimeout(None)
        elif connection.state is State.CLOSED:
            self._set_due(CLOSE_TIMEOUT)
        else:
            self._set_due(self._idle if connection.state is State.READY else connection.timeout)

    def _set_due(self, period: float | None) -> None:
        if period is None:
            self._due = NEVER
            return
        due = self._clock.seconds() + period
        if due > self.deadline and self._connection.state is not State.RESULT:
            due = self.deadline
        self._due = due
        # One timer for each session, moved only when it would be late: most waits end long before their time.
        if due < self._rings:
            self._set_timer(due)

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings = due
        self._timer = self._clock.callLater(max(0.0, due - self._clock.seconds()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._rings = NEVER
        if self._due == NEVER:
            return
        if self._clock.seconds() >= self._due:
            self._due = NEVER
            self.timeoutConnection()
        else:
            self._set_timer(self._due)

    def setTimeout(self, period: float | None) -> None:
        """Replaces TimeoutMixin's, which moves a timer for every line."""
        if period is not None:
            self._set_due(period)
            return
        self._due = self._rings = NEVER
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


def _not_verified(tls: VerifiedTls) -> Reply:
    return Reply(
        550, NO_TLS, f"The message requires TLS, and the certificate of {tls.host} is not valid: {tls.problem}"
    )


def _tls_words(reason: Failure) -> str:
    """OpenSSL's words for why, without its call stack."""
    errors = next(iter(getattr(reason.value, "args", ())), None)
    if isinstance(errors, list) and errors and isinstance(errors[-1], tuple):
        return str(errors[-1][-1])
    return "the server closed the connection"
