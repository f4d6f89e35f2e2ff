"""How fast the durable store is: accepting and settling 4 KiB messages through the writer's thread, on a real reactor.

    python bench/store.py [--seconds 3] [--size 4300] [--dir PATH]

Each row is a closed loop: so many senders, each of which commits its next message when the last one is on disk.
``us/msg`` is processor time of the whole process, the kernel's work for it included, and ``reactor us`` the part of the
reactor's thread.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator
from typing import Any

from twisted.internet import defer, task

from twisted_mta.config.settings import Queue, Size
from twisted_mta.mail.envelope import Message, Recipient
from twisted_mta.mail.events import Accepted, Delivered, Routed
from twisted_mta.queue import work
from twisted_mta.queue.interfaces import Charge, Claim, Limits, NewDelivery, NewMessage, Settlement
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.thread_writer import ThreadWriter

LIMITS = Limits(recipients_per_hour=10**9, recipients_per_day=10**9, queued_messages=10**9, queued_bytes=10**15)


class Bench:
    """One store, and the figures of what is done to it."""

    def __init__(self, reactor: Any, path: str, seconds: float, size: int) -> None:
        self.reactor = reactor
        self.path = path
        self.seconds = seconds
        self.body = os.urandom(size)
        self.number = 0

    def new(self, mid: str, armed: float) -> NewMessage:
        """A message like those of an ISP's customers, to one of 50 destinations."""
        self.number += 1
        domain = f"domain{self.number % 50}.example"
        address = f"user{self.number}@{domain}"
        now = time.time()
        return NewMessage(
            message=Message(
                id=mid,
                arrived=now,
                sender="sender@customer.example",
                recipients=1,
                size=0,
                chunks=0,
                expires=now + 432000,
                customer="customer",
                user="sender@customer.example",
                client="192.0.2.1",
                helo="client.customer.example",
                protocol="ESMTPSA",
                listener="submission",
                message_id=f"<{self.number}@customer.example>",
            ),
            deliveries=(NewDelivery(f"smtp:{domain}", (Recipient(address, address),)),),
            next_attempt=now + armed,
            charge=Charge(customer="customer", recipients=1, bytes=len(self.body), limits=LIMITS),
            story=(
                Accepted(
                    time=now,
                    id=mid,
                    session="cr7h182p7hr0",
                    client="192.0.2.1",
                    listener="submission",
                    helo="client.customer.example",
                    protocol="ESMTPSA",
                    sender="sender@customer.example",
                    recipients=(address,),
                    size=len(self.body),
                    customer="customer",
                ),
                Routed(time=now, id=mid, destinations={f"smtp:{domain}": (address,)}),
            ),
            lane_customer="customer",
        )

    def settlement(self, claim: Claim) -> Settlement:
        """It was delivered."""
        delivery, now = claim.delivery, time.time()
        return Settlement(
            delivery=delivery,
            story=(
                Delivered(
                    time=now,
                    id=delivery.id,
                    recipient=delivery.recipients[0].address,
                    destination=delivery.destination,
                    relay="mx.example[192.0.2.7]:25",
                    status="2.0.0",
                    reply="250 2.0.0 Ok: queued as 4711",
                    attempt=1,
                    delay=now - claim.message.arrived,
                ),
            ),
        )

    async def open(self) -> tuple[LmdbStore, ThreadWriter]:
        """A fresh store."""
        shutil.rmtree(self.path, ignore_errors=True)
        writer = ThreadWriter(self.reactor)
        store = LmdbStore(self.path, self.reactor, Queue(disk_reserve=Size(0)), writer)
        await store.start()
        return store, writer

    async def accept(self, senders: int, spin: bool = False) -> tuple[LmdbStore, ThreadWriter]:
        """Commit messages for some seconds."""
        store, writer = await self.open()
        end = time.monotonic() + self.seconds
        waits: list[float] = []
        count = 0

        async def send() -> None:
            nonlocal count
            while (began := time.monotonic()) < end:
                incoming = store.incoming()
                incoming.write(self.body)
                await incoming.commit(self.new(incoming.id, 0))
                waits.append(time.monotonic() - began)
                count += 1

        busy = task.LoopingCall(_spin)
        if spin:
            busy.start(0)
        report = Figures(writer)
        await defer.gatherResults([defer.Deferred.fromCoroutine(send()) for _ in range(senders)])
        waits.sort()
        report.row(
            f"accept, {senders} at once{', busy reactor' if spin else ''}",
            count,
            f"latency median {waits[len(waits) // 2] * 1e3:.1f} ms, 99 % {waits[len(waits) * 99 // 100] * 1e3:.1f} ms",
        )
        if spin:
            busy.stop()
        return store, writer

    async def drain(self, store: LmdbStore, writer: ThreadWriter, batch: int) -> None:
        """Claim all that is queued, and settle it in calls of ``batch``."""
        claims: list[Claim] = []
        report = Figures(writer)
        while lanes := store.due(time.time(), 50):
            for found in await defer.gatherResults(
                [store.claim(lane, time.time(), 20, lambda it: time.time() + 60) for lane in lanes]
            ):
                claims.extend(found)
        report.row("claim, 50 lanes of 20 at once", len(claims), "")
        settlements = [self.settlement(claim) for claim in claims]
        report = Figures(writer)
        for start in range(0, len(settlements), 50):
            part = settlements[start : start + 50]
            await defer.gatherResults([store.settle(part[at : at + batch]) for at in range(0, len(part), batch)])
        report.row(f"settle, 50 at once in calls of {batch}", len(claims), "")
        left = await store.verify(False)
        assert not left, left
        assert store.stats().messages == 0

    async def run(self) -> None:
        """All of it."""
        for senders in (1, 50, 500):
            store, writer = await self.accept(senders)
            if senders == 50:
                await self.drain(store, writer, 1)
            elif senders == 500:
                await self.drain(store, writer, 50)
            await store.stop()
        store, _ = await self.accept(50, spin=True)
        await store.stop()
        await self._one_a_commit()

    async def _one_a_commit(self) -> None:
        kept = work.MAX_BYTES
        work.MAX_BYTES = 1
        print("one message a commit:")
        store, _ = await self.accept(50)
        await store.stop()
        work.MAX_BYTES = kept


class Figures:
    """What was used since it was made."""

    def __init__(self, writer: ThreadWriter) -> None:
        self._writer = writer
        self._commits = writer.commits
        self._began = time.monotonic()
        self._processor = time.process_time()
        self._thread = time.thread_time()

    def row(self, what: str, count: int, more: str) -> None:
        """Print it."""
        took = time.monotonic() - self._began
        processor = (time.process_time() - self._processor) / count * 1e6
        reactor = (time.thread_time() - self._thread) / count * 1e6
        commits = self._writer.commits - self._commits
        print(
            f"{what:38} {count / took:7.0f}/s {processor:6.1f} us/msg {reactor:6.1f} reactor us"
            f" {commits / took:6.0f} commits/s {count / commits:6.1f} a commit  {more}"
        )


def _spin() -> None:
    """A reactor with other things to do: some computing and some system calls."""
    end = time.monotonic() + 0.0005
    while time.monotonic() < end:
        sum(range(500))
        os.getppid()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--size", type=int, default=4300, help="octets of content")
    parser.add_argument("--dir", default="", help="where the store is made; by default a temporary directory")
    options = parser.parse_args()
    path = options.dir or tempfile.mkdtemp(prefix="mta-store-")

    def run(reactor: Any) -> Generator[Any, Any, None]:
        yield defer.Deferred.fromCoroutine(Bench(reactor, path, options.seconds, options.size).run())

    runner: Callable[[Any], Any] = defer.inlineCallbacks(run)
    try:
        task.react(runner)
    finally:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main()
