"""Large content on its way to a server: read chunk by chunk, as fast as the transport has room for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet import interfaces
from twisted.internet.defer import Deferred
from zope.interface import implementer

from ..wire.stuffing import DotStuffer, OneChunk, Plain


class Content(Protocol):
    """What :class:`twisted_mta.delivery.interfaces.IContent` promises, as seen from here."""

    @property
    def size(self) -> int:
        """Octets."""

    @property
    def whole(self) -> bytes | None:
        """All of it, where it is small."""

    @property
    def chunks(self) -> int:
        """How many chunks there are."""

    @property
    def plain(self) -> bool:
        """Whether it goes out after DATA as it is."""

    def read(self, chunk: int) -> Deferred[bytes]:
        """One chunk."""


@implementer(interfaces.IPushProducer)
class Outgoing:
    """The content of one message, on its way into ``transport``: at most two chunks of it are in memory.

    ``wanted`` says whether the server still waits for it; ``complete`` is called right before the last of it is
    written, and ``moved`` whenever some of it was, or could be taken.  The connection's owner calls
    :meth:`stopProducing` when it is lost.
    """

    def __init__(
        self,
        transport: Any,
        *,
        wanted: Callable[[], bool],
        complete: Callable[[], None],
        moved: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._wanted = wanted
        self._complete = complete
        self._moved = moved
        self._paused = False
        self._gone = False
        self._drained: Deferred[None] | None = None

    async def send(self, content: Content, encoder: DotStuffer | Plain | OneChunk) -> None:
        """Write all of it, or as much as is wanted; once.  Raises what reading raises, and :class:`ValueError` for a
        size that is not as announced."""
        self._transport.registerProducer(self, True)
        try:
            for number in range(content.chunks):
                if self._paused:
                    self._drained = Deferred()
                    await self._drained
                    if self._gone:
                        return
                chunk = await content.read(number)
                if self._gone or not self._wanted():
                    return  # lost, or refused half-way
                data = encoder.encode(chunk)
                if number == content.chunks - 1:
                    data += encoder.finish()
                    self._complete()
                self._transport.write(data)
                self._moved()
        finally:
            self._drained = None
            if not self._gone:
                self._transport.unregisterProducer()

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The transport's buffer has drained."""
        self._moved()
        self._resume()

    def stopProducing(self) -> None:
        """The connection is gone: Twisted says so here first, and the dot must not count as sent after it."""
        self._gone = True
        self._resume()

    def _resume(self) -> None:
        self._paused = False
        drained, self._drained = self._drained, None
        if drained is not None:
            drained.callback(None)
