"""How mail comes in, and what quotas say to it."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
from twisted.internet.defer import gatherResults
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from tests.queue.samples import (
    CUSTOMER,
    DESTINATION,
    NOON,
    charge,
    claim,
    content_of,
    delivery,
    fill,
    new,
    recipients,
    send,
    settlement,
)
from twisted_mta.mail.events import Done, Routed
from twisted_mta.queue.interfaces import (
    CHUNK,
    IIncoming,
    IMessageStore,
    Limits,
    Page,
    QueueFilter,
    QuotaExceeded,
)

from .base import StoreCase

replace = msgspec.structs.replace


class Reception(StoreCase):
    """Mail in."""

    # Mail in

    def test_interfaces(self) -> None:
        verifyObject(IMessageStore, self.store)
        incoming = self.store.incoming()
        verifyObject(IIncoming, incoming)
        incoming.abort()

    async def test_accepts(self) -> None:
        parts = (delivery(), delivery("maildir:acme.example", "a@acme.example", "b@acme.example"))
        story = Routed(time=NOON, id="0" * 16, destinations={})
        incoming = self.store.incoming()
        self.assertIsNone(incoming.write(b"Subject: x\r\n"))
        self.assertIsNone(incoming.write(b"\r\ntext\r\n"))
        self.assertEqual(incoming.size, 20)
        story = replace(story, id=incoming.id)
        self.assertIsNone(await incoming.commit(new(incoming.id, *parts, at=NOON + 60, story=[story])))
        message = self.store.message(incoming.id)
        self.assertEqual((message.size, message.chunks, message.recipients), (20, 1, 3))
        self.assertEqual(await self.store.read(incoming.id, 0), b"Subject: x\r\n\r\ntext\r\n")
        stored = {it.destination: it for it in self.store.deliveries(incoming.id)}
        self.assertEqual(set(stored), {DESTINATION, "maildir:acme.example"})
        it = stored["maildir:acme.example"]
        self.assertEqual(it.recipients, recipients("a@acme.example", "b@acme.example"))
        self.assertEqual((it.id, it.customer, it.next_attempt), (incoming.id, CUSTOMER, NOON + 60))
        self.assertEqual((it.state, it.attempts, it.warned), ("queued", 0, False))
        self.assertEqual(self.store.history(incoming.id), [story])
        stats = self.store.stats()
        self.assertEqual((stats.messages, stats.deliveries, stats.recipients, stats.bytes), (1, 2, 3, 20))
        self.assertEqual((stats.held, stats.destinations, stats.oldest), (0, 2, NOON))

    async def test_content_of_every_size_comes_back(self) -> None:
        noise = Random(4).randbytes(5 * CHUNK + 77)
        for size in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1, 4 * CHUNK, 5 * CHUNK + 77):
            for piece in (65536, 10000, 5 * CHUNK + 77):
                incoming = self.store.incoming()
                await fill(incoming, noise[:size], piece)
                self.assertEqual(incoming.size, size)
                self.assertEqual(incoming.whole, noise[:size] if size <= 2 * CHUNK else None)
                await incoming.commit(new(incoming.id))
                message = self.store.message(incoming.id)
                self.assertEqual((message.size, message.chunks), (size, -(-size // CHUNK)))
                self.assertEqual(await content_of(self.store, incoming.id), noise[:size])
        claims = await claim(self.store)
        for it in claims:
            if it.message.size > CHUNK:
                self.assertIsNone(it.content)
            else:
                self.assertEqual(it.content, noise[: it.message.size])
        await self.store.settle([settlement(it.delivery) for it in claims])
        self.assertEqual(self.store.stats().bytes, 0)

    async def test_commit_right_after_the_last_write(self) -> None:
        # The producer is asked to pause, and has nothing more to come.
        incoming = self.store.incoming()
        incoming.write(b"x" * CHUNK)
        pause = incoming.write(b"y" * 3 * CHUNK)
        await incoming.commit(new(incoming.id))
        if pause is not None:
            await pause
        self.assertEqual(await content_of(self.store, incoming.id), b"x" * CHUNK + b"y" * 3 * CHUNK)

    async def test_reading_what_is_not_there(self) -> None:
        mid = await send(self.store)
        await self.assertFailure(self.store.read(mid, 1), KeyError)
        await self.assertFailure(self.store.read(mid, -1), KeyError)
        await self.assertFailure(self.store.read(self.store.new_id(), 0), KeyError)
        await self.assertFailure(self.store.read("../etc/passwd", 0), KeyError)
        for odd in (self.store.new_id(), "", "no id", "o" * 16, "é" * 16):
            self.assertIsNone(self.store.message(odd))
            self.assertEqual(self.store.deliveries(odd), [])
            self.assertEqual(self.store.history(odd), [])
            self.assertEqual(await self.store.page(QueueFilter(id=odd or "x")), Page())

    async def test_abort_leaves_nothing(self) -> None:
        for size in (10, 5 * CHUNK):
            incoming = self.store.incoming()
            await fill(incoming, b"x" * size)
            incoming.abort()
            incoming.abort()
            await self.assertFailure(incoming.commit(new(incoming.id)), RuntimeError)
            self.assertIsNone(self.store.message(incoming.id))
        self.assertEqual(self.store.stats().messages, 0)

    async def test_commit_twice_is_refused(self) -> None:
        incoming = self.store.incoming()
        await incoming.commit(new(incoming.id))
        await self.assertFailure(incoming.commit(new(incoming.id)), RuntimeError)
        self.assertEqual(self.store.stats().messages, 1)

    async def test_two_parts_to_one_destination_are_one(self) -> None:
        mid = await send(self.store, delivery(DESTINATION, "a@x", "b@x"), delivery(DESTINATION, "b@x", "c@x"))
        (it,) = self.store.deliveries(mid)
        self.assertEqual(it.recipients, recipients("a@x", "b@x", "c@x"))

    async def test_a_message_for_nobody_is_done_at_once(self) -> None:
        incoming = self.store.incoming()
        incoming.write(b"x" * 4 * CHUNK)
        whole = new(incoming.id, limits=Limits())
        await incoming.commit(replace(whole, deliveries=()))
        self.assertIsNone(self.store.message(incoming.id))
        self.assertEqual([type(event) for event in self.store.history(incoming.id)], [Done])
        usage = self.store.usage(CUSTOMER)
        self.assertEqual((usage.messages_hour, usage.queued_messages), (1, 0))

    def test_ids_are_unique_and_sorted(self) -> None:
        ids = [self.store.new_id() for _ in range(1000)]
        self.assertEqual(sorted(set(ids)), ids)

    # Quotas

    async def test_usage_is_counted_with_the_message(self) -> None:
        await send(self.store, delivery(DESTINATION, "a@x", "b@x"), limits=Limits(), content=b"12345")
        usage = self.store.usage(CUSTOMER)
        self.assertEqual((usage.recipients_hour, usage.recipients_day, usage.messages_day), (2, 2, 1))
        self.assertEqual((usage.queued_messages, usage.queued_bytes), (1, 5))
        self.assertEqual(self.store.usage("other").queued_messages, 0)
        self.clock.advance(7200)
        self.assertEqual(self.store.usage(CUSTOMER).recipients_hour, 0)
        self.assertEqual(self.store.usage(CUSTOMER).recipients_day, 2)
        claims = await claim(self.store)
        await self.store.settle([settlement(it.delivery) for it in claims])
        usage = self.store.usage(CUSTOMER)
        self.assertEqual((usage.queued_messages, usage.queued_bytes, usage.recipients_day), (0, 0, 2))

    async def test_a_message_beyond_the_limit_is_refused_and_gone(self) -> None:
        limits = Limits(messages_per_hour=1, message_bytes=10 * CHUNK)
        await send(self.store, limits=limits)
        for size in (5, 5 * CHUNK):
            incoming = self.store.incoming()
            await fill(incoming, b"x" * size)
            exceeded = await self.assertFailure(incoming.commit(new(incoming.id, limits=limits)), QuotaExceeded)
            self.assertEqual(exceeded.limit, "messages_per_hour")
            self.assertIsNone(self.store.message(incoming.id))
        incoming = self.store.incoming()
        await fill(incoming, b"x" * (10 * CHUNK + 1))
        exceeded = await self.assertFailure(incoming.commit(new(incoming.id, limits=limits)), QuotaExceeded)
        self.assertEqual((exceeded.limit, exceeded.reply.code), ("message_bytes", 552))
        self.assertEqual(self.store.stats().messages, 1)
        self.assertEqual(self.store.usage(CUSTOMER).messages_hour, 1)

    async def test_the_last_unit_goes_to_one_of_many(self) -> None:
        limits = Limits(recipients_per_hour=3)
        outcomes: list[Any] = []
        waiting = []
        for _ in range(10):
            incoming = self.store.incoming()
            incoming.write(b"text")
            waiting.append(incoming.commit(new(incoming.id, limits=limits)).addBoth(outcomes.append))
        await gatherResults(waiting)
        self.assertEqual(outcomes.count(None), 3)
        self.assertEqual(sum(isinstance(it, Failure) and it.check(QuotaExceeded) is not None for it in outcomes), 7)
        self.assertEqual(self.store.usage(CUSTOMER).recipients_hour, 3)

    async def test_check_is_advice(self) -> None:
        limits = Limits(messages_per_hour=1)
        self.assertIsNone(self.store.check(charge(limits)))
        await send(self.store, limits=limits)
        self.assertIsInstance(self.store.check(charge(limits)), QuotaExceeded)
        self.assertIsNone(self.store.check(charge(Limits())))
        self.assertEqual(self.store.usage(CUSTOMER).messages_hour, 1)
