"""Damage to the queue's file: how it shows, and what is said of it.

LMDB has no checksums.  A page that a disk has lost or mixed up shows when it is read: as one of the wrong kind, which
LMDB tells (:data:`PAGES`), or as a row that is no record of ours (:data:`ROWS`); content that is other octets does not
show at all.  What can go on without the rows that are damaged goes on, and says so; nothing is removed for that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import lmdb
import msgspec

from ..mail.events import Service
from ..mail.status import Reply
from .interfaces import StoreUnavailable

PAGES: Final = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.BadTxnError)
"""What LMDB raises at a damaged page; the last of them at all that follows in the same transaction."""

ROWS: Final = (msgspec.DecodeError, UnicodeDecodeError)
"""What decoding a damaged row raises."""

ADVICE: Final = (
    "keep a copy of data.mdb and look at the disk; mta queue verify tells what is damaged, and --repair mends rows; "
    "where pages are, stop the service, mta queue export DIR writes what can be read, move data.mdb away, start, and "
    "mta queue import DIR; or restore the queue from a backup"
)
"""What an operator can do."""


class Damaged(StoreUnavailable):
    """What was asked for can't be done because the queue's file is damaged.  ``how``: what was seen of it."""

    def __init__(self, how: str) -> None:
        super().__init__(Reply(451, "4.3.0", "The mail queue is damaged; its operator has been told"))
        self.how = how


def damaged(error: BaseException) -> Damaged:
    """What it means that reading or writing the queue raised this, one of :data:`PAGES` or :data:`ROWS`."""
    return error if isinstance(error, Damaged) else Damaged(f"{type(error).__name__}: {error}")


def words(how: str) -> str:
    """What is damaged, and what to do."""
    return f"the queue's file is damaged ({how}): {ADVICE}"


def event(now: float, how: str) -> Service:
    """The same, for the log."""
    return Service(time=now, what="queue-damaged", detail=words(how))


@contextlib.contextmanager
def named() -> Iterator[None]:
    """What damage raises is a :class:`Damaged`."""
    try:
        yield
    except (*PAGES, *ROWS) as error:
        raise damaged(error) from error
