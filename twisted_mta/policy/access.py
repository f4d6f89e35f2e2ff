"""Who may send to whom: the decision that keeps this from being an open relay.

Nothing is relayed but for a client that has authenticated, that connects to a listener of role "mx" from one of
``relay.networks`` (which is empty by default, and does not hold loopback unless it says so), or that is served by a
listener of role "lmtp" whose settings say ``relay``.  Source: RFC 5321 §3.6, §7.1, RFC 6409 §4.3, RFC 2033.
"""

from __future__ import annotations

from ..config.settings import Settings
from ..directory.auth import MailAccount
from ..directory.interfaces import IDirectory, Resolution
from ..directory.lookup import routes
from ..mail.address import domain_of, local_of
from ..mail.status import Reply, printable
from .interfaces import Peer, Policy, Transaction

_UNAUTHENTICATED = Reply(530, "5.7.0", "Authentication required: please log in before you send")
_SUSPENDED = Reply(550, "5.7.13", "This account is suspended; please ask your provider")
_CHANGED = Reply(421, "4.7.0", "This account has changed; please log in again")


class AccessPolicy(Policy):
    """Recipients of ours must exist; others are for those who may relay; users must still be who they were."""

    def __init__(self, directory: IDirectory, settings: Settings) -> None:
        self._directory = directory
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings."""
        self._settings = settings

    async def mail(self, peer: Peer, transaction: Transaction) -> Reply | None:
        """530 5.7.0 on a submission listener without authentication (RFC 6409 §4.3), whatever the network.

        An account is looked up again for each message: a user who has been suspended, removed or given a new password
        sends nothing more through a session that is still open, and new limits hold at once.
        """
        if peer.account is None:
            return _UNAUTHENTICATED if peer.role == "submission" else None
        known = peer.account
        user = await self._directory.user(known.user.address)
        customer = await self._directory.customer(user.customer) if user is not None else None
        if user is None or customer is None or user.password_hash != known.user.password_hash:
            return _CHANGED
        if peer.mechanism == "EXTERNAL" and user.certificates != known.user.certificates:
            return _CHANGED
        if user.suspended or customer.suspended:
            return _SUSPENDED
        if user is not known.user or customer is not known.customer:
            peer.account = MailAccount(user, customer)
        return None

    async def rcpt(self, peer: Peer, transaction: Transaction, recipient: str, resolution: Resolution) -> Reply | None:
        """550 5.1.1 for who is not here, 550 5.7.1 for what is not ours to carry."""
        if resolution.kind in ("mailbox", "alias"):
            return None
        if resolution.kind == "remote":
            if may_relay(peer):
                return None
            domain = printable(domain_of(recipient))
            return Reply(
                550, "5.7.1", f"Relaying denied: {domain} is not served here, and you have not logged in to send there"
            )
        if routes(local_of(recipient)):
            return Reply(550, "5.7.1", f"Relaying denied: nothing is routed by way of {printable(recipient)}")
        return Reply(550, "5.1.1", f"There is no mailbox {printable(recipient)} here")


def may_relay(peer: Peer) -> bool:
    """Whether a peer may send to domains that are not ours."""
    if peer.role == "lmtp":
        return peer.gateway  # else for mailboxes alone: LMTP must not be a way around submission
    return peer.account is not None or (peer.role == "mx" and peer.relaying)
