"""A customer's quotas, checked as early as the protocol allows.

What is answered here is advice that spares a client the way to the end of DATA; the transaction that stores the
message decides, so two sessions that race for the last unit can't both have it.
"""

from __future__ import annotations

from ..config.settings import Settings
from ..mail.status import Reply
from ..queue.interfaces import Charge, IMessageStore, Limits, QuotaExceeded
from ..queue.quota import check_connections
from .interfaces import Peer, Policy, Transaction
from .limits import limits_for
from .tally import Tally


class QuotaPolicy(Policy):
    """Sessions at once of a customer, message size, rates and what is queued, for sessions that have authenticated.

    Sessions are counted from their first MAIL on; what is kept is one entry for each of them here.
    """

    def __init__(self, store: IMessageStore, settings: Settings) -> None:
        self._store = store
        self._sessions: dict[str, str] = {}  # session -> customer it is counted for
        self.tally = Tally()
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings."""
        self._settings = settings

    async def mail(self, peer: Peer, transaction: Transaction) -> Reply | None:
        """Raises :class:`QuotaExceeded`: 421 4.7.0 for one session too many, else what the store says to a message of
        the declared size with one recipient: 552 5.3.4 (RFC 1870 §6.1), 452 4.5.3 or 452 4.2.2."""
        account = peer.account
        if account is None:
            return None
        customer = account.customer.name
        limits = limits_for(self._settings, account.customer)
        self._count(peer.session, customer, limits)
        self._check(customer, limits, transaction, 1)
        return None

    async def rcpt(self, peer: Peer, transaction: Transaction, recipient: str, resolution: object) -> Reply | None:
        """Raises :class:`QuotaExceeded`: what the store says to one recipient more than the transaction has."""
        account = peer.account
        if account is None or not transaction.recipients:
            return None  # MAIL has asked for the first one
        limits = limits_for(self._settings, account.customer)
        self._check(account.customer.name, limits, transaction, len(transaction.recipients) + 1)
        return None

    def closed(self, peer: Peer) -> None:
        """The session no longer counts."""
        self._forget(peer.session)

    def _check(self, customer: str, limits: Limits, transaction: Transaction, recipients: int) -> None:
        charge = Charge(customer=customer, recipients=recipients, bytes=transaction.size, limits=limits)
        refused: QuotaExceeded | None = self._store.check(charge)
        if refused is not None:
            raise refused

    def _count(self, session: str, customer: str, limits: Limits) -> None:
        known = self._sessions.get(session)
        if known == customer:
            return
        if known is not None:
            self._forget(session)
        if (refused := check_connections(limits, self.tally.total(customer))) is not None:
            raise refused
        self._sessions[session] = customer
        self.tally.add(customer)

    def _forget(self, session: str) -> None:
        customer = self._sessions.pop(session, None)
        if customer is not None:
            self.tally.remove(customer)
