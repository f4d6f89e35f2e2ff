"""Replies and status codes: what SMTP says about a command, a message or a recipient.

Source: RFC 5321 §4.2 (reply codes), RFC 3463 (enhanced status codes), RFC 2034 (their place in a reply).
"""

from __future__ import annotations

from typing import Self

import msgspec


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """One SMTP reply: ``code`` (200 to 599), ``enhanced`` ("2.1.0", or "" for none) and ``text``.

    ``text`` may hold several lines, divided by ``\\n``.  It holds printable characters only; whoever puts a
    peer's words into one passes them through :func:`printable` first.
    """

    code: int
    enhanced: str = ""
    text: str = ""

    @property
    def positive(self) -> bool:
        """A 2yz or 3yz reply (RFC 5321 §4.2.1)."""
        return self.code < 400

    @property
    def temporary(self) -> bool:
        """A 4yz reply: the client may try again later (RFC 5321 §4.2.1)."""
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        """A 5yz reply: trying again unchanged is of no use (RFC 5321 §4.2.1)."""
        return self.code >= 500

    @property
    def status(self) -> str:
        """The enhanced code; where the reply had none, the general one of its class, such as "5.0.0"."""
        return self.enhanced or f"{min(max(self.code // 100, 2), 5)}.0.0"

    def encode(self) -> bytes:
        """The reply as lines on the wire, CRLF included (RFC 5321 §4.2.1: "-" after the code but in the last)."""
        words = f"{self.enhanced} " if self.enhanced else ""
        *before, last = self.text.split("\n")
        head = "".join(f"{self.code}-{words}{line}\r\n" for line in before)
        return f"{head}{self.code} {words}{last}\r\n".encode("utf-8", "replace")

    def __str__(self) -> str:
        words = " ".join(self.text.split("\n"))
        return f"{self.code} {self.enhanced} {words}" if self.enhanced else f"{self.code} {words}"


class MailError(Exception):
    """A failure at a boundary of ours, with the reply that tells the peer.  Temporary exactly if the reply is."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply

    @property
    def temporary(self) -> bool:
        """Whether trying again later may help."""
        return self.reply.temporary

    def anew(self) -> Self:
        """The same, to be raised where this one is kept: each raise adds frames to an exception, with all they know."""
        other = type(self).__new__(type(self))
        Exception.__init__(other, *self.args)
        other.__dict__.update(self.__dict__)
        return other


_UNPRINTABLE = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F)} | {
    code: f"\\u{code:04x}"
    for code in (
        *(0x61C, 0x200E, 0x200F, 0x2028, 0x2029, 0xFEFF),
        *range(0x80, 0xA0),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        *range(0xD800, 0xE000),
    )
}


def printable(text: str | bytes, limit: int = 200) -> str:
    """A peer's words made fit for a reply or a log line: control characters escaped, at most ``limit`` characters."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return text if text.isascii() and text.isprintable() else text.translate(_UNPRINTABLE)
