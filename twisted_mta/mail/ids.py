"""Message ids: 16 letters and digits that sort by time and are unique over processes, restarts and clock steps.

An id is 80 bits: 52 bits of microseconds since the epoch (enough until 2112), then 28 bits that name the running
process' incarnation, a number that the queue hands out once (its ``meta`` record) and never again.  Within a process
the time part always grows, even when the clock steps back.  The text form is lower-case base32 in Crockford's
alphabet, which keeps the order of the bytes and has no letters that look like digits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
ID_CHARS = 16
ID_BYTES = 10
_DIGITS = str.maketrans(ALPHABET + "ilou", "0123456789abcdefghijklmnopqrstuv" + "!!!!")
_PAIRS = [a + b for a in ALPHABET for b in ALPHABET]


def encode_id(number: int) -> str:
    """The text form of an 80-bit number."""
    pairs = _PAIRS
    return "".join(
        [
            pairs[number >> 70],
            pairs[number >> 60 & 1023],
            pairs[number >> 50 & 1023],
            pairs[number >> 40 & 1023],
            pairs[number >> 30 & 1023],
            pairs[number >> 20 & 1023],
            pairs[number >> 10 & 1023],
            pairs[number & 1023],
        ]
    )


def decode_id(text: str) -> int:
    """The 80-bit number behind an id.  Raises ValueError for what is not an id."""
    if len(text) != ID_CHARS:
        raise ValueError(f"a message id has {ID_CHARS} characters: {text!r}")
    try:
        if not (text.isascii() and text.isalnum()):
            raise ValueError(text)
        return int(text.lower().translate(_DIGITS), 32)
    except ValueError:
        raise ValueError(f"a message id has letters and digits but i, l, o, u: {text!r}") from None


@functools.lru_cache(4096)  # asked several times for each message on its way in and out
def id_key(text: str) -> bytes:
    """The 10 bytes of an id, for use as a key: they sort as the text does.  Raises ValueError."""
    return decode_id(text).to_bytes(ID_BYTES, "big")


def key_id(key: bytes) -> str:
    """The id whose 10 bytes these are."""
    return encode_id(int.from_bytes(key, "big"))


def id_time(text: str) -> float:
    """When the id was made, in seconds since the epoch.  Raises ValueError."""
    return (decode_id(text) >> 28) / 1e6


def time_floor(when: float) -> str:
    """The smallest id that a message made at ``when`` (seconds since the epoch) can have."""
    return encode_id(max(0, int(when * 1e6)) << 28)


class IdMaker:
    """Makes ids for one process.  ``incarnation`` is its number (28 bits); ``clock`` gives seconds since the epoch."""

    def __init__(self, incarnation: int, clock: Callable[[], float]) -> None:
        self._low = incarnation & (1 << 28) - 1
        self._clock = clock
        self._last = 0

    def __call__(self) -> str:
        """A new id."""
        now = int(self._clock() * 1e6)
        if now <= self._last:
            now = self._last + 1
        self._last = now
        return encode_id(now << 28 | self._low)
