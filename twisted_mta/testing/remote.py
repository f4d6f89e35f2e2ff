"""Other hosts: an in-memory peer at an address, with its place in DNS and a way to break it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import error

from .network import MemoryNetwork
from .peer import Behaviour, PeerFactory

_error: Any = error  # its classes have no annotations

FAILURES: dict[str, Callable[[], Exception | None]] = {
    "refused": _error.ConnectionRefusedError,
    "unreachable": _error.NoRouteError,
    "unknown": _error.UnknownHostError,
    "timeout": lambda: None,
}
"""How a connection may fail, by name; "timeout" is silence until whoever connects gives up."""


class Remote(PeerFactory):
    """A host at ``places``, pairs of (address, port), or paths of Unix sockets.

    ``mails`` is what it took, ``commands`` what it was told, in all sessions.  ``behaviour`` may be changed at any
    time and holds from the next command on; :meth:`fail` and :meth:`recover` from the next connection on.
    """

    def __init__(self, network: MemoryNetwork, name: str, places: list[Any], behaviour: Behaviour) -> None:
        super().__init__(behaviour)
        self.name = name
        self.places = places
        self._network = network
        self.recover()

    @property
    def attempts(self) -> int:
        """How often somebody tried to connect."""
        return sum(place in self.places for place in self._network.attempts)

    @property
    def taken(self) -> list[tuple[str, str]]:
        """The (sender, recipient) pairs of all that was taken, in order."""
        return [(mail.sender, recipient) for mail in self.mails for recipient in mail.recipients]

    def fail(self, how: str) -> None:
        """Let new connections fail in a way that :data:`FAILURES` names."""
        failure = FAILURES[how]
        for place in self.places:
            self._network.hosts[place] = failure()

    def recover(self) -> None:
        """Take connections again."""
        for place in self.places:
            self._network.hosts[place] = self
