"""Whether the queue stays as quick and as small as it was: messages of all sizes that stay for random times, for long.

    python bench/soak.py [--seconds 60] [--live 200] [--dir PATH] [--seed N]

Messages of 1 KiB to 20 MiB (most are small) come in and leave after random times, some are deferred, held, released or
removed, some are given up while they arrive, and now and then the disk is full for a few commits or the queue is closed
and opened anew.  Printed are, for each tenth of the time, the commit time, the file's size against the peak of
what it had to hold, memory and descriptors.  Ends with 1 if a message is lost, a counter is wrong, or the file has
grown beyond twice that peak.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import lmdb
from scale import Wall, fired

from twisted_mta.config.settings import Queue, Size
from twisted_mta.mail.envelope import Message, Recipient
from twisted_mta.queue.environment import Environment
from twisted_mta.queue.interfaces import CHUNK, NewDelivery, NewMessage, QueueFilter, Settlement, StoreUnavailable
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.writer import InlineWriter

SMALLEST, LARGEST = 1 << 10, 20 << 20


class Soak:
    """One run.  ``ledger`` is size and destination of what must be in the queue."""

    def __init__(self, path: Path, live: int, seed: int) -> None:
        self.path, self.live, self.random = path, live, Random(seed)
        self.noise = self.random.randbytes(LARGEST + 1000)
        self.ledger: dict[str, int] = {}
        self.counts = dict.fromkeys(("accepted", "delivered", "removed", "refused", "reopened"), 0)
        self.bytes = self.peak = 0
        self.commits: list[float] = []
        self.full = 0
        self.open()

    def open(self) -> None:
        """Open it."""
        self.store = LmdbStore(self.path, Wall(), Queue(disk_reserve=Size(0)), InlineWriter())
        fired(self.store.start())

    def commit(self, environment: Environment, txn: Any) -> None:
        """Commit, on a disk that may be full."""
        if self.full:
            self.full -= 1
            txn.abort()
            raise lmdb.DiskError("mdb_txn_commit", errno.ENOSPC)
        began = time.perf_counter()
        txn.commit()
        self.commits.append(time.perf_counter() - began)

    def size(self) -> int:
        """Most are small: nine of ten below 100 KiB."""
        return int(SMALLEST * (LARGEST / SMALLEST) ** (self.random.random() ** 3))

    def accept(self) -> None:
        """One message."""
        size, now = self.size(), time.time()
        incoming = self.store.incoming()
        for at in range(0, size, CHUNK):
            pause = incoming.write(self.noise[at : min(at + CHUNK, size)])
            if pause is not None:
                try:
                    fired(pause)
                except StoreUnavailable:
                    self.counts["refused"] += 1
                    incoming.abort()
                    return
        if self.random.random() < 0.05:
            incoming.abort()
            return
        name = f"domain{self.random.randrange(50)}.example"
        message = Message(
            id=incoming.id, arrived=now, sender="a@acme.example", recipients=1, size=0, chunks=0, expires=now + 432000
        )
        to = (Recipient(f"b@{name}", f"b@{name}"),)
        try:
            fired(incoming.commit(NewMessage(message=message, deliveries=(NewDelivery(f"smtp:{name}", to),),
                                             next_attempt=now + self.random.expovariate(1)))
            )  # fmt: skip
        except StoreUnavailable:
            self.counts["refused"] += 1
            return
        self.counts["accepted"] += 1
        self.ledger[incoming.id] = size
        self.bytes += -(-size // CHUNK) * (CHUNK + 16) if size > 2000 else 2048
        self.peak = max(self.peak, self.bytes)

    def gone(self, mid: str, how: str) -> None:
        """It has left."""
        size = self.ledger.pop(mid)
        self.bytes -= -(-size // CHUNK) * (CHUNK + 16) if size > 2000 else 2048
        self.counts[how] += 1

    def deliver(self) -> None:
        """What is due: four of five are delivered, the others deferred."""
        now = time.time()
        for lane in self.store.due(now, 10):
            for claim in fired(self.store.claim(lane, now, 10, lambda it: now + 2)):
                it = claim.delivery
                late = self.random.random() < 0.2
                fired(self.store.settle([Settlement(delivery=it, remaining=(it,) if late else ())]))
                if not late:
                    self.gone(it.id, "delivered")

    def operate(self) -> None:
        """Somebody at the keyboard."""
        page = fired(self.store.page(QueueFilter(), limit=50)).found
        if page:
            message, it = self.random.choice(page)
            action = self.random.choice(["hold", "release", "release", "retry", "remove"])
            if (
                fired(self.store.act(action, [(message.id, it.destination)], "soak", time.time()))
                and action == "remove"
            ):
                self.gone(message.id, "removed")

    def step(self) -> None:
        """Something happens."""
        chance = self.random.random()
        try:
            if chance < 0.0005:
                self.full = self.random.randrange(1, 10)
            elif chance < 0.001:
                self.counts["reopened"] += 1
                fired(self.store.stop())
                self.open()
            elif chance < 0.02:
                self.operate()
            elif len(self.ledger) < self.live and chance < 0.6:
                self.accept()
            else:
                self.deliver()
        except StoreUnavailable:
            self.counts["refused"] += 1

    def check(self) -> list[str]:
        """What is wrong."""
        self.full = 0
        wrong: list[str] = fired(self.store.verify(False))
        queued: dict[str, int] = {}
        after = ""
        while page := fired(self.store.page(QueueFilter(), after, 1000)).found:
            queued |= {message.id: message.size for message, _ in page}
            after = f"{page[-1][0].id}/{page[-1][1].destination}"
        if queued != self.ledger:
            wrong.append(f"the ledger has {len(self.ledger)} messages, the queue {len(queued)}")
        return wrong


def memory() -> int:
    """MiB of this process that are no mapped file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) // 1024


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--live", type=int, default=200, help="messages that are in the queue at once, at most")
    parser.add_argument("--dir", default="", help="where the queue is made; by default a temporary directory")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000_007)
    options = parser.parse_args()
    print(f"--seed {options.seed}")
    path = Path(options.dir or tempfile.mkdtemp(prefix="mta-soak-")) / "queue"
    soak = Soak(path, options.live, options.seed)
    Environment.commit = lambda environment, txn: soak.commit(environment, txn)  # type: ignore[method-assign]
    try:
        began = time.monotonic()
        for part in range(10):
            soak.commits.clear()
            while time.monotonic() - began < options.seconds * (part + 1) / 10:
                soak.step()
            times = sorted(soak.commits) or [0.0]
            size = (path / "data.mdb").stat().st_blocks * 512
            print(
                f"{time.monotonic() - began:6.0f} s {soak.counts['accepted']:8,} accepted {len(soak.ledger):6,} queued"
                f"  commit median {times[len(times) // 2] * 1e3:5.1f} ms,"
                f" 99 % {times[len(times) * 99 // 100] * 1e3:6.1f} ms"
                f"  file {size / 2**20:6.0f} MiB, {size / max(soak.peak, 1):4.2f} of the peak"
                f"  {memory()} MiB, {len(os.listdir('/proc/self/fd'))} descriptors",
                flush=True,
            )
        wrong = soak.check()
        left = sum(soak.counts[name] for name in ("delivered", "removed")) + len(soak.ledger)
        print(", ".join(f"{count:,} {name}" for name, count in soak.counts.items()), f", {len(soak.ledger):,} queued")
        if left != soak.counts["accepted"]:
            wrong.append(f"{soak.counts['accepted']} were accepted and {left} are accounted for")
        if size > 2 * soak.peak + (16 << 20):
            wrong.append("the file has grown beyond twice what it held at most")
        print("\n".join(wrong) or "The books balance.")
        sys.exit(bool(wrong))
    finally:
        fired(soak.store.stop())
        shutil.rmtree(path.parent if not options.dir else path, ignore_errors=True)


if __name__ == "__main__":
    main()
