"""Maildirs as files: paths, names, and writing a message durably.  All of it blocks: for threads only.

Source: the maildir format (https://cr.yp.to/proto/maildir.html), Maildir++ (folders ".name", "S=" and "W=" in file
names as Dovecot reads them), RFC 5321 §4.4 (Return-Path at final delivery).
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import attrs

from ..mail.address import detail_split, domain_of, parse_address
from ..mail.envelope import Recipient
from ..mail.status import MailError, Reply

_T = TypeVar("_T")
_UNSAFE = re.compile(rb"[^A-Za-z0-9!#$&'*+=?^_`{|}~@,.\[\]-]|^\.|^-")
_PLACE = re.compile(r"\{(state_dir|domain|user)\}")
_RETURN_PATH = re.compile(rb"(?im)^return-path[ \t]*:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*")
_DELIVERED_TO = re.compile(rb"(?im)^delivered-to[ \t]*:[ \t]*([^\r\n]*)")

_NO_LINKS = frozenset((errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK))
_REPLIES = {
    errno.ENOSPC: Reply(452, "4.3.1", "There is no space left for mail; delivery will be tried again"),
    errno.EDQUOT: Reply(452, "4.2.2", "The mailbox is full; delivery will be tried again"),
    errno.ENAMETOOLONG: Reply(550, "5.1.3", "The mailbox's name is too long for a file name"),
}
_STORAGE = Reply(451, "4.3.0", "The mailbox can't be written now; delivery will be tried again")
LOOP = Reply(554, "5.4.6", "The message has been in this mailbox before: addresses forward to each other in a circle")


def safe_name(text: str) -> str:
    """``text`` as one component of a path, whatever it holds: never empty, hidden, "." or "..", and without "/".

    Octets that are not plainly harmless become %XX.  Raises :class:`MailError` (550 5.1.3) for an empty one.
    """
    if not text:
        raise MailError(Reply(550, "5.1.3", "An address without a local part has no mailbox"))
    raw = text.encode("utf-8", "surrogateescape")
    return _UNSAFE.sub(lambda match: b"%%%02X" % ord(match.group()), raw).decode("ascii")


def mailbox_path(template: str, state_dir: str, address: str, delimiter: str) -> tuple[str, str]:
    """The Maildir of a mailbox and the name of its folder for the detail ("" for none).

    Local parts of ours ignore case, so the path is in lower case.  Raises :class:`MailError` for what is no address.
    """
    user, detail = detail_split(parse_address(address).local if "@" in address else address, delimiter)
    values = {
        "state_dir": state_dir,
        "domain": safe_name(domain_of(address).lower()),
        "user": safe_name(user.lower()),
    }
    path = _PLACE.sub(lambda match: values[match.group(1)], template)
    return path, f".{safe_name(detail)}" if detail else ""


def crlf_to_lf(data: bytes, carry: bytes) -> tuple[bytes, bytes]:
    """``carry`` and ``data`` with LF for CRLF, and a CR at the end that belongs to what comes next."""
    data = carry + data if carry else data
    carry = b""
    if data.endswith(b"\r"):
        data, carry = data[:-1], b"\r"
    return data.replace(b"\r\n", b"\n"), carry


def without_return_path(content: bytes) -> bytes:
    """The start of a content without the Return-Path that earlier hops may have left (RFC 5321 §4.4: there is one)."""
    end = _head_end(content)
    if b"return-path" not in content[:end].lower():
        return content
    return _RETURN_PATH.sub(b"", content[:end]) + content[end:]


def has_been_at(content: bytes, address: str) -> bool:
    """Whether a Delivered-To in the header section says that the message was delivered to this address already."""
    head = content[: _head_end(content)]
    if b"elivered-" not in head:
        return False
    key = address.lower().encode("utf-8", "replace")
    return any(match.group(1).strip(b" \t<>").lower() == key for match in _DELIVERED_TO.finditer(head))


def _head_end(content: bytes) -> int:
    end = content.find(b"\r\n\r\n")
    return len(content) if end < 0 else end + 2


class Names:
    """File names that are unique over threads, processes, hosts and time (maildir: time, then what makes it unique)."""

    def __init__(self, hostname: str, seconds: Callable[[], float]) -> None:
        self._host = hostname.replace("/", "\\057").replace(":", "\\072") or "localhost"
        self._seconds = seconds
        self._sequence = itertools.count(1)
        self._random = secrets.token_hex(8)

    def __call__(self) -> str:
        """A new name."""
        now = self._seconds()
        micros = int(now * 1e6) % 1_000_000
        return f"{int(now)}.M{micros:06d}P{os.getpid()}Q{next(self._sequence)}R{self._random}.{self._host}"


@attrs.frozen
class Box:
    """One copy to deliver: for whom, into which Maildir, which folder if it is there, and the lines that go before.

    ``binary``: the content's octets stay as they are (RFC 3030 §3); otherwise its lines end with LF on disk.
    """

    recipient: Recipient
    maildir: str
    folder: str
    lines: bytes
    binary: bool = False


def box(template: str, state_dir: str, recipient: Recipient, sender: str, delimiter: str, binary: bool = False) -> Box:
    """The copy of one recipient.  Raises :class:`MailError`."""
    path, folder = mailbox_path(template, state_dir, recipient.address, delimiter)
    lines = [f"Return-Path: <{sender}>"]
    if recipient.original and recipient.original != recipient.address:
        lines.append(f"X-Original-To: {recipient.original}")
    lines.append(f"Delivered-To: {recipient.address}")
    end = "\r\n" if binary else "\n"
    text = "".join("".join(letter for letter in line if letter >= " ") + end for line in lines)
    return Box(recipient, path, folder, text.encode("utf-8", "replace"), binary)


class Copy:
    """One file on its way into a Maildir: opened in ``tmp``, written, synced, linked into ``new``.

    Any thread may abort it while another is at work on it.
    """

    def __init__(self, wanted: Box, name: str) -> None:
        self._lock = threading.Lock()  # a descriptor that is closed in the middle of a step may be another file's then
        self._name = name
        self._carry = b""
        self._lines = 0
        self._size = 0
        self._folder = _folder(wanted)
        self._path = self._folder / "tmp" / name
        self._before = wanted.lines
        self._binary = wanted.binary
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(self._path, flags, 0o600)
        except FileNotFoundError:
            make_maildir(self._folder)
            self._fd = os.open(self._path, flags, 0o600)

    def write(self, data: bytes) -> None:
        """Add content, as it is on the wire.  Raises OSError, after an abort as well."""
        with self._lock:
            if not self._binary:
                data, self._carry = crlf_to_lf(data, self._carry)
            if self._before:
                data, self._before = self._before + data, b""
            self._put(data)

    def finish(self) -> str:
        """Make it a message of the mailbox, durably.  The path of its file.  Raises OSError, after an abort as well."""
        with self._lock:
            return self._finish()

    def _finish(self) -> str:
        if self._fd < 0:
            raise OSError(errno.EBADF, "the delivery was given up")
        if self._carry:
            self._put(self._carry)
        os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1
        # Dovecot takes both sizes from the name: octets on disk, and octets with CRLF, where we know them.
        name = f"{self._name},S={self._size}" + ("" if self._binary else f",W={self._size + self._lines}")
        new = self._folder / "new"
        tmp, path = self._path, new / name
        try:
            path.hardlink_to(tmp)
            self._path = path  # what is to be taken back, should the rest fail
            tmp.unlink()
        except OSError as error:
            if error.errno not in _NO_LINKS or self._path is path:
                raise
            tmp.rename(path)
            self._path = path
        sync_folder(new)
        return str(path)

    def abort(self) -> None:
        """Leave nothing behind.  Waits for the end of a step that is under way."""
        with self._lock:
            if self._fd >= 0:
                with suppress(OSError):
                    os.close(self._fd)
                self._fd = -1
            with suppress(OSError):
                self._path.unlink()

    def _put(self, data: bytes) -> None:
        self._lines += data.count(b"\n")
        self._size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]


def deliver_whole(boxes: list[Box], names: list[str], content: bytes) -> list[str | Reply | OSError]:
    """Deliver a content that is in memory into each box: the path of its file, the reply that refuses, or the error."""
    outcomes: list[str | Reply | OSError] = []
    body = without_return_path(content)
    for wanted, name in zip(boxes, names, strict=True):
        outcome = begin(wanted, name, content)
        if isinstance(outcome, Copy):
            outcomes.append(guarded(outcome, lambda copy: _write_and_finish(copy, body)))
        else:
            outcomes.append(outcome)
    return outcomes


def begin(wanted: Box, name: str, first: bytes) -> Copy | Reply | OSError:
    """Open a copy; ``first`` is the start of the content, which says whether it loops."""
    if has_been_at(first, wanted.recipient.address):
        return LOOP
    try:
        return Copy(wanted, name)
    except OSError as error:
        return error


def guarded(copy: Copy, step: Callable[[Copy], _T]) -> _T | OSError:
    """Do something to a copy; after an error nothing is left of it."""
    try:
        return step(copy)
    except OSError as error:
        copy.abort()
        return error


def _write_and_finish(copy: Copy, content: bytes) -> str:
    copy.write(content)
    return copy.finish()


def reply_to(error: OSError) -> Reply:
    """What an error of the file system means to a sender.  No path of ours is in it."""
    return _REPLIES.get(error.errno or 0, _STORAGE)


def make_maildir(path: Path) -> None:
    """Make a Maildir and all folders above it that are missing, for their owner alone, durably."""
    for name in ("cur", "new", "tmp"):  # the last is opened first: where it is, the others are
        _make_folder(path / name)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_folder(path.parent)
        path.mkdir(0o700, exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Have a folder's entries on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _folder(wanted: Box) -> Path:
    """The folder of the detail where there is one, else the inbox (RFC 5233: details are the user's own affair)."""
    maildir = Path(wanted.maildir)
    if wanted.folder and (maildir / wanted.folder / "new").is_dir():
        return maildir / wanted.folder
    return maildir
