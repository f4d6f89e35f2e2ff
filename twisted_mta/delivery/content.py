"""The content of a message, as agents read it."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from ..queue.interfaces import IMessageStore
from .interfaces import IContent


@implementer(IContent)
class Content:
    """The content of one message: all of it where that is in memory, else chunk by chunk from the store."""

    __slots__ = ("_message", "_store", "chunks", "size", "whole")

    def __init__(self, store: IMessageStore, message: str, size: int, chunks: int, whole: bytes | None) -> None:
        self._store = store
        self._message = message
        self.whole = whole
        self.size = size if whole is None else len(whole)
        self.chunks = chunks if whole is None else 1

    def read(self, chunk: int) -> Deferred[bytes]:
        """See :class:`IContent`."""
        if self.whole is None:
            return self._store.read(self._message, chunk)
        if chunk:
            raise IndexError(f"the content has one chunk, not {chunk + 1}")
        return succeed(self.whole)
