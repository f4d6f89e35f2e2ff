"""How the queue bears being large: what costs more when there are a million recipients in it.

    python bench/scale.py [--recipients 1000000] [--destinations 10000] [--spread 1] [--dir PATH] [--keep]

The queue is filled by the store's own operations in large batches without syncs: deferred mail of 200 customers, a
fifth of it for one great destination and the rest for many small ones, some on hold, one in a hundred due.  Then it is
measured, with syncs.  ``--spread`` is the number of destinations (and recipients) of one message.  With ``--dir`` a
queue that was filled before is measured again; ``--keep`` leaves it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from twisted.internet import defer, task

from bench.group import Group
from bench.load import LOOPBACK, Sink, free_port
from bench.store import Bench
from bench.targets import Ours, make_certificate
from twisted_mta.config.settings import Queue, Size
from twisted_mta.mail.envelope import Message, Recipient
from twisted_mta.mail.events import Accepted, Deferred
from twisted_mta.mail.ids import key_id
from twisted_mta.queue.interfaces import Charge, Limits, NewDelivery, NewMessage, QueueFilter
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.operations import Accept
from twisted_mta.queue.records import encode
from twisted_mta.queue.thread_writer import ThreadWriter
from twisted_mta.queue.writer import InlineWriter

CUSTOMERS = 200
COMMON = "mx.example[192.0.2.7]: 450 4.2.1 The mailbox receives mail too quickly"
RARE = "mx.example[192.0.2.7]: 451 4.7.1 Greylisted for 1800 seconds"
NEEDLE = "needle@haystack.example"
"""The sender and the recipient of one message in the middle."""


class Wall(task.Clock):
    """The time of day."""

    def seconds(self) -> float:
        return time.time()


class Past(Wall):
    """A time of day that somebody sets."""

    def __init__(self, now: float) -> None:
        super().__init__()
        self.now = now

    def seconds(self) -> float:
        return self.now


class Deferring(Accept):
    """A message whose deliveries have been tried before."""

    __slots__ = ()

    def spoil(self, random: Random, now: float, number: int) -> None:
        """Give each delivery an attempt, a reply and a next time."""
        deliveries = []
        for it, _ in self._deliveries:
            chance = random.random()
            tried = msgspec.structs.replace(
                it,
                attempts=1 + int(chance * 8),
                last_attempt=now - 600,
                last_reply=RARE if chance > 0.9999 else COMMON,
                last_status="4.2.1",
                next_attempt=now - 5 if number % 100 == 0 else now + 1800 + 3600 * chance,
                state="held" if number % 1000 == 1 else "queued",
            )
            deliveries.append((tried, encode(tried)))
        self._deliveries = deliveries


def fill(path: Path, recipients: int, destinations: int, spread: int, size: int = 600) -> None:
    """Make the queue."""
    random, body = Random(1), os.urandom(size)
    writer = InlineWriter()
    clock = Past(time.time() - 7200)
    store = LmdbStore(path, clock, Queue(disk_reserve=Size(0), sync="never"), writer)
    fired(store.start())
    began, messages = time.monotonic(), recipients // spread
    first = clock.now
    for number in range(messages):
        now = time.time()
        clock.now = first + 7200 * number / messages
        mid = store.new_id()
        customer = f"customer{int(CUSTOMERS * random.random() ** 2)}"
        sender = f"user{random.randrange(50)}@{customer}.example"
        names = [
            f"domain{0 if random.random() < 0.2 else random.randrange(destinations)}.example" for _ in range(spread)
        ]
        to = [f"someone{random.randrange(1 << 30)}@{name}" for name in names]
        if number == messages // 2 + 7:
            sender, to[0] = NEEDLE, NEEDLE
        message = Message(
            id=mid, arrived=clock.now, sender=sender, recipients=spread, size=0, chunks=0,
            expires=now + 432000, customer=customer, user=sender, client="192.0.2.1", helo="client.example",
            protocol="ESMTPSA", listener="submission", message_id=f"<{number}@{customer}.example>",
        )  # fmt: skip
        story = (
            Accepted(time=now, id=mid, session="cr7h182p7hr0", client="192.0.2.1", listener="submission",
                     helo="client.example", protocol="ESMTPSA", sender=sender, recipients=tuple(to), size=len(body),
                     customer=customer),
            Deferred(time=now, id=mid, recipient=to[0], destination=f"smtp:{names[0]}", relay="mx.example",
                     status="4.2.1", reply=COMMON, attempt=1, delay=1.0, next_attempt=now + 1800),
        )  # fmt: skip
        new = NewMessage(
            message=message,
            deliveries=tuple(
                NewDelivery(f"smtp:{name}", (Recipient(one, one),)) for name, one in zip(names, to, strict=True)
            ),
            next_attempt=now,
            charge=Charge(customer=customer, recipients=spread, bytes=len(body), limits=Limits()),
            story=story,
            lane_customer=customer,
        )
        operation = Deferring(new, len(body), 0, [body])
        operation.spoil(random, now, number)
        writer.submit(operation, lazily=True)
        if number % 4000 == 3999:
            writer._run()
        if number % 200_000 == 199_999:
            print(f"  {number + 1:,} messages after {time.monotonic() - began:.0f} s", flush=True)
    fired(store.stop())
    took = time.monotonic() - began
    with (path / "data.mdb").open("rb") as file:
        os.fsync(file.fileno())  # the first sync that is measured is not to pay for all of it
    stats = size_of(path)
    print(f"filled {recipients:,} recipients in {messages:,} messages: {took:.0f} s, {stats / 2**20:,.0f} MiB on disk")


def tend(path: Path) -> None:
    """Make the segments, as the service does by and by."""
    store = LmdbStore(path, Wall(), Queue(disk_reserve=Size(0), sync="never"), InlineWriter())
    fired(store.start())
    began, used, count = time.monotonic(), time.process_time(), 0
    while fired(store.tend()):
        count += 1
    took, used = time.monotonic() - began, time.process_time() - used
    fired(store.stop())
    print(f"made {count:,} segments: {took:.0f} s, {used:.0f} s of processor time")


def size_of(path: Path) -> int:
    """Octets on the disk."""
    return (path / "data.mdb").stat().st_blocks * 512


def fired(deferred: Any) -> Any:
    """What a Deferred of an inline writer came to."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    if hasattr(results[0], "raiseException"):
        results[0].raiseException()
    return results[0]


MISSED: list[str] = []
"""What was beyond its bar."""


def row(what: str, figure: str, more: str = "", met: bool | None = None) -> None:
    """Print one figure; ``met``: whether it is within its bar, where there is one."""
    judged = "" if met is None else "met   " if met else "MISSED"
    if met is False:
        MISSED.append(what)
    print(f"{what:44} {figure:>14}  {judged:6} {more}", flush=True)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[LmdbStore]:
    """The queue as a command has it."""
    store = LmdbStore(path, Wall(), Queue(disk_reserve=Size(0)), InlineWriter())
    fired(store.start())
    try:
        yield store
    finally:
        fired(store.stop())


def timed(call: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """The quickest of some calls, in seconds, and what it gave."""
    best, found = float("inf"), None
    for _ in range(times):
        began = time.perf_counter()
        found = call()
        best = min(best, time.perf_counter() - began)
    return best, found


FILTERS = {
    "none": QueueFilter(),
    "destination, the great one": QueueFilter(destination="smtp:domain0.example"),
    "destination, a small one": QueueFilter(destination="smtp:domain77.example"),
    "destination, none such": QueueFilter(destination="smtp:nowhere.example"),
    "customer, a large one": QueueFilter(customer="customer0"),
    "customer, a small one": QueueFilter(customer=f"customer{CUSTOMERS - 1}"),
    "customer, none such": QueueFilter(customer="nobody"),
    "customer and destination": QueueFilter(customer="customer3", destination="smtp:domain0.example"),
    "sender, common": QueueFilter(sender="user7@customer0.example"),
    "sender, a domain": QueueFilter(sender="@customer150.example"),
    "sender, one message": QueueFilter(sender=NEEDLE),
    "sender, none such": QueueFilter(sender="nobody@nowhere.example"),
    "recipient, one message": QueueFilter(recipient=NEEDLE),
    "recipient, a domain": QueueFilter(recipient="@domain0.example"),
    "recipient, a small domain": QueueFilter(recipient="@domain77.example"),
    "recipient, none such": QueueFilter(recipient="nobody@nowhere.example"),
    "state held": QueueFilter(state="held"),
    "state queued": QueueFilter(state="queued"),
    "older than 1 h": QueueFilter(older_than=3600.0),
    "older than 30 days": QueueFilter(older_than=30 * 86400.0),
    "reason, common": QueueFilter(reason="too quickly"),
    "reason, rare": QueueFilter(reason="greylisted"),
    "reason, none such": QueueFilter(reason="no such words"),
}


def look(path: Path) -> None:
    """What is asked of the queue."""
    with opened(path) as store:
        for name, match in FILTERS.items():
            times = [timed(lambda match=match: fired(store.page(match, "", 101)).found, 1) for _ in range(3)]  # type: ignore[misc]
            first, again, found = times[0][0], min(took for took, _ in times), times[0][1]
            row(
                f"first page: {name}",
                f"{again * 1e3:.1f} ms",
                f"{len(found)} found; the very first time {first * 1e3:.1f} ms",
                again < 0.2,
            )
        now = time.time()
        took, lanes = timed(lambda: store.due(now, 50))
        row("due(50)", f"{took * 1e6:.0f} us", f"{len(lanes)} lanes")
        took, _ = timed(store.next_due)
        row("next_due()", f"{took * 1e6:.0f} us")
        took, _ = timed(store.stats)
        row("stats()", f"{took * 1e6:.0f} us")


async def accept(reactor: Any, path: Path, seconds: float, armed: bool) -> tuple[float, float]:
    """Messages a second that 50 senders get acknowledged, and the median wait in ms.  ``armed``: they are in memory for
    their first attempt, as with a service that has room there; else they go to their lanes."""
    bench = Bench(reactor, str(path), seconds, 4300)
    store = LmdbStore(path, reactor, Queue(disk_reserve=Size(0)), ThreadWriter(reactor))
    await store.start()
    end = time.monotonic() + seconds
    waits: list[float] = []

    async def send() -> None:
        while (began := time.monotonic()) < end:
            incoming = store.incoming()
            incoming.write(bench.body)
            await incoming.commit(msgspec.structs.replace(bench.new(incoming.id, 3600), armed=armed))
            waits.append(time.monotonic() - began)

    await defer.gatherResults([defer.Deferred.fromCoroutine(send()) for _ in range(50)])
    await store.stop()
    waits.sort()
    return len(waits) / seconds, waits[len(waits) // 2] * 1e3


async def accepting(reactor: Any, full: Path, empty: Path, seconds: float) -> None:
    """The large queue and an empty one, in turns."""
    for armed, words in ((True, "to be attempted at once"), (False, "no room in memory")):
        await _accepting(reactor, full, empty, seconds, armed, words)


async def _accepting(reactor: Any, full: Path, empty: Path, seconds: float, armed: bool, words: str) -> None:
    rates: dict[Path, list[float]] = {full: [], empty: []}
    for _ in range(3):
        for path, found in rates.items():
            rate, _ = await accept(reactor, path, seconds, armed)
            found.append(rate)
    large, small = sorted(rates[full])[1], sorted(rates[empty])[1]
    readings = ", ".join(f"{one:,.0f}/{other:,.0f}" for one, other in zip(rates[full], rates[empty], strict=True))
    row(
        f"accepted a second, {words}",
        f"{large:,.0f}/s",
        f"4 KiB, 50 senders, {large / small:.0%} of an empty queue's {small:,.0f}; each reading: {readings}",
        large >= 0.8 * small,
    )


def serve(path: Path, base: Path) -> None:
    """A whole service on it, up to its first delivery."""
    sink = Sink()
    target = Ours(base)
    shutil.rmtree(target.folder, ignore_errors=True)
    (target.folder / "state").mkdir(parents=True)
    (target.folder / "state" / "queue").symlink_to(path)
    target.port = free_port()
    make_certificate(target.certificate, target.key)
    target.configure(sink.port)
    group = Group("scale")
    began = time.monotonic()
    process = group.spawn(target.argv(), target.folder, target.folder / "output.log")
    try:
        while not sink.poll():
            if process.poll() is not None or time.monotonic() - began > 120:
                raise RuntimeError((target.folder / "output.log").read_text()[-2000:])
            time.sleep(0.01)
        took = time.monotonic() - began
        row("start of the service to its first delivery", f"{took:.2f} s", f"relay on {LOOPBACK}", took < 2)
        time.sleep(10)
        status = Path(f"/proc/{process.pid}/status").read_text()
        kinds = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in status.splitlines() if "kB" in line}
        row(
            "resident memory after 10 s",
            f"{kinds['RssAnon']} MiB",
            f"and {kinds['RssFile']} MiB of mapped files",
            kinds["RssAnon"] < 150,
        )
        row("delivered in that time", f"{sink.poll():,}")
    finally:
        group.end()
        sink.close()


def _processor(before: resource.struct_rusage, after: resource.struct_rusage) -> float:
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def work_off(path: Path) -> int:
    """What the upkeep of the service does after a removal, without its rests; how many deliveries it was."""
    with opened(path) as store:
        longest = 0.0
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
        store.watch_commits(lambda commit: commits.append(commit.took))
        commits: list[float] = []
        while True:
            start = time.monotonic()
            if not fired(store.work_off()):
                break
            longest = max(longest, time.monotonic() - start)
        took = time.monotonic() - began
        (*_, removal) = store.removals()
        more = f"{removal.deliveries:,} deliveries, "
    used = _processor(before, resource.getrusage(resource.RUSAGE_SELF))
    more += f"{used:.0f} s of processor time, {len(commits):,} commits, the longest step {longest * 1e3:.0f} ms"
    row("working a removal off", f"{took:.0f} s", more)
    return removal.deliveries


def remove(path: Path, count: int) -> None:
    """`mta queue remove --yes`, and whether the room is used again."""
    config = path.parent / "remove.toml"
    config.write_text(
        f'hostname = "scale.test"\nstate_dir = "{path.parent}/removing"\n[log]\nfile = "{path.parent}/log"\n'
    )
    (path.parent / "removing").mkdir(exist_ok=True)
    link = path.parent / "removing" / "queue"
    if not link.exists():
        link.symlink_to(path)
    with opened(path) as store:
        stats = store.stats()
        ((last, _),) = fired(store.page(QueueFilter(), _last_id(store), 1)).found
    filter_ = ["--all"]
    if stats.deliveries > count and stats.oldest is not None:  # arrivals lie evenly
        until = stats.oldest + (last.arrived - stats.oldest) * count / stats.deliveries
        filter_ = ["--older-than", f"{int(time.time() - until)}s"]
    command = [sys.executable, "-m", "twisted_mta.admin.cli", "--config", str(config), "--json", "queue", "remove"]
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, *filter_, "--yes"], capture_output=True, text=True, check=True)
    took = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    row("mta queue remove --yes", f"{took:.1f} s", f"{_processor(before, after):.1f} s of processor time", took < 5)
    removed = work_off(path)
    size = size_of(path)
    fill(path, min(removed, 200_000), 1000, 1)
    again = size_of(path) / size
    row("room used again", f"{again:.0%}", f"of {size / 2**20:,.0f} MiB after 200,000 came anew", again < 1.02)


def _last_id(store: LmdbStore) -> str:
    """The id before the last."""
    environment = store._environment
    assert environment is not None
    with environment.read() as txn, txn.cursor(environment.tables.message) as cursor:
        cursor.last()
        cursor.prev()
        return key_id(cursor.key())


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipients", type=int, default=1_000_000)
    parser.add_argument("--destinations", type=int, default=10_000)
    parser.add_argument("--spread", type=int, default=1, help="destinations of one message")
    parser.add_argument("--dir", default="", help="where the queue is; by default a temporary directory")
    parser.add_argument("--keep", action="store_true", help="leave the queue there, and remove nothing from it")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each reading of the accept rate")
    parser.add_argument("--only", default="look,accept,serve,remove", help="the parts to be measured")
    parser.add_argument("--remove", type=int, default=1_000_000, help="deliveries to be removed")
    parser.add_argument("--size", type=int, default=600, help="octets of a message's content, where it is filled")
    options = parser.parse_args()
    base = Path(options.dir or tempfile.mkdtemp(prefix="mta-scale-")).resolve()
    path, parts = base / "queue", options.only.split(",")

    async def rates(reactor: Any) -> None:
        await accepting(reactor, path, base / "empty", options.seconds)

    try:
        if not (path / "data.mdb").exists():
            fill(path, options.recipients, options.destinations, options.spread, options.size)
            tend(path)
        if "look" in parts:
            look(path)
        if "serve" in parts:
            serve(path, base)
        if "accept" in parts:
            with contextlib.suppress(SystemExit):
                task.react(lambda reactor: defer.Deferred.fromCoroutine(rates(reactor)))
        if "remove" in parts and not options.keep:
            remove(path, options.remove)
    finally:
        if not options.keep:
            shutil.rmtree(base, ignore_errors=True)
    print("every bar is met" if not MISSED else f"missed: {', '.join(MISSED)}")


if __name__ == "__main__":
    main()
