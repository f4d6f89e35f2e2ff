"""The receiving SMTP protocol: Twisted's ESMTP server over the sans-I/O core of :mod:`twisted_mta.wire.server`.

Source: RFC 5321, RFC 1870, RFC 2034, RFC 2920, RFC 3030, RFC 3207, RFC 3461, RFC 4954, RFC 6152, RFC 6409, RFC 6531,
RFC 9422, RFC 2033.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    IPushProducer,
)
from twisted.logger import Logger
from twisted.mail.smtp import ESMTP
from twisted.python.failure import Failure
from zope.interface import implementer

from ..mail.status import MailError, Reply
from ..policy.interfaces import Peer, Transaction
from ..queue.interfaces import QuotaExceeded
from ..runtime.coroutines import run
from ..wire import commands as c
from ..wire import sasl
from ..wire.server import ServerConnection, constant
from . import authentication, greeting, lingering, offers, telling, transaction
from .commands import HANDLERS
from .reception import Inbound
from .tls import HANDSHAKE, tls_facts

if TYPE_CHECKING:
    from .factory import MtaServerFactory

BUFFER = 1 << 16
"""Octets received while a command is pending above which nothing more is read."""
OUTPUT = 1 << 14
"""Octets of replies that are gathered before they are written."""
GOODBYE = 10.0
"""Seconds that a client has to take the last reply before the connection is cut."""
FREE_ERRORS = 10
"""Refused commands of a stranger before it has to wait after each."""
PROGRESS = 100
"""Octets of content a second, over each ``smtp.timeout``, below which a client is cut off."""

TROUBLE = constant(451, "4.3.0", "Local trouble: please try again later")
NO_MEMORY = constant(452, "4.3.1", "There is not enough memory for this now; please try again later")
NO_MEMORY_LEFT = constant(421, "4.3.1", "There is not enough memory for this session now; please try again later")
TIMEOUT = constant(421, "4.4.2", "Waited too long; closing")
TOO_MANY_ERRORS = constant(421, "4.7.0", "Too many refused commands; closing")
TOO_MANY_COMMANDS = constant(421, "4.7.0", "Too many commands in one session; connect again")

_FINISHING = frozenset((c.Rcpt, c.Data, c.Chunk, c.ChunkEnd, c.ContentEnd, c.Quit))
"""What a client still says that finishes its transaction, and leaves."""

_log = Logger()


@implementer(IHalfCloseableProtocol, IHandshakeListener, IPushProducer)
class MtaServer(ESMTP):
    """One session.

    The stock engine (``lineReceived``, ``state_*``, ``do_*``, ``ext_*``, ``validate*``) is never entered: it ends lines
    at a bare LF, which is SMTP smuggling; runs pipelined commands before earlier ones are answered; keeps what came in
    clear before STARTTLS; ignores MAIL's parameters; and finds commands by ``getattr``.  Here the core finds the
    commands, one at a time, and a table in :mod:`.commands` says what each does.

    As a producer it is paused by its transport while the client does not read its replies.
    """

    # What the stock __init__ would set for its engine, once for all sessions.
    challengers: dict[bytes, Any] = {}
    factory: MtaServerFactory
    transport: Any
    lingering = 0
    """Octets that are still read away after the last reply; 0: it is not waited for the client's end."""
    _unheard = False
    """Whether the client says more than is listened to, so that its last reply needs care to arrive."""

    def __init__(self, factory: MtaServerFactory) -> None:
        # ESMTP.__init__ is left out: it prepares the stock engine, and would cost each session a kilobyte.
        self.factory = factory
        self.wire = ServerConnection(factory.settings.smtp.message_bytes, lmtp=factory.lmtp)
        self.peer: Peer = None  # type: ignore[assignment]  # once connected
        self.transaction: Transaction | None = None
        self.inbound: Inbound | None = None
        self.exchange: sasl.Exchange | None = None
        self.deadline = 0.0
        self._out: bytes = b""
        self._busy = False  # a command waits for something
        self._turning = False
        self._throttled = False  # the client does not read
        self._reading = True
        self._hung_up = False  # the client sends no more, and may still hear
        self._received = 0
        self.since = 0.0
        self.reason = ""  # why the session ends, once that is known
        self.leave: Callable[[], object] | None = None  # gives the account back

    @property  # type: ignore[misc]  # the stock one can be set
    def host(self) -> bytes:
        """Our name.  The stock one is the machine's."""
        return self.factory.domain

    # -- the connection ----------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Greet, unless there are too many sessions or a policy refuses."""
        greeting.begin(self)

    def handshakeCompleted(self) -> None:
        """TLS is up."""
        handle = self.transport.getHandle()
        self.peer.tls = tls_facts(handle)
        if self.factory.tls is not None:
            self.peer.certificate = self.factory.tls.shown(handle)
        self.deadline = self.factory.clock.seconds() + self.factory.settings.smtp.timeout

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Forget what was under way; a message whose content is complete goes its way."""
        factory, peer = self.factory, self.peer
        if self.inbound is not None:
            self.inbound.abort()
            self.inbound = None
        if peer.secure and not peer.tls:
            self.reason = "tls"
            telling.tls_failed(self, reason)
        self.wire.close()
        self.transaction = None
        self.exchange = None
        self._out = b""
        self._end(self.reason or "lost")
        factory.sessions.remove(self)  # last: it may be what a stop waits for

    def _end(self, reason: str) -> None:
        """The client's session is over."""
        factory, peer = self.factory, self.peer
        for closed in factory.pipeline.closed:
            try:
                closed(peer)
            except Exception:  # of a plugin: what is below must be done all the same
                _log.failure("A policy stage failed at the end of {session}", session=peer.session)
        factory.pauses.end(peer)
        authentication.logout(self)
        telling.disconnected(self, reason)

    def begin_anew(self, peer: Peer) -> None:
        """The session is another client's from now on; the connection stays as it is."""
        self._end("xclient")
        self.peer = peer
        self.since = self.factory.clock.seconds()
        self.wire.auth = authentication.standing(self)

    def readConnectionLost(self) -> None:
        """The client has ended its side.  What it had sent is still served, and answered: a client may say QUIT in one
        breath with the end of a message and shut down for writing, as Exim does, and without an answer it would send
        the message again.  Nobody is waited for who has nothing under way."""
        self._hung_up = True
        if self.lingering:
            self.transport.loseConnection()
            return
        pending, wire = self.wire.pending, self.wire
        served = isinstance(pending, c.ContentEnd | c.ChunkEnd) or (wire.buffered and wire.state != "connect")
        if not served or not (self._busy or self._throttled):
            self._close()

    def writeConnectionLost(self) -> None:
        """We never end our side alone."""

    # -- bytes in, commands out --------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Give bytes to the core.  The stock one cuts lines at LF and runs each at once."""
        wire = self.wire
        if wire.state == "closed":
            lingering.heard(self, len(data))
            return
        try:
            self._received_data(data)
        except MemoryError:
            self.starved(len(data))

    def starved(self, octets: int) -> None:
        """There was no memory for so many octets that the client has sent."""
        if self.wire.state == "closed":
            lingering.heard(self, octets)
            return
        _log.error("There was no memory for what {session} said; it ends", session=self.peer.session)
        self._unheard = True
        if self._busy:  # what is under way is answered first: a client must not take a message for refused
            self._read(False)  # something of what was said is missing, so nothing behind it may be heard
            self.readConnectionLost()
        else:
            self._finish(NO_MEMORY_LEFT, "error")

    def _received_data(self, data: bytes) -> None:
        wire = self.wire
        wire.receive(data)
        if wire.state == "content" or wire.state == "chunk":
            self._received += len(data)
            smtp = self.factory.settings.smtp
            if self._received >= PROGRESS * smtp.timeout:
                self._received = 0
                self.deadline = self.factory.clock.seconds() + smtp.timeout
        if not self._busy and not self._throttled:
            self._turn()
        elif wire.buffered > BUFFER:
            self._read(False)

    def _turn(self) -> None:
        """Run commands until one has to wait, or there is none; then send the replies in one write (RFC 2920 §3.2)."""
        self._turning = True
        wire = self.wire
        while not self._busy and not self._throttled:
            event = wire.next_event()
            if event is None:
                break
            kind = type(event)
            if kind is not c.Content:
                self.peer.commands += 1
                if self.peer.commands > self.factory.settings.smtp.commands and self._too_many(kind):
                    self.reply(TOO_MANY_COMMANDS)
                    continue
            if kind is c.ContentEnd and event.lost:  # type: ignore[attr-defined]
                self._unheard = True
            HANDLERS[kind](self, event)
            if len(self._out) > OUTPUT:
                self.flush()
        self._turning = False
        if self._out:
            self.flush()
        if wire.state == "closed" or (self._hung_up and not self._busy and not self._throttled):
            self._close()
        elif not self._busy:
            if not self._reading and not self._throttled:
                self._read(True)
            if self.factory.sessions.draining and wire.state in ("refused", "fresh", "greeted"):
                self._finish(transaction.STOPPING, "shutdown")

    def _too_many(self, kind: type[c.Command]) -> bool:
        """Whether a command beyond the last one ends the session: not where it brings a transaction to its end, whose
        client would have to send all of it again.  With as many commands again that ends, too."""
        if self.peer.commands > 2 * self.factory.settings.smtp.commands:
            return kind is not c.ContentEnd
        return kind not in _FINISHING

    def ask(self, coroutine: Coroutine[Any, Any, Reply]) -> None:
        """Answer the pending command with what the coroutine returns, now or later."""
        self._busy = True
        run(coroutine, self.answered, self._failed)

    def wait(self, waiting: Deferred[None]) -> None:
        """Do nothing until the Deferred fires, which never fails; no command is pending."""
        self._busy = True
        waiting.addCallback(self._waited)

    def _waited(self, _: None) -> None:
        self._busy = False
        if self.wire.state != "closed":
            self._turn()

    def answered(self, reply: Reply, limit: str = "") -> None:
        """Give the reply of what the pending command has waited for; ``limit``: the quota that refused it."""
        self._busy = False
        pending = self.wire.pending
        if pending is None:  # the session has ended meanwhile
            return
        if self.wire.each is not None:
            telling.rejected_each(self, self.wire.each)
        elif reply.code >= 400:
            telling.rejected(self, pending, reply, limit)
        if type(pending) is c.ContentEnd:
            self.transaction = None
        self.reply(reply)
        if not self._turning:
            self._turn()

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, MailError):
            self.answered(error.reply, error.limit if isinstance(error, QuotaExceeded) else "")
        elif isinstance(error, MemoryError):  # no traceback: that would want more of it
            _log.error("There was no memory for a command of {session}", session=self.peer.session)
            self.answered(NO_MEMORY)
        else:
            _log.failure("A command of {session} failed", Failure(error), session=self.peer.session)  # type: ignore[no-untyped-call]
            self.answered(TROUBLE)

    def reply(self, reply: Reply) -> None:
        """Answer the pending command, counting what was refused."""
        peer, smtp = self.peer, self.factory.settings.smtp
        if reply.code >= 400:
            peer.errors += 1
            if reply.code != 421 and peer.errors > smtp.errors:
                reply = TOO_MANY_ERRORS
        self._out += self.wire.answer(reply)
        if not peer.secure or peer.tls:  # else the greeting waits for the handshake, whose time is running
            self.deadline = self.factory.clock.seconds() + smtp.timeout
        if reply.code >= 400 and peer.errors > FREE_ERRORS and peer.stranger and peer.account is None:
            self._tarpit()
        if self.wire.state in ("refused", "closed") and not self.reason:
            self.reason = "refused"

    def _tarpit(self) -> None:
        """Take no more commands for a while, which doubles with each error of a stranger."""
        seconds = min(2.0 ** (self.peer.errors - FREE_ERRORS - 1), self.factory.settings.defence.tarpit)
        if seconds > 0 and self.wire.state != "closed":
            self.wait(self.factory.pauses.wait(self.peer, seconds))

    # -- bytes out ---------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send the replies that were gathered."""
        out, self._out = self._out, b""
        self.transport.write(out)

    def _read(self, reading: bool) -> None:
        if reading != self._reading and not self._hung_up:
            self._reading = reading
            if reading:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    def pauseProducing(self) -> None:
        """The client does not read its replies: make no more, and take no more commands.

        Before the handshake is over it is TLS that pauses us, with the greeting in its hands: it has to read on.
        """
        self._throttled = True
        if not self.peer.secure or self.peer.tls:
            self._read(False)

    def resumeProducing(self) -> None:
        """The client has read its replies."""
        self._throttled = False
        if not self._busy and self.wire.state != "closed":
            self._turn()

    def stopProducing(self) -> None:
        """The connection is lost; :meth:`connectionLost` follows."""

    def _close(self) -> None:
        """Close once what was said is sent."""
        self.wire.close()
        self.deadline = self.factory.clock.seconds() + GOODBYE
        self.transport.unregisterProducer()  # else the transport would wait for more from us
        if self._unheard:
            self._unheard = False  # the client's own end is the end
            lingering.begin(self)
        else:
            self.transport.loseConnection()

    def _finish(self, reply: Reply, reason: str) -> None:
        """Say a last word that no command has asked for (RFC 5321 §3.8), and close."""
        self.reason = self.reason or reason
        self._out += reply.encode()
        self.flush()
        self._close()

    # -- asked by Sessions -------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """The client was silent, or too slow, for too long.  Never while it waits for us."""
        if self._busy:
            self.deadline = self.factory.clock.seconds() + self.factory.settings.smtp.timeout
        elif self.wire.state == "closed":
            self.drop()
        else:
            self._finish(TIMEOUT, "timeout")

    timeoutConnection = expire  # the stock timer is not used

    def drain(self) -> None:
        """Say goodbye, unless a message is under way: then :meth:`_turn` does when it is through."""
        if not self._busy and self.wire.state in ("refused", "fresh", "greeted", "auth"):
            self._finish(transaction.STOPPING, "shutdown")

    @property
    def stranger(self) -> bool:
        """See :class:`~.sessions.Session`."""
        return self.peer.stranger and self.peer.account is None and self.wire.state != "closed"

    @property
    def silent_since(self) -> float:
        """See :class:`~.sessions.Session`."""
        shaking = self.peer.secure and not self.peer.tls
        return self.deadline - (HANDSHAKE if shaking else self.factory.settings.smtp.timeout)

    def shed(self) -> bool:
        """See :class:`~.sessions.Session`."""
        if not self.stranger or self.peer.role != "mx" or self.inbound is not None:
            return False
        self._finish(greeting.TOO_BUSY, "overload")
        return True

    def drop(self) -> None:
        """Cut the connection."""
        self.reason = self.reason or "shutdown"
        self.transport.abortConnection()

    # -- commands ----------------------------------------------------------------------------------------------------

    def extensions(self) -> dict[bytes, list[bytes] | None]:
        """What EHLO offers.  The stock server has AUTH and STARTTLS only."""
        return offers.extensions(self)
