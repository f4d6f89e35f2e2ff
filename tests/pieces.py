"""Input cut into pieces: what parses comes to the same wherever a stream is cut."""

from __future__ import annotations

import itertools


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """The pieces of ``data``, cut at the places that ``cuts`` name; any numbers do."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]
