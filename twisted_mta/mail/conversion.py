"""Content made fit for a server that takes less: 8-bit or binary parts become quoted-printable or base64.

Source: RFC 6152 §3 and RFC 3030 §3 (no loss of information, valid MIME, no encoding within another), RFC 2045 §6
(encodings), RFC 2046 §5 (composite parts are never encoded themselves), RFC 1847 §2.1 (what is signed stays as it is),
RFC 1428 §3 (text that says nothing of its character set).

It takes two passes: :class:`Survey` finds what each part needs, or that it cannot be done; :class:`Converter` does it.
Both take content in any pieces, and hold little more than a line of it.
"""

from __future__ import annotations

import re
from binascii import b2a_base64, b2a_qp
from typing import Literal

import msgspec

from .mime import IDENTITY, Part, Unclear, Walker

Target = Literal["7bit", "8bit"]
"""What the server takes (RFC 2045 §2.7 and §2.8)."""
Action = Literal["", "quoted-printable", "base64"]

MAX_LINE = 998
_LINE = 57  # octets in a line of base64
_ENCODING = re.compile(rb"(?im)^content-transfer-encoding[ \t]*:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*")
_PLAIN = bytes([9, 10, 13, *range(32, 61), *range(62, 127)])  # what quoted-printable leaves as it is


class Plan(msgspec.Struct, frozen=True):
    """What becomes of each body, in their order; ``size`` is about what the whole will have, in octets."""

    target: Target
    actions: tuple[Action, ...]
    size: int


class Survey(Walker):
    """The first pass.  :meth:`plan` after :meth:`finish`; all raise :class:`Unclear` where it cannot be done."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._target = target
        self._actions: list[Action] = []
        self._size = 0
        self._text = False
        self._reason = ""
        self._begin()

    def plan(self) -> Plan:
        """What to do."""
        return Plan(self._target, tuple(self._actions), self._size)

    def _begin(self) -> None:
        self._octets = self._special = self._line = 0
        self._wrong = self._long = self._bare = False
        self._tail = b""

    def header(self, part: Part) -> None:
        """See :class:`Walker`."""
        fields = part.fields
        self._size += len(fields) + 100
        if self._target == "7bit" and not fields.isascii():
            raise Unclear("has letters beyond ASCII in its header")
        if max(map(len, fields.split(b"\r\n"))) > MAX_LINE:
            raise Unclear("has a line in its header that is too long")
        self._begin()
        self._text = part.kind == "text"
        self._reason = _reason(part, self.signed)

    def begin_outside(self) -> None:
        """See :class:`Walker`."""
        self._begin()
        self._reason = _OUTSIDE

    def body(self, data: bytes) -> None:
        """See :class:`Walker`."""
        self._octets += len(data)
        self._special += len(data.translate(None, _PLAIN))
        if not self._wrong:
            self._wrong = b"\0" in data or (self._target == "7bit" and not data.isascii())
        if not (self._bare and self._long):
            self._look_at_lines(data)

    def _look_at_lines(self, data: bytes) -> None:
        """See whether all lines are short and end with CRLF."""
        text = self._tail + data if self._tail else data
        self._tail = b""
        if text.endswith(b"\r"):
            text, self._tail = text[:-1], b"\r"
        ends = text.count(b"\r\n")
        if text.count(b"\r") != ends or text.count(b"\n") != ends:
            self._bare = True
        start, size, before = 0, len(text), self._line
        while start < size:
            last = text.rfind(b"\r\n", start, start + MAX_LINE + 2 - before)
            if last < 0:
                before += size - start
                self._long = self._long or before > MAX_LINE
                break
            start, before = last + 2, 0
        self._line = min(before, MAX_LINE + 1) if size else self._line

    def end(self, final: bool) -> None:
        """See :class:`Walker`."""
        if self._tail:
            self._bare = True
        unfinished = final and self._octets > 0 and self._line > 0 and self._reason != _OUTSIDE
        action: Action = ""
        if self._wrong or self._long or self._bare or unfinished:
            if self._reason:
                raise Unclear(self._reason)
            quoted = self._octets + 2 * self._special
            quoted += 3 * (quoted // 73)
            coded = self._octets * 78 // _LINE + 4
            plain = self._text and not (self._long or self._bare)
            action = "quoted-printable" if plain and quoted <= coded else "base64"
            self._size += quoted if action == "quoted-printable" else coded
        else:
            self._size += self._octets
        self._actions.append(action)

    def delimiter(self, data: bytes) -> None:
        """See :class:`Walker`."""
        self._size += len(data)


_OUTSIDE = "has text before or behind its parts that would have to be encoded"


def _reason(part: Part, signed: bool) -> str:
    """Why the body of a part cannot be encoded; "" if it can."""
    if part.kind == "multipart":
        return _OUTSIDE
    if signed:
        return "has a signature that would be broken"
    if part.problem:
        return part.problem
    if not part.ended:
        return "has a part whose header is not well formed"
    if part.encoding not in IDENTITY:
        return f"has a part that says it is encoded in {part.encoding[:40]!a}, and is not"
    if part.kind == "message" and part.subtype not in ("global", "global-headers", "global-delivery-status"):
        return f"has a part of type message/{part.subtype} that must not be encoded"  # RFC 2046 §5.2, RFC 6532 §3.7
    return ""


class Converter(Walker):
    """The second pass: gives the content as the plan has it.  :meth:`convert` each piece, then :meth:`close`."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan
        self._next = 0
        self._out: list[bytes] = []
        self._encoder: _Encoder | None = None

    def convert(self, data: bytes) -> bytes:
        """What a piece of the content becomes; what is held back comes with the next."""
        self.feed(data)
        return self._taken()

    def close(self) -> bytes:
        """The rest."""
        self.finish()
        return self._taken()

    def _taken(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        return data

    def header(self, part: Part) -> None:
        """See :class:`Walker`."""
        fields = part.fields
        nested = (part.kind, part.subtype) == ("message", "rfc822") and part.encoding in IDENTITY and not part.problem
        action = "" if nested or part.kind == "multipart" else self._plan.actions[self._next]
        if part.message and not part.mime and not self.signed and (action or (part.typed and any(self._plan.actions))):
            fields += b"MIME-Version: 1.0\r\n"
        if action:
            fields = _labelled(fields, action)
            if not part.typed:
                fields += b"Content-Type: text/plain; charset=unknown-8bit\r\n"
        elif not self.signed and part.encoding in ("8bit", "binary") and part.encoding != self._plan.target:
            fields = _labelled(fields, self._plan.target)
        self._out.append(fields + b"\r\n" if part.ended else fields)
        if action == "base64":
            self._encoder = _Base64()
        elif action:
            self._encoder = _Quoted()

    def body(self, data: bytes) -> None:
        """See :class:`Walker`."""
        self._out.append(data if self._encoder is None else self._encoder.encode(data))

    def end(self, final: bool) -> None:
        """See :class:`Walker`."""
        self._next += 1
        encoder, self._encoder = self._encoder, None
        if encoder is not None:
            self._out.append(encoder.finish(final))

    def delimiter(self, data: bytes) -> None:
        """See :class:`Walker`."""
        self._out.append(data)


def _labelled(fields: bytes, encoding: str) -> bytes:
    line = b"Content-Transfer-Encoding: %b\r\n" % encoding.encode("ascii")
    changed, found = _ENCODING.subn(line, fields, count=1)
    return changed if found else fields + line


class _Encoder:
    def encode(self, data: bytes) -> bytes:
        """What some octets become."""
        raise NotImplementedError

    def finish(self, final: bool) -> bytes:
        """The rest; without a CRLF at its end, unless it is the end of the message (``final``)."""
        raise NotImplementedError


class _Base64(_Encoder):
    """RFC 2045 §6.8: lines of 76 characters."""

    def __init__(self) -> None:
        self._held = b""
        self._begun = False

    def encode(self, data: bytes) -> bytes:
        data = self._held + data
        whole = len(data) - len(data) % _LINE
        self._held = data[whole:]
        return self._encoded(data[:whole])

    def finish(self, final: bool) -> bytes:
        return self._encoded(self._held) + (b"\r\n" if final else b"")

    def _encoded(self, data: bytes) -> bytes:
        if not data:
            return b""
        text = b2a_base64(data, newline=False)
        lines = b"\r\n".join([text[at : at + 76] for at in range(0, len(text), 76)])
        before, self._begun = b"\r\n" if self._begun else b"", True
        return before + lines


class _Quoted(_Encoder):
    """RFC 2045 §6.7, for text whose lines end with CRLF.  Holds a line."""

    def __init__(self) -> None:
        self._held = b""

    def encode(self, data: bytes) -> bytes:
        data = self._held + data
        end = data.rfind(b"\r\n") + 2
        if end == 1:
            self._held = data
            return b""
        self._held = data[end:]
        return quoted(data[:end])

    def finish(self, final: bool) -> bytes:
        text = quoted(self._held + b"\r\n")[:-2] if self._held else b""
        return text + b"=\r\n" if final and self._held else text


def quoted(text: bytes) -> bytes:
    """Whole lines in quoted-printable.  Where a line is broken, what is next never looks like a delimiter."""
    coded = b2a_qp(text)
    if b"=\r\n--" not in coded:
        return coded
    return b"".join([_quoted_line(line) for line in text.split(b"\r\n")[:-1]])


def _quoted_line(line: bytes) -> bytes:
    rows, row = [], ""
    for place, octet in enumerate(line):
        last = place == len(line) - 1
        plain = 33 <= octet <= 126 and octet != 61
        piece = chr(octet) if plain or (octet in (9, 32) and not last) else f"={octet:02X}"
        if len(row) + len(piece) > 75:
            rows.append(row + "=")
            row = ""
        if not row and rows and piece == "-":
            piece = "=2D"
        row += piece
    return ("\r\n".join([*rows, row]) + "\r\n").encode("ascii")
