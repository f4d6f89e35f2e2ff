"""The content after DATA or BDAT: where it ends, what is in it, and whether it may be taken.  Sans-I/O.

Source: RFC 5321 §4.1.1.4 (DATA), §4.5.2 (transparency), §4.5.3.1.6 (line length), §2.3.8 (only CRLF ends a line),
RFC 1870 §6.3 (too large), RFC 3030 §2 (chunks).  Whole buffers are searched at C's speed; there is no loop over lines.

Only CRLF.CRLF ends the content.  What others once took for an end as well (SMTP smuggling: CVE-2023-51764 and its
kin) is a CR or LF outside CRLF, and a message with one is refused, or mended if so set; in neither case does it end.
"""

from __future__ import annotations

from ..mail.status import Reply

END = b"\r\n.\r\n"
MAX_LINE = 1000
"""Octets of a text line with its CRLF, without a stuffed dot (RFC 5321 §4.5.3.1.6)."""
SLACK = 1 << 16
"""Octets by which a client may pass twice the size limit before it is cut off."""

BARE_NEWLINE = Reply(550, "5.5.2", "The message has a CR or LF that is not part of CRLF: end lines with CRLF")
NUL = Reply(550, "5.5.2", "The message has a NUL octet: encode binary parts in base64")
LONG_LINE = Reply(554, "5.5.2", "The message has a line of more than 998 octets: fold it, or encode it")

_HEADS = tuple((END[:length], length) for length in (4, 3, 2, 1))


def too_large(limit: int) -> Reply:
    """The refusal of a message that is larger than ``limit`` octets (RFC 1870 §6.1)."""
    return Reply(552, "5.3.4", f"The message is larger than {limit} octets")


class ContentDecoder:
    """Takes the octets after 354 in any pieces; gives the content without stuffed dots, and finds its end.

    ``limit``: octets that the content may have.  ``replace``: store CRLF for a CR or LF that stands alone instead of
    refusing the message.  Once ``flaw`` (the refusal to give at the end) is set, nothing more is given out, but the
    end is still looked for, so that the dialogue stays in step.  ``size`` counts the octets of the content so far,
    ``eight_bit`` is whether one of them was beyond ASCII, ``plain`` whether the content may be sent on as it is, for it
    has no dot to be stuffed (see :mod:`.stuffing`).  Holds no more than four octets between calls.
    """

    __slots__ = ("_held", "_limit", "_line", "_replace", "_started", "eight_bit", "flaw", "plain", "size")

    def __init__(self, limit: int, replace: bool = False) -> None:
        self._held = b"\r\n"  # as if a line had ended: then a dot in the first line needs no case of its own
        self._started = False
        self._line = 0
        self._limit = limit
        self._replace = replace
        self.flaw: Reply | None = None
        self.eight_bit = False
        self.plain = True
        self.size = 0

    @property
    def overrun(self) -> bool:
        """Whether so much was sent beyond the limit that it is not worth waiting for the end."""
        return self.size > 2 * self._limit + SLACK

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Take ``data``; (content, rest).  ``rest`` is None until the end is found, then what follows it."""
        if self._started or self._held != b"\r\n" or data[:1] == b".":
            buffer = self._held + data
        else:  # no dot begins the first line: what it stood behind has served
            self._started = True
            buffer = data
        # A line that begins with a dot is the end, or has a dot too many.  Mostly there is one only, and it is the end.
        end = buffer.find(b"\r\n.")
        stuffed = end >= 0 and not buffer.startswith(b"\r\n", end + 3)
        if stuffed:
            end = buffer.find(END, end)
        self._held = b""
        if end >= 0:
            rest: bytes | None = buffer[end + 5 :]
            text = buffer[: end + 2]
        else:
            rest = None
            text = buffer
            for head, length in _HEADS:
                if buffer.endswith(head):
                    text, self._held = buffer[:-length], head
                    break
        return (self._decode(text, stuffed) if text else b""), rest

    def _decode(self, text: bytes, stuffed: bool) -> bytes:
        # Without its line ends it has no CR or LF.  One search and a copy: to count either octet alone costs four times
        # as much, since `count` looks at each by itself.
        flat = text.replace(b"\r\n", b"")
        bare = b"\r" in flat or b"\n" in flat
        if stuffed:
            before = len(text)
            text = text.replace(b"\r\n.", b"\r\n")
            if len(text) != before:  # what it was in front of may be another dot
                self.plain = False
        if not self._started:
            self._started = True
            text = text[2:]
        if bare and self._replace:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
            bare = self.plain = False
        self.size += len(text)
        if self.flaw is None:
            if bare:
                self.flaw = BARE_NEWLINE
            elif b"\0" in flat:
                self.flaw = NUL
            elif self._too_long(text):
                self.flaw = LONG_LINE
            elif self.size > self._limit:
                self.flaw = too_large(self._limit)
        if self.flaw is not None:
            return b""
        if not self.eight_bit and not flat.isascii():
            self.eight_bit = True
        return text

    def _too_long(self, text: bytes) -> bool:
        """Whether a line of ``text`` is too long; ``_line`` is how much of its first line came before."""
        # Lines that end together within MAX_LINE octets of a line's start are all short enough: go by such leaps.
        size, start, before = len(text), 0, self._line
        while start < size:
            last = text.rfind(b"\r\n", start, start + MAX_LINE - before)
            if last < 0:
                before += size - start
                if before > MAX_LINE - 2:
                    return True
                break
            start, before = last + 2, 0
        self._line = before
        return False


class ChunkDecoder(ContentDecoder):
    """Takes content that comes in chunks of known sizes (RFC 3030): no dot has a meaning.

    What may be in it is the same as after DATA.  A CRLF that its end lacks is added.
    """

    __slots__ = ()

    def __init__(self, limit: int, replace: bool = False) -> None:
        super().__init__(limit, replace)
        self._held = b""
        self._started = True

    def take(self, data: bytes, last: bool) -> bytes:
        """Take ``data``, the ``last`` of the content or not; the content that it makes."""
        text = self._held + data if self._held else data
        self._held = b""
        if last:
            if (text or self._line) and not text.endswith(b"\r\n"):
                text += b"\r\n"
        elif text.endswith(b"\r"):  # perhaps half of a CRLF
            text, self._held = text[:-1], b"\r"
        if self.plain and ((not self._line and text.startswith(b".")) or b"\r\n." in text):
            self.plain = False
        return self._decode(text, False) if text else b""


class BinaryDecoder(ChunkDecoder):
    """Takes the content of a message with BODY=BINARYMIME: any octets, which stay as they are (RFC 3030 §3).

    Only the size is looked at.  ``eight_bit`` says nothing here, and ``plain`` nothing good.
    """

    __slots__ = ()

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.plain = False

    def take(self, data: bytes, last: bool) -> bytes:
        """Take ``data``; what is given out is the same, unless the content is too large."""
        self.size += len(data)
        if self.flaw is None and self.size > self._limit:
            self.flaw = too_large(self._limit)
        return data if self.flaw is None else b""
