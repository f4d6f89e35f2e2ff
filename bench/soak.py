"""Whether the queue stays as quick and as small as it was: messages of all sizes that stay for random times, for long.

    python bench/soak.py [--seconds 60 | --messages 1000000] [--live 200] [--dir PATH] [--seed N]

Messages of 1 KiB to 20 MiB (most are small) come in and leave after random times, some are deferred, held, released or
removed, some are given up while they arrive, and now and then the disk is full for a few commits or the queue is closed
and opened anew.  Printed are, for each tenth of the time, the commit time, the file's size against the peak of
what it had to hold, memory and descriptors.  Ends with 1 if a message is lost, a counter is wrong, or the file has
grown beyond twice that peak.

With ``--messages`` so many come, in ebb and flood up to ``--live``, many to a commit and by a clock that is set on,
so that a million take minutes: their sizes are Pareto's (nine of ten below 22 KiB, one in two hundred above a MiB,
35 KiB in the mean), and so are the times that they stay.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import lmdb
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from bench.scale import Past, Wall, fired
from twisted_mta.config.settings import Queue, Size
from twisted_mta.mail.envelope import Delivery, Message, Recipient
from twisted_mta.queue.environment import Environment
from twisted_mta.queue.interfaces import (
    CHUNK,
    Claim,
    NewDelivery,
    NewMessage,
    QueueFilter,
    Settlement,
    StoreUnavailable,
)
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.operations import Operation, WriteChunk
from twisted_mta.queue.writer import InlineWriter

SMALLEST, LARGEST = 1 << 10, 20 << 20
PAGE = 4096
ROWS = 600
"""Octets of a message's rows beside its content."""
HISTORY = 3600.0
"""Seconds for which histories are kept."""


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
        self.store = LmdbStore(self.path, self.clock(), Queue(disk_reserve=Size(0)), self.writer())
        fired(self.store.start())

    def clock(self) -> Wall:
        """What tells the store the time."""
        return Wall()

    def writer(self) -> InlineWriter:
        """The store's writer."""
        return InlineWriter()

    def now(self) -> float:
        """The time."""
        return time.time()

    def lifetime(self) -> float:
        """Seconds until a message is first tried."""
        return self.random.expovariate(1)

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
        self.take(self.offer())

    def take(self, offered: tuple[str, int, Any] | None) -> None:
        """See what became of one that was offered."""
        if offered is None:
            return
        mid, size, outcome = offered
        try:
            fired(outcome)
        except StoreUnavailable:
            self.counts["refused"] += 1
            return
        self.counts["accepted"] += 1
        self.ledger[mid] = size
        self.bytes += room(size)
        self.peak = max(self.peak, self.bytes)

    def offer(self) -> tuple[str, int, Any] | None:
        """One message that is being committed: its id, size, and outcome."""
        size, now = self.size(), self.now()
        incoming = self.store.incoming()
        for at in range(0, size, CHUNK):
            pause = incoming.write(self.noise[at : min(at + CHUNK, size)])
            if pause is not None:
                try:
                    fired(pause)
                except StoreUnavailable:
                    self.counts["refused"] += 1
                    incoming.abort()
                    return None
        if self.random.random() < 0.05:
            incoming.abort()
            return None
        name = f"domain{self.random.randrange(50)}.example"
        message = Message(
            id=incoming.id, arrived=now, sender="a@acme.example", recipients=1, size=0, chunks=0, expires=now + 432000
        )
        to = (Recipient(f"b@{name}", f"b@{name}"),)
        new = NewMessage(
            message=message,
            deliveries=(NewDelivery(f"smtp:{name}", to),),
            next_attempt=now + self.lifetime(),
        )
        return incoming.id, size, incoming.commit(new)

    def gone(self, mid: str, how: str) -> None:
        """It has left."""
        size = self.ledger.pop(mid)
        self.bytes -= room(size)
        self.counts[how] += 1

    def deliver(self) -> None:
        """What is due: four of five are delivered, the others deferred."""
        now = self.now()
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
            if fired(self.store.act(action, [(message.id, it.destination)], "soak", self.now())) and action == "remove":
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


class Grouped(InlineWriter):
    """Commits what is submitted in a block together, as it would be that came in while a sync was under way."""

    grouping = False

    def submit(self, operation: Operation, *, lazily: bool = False) -> Deferred[Any]:
        """Have an operation committed, in a block at its end."""
        return super().submit(operation, lazily=lazily or (self.grouping and not isinstance(operation, WriteChunk)))

    @contextlib.contextmanager
    def group(self) -> Iterator[None]:
        """The block."""
        self.grouping = True
        try:
            yield
        finally:
            self.grouping = False
            self._run()


class Tide(Soak):
    """A great many messages, by a clock of its own."""

    def __init__(self, path: Path, live: int, seed: int) -> None:
        self.time = Past(time.time() - 10_000_000)
        super().__init__(path, live, seed)

    def clock(self) -> Wall:
        return self.time

    def now(self) -> float:
        return self.time.now

    def writer(self) -> InlineWriter:
        self.grouped = Grouped()
        return self.grouped

    def size(self) -> int:
        """Of Pareto's kind, cut off."""
        return min(int(SMALLEST * self.random.paretovariate(0.75)), LARGEST)

    def lifetime(self) -> float:
        return min(self.random.paretovariate(0.9), 20_000.0)

    def accept(self) -> None:
        """Some messages, in one commit unless they are large."""
        with self.grouped.group():
            offered = [self.offer() for _ in range(self.random.randrange(1, 60))]
        for one in offered:
            self.take(one)

    def deliver(self) -> None:
        """All that is due, in few commits."""
        now, late = self.now(), []
        with self.grouped.group():
            claims = [self.store.claim(lane, now, 200, lambda it: now + 2) for lane in self.store.due(now, 100)]
        settlements = [self.settlement(claim.delivery) for waiting in claims for claim in self.claimed(waiting)]
        with self.grouped.group():
            late = [self.store.settle(settlements[at : at + 500]) for at in range(0, len(settlements), 500)]
        for at, outcome in enumerate(late):
            try:
                fired(outcome)
            except StoreUnavailable:
                self.counts["refused"] += 1
                continue
            for one in settlements[at * 500 : (at + 1) * 500]:
                if not one.remaining:
                    self.gone(one.delivery.id, "delivered")

    def claimed(self, waiting: Any) -> list[Claim]:
        """What was claimed."""
        try:
            return list(fired(waiting))
        except StoreUnavailable:
            self.counts["refused"] += 1
            return []

    def settlement(self, it: Delivery) -> Settlement:
        """One of five is deferred for as long again."""
        if self.random.random() >= 0.2:
            return Settlement(delivery=it)
        return Settlement(delivery=it, remaining=(replace(it, next_attempt=self.now() + self.lifetime()),))

    def step(self) -> None:
        """Something happens; the number of messages comes and goes like a tide."""
        chance = self.random.random()
        most = self.live * (0.55 + 0.45 * math.sin(self.counts["accepted"] / self.live))
        try:
            if chance < 0.0002:
                self.full = self.random.randrange(1, 10)
            elif chance < 0.0004:
                self.counts["reopened"] += 1
                fired(self.store.stop())
                self.open()
            elif chance < 0.02:
                self.operate()
            elif len(self.ledger) < most and chance < 0.97:
                self.accept()
            else:
                self.time.now += 60 if len(self.ledger) >= most else 1
                self.deliver()
                fired(self.store.expire_history(self.now() - HISTORY, 5000))
        except StoreUnavailable:
            self.counts["refused"] += 1


def room(size: int) -> int:
    """Octets of the file that a message takes: of content that is not small, whole pages of its own."""
    whole, rest = divmod(size, CHUNK)
    return whole * (CHUNK + 16) + (-(-(rest + 16) // PAGE) * PAGE if rest > PAGE // 2 else rest) + ROWS


def memory() -> int:
    """MiB of this process that are no mapped file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) // 1024


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--messages", type=int, default=0, help="end when so many were accepted, however long it takes")
    parser.add_argument("--live", type=int, default=200, help="messages that are in the queue at once, at most")
    parser.add_argument("--dir", default="", help="where the queue is made; by default a temporary directory")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000_007)
    options = parser.parse_args()
    print(f"--seed {options.seed}")
    path = Path(options.dir or tempfile.mkdtemp(prefix="mta-soak-")) / "queue"
    soak = (Tide if options.messages else Soak)(path, options.live, options.seed)
    Environment.commit = lambda environment, txn: soak.commit(environment, txn)  # type: ignore[assignment, method-assign]
    try:
        began = time.monotonic()

        def done() -> float:
            if options.messages:
                return soak.counts["accepted"] / float(options.messages)
            return (time.monotonic() - began) / float(options.seconds)

        for part in range(10):
            soak.commits.clear()
            while done() < (part + 1) / 10:
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
