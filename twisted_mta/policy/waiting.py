"""Making a client wait, without leaving anything behind when it does not."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .interfaces import Peer


class Waits:
    """The pauses of all sessions: at most one for each at a time."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: dict[str, tuple[IDelayedCall, Deferred[None]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self, peer: Peer, seconds: float) -> Deferred[None]:
        """Fires in ``seconds``, or when :meth:`end` is called for the session."""
        self.end(peer)
        waiting: Deferred[None] = Deferred()
        self._waiting[peer.session] = self._clock.callLater(seconds, self.end, peer), waiting
        return waiting

    def end(self, peer: Peer) -> None:
        """The session waits no longer, if it does."""
        found = self._waiting.pop(peer.session, None)
        if found is None:
            return
        call, waiting = found
        if call.active():
            call.cancel()
        waiting.callback(None)
