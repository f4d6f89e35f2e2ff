"""Who may send as whom (RFC 6409 §6.1)."""

from __future__ import annotations

from ..config.settings import Settings
from ..directory.interfaces import IDirectory
from ..mail.status import Reply, printable
from .interfaces import Peer, Policy, Transaction


class SubmissionPolicy(Policy):
    """The sender of an authenticated session must be an address that the user may use, unless
    ``submission.check_sender`` is off."""

    def __init__(self, directory: IDirectory, settings: Settings) -> None:
        self._directory = directory
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings."""
        self._check = settings.submission.check_sender

    async def mail(self, peer: Peer, transaction: Transaction) -> Reply | None:
        """553 5.7.1 for a sender who is somebody else, 550 5.7.1 for the null sender, which is for servers."""
        if peer.account is None or not self._check:
            return None
        user = peer.account.user
        if not transaction.sender:
            return Reply(550, "5.7.1", f"The null sender is for mail servers; please send as {user.address}")
        if await self._directory.may_send_as(user, transaction.sender):
            return None
        return Reply(
            553, "5.7.1", f"{user.address} may not send as {printable(transaction.sender)}; please use your own address"
        )
