"""Opening sessions with hosts that take mail: where, with which TLS, and in clear where that is allowed and TLS breaks.

Source: RFC 7435 §3 (opportunistic TLS), RFC 8689 §4.2.1 (REQUIRETLS).
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred

from ..config.settings import Settings
from ..mail.events import EventSink, Service
from ..mail.status import Reply
from ..runtime.quick import connect
from ..smtp.client import MtaClient, SessionError
from ..smtp.client_factory import MtaClientFactory
from ..smtp.tls import ClientTls, TlsError, VerifiedTls, verifying_context
from ..wire.client import ClientConnection
from ..wire.starttls import NO_REQUIRETLS, TlsPolicy
from .mx import Target

CONNECT_TIMEOUT = 30.0
"""Seconds for a TCP connection, as Postfix has it."""

_UNPROVEN = (
    "The message requires TLS, and nothing proves that {host} takes mail for this domain: "
    "its MX is not protected by DNSSEC, as far as we can see"
)


class Opener:
    """Opens the sessions of one agent; ``lmtp``: they speak LMTP.  :meth:`configure` it first, :meth:`stop` it last.

    Whoever opens a session has it, and ends it.
    """

    def __init__(self, reactor: Any, events: EventSink, *, lmtp: bool = False) -> None:
        self._reactor = reactor
        self._events = events
        self._lmtp = lmtp
        self._opening: set[Deferred[MtaClient]] = set()
        self._stopping = False

    def configure(self, settings: Settings, context: SSL.Context | None) -> None:
        """Take over changed settings; ``context`` is for STARTTLS, None: it is not used where nobody requires it."""
        self._hostname = settings.relay.hostname or settings.hostname or socket.gethostname()
        self._context = context
        self._authorities = (settings.tls, settings.relay.ca)
        self._verifying: SSL.Context | None = None

    def stop(self) -> None:
        """Give up the sessions that are not open yet."""
        self._stopping = True
        for opening in list(self._opening):
            opening.cancel()

    async def open(self, target: Target, deadline: float, policy: TlsPolicy) -> MtaClient:
        """A session with one target, by ``deadline`` (of the reactor's clock).

        In clear, where the policy allows it, if TLS breaks (RFC 7435 §3).  Raises
        :class:`~twisted_mta.smtp.client.SessionError`.
        """
        if policy == "require":
            return await self._trusted(target, deadline)
        try:
            return await self._session(target, deadline, policy)
        except SessionError as error:
            if not error.tls or policy != "may" or self._stopping:
                raise
            self._events(Service(time=self._reactor.seconds(), what="tls-fallback", detail=f"{target}: {error}"))
            return await self._session(target, deadline, "none")

    async def _trusted(self, target: Target, deadline: float) -> MtaClient:
        """A session for mail that requires TLS (RFC 8689 §4.2.1).  A mailbox server on this machine needs none."""
        if not target.authentic:
            raise SessionError(Reply(550, NO_REQUIRETLS, _UNPROVEN.format(host=target.host)))
        here = self._lmtp and (target.path or ipaddress.ip_address(target.address).is_loopback)
        client = await self._session(target, deadline, "none" if here else "require")
        client.trusted = True
        return client

    def _tls(self, policy: TlsPolicy, host: str) -> ClientTls | None:
        if policy == "none":
            return None
        if policy == "require":
            if self._verifying is None:
                try:
                    self._verifying = verifying_context(*self._authorities)
                except TlsError as error:
                    raise SessionError(Reply(451, "4.3.5", f"relay.ca: {error}")) from None
            return VerifiedTls(self._verifying, host)
        return ClientTls(self._context, host) if self._context is not None else None

    async def _session(self, target: Target, deadline: float, policy: TlsPolicy) -> MtaClient:
        hostname, lmtp = self._hostname, self._lmtp
        tls = self._tls(policy, target.host)
        factory = MtaClientFactory(
            lambda: ClientConnection(hostname, tls=policy, lmtp=lmtp),
            self._reactor,
            str(target),
            target.host,
            tls,
            deadline,
        )
        opening = factory.opened
        self._opening.add(opening)
        try:
            if target.path:
                self._reactor.connectUNIX(target.path, factory, CONNECT_TIMEOUT)
            else:
                connect(self._reactor, target.address, target.port, factory, CONNECT_TIMEOUT)
            return await opening
        finally:
            self._opening.discard(opening)
