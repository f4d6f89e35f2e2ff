"""Makes one session of the SMTP and LMTP client, and says why there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import error, interfaces
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure

from ..mail.status import Reply
from ..wire.client import ClientConnection
from .client import NEVER, MtaClient, SessionError


class MtaClientFactory(ClientFactory):
    """Makes one session.  ``make`` gives its state machine; ``opened`` is as :class:`MtaClient`'s, and fails with
    :class:`SessionError` (4.4.1) where no connection could be made.  ``place`` is for the words of that reply."""

    noisy = False

    def __init__(
        self,
        make: Callable[[], ClientConnection],
        clock: interfaces.IReactorTime,
        place: str,
        host: str = "",
        tls: interfaces.IOpenSSLClientConnectionCreator | None = None,
        deadline: float = NEVER,
    ) -> None:
        self._make = make
        self._clock = clock
        self._place = place
        self._host = host
        self._tls = tls
        self._deadline = deadline
        self._connector: Any = None
        self._client: MtaClient | None = None
        self.opened: Deferred[MtaClient] = Deferred(self._cancel)

    def startedConnecting(self, connector: Any) -> None:
        """Remember what to stop."""
        self._connector = connector

    def buildProtocol(self, addr: interfaces.IAddress | None) -> MtaClient:
        """The one session."""
        self._client = client = MtaClient(self._make(), self._clock, self._tls)
        client.factory = self
        client.deadline = self._deadline
        client.place = self._place
        client.host = self._host
        client.opened.addCallbacks(self._succeeded, self._failed)
        return client

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        """Nobody answered."""
        self._failed(SessionError(Reply(451, "4.4.1", f"connect to {self._place}: {_connect_words(reason)}")))

    def _succeeded(self, client: MtaClient) -> None:
        if not self.opened.called:
            self.opened.callback(client)

    def _failed(self, failure: Failure | SessionError) -> None:
        if not self.opened.called:
            self.opened.errback(failure)

    def _cancel(self, opened: Deferred[MtaClient]) -> None:
        ended = Reply(451, "4.4.1", f"connect to {self._place}: the attempt was ended")
        opened.errback(SessionError(ended))
        if self._client is not None:
            self._client.abort(ended)
        elif self._connector is not None:
            self._connector.disconnect()


def _connect_words(reason: Failure) -> str:
    if isinstance(reason.value, error.TimeoutError):
        return "Connection timed out"
    if isinstance(reason.value, error.ConnectionRefusedError):
        return "Connection refused"
    if isinstance(reason.value, error.NoRouteError):
        return "No route to host"
    detail = getattr(reason.value, "args", None)
    return str(detail[-1]) if detail and detail[-1] else type(reason.value).__name__
