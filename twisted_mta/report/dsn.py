"""Delivery status notifications, written out.  Pure: values in, the octets of a message out.

Source: RFC 3464 (message/delivery-status), RFC 6522 (multipart/report, text/rfc822-headers), RFC 3834 §5
(Auto-Submitted), RFC 3461 §6 (what is in them), RFC 5321 §6.1 (who is told what), RFC 5322 §3.6 (header fields).

The whole is 7bit, whatever the original's header or a remote's words hold: quoted-printable where it must be (allowed
for text/rfc822-headers by RFC 6522 §4), and in the machine-readable fields, which are ASCII by their grammar, escapes.
Only where a sender asks to have its message back (RET=FULL, RFC 3461 §4.3), and that is 8bit, the report is too; and
to a sender whose address is beyond ASCII it goes in UTF-8, in the global types of RFC 6533.
"""

from __future__ import annotations

import quopri
import re
import secrets
from collections.abc import Iterable, Sequence
from email.errors import MessageError
from email.header import decode_header
from email.utils import formatdate
from typing import Literal

import msgspec

from ..mail.envelope import Message, Occasion, Recipient
from ..mail.status import Reply
from ..wire.notification import decode_envid, decode_orcpt, encode_address
from .words import advice, opening, outlook

HEAD_LIMIT = 64 << 10
"""Octets of the original's header section that are returned at most."""

LINE = 76
"""Characters of a line that we write, RFC 5322 §2.1.1's 78 less some air."""

Kind = Literal["failed", "delayed", "delivered", "relayed"]
"""What has come of the recipients of a report: the Action of RFC 3464 §2.3.3."""
OCCASIONS: dict[Kind, Occasion] = {
    "failed": "FAILURE",
    "delayed": "DELAY",
    "delivered": "SUCCESS",
    "relayed": "SUCCESS",
}
"""What a sender has to ask for to get a report (RFC 3461 §4.1)."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """What is reported of one recipient, which for some kinds of report is no failure.

    ``host`` and ``remote`` are as in an agent's result: who spoke, and whether ``reply`` is the remote's own.
    ``expired``: it is given up because the lifetime is over.  ``late``: it is told of because RFC 2852's time is.
    ``unasked``: NOTIFY need not ask for the report, and only forbids it with NEVER.  ``last_attempt`` is seconds since
    the epoch.
    """

    recipient: Recipient
    reply: Reply
    host: str = ""
    remote: bool = False
    expired: bool = False
    late: bool = False
    unasked: bool = False
    last_attempt: float = 0.0


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One report: who writes it (``hostname``, ``message_id`` with its angle brackets) and to whom, about which message
    and recipients; ``head`` is the start of the original's content, ``retry_until`` when a delayed one is given up.
    ``about_report``: what failed had the null sender, and this goes to the postmaster."""

    kind: Kind
    hostname: str
    to: str
    message_id: str
    now: float
    message: Message
    failures: tuple[Failure, ...]
    head: bytes = b""
    retry_until: float = 0.0
    about_report: bool = False


def write(notice: Notice) -> bytes:
    """The report as it is sent: header section and body, lines that end with CRLF, 7bit throughout."""
    status = "message/delivery-status" if notice.to.isascii() else "message/global-delivery-status"
    parts = [
        _part("text/plain; charset=utf-8", _human(notice), "Notification"),
        _part(status, _status(notice), "Delivery report", fields=True),
        _returned(notice),
    ]
    boundary = _boundary(parts)
    mark = b"--" + boundary.encode("ascii")
    body = b"".join(mark + b"\r\n" + part + b"\r\n" for part in parts) + mark + b"--\r\n"
    encoding = "7bit" if body.isascii() else "8bit"
    return "\r\n".join((*_header(notice, boundary, encoding), "", "")).encode("utf-8") + body


def _returned(notice: Notice) -> bytes:
    """The third part: the message, if it failed, RET=FULL and it is small text; else its header section."""
    message, content = notice.message, notice.head
    whole = message.chunks == 1 and len(content) == message.size and message.body != "BINARYMIME"
    if notice.kind != "failed" or message.ret != "FULL" or not whole:
        kind = "text/rfc822-headers; charset=utf-8" if notice.to.isascii() else "message/global-headers"
        return _part(kind, header_section(content), "Header of the message", fields=not notice.to.isascii())
    encoding = "7bit" if content.isascii() else "8bit"
    kind = "message/rfc822" if header_section(content).isascii() else "message/global"  # RFC 6532 §3.7
    head = (
        f"Content-Description: Returned message\r\nContent-Type: {kind}\r\n"
        f"Content-Transfer-Encoding: {encoding}\r\n\r\n"
    )
    return head.encode("ascii") + content


def header_section(content: bytes, limit: int = HEAD_LIMIT) -> bytes:
    """The header section at the start of ``content``, CRLF after each line, cut at a line's end if above ``limit``."""
    end = 0 if content.startswith(b"\r\n") else content.find(b"\r\n\r\n") + 2
    if end == 1:  # no empty line: all of it is header, but its last line may be cut off
        end = len(content) if content.endswith(b"\r\n") else content.rfind(b"\r\n") + 2
        end = 0 if end == 1 else end
    if end > limit:
        end = content.rfind(b"\r\n", 0, limit) + 2
        end = 0 if end == 1 else end
    return content[:end]


def field(head: bytes, name: bytes) -> str:
    """The decoded, printable text of a header field of an original, for people to read; "" if there is none."""
    match = re.search(rb"(?im)^" + re.escape(name) + rb":[ \t]*((?:[^\r\n]|\r\n[ \t])*)", head)
    if match is None:
        return ""
    raw = match.group(1)[:2000].replace(b"\r\n", b"").decode("utf-8", "replace")
    try:
        words = [
            word.decode(charset or "ascii", "replace") if isinstance(word, bytes) else word
            for word, charset in decode_header(raw)
        ]
    except (ValueError, LookupError, MessageError):  # broken encoded words, unknown charsets
        words = [raw]
    text = "".join(letter if letter.isprintable() else " " for letter in "".join(words))
    return _cut(" ".join(text.split()), 200)


def _header(notice: Notice, boundary: str, encoding: str) -> Iterable[str]:
    host = _ascii(notice.hostname)
    if notice.kind == "delayed":
        subject = "Delayed: your message has not been delivered yet"
    elif notice.kind == "delivered":
        subject = "Delivered: your message has arrived"
    elif notice.kind == "relayed":
        subject = "Relayed: your message is on its way"
    elif notice.about_report:
        subject = "Undeliverable message without a sender"
    else:
        subject = "Undeliverable: your message was not delivered"
    yield f"From: Mail Delivery System <MAILER-DAEMON@{host}>"
    yield f"To: {notice.to if notice.to.isprintable() else _ascii(notice.to)}"
    yield f"Subject: {subject}"
    yield f"Date: {formatdate(notice.now)}"
    yield f"Message-ID: {notice.message_id}"
    about = _ascii(notice.message.message_id)
    if re.fullmatch(r"<[!-;=?-~]{1,250}>", about):
        yield f"In-Reply-To: {about}"
        yield f"References: {about}"
    yield "Auto-Submitted: auto-replied"
    yield "MIME-Version: 1.0"
    yield f'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary}"'
    yield f"Content-Transfer-Encoding: {encoding}"


def _human(notice: Notice) -> bytes:
    """The first part: what happened, what the other side said, and what to do, for people."""
    subject = field(header_section(notice.head), b"subject")
    message = notice.message
    lines = [f"This is the mail system at {notice.hostname}.", ""]
    lines += _wrap(opening(notice.kind, len(notice.failures), notice.about_report), "")
    lines.append("")
    if subject:
        lines += _wrap(f"Subject: {subject}", "    ")
    lines.append(f"    Received: {formatdate(message.arrived)}")
    lines.append(f"    Queue ID: {message.id}")
    if message.handling is not None and message.handling.release:
        lines.append(f"    To be sent: {formatdate(message.handling.release)}, as you asked")
    if message.handling is not None and message.handling.deliver_by:
        lines.append(f"    To be delivered by: {formatdate(message.handling.deliver_by)}, as you asked")
    for failure in notice.failures:
        lines += ["", f"<{_original(failure.recipient)}>"]
        if _original(failure.recipient) != failure.recipient.address:
            lines += _wrap(f"It stands for <{failure.recipient.address}>.", "    ")
        ours = "The reason:" if notice.kind in ("failed", "delayed") else "The result:"
        said = f"The mail server {failure.host} answered:" if failure.remote and failure.host else ours
        lines += ["    " + said, *_wrap(str(failure.reply), "        ")]
        counsel = advice(notice.kind, failure.reply.status, failure.expired)
        lines += _wrap(counsel, "    ") if counsel else []
    if notice.kind == "delayed":
        lines += ["", *_wrap(outlook(formatdate(notice.retry_until)), "")]
    lines += ["", *_wrap("The technical details and the header of the message follow for those who need them.", "")]
    return "".join(f"{_plain(line)}\r\n" for line in lines).encode("utf-8", "replace")


def _status(notice: Notice) -> bytes:
    """The second part, for programs (RFC 3464 §2)."""
    lines = [
        f"Reporting-MTA: dns; {notice.hostname}",
        f"X-Queue-ID: {notice.message.id}",
        f"Arrival-Date: {formatdate(notice.message.arrived)}",
    ]
    envelope_id = decode_envid(notice.message.envid) if notice.message.envid else None
    if envelope_id is not None:  # RFC 3464 §2.2.1
        lines[:0] = [f"Original-Envelope-Id: {envelope_id}"]
    handling = notice.message.handling
    if handling is not None and handling.deliver_by:  # RFC 2852 §5
        lines.append(f"Deliver-By-Date: {formatdate(handling.deliver_by)}")
    if handling is not None and handling.request:  # RFC 4865 §7
        lines.append(f"Future-Release-Request: {handling.request}")
    for failure in notice.failures:
        reply = failure.reply
        lines.append("")
        lines.append(f"Original-Recipient: {_typed(failure.recipient, notice.to.isascii())}")
        lines.append(f"Final-Recipient: {_address(failure.recipient.address, notice.to.isascii())}")
        lines.append(f"Action: {notice.kind}")
        lines.append(f"Status: {status_of(failure)}")
        if failure.host:
            lines.append(f"Remote-MTA: dns; {failure.host}")
        kind = "smtp" if failure.remote else "x-twisted-mta"
        lines += _fold(f"Diagnostic-Code: {kind}; {reply}")
        lines.append(f"Last-Attempt-Date: {formatdate(failure.last_attempt or notice.now)}")
        if notice.kind == "delayed":
            lines.append(f"Will-Retry-Until: {formatdate(notice.retry_until)}")
    if notice.to.isascii():
        return "".join(f"{_ascii(line, keep_fold=True)}\r\n" for line in lines).encode("ascii")
    folded = ("\r\n ".join(map(_plain, line.split("\r\n "))) for line in lines)
    return "".join(f"{line}\r\n" for line in folded).encode("utf-8", "replace")


def status_of(failure: Failure) -> str:
    """The Status of a recipient: its reply's, or "delivery time expired" (RFC 3463 §3.5, RFC 2852 §4.1)."""
    if failure.expired or failure.late:
        return "5.4.7" if failure.expired else "4.4.7"
    status = failure.reply.status
    return status if re.fullmatch(r"[245]\.\d{1,3}\.\d{1,3}", status) else f"{failure.reply.code // 100}.0.0"


def _part(kind: str, body: bytes, description: str, fields: bool = False) -> bytes:
    encoding = "7bit"
    if fields and not body.isascii():
        encoding = "8bit"  # of type global (RFC 6533 §4): the whole goes out with SMTPUTF8
    elif not _seven_bit(body):
        encoding = "quoted-printable"
        encoded = quopri.encodestring(body.replace(b"\r\n", b"\n"))
        body = encoded.replace(b"\r", b"=0D").replace(b"\n", b"\r\n")
    elif not fields and kind.endswith("charset=utf-8"):
        kind = kind.replace("utf-8", "us-ascii")
    head = (
        f"Content-Description: {description}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    )
    return head.encode("ascii") + body


def _seven_bit(body: bytes) -> bool:
    """RFC 2045 §2.7: ASCII without NUL, CR and LF only as CRLF, lines of 998 octets at most."""
    if not body.isascii() or b"\0" in body:
        return False
    lines = body.split(b"\r\n")
    return all(len(line) <= 998 and b"\r" not in line and b"\n" not in line for line in lines)


def _boundary(parts: Sequence[bytes]) -> str:
    """RFC 2046 §5.1.1: what occurs in no part."""
    while True:
        boundary = f"report-{secrets.token_hex(16)}"
        if not any(boundary.encode("ascii") in part for part in parts):
            return boundary


def _original(recipient: Recipient) -> str:
    return recipient.original or recipient.address


def _address(address: str, seven_bit: bool) -> str:
    """An address with its type; beyond ASCII it is spelled out where the report may (RFC 6533 §3)."""
    if address.isascii():
        return f"rfc822; {address}"
    return f"utf-8; {encode_address(address) if seven_bit else address}"


def _typed(recipient: Recipient, seven_bit: bool) -> str:
    """The address that the sender wrote, with its type: by ORCPT, or as it came to us (RFC 3464 §2.3.1)."""
    named = decode_orcpt(recipient.orcpt) if recipient.orcpt else None
    return f"{named[0]}; {named[1]}" if named else _address(_original(recipient), seven_bit)


def _plain(text: str) -> str:
    """Printable characters of any script, all else escaped."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _ascii(text: str, keep_fold: bool = False) -> str:
    """Printable ASCII, all else escaped: nothing of a peer's ends a line or a field here."""
    if text.isascii() and text.isprintable():
        return text
    if keep_fold:
        return "\r\n ".join(_ascii(line) for line in text.split("\r\n "))
    return "".join(
        letter if letter.isascii() and letter.isprintable() else letter.encode("unicode_escape", "replace").decode()
        for letter in text
    )


def _fold(text: str, limit: int = 1000) -> list[str]:
    """A field as one "line" with folds before words (RFC 5322 §2.2.3), never longer than ``limit`` characters."""
    text = _cut(_ascii(" ".join(text.split())), limit, "...")
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > LINE:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    lines.append(line)
    return ["\r\n ".join(lines)]


def _wrap(text: str, indent: str) -> list[str]:
    """Lines for people.  Long words are not broken."""
    lines: list[str] = []
    line = ""
    for word in _cut(" ".join(text.split()), 2000).split(" "):
        if line and len(indent) + len(line) + 1 + len(word) > LINE:
            lines.append(indent + line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, indent + line]


def _cut(text: str, limit: int, mark: str = "…") -> str:
    return text if len(text) <= limit else text[: limit - len(mark)] + mark
