"""The reception pipeline: what a stage sees, and how it answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime
from zope.interface import Attribute, Interface, implementer

from ..config.settings import Settings
from ..directory.interfaces import IDirectory, IMailAccount, Resolution
from ..mail.envelope import Body, Handling
from ..mail.status import Reply
from ..queue.interfaces import IMessageStore

UNIX = "unix"
"""Who comes through a Unix socket."""
UNKNOWN = "unknown"
"""Whose address is not known even to the host that speaks for it."""


@attrs.frozen
class ClientCertificate:
    """What a client has shown in its TLS handshake: the SHA-256 fingerprint in lower-case hexadecimal; whether an
    authority of ``listen.NAME.client_ca`` vouches for it (``trusted``), and if so for which mail addresses."""

    fingerprint: str
    trusted: bool = False
    addresses: tuple[str, ...] = ()


@attrs.define(slots=True)
class Peer:
    """Who is connected, as far as is known; one for each session, owned by it.

    ``address`` is an IP address, or :data:`UNIX` or :data:`UNKNOWN` where the client has none; ``role`` is the
    listener's (mx, submission, lmtp); ``secure`` is whether TLS is up, ``tls`` says which ("TLSv1.3
    TLS_AES_256_GCM_SHA384").  ``relaying``: ``relay.networks`` holds the address.  ``stranger``: neither
    ``relay.networks`` nor ``defence.exempt`` hold it.  ``charged`` is what :mod:`.rates` has counted of this session:
    commands, errors, failed logins, and the customer it was counted for.  ``hostname`` is the name of the address that
    leads back to it, "unknown", or "" where that was not asked.  ``allowed``: on a DNS list of good senders.
    ``gateway``: its listener, of role lmtp, relays for all whom it serves.  ``claims``: it may say in XCLIENT for whom
    it speaks, and is no stranger.  ``proxy`` is the address of who did so, ``here`` where the client had connected to,
    "" if that was not said.  ``certificate`` is what the client has shown of itself under TLS;
    ``certified``: it may be a user's, so that EXTERNAL is offered.
    """

    session: str
    address: str
    port: int
    listener: str
    role: str
    helo: str = ""
    esmtp: bool = False
    secure: bool = False
    tls: str = ""
    account: IMailAccount | None = None
    mechanism: str = ""
    relaying: bool = False
    commands: int = 0
    errors: int = 0
    messages: int = 0
    auth_failures: int = 0
    stranger: bool = False
    charged: tuple[int, int, int, str] = (0, 0, 0, "")
    hostname: str = ""
    allowed: bool = False
    gateway: bool = False
    claims: bool = False
    proxy: str = ""
    here: str = ""
    certificate: ClientCertificate | None = None
    certified: bool = False

    @property
    def guarded(self) -> bool:
        """Whether this is the world bringing mail, of whom nothing is known."""
        return self.stranger and self.role == "mx" and self.account is None

    @property
    def user(self) -> str:
        """The authenticated user's address, or ""."""
        return self.account.user.address if self.account is not None else ""

    @property
    def customer(self) -> str:
        """The authenticated user's customer, or ""."""
        return self.account.customer.name if self.account is not None else ""


@attrs.define(slots=True)
class Transaction:
    """One mail transaction (RFC 5321 §3.3): from MAIL to the reply after the content.

    ``sender`` and ``recipients`` are canonical; ``size`` is what SIZE= declared, 0 for nothing; ``params`` are the
    MAIL parameters as given, names in upper case.  ``resolutions`` is what the directory said of each recipient.
    ``wishes`` are NOTIFY and ORCPT (RFC 3461) of the recipients that came with one, by their place in ``recipients``.
    ``handling`` is what else was asked of the queue.
    """

    sender: str
    started: float
    size: int = 0
    body: Body = "7BIT"
    params: dict[str, str] = attrs.Factory(dict)
    recipients: list[str] = attrs.Factory(list)
    resolutions: list[Resolution] = attrs.Factory(list)
    wishes: dict[int, tuple[str, str]] | None = None
    handling: Handling | None = None


class IPolicy(Interface):
    """A stage of the pipeline.  Each hook answers None (go on) or the :class:`Reply` that refuses.

    Hooks are coroutines; stages run in order and the first refusal ends the hook.  ``421`` closes the session.  A hook
    that raises a :class:`~twisted_mta.mail.status.MailError` refuses with its reply; of a
    :class:`~twisted_mta.queue.interfaces.QuotaExceeded` the limit's name is logged too.
    A stage subclasses :class:`Policy` and overrides only what it cares for: what is not overridden is never called.
    """

    async def connect(peer: Peer) -> Reply | None:
        """A client has connected, nothing has been said yet."""

    async def helo(peer: Peer, name: str) -> Reply | None:
        """HELO or EHLO with ``name``."""

    async def mail(peer: Peer, transaction: Transaction) -> Reply | None:
        """MAIL: ``transaction`` has its sender, size and parameters."""

    async def rcpt(peer: Peer, transaction: Transaction, recipient: str, resolution: Resolution) -> Reply | None:
        """RCPT: one more recipient, not yet in ``transaction``."""

    async def data(peer: Peer, transaction: Transaction) -> Reply | None:
        """DATA, before the 354."""

    async def content(peer: Peer, transaction: Transaction, head: Any) -> Reply | None:
        """The header section is complete, before the body is read to its end; ``head`` is a
        :class:`twisted_mta.mail.header.Head`."""

    def closed(peer: Peer) -> None:
        """The session is over; called once for each session whose ``connect`` was called."""


@implementer(IPolicy)
class Policy:
    """An :class:`IPolicy` that allows everything: the base of stages."""

    idle = False
    """Whether a stage does nothing with its present settings: then only its ``closed`` is called."""

    async def connect(self, peer: Peer) -> Reply | None:
        """See :class:`IPolicy`."""
        return None

    async def helo(self, peer: Peer, name: str) -> Reply | None:
        """See :class:`IPolicy`."""
        return None

    async def mail(self, peer: Peer, transaction: Transaction) -> Reply | None:
        """See :class:`IPolicy`."""
        return None

    async def rcpt(self, peer: Peer, transaction: Transaction, recipient: str, resolution: Resolution) -> Reply | None:
        """See :class:`IPolicy`."""
        return None

    async def data(self, peer: Peer, transaction: Transaction) -> Reply | None:
        """See :class:`IPolicy`."""
        return None

    async def content(self, peer: Peer, transaction: Transaction, head: Any) -> Reply | None:
        """See :class:`IPolicy`."""
        return None

    def closed(self, peer: Peer) -> None:
        """See :class:`IPolicy`."""


class IPolicyFactory(Interface):
    """Makes stages of an operator's own.  Found as a ``twisted.plugin``: see :mod:`twisted_mta.policy.plugins`."""

    name: str = Attribute("""A short name for messages about this plugin; unique.""")
    order: int = Attribute("""Where its stages stand among those of other plugins: lower numbers are asked first.""")

    def make(settings: Settings, directory: IDirectory, store: IMessageStore, clock: IReactorTime) -> Sequence[IPolicy]:
        """The stages to add after our own, called once at start.  What it raises stops the start."""


class IAuthThrottle(Interface):
    """Slows down who guesses passwords.  Failures are counted by address (IPv6: /64) and by user, and fade away.

    A server calls, in this order, once it knows how an attempt ended:

    - refused (never for a temporary failure of ours): count it in ``peer.auth_failures``, ``reply = failed(peer,
      user)``, wait ``delay(peer, user)`` seconds, answer 535 5.7.8, or, if there is a ``reply``, answer that and close;
    - granted: wait ``delay(peer, user)`` seconds, ``succeeded(peer, user)``, answer 235.

    ``user`` is the login name as the client gave it.  Nothing here ever refuses a good password.
    """

    def delay(peer: Peer, user: str) -> float:
        """Seconds that the answer to the present attempt has to wait: 0.0 where no failures are known, never more
        than 30."""

    def failed(peer: Peer, user: str) -> Reply | None:
        """Count a refused attempt.  A reply (421 4.7.0) when the session has had its ``smtp.auth_attempts``."""

    def succeeded(peer: Peer, user: str) -> None:
        """Remember that this user came from this address: others' failures no longer slow this pair down."""
