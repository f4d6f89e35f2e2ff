"""Relaying for clients that show a certificate: what ``relay.networks`` is for those without a fixed address."""

from __future__ import annotations

from ..config.settings import Settings
from ..mail.status import Reply
from .interfaces import Peer, Policy


class RelayCertificatePolicy(Policy):
    """Sets ``peer.relaying`` for a client of role "mx" whose certificate is one of ``relay.certificates``."""

    def __init__(self, settings: Settings) -> None:
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings; sessions that are open stay as they are."""
        self._fingerprints = frozenset(settings.relay.certificates)

    @property
    def idle(self) -> bool:  # type: ignore[override]
        """See :class:`~.interfaces.Policy`."""
        return not self._fingerprints

    async def helo(self, peer: Peer, name: str) -> Reply | None:
        """Refuses nobody.  HELO comes again after STARTTLS (RFC 3207 §4.2), so the certificate is known by then."""
        if peer.role == "mx" and peer.certificate is not None and peer.certificate.fingerprint in self._fingerprints:
            peer.relaying, peer.stranger = True, False
        return None
