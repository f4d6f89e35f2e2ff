"""Makes sessions for one listener."""

from __future__ import annotations

import os
from collections.abc import Callable

from twisted.cred.portal import Portal
from twisted.internet.interfaces import IAddress, IProtocolFactory, IReactorTime
from twisted.mail.smtp import SMTPFactory
from twisted.protocols.tls import TLSMemoryBIOFactory

from ..config.settings import Listener, Settings
from ..directory.auth import ScramKeys
from ..directory.interfaces import IDirectory
from ..directory.oauth import TokenChecker
from ..mail.events import EventSink
from ..mail.ids import IdMaker
from ..mail.status import Reply
from ..policy.interfaces import UNIX, IAuthThrottle
from ..policy.network import Networks, parse_ip
from ..policy.pipeline import Pipeline
from ..policy.waiting import Waits
from .gate import Gate
from .proxied import ProxyFactory
from .reception import Reception
from .server import MtaServer
from .sessions import Sessions
from .tls import ServerTls

LOOPBACK = ("127.0.0.0/8", "::1/128")
"""Whom LMTP serves unless its listener names others."""


class MtaServerFactory(SMTPFactory):
    """The factory of one listener.

    ``name`` is its table in ``[listen]``.  ``pipeline``, ``reception``, ``sessions``, ``throttle`` and ``tls`` may be
    shared with other listeners; ``tls`` of None offers no STARTTLS, ``portal`` of None no AUTH, ``keys`` of None no
    SCRAM, ``tokens`` of None neither OAUTHBEARER nor XOAUTH2.  ``clock`` gives seconds since the epoch.  Listen with
    what :meth:`listening` gives, which has TLS around it where that is implicit.
    """

    protocol: type[MtaServer] = MtaServer
    noisy = False

    def __init__(
        self,
        name: str,
        listener: Listener,
        settings: Settings,
        *,
        reception: Reception,
        directory: IDirectory,
        pipeline: Pipeline,
        throttle: IAuthThrottle,
        sessions: Sessions,
        events: EventSink,
        clock: IReactorTime,
        portal: Portal | None = None,
        tls: ServerTls | None = None,
        keys: ScramKeys | None = None,
        tokens: TokenChecker | None = None,
    ) -> None:
        super().__init__(portal)  # type: ignore[no-untyped-call]
        if listener.tls == "implicit" and tls is None:
            raise ValueError(f'listen.{name}.tls: "implicit" needs a certificate')
        self.name = name
        self.listener = listener
        self.lmtp = listener.role == "lmtp"
        self._clients = Networks(listener.clients or (LOOPBACK if self.lmtp else ()))
        self._believed = Networks(listener.xclient)
        self._chooses = self.lmtp or bool(listener.clients)
        self.reception = reception
        self.directory = directory
        self.throttle = throttle
        self.sessions = sessions
        self.events = events
        self.clock = clock
        self.tls = tls
        self.creator = tls.opportunistic if tls is not None and listener.role == "mx" else tls
        self.keys = keys
        self.tokens = tokens
        self.pauses = Waits(clock)
        self.new_session_id: Callable[[], str] = IdMaker(int.from_bytes(os.urandom(4), "big"), clock.seconds)
        self.settings = settings
        self.gate = Gate(self)
        self.configure(settings, pipeline)

    def configure(self, settings: Settings, pipeline: Pipeline) -> None:
        """Take over changed settings and stages.  Sessions that are open use both from their next command on."""
        self.settings = settings
        self.pipeline = pipeline
        self.sessions.configure(settings.smtp)
        self.gate.configure()
        self.friends = Networks((*settings.relay.networks, *settings.defence.exempt))
        self._told = Networks(settings.smtp.verify_networks)
        self._tells = bool(settings.smtp.verify_networks)
        self.domain = settings.hostname.encode("ascii")
        words = "LMTP" if self.lmtp else settings.smtp.banner or "ESMTP"
        self.greeting = Reply(220, "", f"{settings.hostname} {words}")
        if self.listener.role == "nomail":
            self.greeting = Reply(521, "5.3.2", f"{settings.hostname} takes no mail here (RFC 7504)")
        self.hello_replies: dict[tuple[bool, str, str, bool, bool, bool, int], Reply] = {}

    def serves(self, address: str) -> bool:
        """Whether a client with this address is served at all (``listen.NAME.clients``)."""
        return not self._chooses or address == UNIX or parse_ip(address) in self._clients

    def believes(self, address: str) -> bool:
        """Whether a host with this address may say in XCLIENT for whom it speaks."""
        return bool(self.listener.xclient) and parse_ip(address) in self._believed

    def tells(self, address: str) -> bool:
        """Whether a client with this address hears who is here (``smtp.verify_networks``)."""
        return self._tells and parse_ip(address) in self._told

    def has_room(self, address: str, descriptor: int) -> bool:
        """Whether a session from ``address`` may begin.  For a customer the newest stranger has to go if need be."""
        if not self.sessions.crowded(descriptor):
            return True
        customer = self.listener.role in ("submission", "lmtp") or parse_ip(address) in self.friends
        return customer and self.sessions.shed()

    def listening(self) -> IProtocolFactory:
        """What to listen with."""
        outer: IProtocolFactory = self
        if self.listener.tls == "implicit":
            assert self.creator is not None
            outer = TLSMemoryBIOFactory(self.creator, False, self, self.clock)
        return ProxyFactory(outer, self.listener.proxies, self.clock) if self.listener.proxies else outer

    def buildProtocol(self, addr: IAddress | None) -> MtaServer:  # type: ignore[override]
        """A session.  The stock factory would set attributes of each that it can as well ask the factory for."""
        return self.protocol(self)
