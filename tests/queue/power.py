"""Cut the power of a machine that works on a queue, hundreds of times, from one record of its writes and syncs.

    power.py record QUEUE RECORD SEED [never]    work until killed; "never" is ``queue.sync``
    power.py check RECORD FOLDER CUTS SEED       cut, open, and hold it against what was acknowledged

What a disk may hold after a cut is all that was written before the last completed sync, and of what was written since
any part: each write whole, not at all, or its first sectors.  The work is that of ``crasher.py``, and so is the ledger.
"""

from __future__ import annotations

import os
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.queue import crasher
from tests.queue.crasher import SETTINGS, Ledger, Wall, fired
from twisted_mta.config.settings import Queue, Size
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.writer import InlineWriter

SECTOR = 512
_NUMBERS = struct.Struct("=QQ")
_NUMBER = struct.Struct("=Q")
WRITE, THROUGH, SYNC, LENGTH = 1, 2, 3, 4

Step = tuple[int, int, bytes]
"""Its kind (0: a line of the process'), its offset or length, and its octets."""


def record(queue: str, file: str, seed: int, sync: str) -> None:
    """Work, with lines between the records of the writes."""
    crasher.KEEP = 40
    crasher.SIZES = (0, 100, 4300, 30_000)
    if sync:
        crasher.SETTINGS = Queue(disk_reserve=Size(0), map_size=Size(1 << 20), sync="never")
    crasher.child(queue, seed, os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))


def steps(data: bytes) -> Iterator[Step]:
    """What was recorded.  The last record may be cut short by the end of the process."""
    at = 0
    while at < len(data):
        kind = data[at]
        if kind > LENGTH:
            end = data.find(b"\n", at)
            if end < 0:
                return
            yield 0, 0, data[at:end]
            at = end + 1
        elif kind == SYNC:
            yield SYNC, 0, b""
            at += 1
        elif kind == LENGTH:
            if at + 9 > len(data):
                return
            yield LENGTH, _NUMBER.unpack_from(data, at + 1)[0], b""
            at += 9
        else:
            if at + 17 > len(data):
                return
            offset, length = _NUMBERS.unpack_from(data, at + 1)
            at += 17
            if kind == THROUGH:
                yield THROUGH, offset, b""
                continue
            if at + length > len(data):
                return
            yield WRITE, offset, data[at : at + length]
            at += length


class Disk:
    """What is on it for sure, and what may be."""

    def __init__(self) -> None:
        self.sure = bytearray()
        self.pending: list[tuple[int, bytes]] = []

    def take(self, step: Step) -> None:
        kind, offset, octets = step
        if kind == WRITE:
            self.pending.append((offset, octets))
        elif kind == SYNC:
            for write in self.pending:
                put(self.sure, *write)
            self.pending = []
        elif kind == THROUGH:
            last = max(n for n, write in enumerate(self.pending) if write[0] == offset)
            put(self.sure, *self.pending.pop(last))
        elif kind == LENGTH:
            self.pending.append((offset, b""))

    def after_a_cut(self, random: Random) -> bytearray:
        """One of the things that it may hold."""
        image = bytearray(self.sure)
        share = random.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        writes = list(self.pending)
        if random.random() < 0.5:
            random.shuffle(writes)
        for offset, octets in writes:
            if random.random() < share:
                torn = random.random() < 0.3
                put(image, offset, octets[: random.randrange(0, len(octets) + 1, SECTOR)] if torn else octets)
        return image


def put(image: bytearray, offset: int, octets: bytes) -> None:
    """Write; what lies between is zero."""
    if len(image) < offset + len(octets):
        image.extend(bytes(offset + len(octets) - len(image)))
    image[offset : offset + len(octets)] = octets


def check(file: str, folder: str, cuts: int, seed: int) -> None:
    """Cut."""
    random = Random(seed)
    recorded = list(steps(Path(file).read_bytes()))
    begin = next(n for n, step in enumerate(recorded) if step[2] == b"READY")
    chosen = set(random.sample(range(begin, len(recorded)), min(cuts - cuts // 4, len(recorded) - begin)))
    # The moments around a sync are those that matter most.
    syncs = [n for n, step in enumerate(recorded) if step[0] in (SYNC, THROUGH) and n > begin]
    if syncs:
        chosen |= {random.choice(syncs) + random.choice([-1, 0, 1]) for _ in range(cuts // 4)}
    disk, lines, unsynced, survivors = Disk(), [], 0, 0
    for number, step in enumerate(recorded):
        if step[0]:
            disk.take(step)
        elif step[2] != b"READY":
            lines.append(step[2].decode())
        if number in chosen:
            unsynced += bool(disk.pending)
            try:
                survivors += cut(disk.after_a_cut(random), Path(folder), lines)
            except BaseException:
                print(f"cut after step {number} of {len(recorded)}, {len(disk.pending)} writes unsynced", flush=True)
                raise
    counts = {kind: sum(step[0] == kind for step in recorded) for kind in (WRITE, THROUGH, SYNC)}
    print(
        f"{len(chosen)} cuts: {unsynced} with writes that no sync had ended, {survivors} messages found;"
        f" {counts[WRITE]} writes, {counts[SYNC]} syncs, {counts[THROUGH]} writes through"
    )


def cut(image: bytearray, folder: Path, lines: list[str]) -> int:
    """Open what a disk held, and compare; how many messages are in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "data.mdb").write_bytes(image)
    ledger = Ledger()
    for line in lines:
        ledger.read(line)
    store = LmdbStore(folder, Wall(), SETTINGS, InlineWriter())
    fired(store.start())
    try:
        ledger.check(store)
        return store.stats().messages
    finally:
        fired(store.stop())


def main() -> None:
    if sys.argv[1] == "record":
        record(sys.argv[2], sys.argv[3], int(sys.argv[4]), "".join(sys.argv[5:]))
    else:
        check(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))


if __name__ == "__main__":
    main()
