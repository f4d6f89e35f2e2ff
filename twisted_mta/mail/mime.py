"""The structure of a MIME message, found while its content passes.  Pure; bounded in memory.

Source: RFC 2045 §5 and §6 (fields of a part), RFC 2046 §5.1 (multipart) and §5.2 (message), RFC 1847 §2 (signed).

A :class:`Walker` divides content into header sections, bodies and delimiters, and calls what a subclass makes of them.
Together they are the content, octet for octet.  Where two readers could see different structures it gives up
(:class:`Unclear`): whoever acts on a guess lets a message say one thing to a filter and another to a mail program.
"""

from __future__ import annotations

import re

import msgspec

HEADER_LIMIT = 1 << 18
"""Octets of one header section."""
DEPTH = 50
"""How deeply parts may stand within one another."""
IDENTITY = ("7bit", "8bit", "binary")
"""Encodings that leave a body as it is (RFC 2045 §6.2)."""
PARTS = 10_000
"""How many parts a message may have."""
_BOUNDARY_LIMIT = 200  # RFC 2046 §5.1.1 has 70
_DELIMITER_LIMIT = 1000

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:([^\r\n\0]*)")
_TYPE = re.compile(rb"[ \t]*([!#$%&'*+.0-9A-Z^_`a-z{|}~-]+)/([!#$%&'*+.0-9A-Z^_`a-z{|}~-]+)[ \t]*")
_PARAMETER = re.compile(rb";[ \t]*(?:([^\s;=\"]+)[ \t]*=[ \t]*(\"(?:[^\"\\]|\\.)*\"|[^\s;\"]+)[ \t]*)?")


class Unclear(Exception):
    """The structure cannot be told with certainty; the words say why, after "The message ..."."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What the header section of a part, or a message, says of its body.

    ``fields`` is the section without the blank line; ``ended``: there is one.  ``kind`` and ``subtype`` are in lower
    case, and the default's where no field says so (``typed`` is False then); ``encoding`` likewise.  ``mime``: there
    is a MIME-Version.  ``message``: it is a message's header, and not that of a part of one.  ``problem``: why its
    fields cannot be relied upon, "" if they can.
    """

    fields: bytes
    ended: bool
    message: bool
    kind: str = "text"
    subtype: str = "plain"
    encoding: str = "7bit"
    boundary: bytes = b""
    typed: bool = False
    mime: bool = False
    problem: str = ""


class _Level(msgspec.Struct, frozen=True):
    """A multipart that is open: ``mark`` is its delimiter, ``nested`` how many messages it is within."""

    mark: bytes
    signed: bool
    digest: bool
    nested: int


class Walker:
    """Takes content in any pieces by :meth:`feed`, then :meth:`finish` once; both raise :class:`Unclear`.

    Holds one header section, or one line that may be a delimiter.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._levels: list[_Level] = []
        self._lines: list[bytes] | None = []  # of the header section that is being read; None: in a body
        self._held = 0  # octets of them
        self._message = True
        self._nested = 0
        self._parts = 0
        self._virtual = False  # the buffer begins with a CRLF that is not of the body

    # What a subclass does

    def header(self, part: Part) -> None:
        """A header section, and the blank line behind it where there is one.  :meth:`body` follows unless it is that
        of a message that is itself a part's body."""

    def body(self, data: bytes) -> None:
        """Octets of the body of the last part; of a multipart, what is before and behind its parts."""

    def end(self, final: bool) -> None:
        """A body is complete; ``final``: so is the content.  The CRLF before a delimiter is not of the body."""

    def delimiter(self, data: bytes) -> None:
        """The line of a delimiter, with the CRLFs that belong to it."""

    def begin_outside(self) -> None:
        """What follows is behind the last part of a multipart."""

    @property
    def signed(self) -> bool:
        """Whether what passes is within a multipart/signed."""
        return any(level.signed for level in self._levels)

    # What the caller does

    def feed(self, data: bytes) -> None:
        """Take some content."""
        self._buffer += data
        while self._header() if self._lines is not None else self._body():
            pass

    def finish(self) -> None:
        """The content is complete."""
        if self._lines is not None:
            if self._buffer:
                self._lines.append(self._buffer)
                self._buffer = b""
                if _FIELD.fullmatch(self._lines[-1]) is None:
                    raise Unclear("ends within a header section")
                self._lines[-1] += b"\r\n"
            self._end_header(False)
            if self._lines is not None:  # a message within, without anything
                self._end_header(False)
        if self._buffer and self._levels:
            found = self._match(self._buffer[2:]) if self._buffer.startswith(b"\r\n--") else None
            if found is not None:
                before = self._buffer[: 0 if self._virtual else 2]
                self.end(False)
                self.delimiter(before + self._buffer[2:])
                self._buffer, self._virtual = b"", False
                self._close(found[0])
                self.end(True)
                return
        self._emit(len(self._buffer))
        self.end(True)

    # Header sections

    def _header(self) -> bool:
        lines, buffer = self._lines, self._buffer
        assert lines is not None
        start = 0
        while True:
            end = buffer.find(b"\r\n", start)
            if end < 0:
                self._buffer = buffer[start:]
                if self._held + len(self._buffer) > HEADER_LIMIT:
                    raise Unclear("has a header section that is too long")
                return False
            line = buffer[start:end]
            if not line:
                self._buffer = buffer[end + 2 :]
                self._end_header(True)
                return True
            good = _FIELD.fullmatch(line) is not None or (lines and line[:1] in b" \t" and b"\0" not in line)
            if not good or b"\r" in line or b"\n" in line:
                self._buffer = buffer[start:]
                self._end_header(False)
                return True
            lines.append(line + b"\r\n")
            self._held += len(line) + 2
            if self._held > HEADER_LIMIT:
                raise Unclear("has a header section that is too long")
            start = end + 2

    def _end_header(self, ended: bool) -> None:
        assert self._lines is not None
        digest = bool(self._levels) and self._levels[-1].digest and not self._message
        part = _read(self._lines, ended, self._message, digest)
        self._parts += 1
        if self._parts > PARTS:
            raise Unclear("has too many parts")
        self._lines = None
        self._virtual = True
        self._buffer = b"\r\n" + self._buffer
        if part.kind == "multipart":
            if not part.boundary or part.problem:
                raise Unclear(part.problem or "has a multipart without a boundary")
            mark = b"--" + part.boundary
            if any(mark.startswith(it.mark) and mark[len(it.mark) :] in (b"", b"--") for it in self._levels):
                raise Unclear("has parts within one another that end alike")
            self.header(part)
            self._levels.append(_Level(mark, part.subtype == "signed", part.subtype == "digest", self._nested))
        elif (part.kind, part.subtype) == ("message", "rfc822") and part.encoding in IDENTITY and not part.problem:
            self.header(part)
            self._nested += 1
            self._buffer = self._buffer[2:]
            self._virtual = False
            self._begin_header(message=True)
        else:
            self.header(part)
        if len(self._levels) + self._nested > DEPTH:
            raise Unclear("has parts too deep within one another")

    def _begin_header(self, message: bool) -> None:
        self._lines, self._held, self._message = [], 0, message

    # Bodies

    def _body(self) -> bool:
        """Pass on what is surely body; True where a delimiter was found and a header section begins."""
        if not self._levels:
            self._emit(len(self._buffer))
            return False
        start = 0
        while True:
            at = self._buffer.find(b"\r\n--", start)
            if at < 0:
                self._emit(max(start, len(self._buffer) - 3))
                return False
            end = self._buffer.find(b"\r\n", at + 4)
            if end < 0 and len(self._buffer) - at <= _DELIMITER_LIMIT:
                self._emit(at)
                return False
            if not at < end <= at + _DELIMITER_LIMIT:
                if self._match(self._buffer[at + 2 : at + _DELIMITER_LIMIT]) is not None:
                    raise Unclear("has a line that is almost a delimiter of its parts")
                start = at + 2
                continue
            found = self._match(self._buffer[at + 2 : end])
            if found is not None:
                return self._divide(at, end, *found)
            start = at + 2

    def _match(self, line: bytes) -> tuple[int, bool] | None:
        """The level whose delimiter a line is, and whether it is the last one of it."""
        near = False
        for level in range(len(self._levels) - 1, -1, -1):
            mark = self._levels[level].mark
            if line.startswith(mark):
                rest = line[len(mark) :].rstrip(b" \t")
                if rest in (b"", b"--"):
                    return level, bool(rest)
                near = True
        if near:  # RFC 2046 §5.1.1 lets a reader take this for one
            raise Unclear("has a line that is almost a delimiter of its parts")
        return None

    def _divide(self, at: int, end: int, level: int, last: bool) -> bool:
        self._emit(at)
        end -= at
        line = self._buffer[2 if self._virtual else 0 : end]
        self.end(False)
        if last:  # the CRLF behind it may be that of the next delimiter
            self.delimiter(line)
            self._buffer, self._virtual = self._buffer[end:], False
            self._close(level)
            return True
        self.delimiter(line + b"\r\n")
        self._buffer, self._virtual = self._buffer[end + 2 :], False
        self._nested = self._levels[level].nested
        del self._levels[level + 1 :]
        self._begin_header(message=False)
        return True

    def _close(self, level: int) -> None:
        self._nested = self._levels[level].nested
        del self._levels[level:]
        self.begin_outside()

    def _emit(self, size: int) -> None:
        """Pass on the start of the buffer."""
        if size <= 0:
            return
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        if self._virtual:
            if size < 2:
                self._buffer = data + self._buffer
                return
            data, self._virtual = data[2:], False
        if data:
            self.body(data)


def _read(lines: list[bytes], ended: bool, message: bool, digest: bool) -> Part:
    """What a header section says."""
    values: dict[bytes, list[bytes]] = {}
    last: list[bytes] | None = None
    for line in lines:
        match = _FIELD.fullmatch(line[:-2])
        if match is None:  # a line that continues a field
            if last is not None:
                last[-1] += line[:-2]
            continue
        last = values.setdefault(match[1].lower(), [])
        last.append(match[2])
    types, encodings = values.get(b"content-type", []), values.get(b"content-transfer-encoding", [])
    problem = "has a part with two types" if len(types) > 1 else ""
    if len(encodings) > 1:
        problem = "has a part with two encodings"
    kind, subtype, boundary = ("message", "rfc822", b"") if digest else ("text", "plain", b"")
    if types:
        try:
            kind, subtype, boundary = _content_type(types[0])
        except Unclear as error:
            kind, subtype, problem = _roughly(types[0]), "", problem or str(error)
    encoding = encodings[0].strip().decode("latin-1").lower() if encodings else "7bit"
    fields = b"".join(lines)
    return Part(
        fields=fields,
        ended=ended,
        message=message,
        kind=kind,
        subtype=subtype,
        encoding=encoding,
        boundary=boundary,
        typed=bool(types),
        mime=b"mime-version" in values,
        problem=problem,
    )


def _roughly(value: bytes) -> str:
    return "multipart" if b"multipart" in value.lower() else "message" if b"message" in value.lower() else "application"


def _content_type(value: bytes) -> tuple[str, str, bytes]:
    """Type, subtype and boundary.  Raises :class:`Unclear`."""
    match = _TYPE.match(value)
    if match is None:
        raise Unclear("has a part with a type that is not well formed")
    kind, subtype = match[1].decode("ascii").lower(), match[2].decode("ascii").lower()
    boundary, place = b"", match.end()
    while place < len(value):
        found = _PARAMETER.match(value, place)
        if found is None:
            raise Unclear("has a part with a type that is not well formed")
        name = (found[1] or b"").lower()
        if name.startswith(b"boundary"):
            if boundary or name != b"boundary":
                raise Unclear("has a multipart with two boundaries")
            boundary = found[2]
            if boundary.startswith(b'"'):
                boundary = re.sub(rb"\\(.)", rb"\1", boundary[1:-1])
            if not boundary.isascii() or len(boundary) > _BOUNDARY_LIMIT or boundary[-1:] in (b"", b" ", b"\t"):
                raise Unclear("has a multipart with a boundary that is not well formed")
        place = found.end()
    return kind, subtype, boundary
