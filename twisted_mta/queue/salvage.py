"""The ids in a queue of whose file some pages are damaged: what a walk from row to row would end at.

Each table that has ids is looked through by jumps from one id to the next, for LMDB ends the process where a cursor
steps from a page to one that is none.  Where a jump fails, the next id that another table knows is jumped to.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from ..mail.ids import ID_BYTES, key_id
from . import damage
from .environment import Db, Environment

_TABLES = ("message", "delivery", "content", "history")
_BEHIND = b"\xff" * 32


def ids(environment: Environment) -> list[str]:
    """All ids of messages that can be found, in order.  They are in memory: 100 octets or so for each."""
    known: set[bytes] = set()
    for _ in range(2):  # what the later tables know helps with the earlier ones
        for name in _TABLES:
            known |= _in_table(environment, getattr(environment.tables, name), sorted(known))
    return [key_id(mid) for mid in sorted(known)]


def _in_table(environment: Environment, table: Db, known: Sequence[bytes]) -> set[bytes]:
    found: set[bytes] = set()
    position: bytes | None = b""
    while position is not None:
        position = _walk(environment, table, position, found)
        if position is not None:  # a page is damaged there
            at = bisect_right(known, position[:ID_BYTES] + _BEHIND)
            position = known[at] if at < len(known) else None
    return found


def _walk(environment: Environment, table: Db, position: bytes, found: set[bytes]) -> bytes | None:
    """Walk from a position on; where it fails, None at the end."""
    try:
        with environment.read() as txn, txn.cursor(table) as cursor:
            while cursor.set_range(position):
                mid = cursor.key()[:ID_BYTES]
                if len(mid) == ID_BYTES:
                    found.add(mid)
                position = mid + _BEHIND
    except damage.Damaged:
        return position
    return None
