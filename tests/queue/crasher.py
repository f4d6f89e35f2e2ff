"""Kill a process that works on a store, again and again, and compare what is left with what it had acknowledged.

    crasher.py PATH ROUNDS SEED

Each round forks a child that accepts, streams, claims, settles, reports and acts as fast as it can through a real
reactor and the writer's thread.  It tells each step through a pipe: what it is about to ask for before it asks, and
each acknowledgement before it does anything else.  The parent kills it (SIGKILL) at a random moment, opens the store,
and holds it against this ledger.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import zlib
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import twisted.internet.epollreactor  # noqa: F401  # so that a child has it at hand
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.queue.samples import delivery as part
from tests.queue.samples import new, report, settlement
from twisted_mta.config.settings import Queue, Size
from twisted_mta.mail.events import Done
from twisted_mta.queue.interfaces import CHUNK, Limits, QueueFilter
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.thread_writer import ThreadWriter
from twisted_mta.queue.writer import InlineWriter

SETTINGS = Queue(disk_reserve=Size(0), map_size=Size(1 << 20))
DESTINATIONS = ("smtp:a.example", "smtp:b.example", "maildir:c.example")
SENDERS, LARGE, WORKERS = 16, 2, 6
KEEP = 150
SIZES = (0, 100, 4300, 4300, 4300, 30_000, 3 * CHUNK)


class Wall(Clock):
    """The time of day for a store without a reactor."""

    def seconds(self) -> float:
        return time.time()


# The child


class Load:
    """What the child does."""

    def __init__(self, store: LmdbStore, reactor: Any, random: Random, pipe: int) -> None:
        self.store = store
        self.reactor = reactor
        self.random = random
        self.pipe = pipe
        self.noise = random.randbytes(20 * CHUNK)

    def tell(self, *words: str) -> None:
        os.write(self.pipe, (" ".join(words) + "\n").encode())

    def body(self, size: int) -> bytes:
        at = self.random.randrange(1000)
        return self.noise[at : at + size]

    def announce(self, mid: str, body: bytes, destinations: list[str]) -> None:
        self.tell("+", mid, str(len(body)), str(zlib.crc32(body)), ",".join(destinations))

    async def sender(self, large: bool) -> None:
        while True:
            body = self.body(self.random.randrange(4 * CHUNK, 19 * CHUNK) if large else self.random.choice(SIZES))
            destinations = self.random.sample(DESTINATIONS, self.random.randrange(1, 3))
            incoming = self.store.incoming()
            self.announce(incoming.id, body, destinations)
            for at in range(0, len(body), 65536):
                pause = incoming.write(body[at : at + 65536])
                if pause is not None:
                    await pause
            if self.random.random() < 0.1:
                incoming.abort()
                self.tell("X", incoming.id)
                continue
            now = time.time()
            armed = self.random.choice([0.0, 0.0, 0.3])
            message = new(
                incoming.id,
                *[part(name) for name in destinations],
                at=now + armed,
                armed=armed > 0,
                arrived=now,
                limits=Limits(),
            )
            await incoming.commit(message)
            self.tell("A", incoming.id)
            while self.store.stats().messages > KEEP:
                await self.wait(0.005)

    def wait(self, seconds: float) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        self.reactor.callLater(seconds, waiting.callback, None)
        return waiting

    async def worker(self) -> None:
        while True:
            lanes = self.store.due(time.time(), 10)
            if not lanes:
                await self.store.reclaim()
                await self.wait(0.003)
                continue
            lane = self.random.choice(lanes)
            claims = await self.store.claim(lane, time.time(), 10, lambda it: time.time() + 0.05)
            for at in range(0, len(claims), 3):
                await self.end(claims[at : at + 3])

    async def end(self, claims: list[Any]) -> None:
        settlements, acks = [], []
        for claim in claims:
            it, fate = claim.delivery, self.random.random()
            if fate < 0.15 or (fate < 0.5 and self.store.stats().messages < KEEP // 2):
                settlements.append(settlement(it, it))
                continue
            reports: tuple[Any, ...] = ()
            if fate > 0.9:
                dsn = report(self.store, it.id)
                body = self.body(500)
                self.announce(dsn.message.id, body, [one.destination for one in dsn.deliveries])
                self.tell("R", it.id, it.destination, dsn.message.id)
                acks.append(("A", dsn.message.id))
                reports = ((dsn, body),)
            self.tell("-", it.id, it.destination)
            acks.append(("S", it.id, it.destination))
            settlements.append(settlement(it, reports=reports))
        await self.store.settle(settlements)
        for ack in acks:
            self.tell(*ack)

    async def operator(self) -> None:
        while True:
            await self.wait(0.01)
            page = (await self.store.page(QueueFilter(), limit=5)).found
            if not page:
                continue
            message, it = self.random.choice(page)
            if self.random.random() < 0.2:
                await self.remove(message.id, it.destination)
                continue
            action = self.random.choice(["retry", "hold", "release", "release", "remove"])
            if action == "remove":
                self.tell("-", message.id, it.destination)
            await self.store.act(action, [(message.id, it.destination)], "root", time.time())
            if action == "remove":
                self.tell("S", message.id, it.destination)

    async def remove(self, mid: str, destination: str) -> None:
        """By a filter: in force once it is answered, and worked off at random, or by who comes after."""
        match = QueueFilter(id=mid) if self.random.random() < 0.5 else QueueFilter(id=mid, destination=destination)
        known = {destination} if match.destination else {it.destination for it in self.store.deliveries(mid)}
        for name in known:
            self.tell("-", mid, name)
        await self.store.remove(match, "root", time.time(), self.random.choice([0.0, 0.0, 0.001, None]))
        for name in known:
            self.tell("S", mid, name)

    async def sweeper(self) -> None:
        """Works off removals, as the upkeep does."""
        while True:
            await self.wait(self.random.choice([0.001, 0.02, 0.1]))
            await self.store.work_off()

    async def run(self) -> None:
        await self.store.start()
        self.tell("READY")
        await self.store.reclaim()
        jobs = [self.sender(False) for _ in range(SENDERS)] + [self.sender(True) for _ in range(LARGE)]
        jobs += [self.worker() for _ in range(WORKERS)] + [self.operator(), self.sweeper()]
        for job in jobs:
            Deferred.fromCoroutine(job).addErrback(self.failed)

    def failed(self, failure: Any) -> None:
        failure.printTraceback(sys.stderr)
        self.tell("FAULT")


def child(path: str, seed: int, pipe: int) -> None:
    from twisted.internet import reactor

    running: Any = reactor
    load = Load(LmdbStore(path, running, SETTINGS, ThreadWriter(running)), running, Random(seed), pipe)
    running.callWhenRunning(lambda: Deferred.fromCoroutine(load.run()).addErrback(load.failed))
    running.run(installSignalHandlers=False)


# The parent


class Entry:
    """What is known of one message: its content, and of each delivery whether it is there, gone, or may be either."""

    def __init__(self, size: int, digest: int, destinations: list[str]) -> None:
        self.size = size
        self.digest = digest
        self.acknowledged = False
        self.aborted = False
        self.perhaps = False  # a report whose settlement may have come too late to count
        self.deliveries: dict[str, str] = dict.fromkeys(destinations, "there")
        self.reports: dict[str, str] = {}


class Ledger:
    """All messages that may be in the store."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.counts = {"A": 0, "S": 0, "R": 0, "X": 0, "W": 0}
        self.lines: list[str] = []

    def read(self, line: str) -> None:
        self.lines.append(line)
        kind, *words = line.split()
        assert kind != "FAULT", "the child failed"
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if kind == "+":
            mid, size, digest, destinations = words
            self.entries[mid] = Entry(int(size), int(digest), destinations.split(","))
        elif kind == "A":
            self.entries[words[0]].acknowledged = True
        elif kind == "X":
            self.entries[words[0]].aborted = True
        elif kind == "R":
            about, destination, dsn = words
            self.entries[about].reports[destination] = dsn
            # Somebody else has set out to end this delivery: who comes second adds nothing but his story.
            self.entries[dsn].perhaps = self.entries[about].deliveries[destination] != "there"
        elif kind == "-":
            if self.entries[words[0]].deliveries[words[1]] != "gone":
                self.entries[words[0]].deliveries[words[1]] = "unknown"
        elif kind == "S":
            self.entries[words[0]].deliveries[words[1]] = "gone"

    def check(self, store: LmdbStore) -> None:
        left = fired(store.verify(False))
        assert left == [], left
        while fired(store.work_off()):
            self.counts["W"] += 1
            left = fired(store.verify(False))
            assert left == [], left
        assert store._environment is not None
        with store._environment.read() as txn:
            assert txn.stat(store._environment.tables.spool)["entries"] == 0, "the spool is not empty"
        present: dict[str, set[str]] = {}
        after = ""
        while page := fired(store.page(QueueFilter(), after, 1000)).found:
            for message, it in page:
                present.setdefault(message.id, set()).add(it.destination)
            after = f"{page[-1][0].id}/{page[-1][1].destination}"
        strangers = set(present) - set(self.entries)
        assert not strangers, f"nobody sent {strangers}"
        for mid, entry in self.entries.items():
            try:
                self.check_entry(store, mid, entry, present.get(mid, set()))
            except AssertionError:
                self.explain(store, mid)
                raise
        self.lines = []
        assert store.stats().messages == len(present)
        self.entries = {mid: self.entries[mid] for mid in present}
        for mid, there in present.items():
            entry = self.entries[mid]
            entry.acknowledged = True
            entry.perhaps = False
            entry.reports = {}
            entry.deliveries = {name: "there" if name in there else "gone" for name in entry.deliveries}

    def explain(self, store: LmdbStore, mid: str) -> None:
        """Print all that is known of a message and of those its reports are about."""
        ids = {mid} | {line.split()[1] for line in self.lines if line.startswith("R") and line.endswith(mid)}
        for one in ids:
            for line in [line for line in self.lines if one in line] + store.history(one) + store.deliveries(one):
                print(one, line, file=sys.stderr)

    def check_entry(self, store: LmdbStore, mid: str, entry: Entry, there: set[str]) -> None:
        if entry.aborted:
            assert not there, f"{mid} was aborted and is there"
        elif entry.acknowledged and not (entry.perhaps and not there):
            for name, state in entry.deliveries.items():
                assert state != "there" or name in there, f"{mid} to {name} is lost"
                assert state != "gone" or name not in there, f"{mid} to {name} came back"
        elif not entry.acknowledged:
            assert there in (set(), set(entry.deliveries)), f"{mid} is there by half"
        message = store.message(mid)
        assert (message is not None) == bool(there)
        if message is not None:
            content = b"".join(fired(store.read(mid, number)) for number in range(message.chunks))
            assert (len(content), zlib.crc32(content)) == (entry.size, entry.digest), f"{mid} is not what was sent"
        else:
            dones = [event for event in store.history(mid) if isinstance(event, Done)]
            assert len(dones) <= 1, f"{mid} is done {len(dones)} times"
            assert len(dones) == 1 or not entry.acknowledged or entry.perhaps, f"{mid} is gone and was never done"
        for name, dsn in entry.reports.items():
            known = self.entries[dsn]
            if not known.acknowledged and all(state == "there" for state in known.deliveries.values()):
                assert (store.message(dsn) is not None) <= (name not in there), f"a report about {mid}, which is there"


def fired(deferred: Any) -> Any:
    results: list[Any] = []
    deferred.addCallback(results.append)
    assert results, deferred
    return results[0]


def one_round(path: str, random: Random, ledger: Ledger) -> None:
    readable, writable = os.pipe()
    seed = random.randrange(1 << 30)
    pid = os.fork()
    if pid == 0:
        os.close(readable)
        try:
            child(path, seed, writable)
        finally:
            os._exit(1)
    os.close(writable)
    # Some die while they start, most at work.
    patience = random.uniform(0.0, 0.03) if random.random() < 0.1 else 10.0
    buffer, deadline, killed, ready = b"", time.monotonic() + patience, False, False
    while True:
        if not killed and time.monotonic() >= deadline:
            os.kill(pid, signal.SIGKILL)
            killed = True
        if select.select([readable], [], [], max(0.0, deadline - time.monotonic()) if not killed else None)[0]:
            data = os.read(readable, 65536)
            if not data:
                break
            buffer += data
            if not ready and b"READY\n" in buffer:
                ready = True
                deadline = min(deadline, time.monotonic() + random.uniform(0.0, 0.2))
    os.close(readable)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), "the child ended by itself"
    assert os.WTERMSIG(status) == signal.SIGKILL
    for line in buffer.decode().splitlines():
        if line != "READY":
            ledger.read(line)
    store = LmdbStore(path, Wall(), SETTINGS, InlineWriter())
    fired(store.start())
    if random.random() < 0.5:  # else the next child finds what two have left
        fired(store.reclaim())
        assert not any(it.owner for _, it in fired(store.page(QueueFilter(), limit=10_000)).found), (
            "the dead have something"
        )
    ledger.check(store)
    fired(store.stop())


def main() -> None:
    path, rounds, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    random, ledger = Random(seed), Ledger()
    for number in range(rounds):
        try:
            one_round(path, random, ledger)
        except BaseException:
            print(f"round {number} of seed {seed}: the store is in {path}", file=sys.stderr)
            raise
    counts = ledger.counts
    print(
        f"{rounds} rounds: {counts['A']} accepted, {counts['S']} settled, {counts['R']} reports, {counts['X']} aborted,"
        f" {len(ledger.entries)} queued, {counts['W']} commits of removals that the dead had begun"
    )


if __name__ == "__main__":
    main()
