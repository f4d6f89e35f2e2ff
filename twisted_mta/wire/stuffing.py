"""Content as it goes onto the wire: dot-stuffed for DATA (RFC 5321 §4.5.2), or as it is in one BDAT (RFC 3030 §2).

Nothing leaves that a lenient server could take for the end of the message: a CR or LF that is not part of CRLF goes
out as CRLF (RFC 5321 §2.3.8 forbids sending it as it is), so that a dot which any server could see at the start of a
line is doubled; and NUL, which neither 7bit nor 8bit content may have (RFC 2045 §2.7, §2.8), is left out, since a
server that drops it would see the dot behind it at the start of a line.  All work is done on whole buffers.
"""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n|\r|\n")


class DotStuffer:
    """Encodes the content of one message, chunk by chunk.

    ``encode`` each chunk, then ``finish`` once.  The bytes that come out do not depend on where chunks end, except
    that a CR at the end of one is held back until the next shows what it was.
    """

    __slots__ = ("_held_cr", "_line_start")

    def __init__(self) -> None:
        self._line_start = True
        self._held_cr = False

    def encode(self, chunk: bytes) -> bytes:
        """A chunk as it goes onto the wire."""
        if b"\0" in chunk:
            chunk = chunk.replace(b"\0", b"")
        if not chunk:
            return b""
        if self._held_cr:
            chunk = b"\r" + chunk
            self._held_cr = False
        if chunk.endswith(b"\r"):
            chunk = chunk[:-1]
            self._held_cr = True
            if not chunk:
                return b""
        flat = chunk.replace(b"\r\n", b"")
        if b"\r" in flat or b"\n" in flat:
            chunk = _LINE_END.sub(b"\r\n", chunk)
        stuffed = chunk.replace(b"\r\n.", b"\r\n..")
        if self._line_start and chunk.startswith(b"."):
            stuffed = b"." + stuffed
        # Every line end in the chunk is now a whole CRLF: none straddles its end.
        self._line_start = chunk.endswith(b"\n")
        return stuffed

    def finish(self) -> bytes:
        """What ends the message: CRLF unless the last line had its own (RFC 5321 §4.1.1.4), then the dot."""
        if self._held_cr or not self._line_start:
            return b"\r\n.\r\n"
        return b".\r\n"


class Plain:
    """The same for content that is known to have nothing to be stuffed or mended, and to end with CRLF."""

    __slots__ = ()

    def encode(self, chunk: bytes) -> bytes:
        """The chunk."""
        return chunk

    def finish(self) -> bytes:
        """What ends the message."""
        return b".\r\n"


class OneChunk:
    """Content as one BDAT carries it (RFC 3030 §2): the command goes before, and the octets stay as they are.

    Raises :class:`ValueError` where there are more or less than announced: the server would take content for commands.
    """

    __slots__ = ("_command", "_left")

    def __init__(self, size: int) -> None:
        self._command = b"BDAT %d LAST\r\n" % size
        self._left = size

    def encode(self, data: bytes) -> bytes:
        """A piece as it goes onto the wire."""
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("the content is longer than its size")
        command, self._command = self._command, b""
        return command + data

    def finish(self) -> bytes:
        """Nothing: the size has said where the end is."""
        if self._left:
            raise ValueError("the content is shorter than its size")
        return b""


def is_plain(content: bytes) -> bool:
    """Whether whole lines of content go onto the wire as they are."""
    return not content or stuff(content) == content + b".\r\n"


def stuff(content: bytes) -> bytes:
    """A whole message as it goes onto the wire, with the dot that ends it."""
    stuffer = DotStuffer()
    return stuffer.encode(content) + stuffer.finish()
