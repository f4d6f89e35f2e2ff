"""Sessions at once from one address, and which addresses may relay."""

from __future__ import annotations

from ..config.settings import Settings
from ..mail.status import Reply
from .interfaces import Peer, Policy
from .network import Networks, parse_ip, site
from .tally import Tally


class ConnectionPolicy(Policy):
    """Counts sessions by IPv4 address or IPv6 /64 (``smtp.connections_per_address``); sets ``peer.relaying`` and
    ``peer.stranger``.

    ``defence.exempt`` and ``relay.networks`` are not counted.  What is kept is one entry for each session that is open
    here.
    """

    def __init__(self, settings: Settings) -> None:
        self.tally = Tally()
        self._sites: dict[str, str] = {}  # of each session that is counted
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings; sessions that are open stay counted, and stay as they are."""
        self._relaying = Networks(settings.relay.networks)
        self._exempt = Networks(settings.defence.exempt)
        self._limit = settings.smtp.connections_per_address

    async def connect(self, peer: Peer) -> Reply | None:
        """421 4.7.0 for one session too many.  Who is served by LMTP is known by its listener."""
        if peer.role == "lmtp":
            return None
        ip = parse_ip(peer.address)
        peer.relaying = ip in self._relaying
        peer.stranger = not peer.relaying and not peer.claims and ip not in self._exempt
        if not peer.stranger:
            return None
        key = site(peer.address)
        if self.tally.total(key) >= self._limit:
            return Reply(
                421, "4.7.0", f"Too many sessions from {key}: {self._limit} are open; close some and try again"
            )
        self.tally.add(key)
        self._sites[peer.session] = key
        return None

    def closed(self, peer: Peer) -> None:
        """The session no longer counts."""
        key = self._sites.pop(peer.session, None)
        if key is not None:
            self.tally.remove(key)
