"""One message on its way into the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from zope.interface import implementer

from .interfaces import CHUNK, IIncoming, NewMessage
from .operations import Accept, Discard, WriteChunk, in_chunks
from .rules import unavailable

if TYPE_CHECKING:
    from .writer import IWriter

HELD_CHUNKS = 2
"""Content of up to so many chunks is written with its message, in one transaction, and at hand until then."""

MOVING_CHUNKS = 2
"""Chunks of a message on their way to the disk at which its producer is asked to pause, where many come in at once.

With less than one chunk that is being filled, and what one more read of a transport brings (96 KiB), that makes four.
"""

MOST_MOVING = 16
"""The same where few do: one commit takes half of them while the others arrive."""

ALL_MOVING = 32
"""Chunks of all messages on their way to the disk from which on many do."""


class Moving:
    """How many chunks of all messages of a store are on their way to the disk."""

    __slots__ = ("chunks",)

    def __init__(self) -> None:
        self.chunks = 0


@implementer(IIncoming)
class Incoming:
    """Gathers content; what is larger than :data:`HELD_CHUNKS` goes to the disk while it arrives."""

    __slots__ = ("_all", "_drained", "_ended", "_failure", "_first", "_held", "_held_size", "_moving", "_owner",
                 "_paused", "_writer", "id", "size")  # fmt: skip

    def __init__(self, id: str, owner: int, writer: IWriter, moving: Moving) -> None:  # noqa: A002
        self.id = id
        self._all = moving
        self.size = 0
        self._owner = owner
        self._writer = writer
        self._held: list[bytes] = []
        self._held_size = 0
        self._first = 0
        self._moving = 0
        self._ended = False
        self._failure: Failure | None = None
        self._paused: Deferred[None] | None = None
        self._drained: Deferred[None] | None = None

    def write(self, data: bytes) -> Deferred[None] | None:
        """Add content.  See :meth:`.interfaces.IIncoming.write`."""
        if self._failure is not None:
            return fail(self._failure)
        self._writer.breathe()
        self._held.append(data)
        self._held_size += len(data)
        self.size += len(data)
        if self._held_size <= (CHUNK if self._first else HELD_CHUNKS * CHUNK):
            return None
        self._move()
        if self._has_room or self._failure is not None:
            return fail(self._failure) if self._failure is not None else None
        if self._paused is None:
            self._paused = Deferred()
        return self._paused

    @property
    def _has_room(self) -> bool:
        """Whether more may come in now.  Where it may not, the end of a chunk of this message makes room."""
        moving = self._moving
        return moving < MOVING_CHUNKS or (moving < MOST_MOVING and self._all.chunks < ALL_MOVING)

    @property
    def whole(self) -> bytes | None:
        """See :class:`.interfaces.IIncoming`."""
        if self._first:
            return None
        if len(self._held) != 1:
            self._held = [b"".join(self._held)]
        return self._held[0]

    def _move(self) -> None:
        """Send all whole chunks to the disk."""
        parts: list[memoryview] = []
        room = CHUNK
        for data in self._held:
            view = memoryview(data)
            while len(view) >= room:
                parts.append(view[:room])
                self._submit(b"".join(parts))
                view = view[room:]
                parts, room = [], CHUNK
            parts.append(view)
            room -= len(view)
        self._held = [b"".join(parts)]
        self._held_size = CHUNK - room

    def _submit(self, chunk: bytes) -> None:
        operation = WriteChunk(self.id, self._first, chunk, self._owner)
        self._first += 1
        self._moving += 1
        self._all.chunks += 1
        operation.deferred.addCallbacks(self._moved, self._lost)
        self._writer.submit(operation)

    def _moved(self, _: object) -> None:
        self._moving -= 1
        self._all.chunks -= 1
        if self._paused is not None and self._has_room:
            paused, self._paused = self._paused, None
            paused.callback(None)
        if not self._moving and self._drained is not None:
            self._drained.callback(None)

    def _lost(self, failure: Failure) -> None:
        self._moving -= 1
        self._all.chunks -= 1
        if self._failure is None:
            self._failure = failure
        if self._paused is not None:
            paused, self._paused = self._paused, None
            paused.errback(failure)
        if not self._moving and self._drained is not None:
            self._drained.callback(None)

    def commit(self, new: NewMessage) -> Deferred[None]:
        """Commit the message.  See :meth:`.interfaces.IIncoming.commit`."""
        if self._ended:
            return fail(RuntimeError("this message was committed or aborted before"))
        self._ended = True
        if not self._first:
            return self._commit(new)
        if not self._moving:
            return self._commit(new).addErrback(self._give_up)
        self._drained = Deferred()
        return self._drained.addCallback(lambda _: self._commit(new)).addErrback(self._give_up)

    def _commit(self, new: NewMessage) -> Deferred[None]:
        if self._failure is not None:
            return fail(self._failure)
        held = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        self._held = []
        try:
            operation = Accept(new, self.size, self._first, in_chunks(held), self._first > 0, self._owner)
        except Exception:
            return fail()
        return self._writer.submit(operation)

    def _give_up(self, failure: Failure) -> Failure:
        self._discard()
        return failure

    def abort(self) -> None:
        """Forget the message.  See :meth:`.interfaces.IIncoming.abort`."""
        if self._ended:
            return
        self._ended = True
        self._held = []
        if self._failure is None:
            self._failure = Failure(unavailable(text="The message was given up"))  # type: ignore[no-untyped-call]
        if self._paused is not None:
            paused, self._paused = self._paused, None
            paused.errback(self._failure)
        self._discard()

    def _discard(self) -> None:
        if self._first:
            # Where it fails, the next start of a store does it.
            self._writer.submit(Discard(self.id)).addErrback(lambda failure: None)
