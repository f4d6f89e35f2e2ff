"""The content of a message, as agents read it."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from ..mail.envelope import Message
from ..queue.interfaces import IMessageStore
from .interfaces import IContent


@implementer(IContent)
class Content:
    """The content of one message: all of it where that is in memory, else chunk by chunk from the store."""

    __slots__ = ("_message", "_store", "chunks", "plain", "size", "whole")

    def __init__(self, store: IMessageStore, message: Message, whole: bytes | None) -> None:
        self._store = store
        self._message = message.id
        self.plain = message.plain
        self.whole = whole
        self.size = message.size if whole is None else len(whole)
        self.chunks = message.chunks if whole is None else 1

    def read(self, chunk: int) -> Deferred[bytes]:
        """See :class:`IContent`."""
        if self.whole is None:
            return self._store.read(self._message, chunk)
        if chunk:
            raise IndexError(f"the content has one chunk, not {chunk + 1}")
        return succeed(self.whole)
