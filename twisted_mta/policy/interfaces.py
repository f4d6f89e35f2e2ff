"""The reception pipeline: what a stage sees, and how it answers."""

from __future__ import annotations

from typing import Any

import attrs
from zope.interface import Interface

from ..directory.interfaces import IMailAccount, Resolution
from ..mail.envelope import Body
from ..mail.status import Reply


@attrs.define(slots=True)
class Peer:
    """Who is connected, as far as is known; one for each session, owned by it.

    ``address`` is an IP address; ``role`` is the listener's (mx, submission, lmtp); ``secure`` is whether TLS is up,
    ``tls`` says which ("TLSv1.3 TLS_AES_256_GCM_SHA384").  ``relaying``: ``relay.networks`` holds the address.
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
    """

    sender: str
    started: float
    size: int = 0
    body: Body = "7BIT"
    params: dict[str, str] = attrs.Factory(dict)
    recipients: list[str] = attrs.Factory(list)
    resolutions: list[Resolution] = attrs.Factory(list)


class IPolicy(Interface):
    """A stage of the pipeline.  Each hook answers None (go on) or the :class:`Reply` that refuses.

    Hooks are coroutines; stages run in order and the first refusal ends the hook.  ``421`` closes the session.
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


class Policy:
    """An :class:`IPolicy` that allows everything: the base of stages."""

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
