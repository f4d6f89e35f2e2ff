"""Replies of an SMTP server, read strictly.  Sans-I/O: bytes in, :class:`~twisted_mta.mail.status.Reply` values out.

Source: RFC 5321 §4.2 and §4.2.1 (form of a reply), §4.5.3.1.5 (length of a reply line), RFC 2034 §4 and RFC 3463
(enhanced codes).  What a peer says is kept as printable text only, so that it may go into logs and reports.
"""

from __future__ import annotations

import functools
import re

from ..mail.status import Reply, printable

MAX_LINE = 2048
"""Octets in one line of a reply; RFC 5321 §4.5.3.1.5 promises 512 at most, some servers say more."""
MAX_LINES = 256
"""Lines in one reply."""

_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])([^\x00\r\n]*))?")
_ENHANCED = re.compile(r"([245])\.([0-9]{1,3})\.([0-9]{1,3})(?: +|$)")


class ReplyError(Exception):
    """The peer does not speak SMTP: the connection is of no further use."""


@functools.lru_cache(512)
def parse_line(line: bytes) -> tuple[int, bool, str, str]:
    """One line without its CRLF as (code, whether more lines follow, enhanced code or "", printable text).

    The enhanced code counts only where its class agrees with the code (RFC 2034 §4).  Raises :class:`ReplyError`.
    """
    match = _LINE.fullmatch(line)
    if match is None:
        raise ReplyError(f"not a reply of SMTP: {printable(line, 80)}")
    code = int(match[1])
    text = printable(match[3] or b"", MAX_LINE)
    enhanced = _ENHANCED.match(text)
    if enhanced is not None and int(enhanced[1]) == code // 100:
        return code, match[2] == b"-", f"{enhanced[1]}.{int(enhanced[2])}.{int(enhanced[3])}", text[enhanced.end() :]
    return code, match[2] == b"-", "", text


class ReplyParser:
    """Takes bytes as they arrive and gives whole replies.

    Only CRLF ends a line: a lone LF inside one could make a reply out of words that the server only repeats.
    After a :class:`ReplyError` the parser is not to be used any more.  Holds at most one reply and one line.
    """

    __slots__ = ("_buffer", "_lines")

    def __init__(self) -> None:
        self._buffer = b""
        self._lines: list[tuple[int, bool, str, str]] = []

    @property
    def pending(self) -> bool:
        """Whether part of a reply has arrived and its end has not."""
        return bool(self._buffer or self._lines)

    def receive(self, data: bytes) -> list[Reply]:
        """The replies that ``data`` completes.  Raises :class:`ReplyError`; what came before it in the same data is
        then lost too, since a peer that breaks the dialogue is believed in nothing."""
        buffer = self._buffer + data if self._buffer else data
        *lines, self._buffer = buffer.split(b"\r\n")
        if len(self._buffer) > MAX_LINE:
            raise ReplyError(f"a line of a reply is longer than {MAX_LINE} octets")
        # What is left may end in CR, the first half of a CRLF; a bare LF or CR anywhere else is seen here at once.
        if b"\n" in self._buffer or b"\r" in self._buffer[:-1]:
            raise ReplyError("a line of a reply does not end with CRLF")
        return self._replies(lines) if lines else []

    def _replies(self, lines: list[bytes]) -> list[Reply]:
        replies: list[Reply] = []
        for line in lines:
            if len(line) > MAX_LINE:
                raise ReplyError(f"a line of a reply is longer than {MAX_LINE} octets")
            parsed = parse_line(line)
            if not parsed[1] and not self._lines:
                replies.append(Reply(parsed[0], parsed[2], parsed[3]))
                continue
            self._lines.append(parsed)
            if parsed[0] != self._lines[0][0]:
                raise ReplyError("the lines of a reply have different codes")
            if len(self._lines) > MAX_LINES:
                raise ReplyError(f"a reply has more than {MAX_LINES} lines")
            if not parsed[1]:
                replies.append(_joined(self._lines))
                self._lines = []
        return replies


def _joined(lines: list[tuple[int, bool, str, str]]) -> Reply:
    """One reply of several lines.  The enhanced code is repeated on each line (RFC 2034 §4): it is taken from the
    first that has one, and a line whose code differs keeps it as words."""
    enhanced = next((line[2] for line in lines if line[2]), "")
    texts = [text if code in {"", enhanced} else f"{code} {text}" for _, _, code, text in lines]
    return Reply(lines[0][0], enhanced, "\n".join(texts))


def shortened(reply: Reply, limit: int = 500) -> Reply:
    """The reply with no more than ``limit`` characters of text: what is kept in the queue, logs and reports."""
    if len(reply.text) <= limit:
        return reply
    return Reply(reply.code, reply.enhanced, reply.text[: limit - 1] + "…")
