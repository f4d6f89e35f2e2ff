"""The header section of a message: found while it arrives, looked into, and added to.

Source: RFC 5322 §2.1 and §2.2 (form), §3.6 (fields), §4.5 (obsolete white space before the colon), RFC 5321 §4.4
(trace fields), RFC 8689 §3 (TLS-Required).  The section is kept as octets; nothing is rewritten but what is removed or
added as a whole field.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

from .envelope import RequireTls
from .status import MailError, Reply, printable

SOFT_LIMIT = 78
HARD_LIMIT = 998
"""Characters of a line of ours, without its CRLF (RFC 5322 §2.1.1)."""

LINE = 1000
"""Octets of a line that is not complete, above the limit of the section, after which it is no longer waited for."""

# Lines that may belong to a header section: a field's first line, or one that continues it.  No backtracking.
_LINES = re.compile(rb"(?:(?:[!-9;-~]++[ \t]*+:|[ \t])[^\r\n]*+\r\n)*+")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class HeaderTooLarge(MailError):
    """The header section is larger than the limit: 552 5.3.4."""


class Head:
    """The header section of one message, taken from the content as it arrives.

    :meth:`feed` until it says True (or the content ends: :meth:`end`); then the section can be asked and changed, and
    :meth:`take` gives it with what has arrived behind it.  ``limit``: octets that the section may have; no more than
    that, and what :meth:`feed` was last given, is ever held.  A message may have no header section, or no blank line
    behind it: the first line that can't belong to one ends it.
    """

    __slots__ = ("_buffer", "_checked", "_fields", "_limit", "_lower", "_rest", "complete")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._checked = 0
        self._fields = b""
        self._lower = b""
        self._rest = b""
        self.complete = False

    def feed(self, data: bytes) -> bool:
        """Take content; True once the section is complete.

        Raises :class:`HeaderTooLarge`.
        """
        if self.complete:
            raise ValueError("the header section is complete")
        buffer: bytes | bytearray = data
        if self._buffer:
            buffer = self._buffer
            buffer += data
        checked = self._checked
        if checked or not buffer.startswith((b" ", b"\t")):
            match = _LINES.match(buffer, checked)
            assert match is not None
            checked = match.end()
        if checked > self._limit:
            raise HeaderTooLarge(Reply(552, "5.3.4", f"The header section is larger than {self._limit} octets"))
        if buffer.find(b"\r\n", checked) < 0:
            if len(buffer) > self._limit + LINE:
                raise HeaderTooLarge(Reply(552, "5.3.4", f"The header section is larger than {self._limit} octets"))
            if buffer is not self._buffer:
                self._buffer += buffer
            self._checked = checked
            return False
        self._complete(buffer, checked)
        return True

    def end(self) -> None:
        """The content has ended: what has come is the section."""
        if not self.complete:
            self._complete(self._buffer, self._checked)

    def _complete(self, buffer: bytes | bytearray, end: int) -> None:
        self.complete = True
        self._fields = bytes(buffer[:end])
        self._rest = bytes(buffer[end:])
        self._buffer = bytearray()

    @property
    def sound(self) -> bool:
        """Whether the section is text as RFC 5322 §2.1 has it, and a blank line (or nothing) is behind it.

        To be asked before :meth:`take`.  Of content without bare CR, LF and NUL, and with short lines, only the blank
        line can be missing.
        """
        fields = self._fields
        if b"\0" in fields or (self._rest and not self._rest.startswith(b"\r\n")):
            return False
        return max(map(len, fields.split(b"\r\n"))) <= HARD_LIMIT

    @property
    def fields(self) -> bytes:
        """The section as it is now, without the blank line."""
        return self._fields

    def _find(self, name: str) -> Iterable[tuple[int, int]]:
        """Where the fields called ``name`` begin and where their values do."""
        lower = self._lower
        if not lower:
            self._lower = lower = b"\r\n" + self._fields.lower()
        wanted = b"\r\n" + name.lower().encode("ascii")
        length = len(wanted)
        at = lower.find(wanted)
        while at >= 0:
            colon = at + length
            while lower[colon : colon + 1] in (b" ", b"\t"):
                colon += 1
            if lower[colon : colon + 1] == b":":
                yield at, colon - 1  # two less for the CRLF in front, one more to be behind the colon
            at = lower.find(wanted, colon)

    def _end_of(self, start: int) -> int:
        """Where the field ends in which ``start`` is."""
        fields = self._fields
        end = fields.find(b"\r\n", start) + 2
        while fields[end : end + 1] in (b" ", b"\t"):
            end = fields.find(b"\r\n", end) + 2
        return end

    def count(self, name: str) -> int:
        """How many fields are called ``name``."""
        return sum(1 for _ in self._find(name))

    def __contains__(self, name: str) -> bool:
        return any(True for _ in self._find(name))

    def get_all(self, name: str) -> list[bytes]:
        """The values of the fields called ``name``, unfolded and stripped."""
        return [self._fields[at : self._end_of(at)].replace(b"\r\n", b"").strip() for _, at in self._find(name)]

    def get(self, name: str) -> bytes | None:
        """The first of :meth:`get_all`, None if there is none."""
        for _, at in self._find(name):
            return self._fields[at : self._end_of(at)].replace(b"\r\n", b"").strip()
        return None

    def remove(self, name: str) -> int:
        """Remove the fields called ``name``; how many there were."""
        spans = [(at, self._end_of(at)) for at, _ in self._find(name)]
        for start, end in reversed(spans):
            self._fields = self._fields[:start] + self._fields[end:]
        if spans:
            self._lower = b""
        return len(spans)

    def append(self, field: bytes) -> None:
        """Add a field, as :func:`field` makes it, behind all others."""
        self._fields += field
        self._lower = b""

    def prepend(self, field: bytes) -> None:
        """Add a field, as :func:`field` makes it, before all others."""
        self._fields = field + self._fields
        self._lower = b""

    def take(self, trace: bytes = b"") -> bytes:
        """``trace``, the section, and what arrived behind it, with a blank line between them if there was none."""
        rest, self._rest = self._rest, b""
        if not rest or rest.startswith(b"\r\n"):
            return b"".join((trace, self._fields, rest))
        return b"".join((trace, self._fields, b"\r\n", rest))


def tls_wish(head: Head) -> RequireTls:
    """What a header section says of TLS: "No" is all that it can say, and only once (RFC 8689 §3)."""
    wishes = head.get_all("TLS-Required")
    return "optional" if len(wishes) == 1 and wishes[0].lower() == b"no" else ""


def clean(text: str) -> str:
    """``text`` for a field of ours: printable ASCII in one line, whatever it was."""
    return (
        text
        if text.isascii() and text.isprintable()
        else printable(text, HARD_LIMIT).encode("ascii", "backslashreplace").decode("ascii")
    )


def field(name: str, *words: str) -> bytes:
    """A field of ours: ``words`` are joined by spaces and folded between them where a line would pass 78 characters.

    A word that passes 998 by itself is cut.  No CR or LF in a word survives (:func:`clean`).
    """
    lines = []
    line = f"{clean(name)}:"
    for word in words:
        cleaned = clean(word)[: HARD_LIMIT - 1]
        length = len(line) + 1 + len(cleaned)
        if length > (HARD_LIMIT if line.endswith(":") else SOFT_LIMIT):
            lines.append(line)
            line = f"\t{cleaned}"
        else:
            line = f"{line} {cleaned}"
    lines.append(line)
    return ("\r\n".join(lines) + "\r\n").encode("ascii")


_last_date: tuple[int, str] = (-1, "")


def date(when: float) -> str:
    """``when`` (seconds since the epoch) as a date of a header field, in UTC (RFC 5322 §3.3)."""
    global _last_date
    second = int(when)
    known, text = _last_date
    if known != second:
        t = time.gmtime(second)
        text = (
            f"{_DAYS[t.tm_wday]}, {t.tm_mday} {_MONTHS[t.tm_mon - 1]} {t.tm_year:04} "
            f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} +0000"
        )
        _last_date = (second, text)
    return text
