"""What every engine of the store must do: the tests are inherited by each engine's test case."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from tests.queue.samples import (
    CUSTOMER,
    DESTINATION,
    LANE,
    NOON,
    Sink,
    charge,
    claim,
    clock,
    content_of,
    delivery,
    fill,
    new,
    recipients,
    report,
    send,
    settlement,
)
from twisted_mta.mail.envelope import Handling, Lane
from twisted_mta.mail.events import Done, Operator, Routed
from twisted_mta.queue.interfaces import (
    CHUNK,
    IIncoming,
    IMessageStore,
    Limits,
    NewMessage,
    Page,
    QueueFilter,
    QuotaExceeded,
    Settlement,
    StoreUnavailable,
)

replace = msgspec.structs.replace


class Contract:
    """Mixed into a ``twisted.trial.unittest.TestCase``."""

    store: Any
    clock: Clock
    sink: Sink

    def make(self, clock: Clock, sink: Sink) -> Any:
        raise NotImplementedError

    async def setUp(self) -> None:
        self.clock = clock()
        self.sink = Sink()
        self.store = self.make(self.clock, self.sink)
        await self.store.start()

    async def tearDown(self) -> None:
        if self.store is not None:
            try:
                assert await self.store.verify(False) == []
            finally:
                await self.store.stop()

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

    # What is due

    async def test_due_lanes_longest_due_first(self) -> None:
        self.assertEqual(self.store.due(NOON, 10), [])
        self.assertIsNone(self.store.next_due())
        await send(self.store, delivery("smtp:late"), at=NOON - 1)
        await send(self.store, delivery("smtp:later"), at=NOON - 2)
        await send(self.store, delivery("smtp:later"), at=NOON - 9, lane_customer="other")
        await send(self.store, delivery("smtp:future"), at=NOON + 1)
        await send(self.store, delivery("smtp:future"), at=NOON - 1.5)
        lanes = [
            Lane("smtp:later", "other"),
            Lane("smtp:later", CUSTOMER),
            Lane("smtp:future", CUSTOMER),
            Lane("smtp:late", CUSTOMER),
        ]
        self.assertEqual(self.store.due(NOON, 10), lanes)
        self.assertEqual(self.store.due(NOON, 2), lanes[:2])
        self.assertEqual(self.store.due(NOON - 2, 10), lanes[:2])
        self.assertEqual(self.store.next_due(), NOON - 9)

    async def test_due_lanes_of_ones_own_destinations(self) -> None:
        for number in range(6):
            await send(self.store, delivery(f"smtp:d{number}"), at=NOON - 10 + number)

        def even(destination: str) -> bool:
            return int(destination[-1]) % 2 == 0

        def odd(destination: str) -> bool:
            return not even(destination)

        for _ in range(2):  # what was learnt about lanes serves the second time
            self.assertEqual(self.store.due(NOON, 9, even), [Lane(f"smtp:d{n}", CUSTOMER) for n in (0, 2, 4)])
        self.assertEqual(self.store.due(NOON, 2, odd), [Lane(f"smtp:d{n}", CUSTOMER) for n in (1, 3)])
        self.assertEqual(self.store.due(NOON - 8, 9, odd), [Lane("smtp:d1", CUSTOMER)])

    async def test_each_priority_has_a_lane(self) -> None:
        low = await send(self.store, at=NOON - 9, handling=Handling(priority=-4))
        usual = await send(self.store, at=NOON - 5)
        high = await send(self.store, at=NOON - 1, handling=Handling(priority=4))
        lanes = [Lane(DESTINATION, CUSTOMER, -4), LANE, Lane(DESTINATION, CUSTOMER, 4)]
        self.assertEqual(self.store.due(NOON, 10), lanes)
        for lane, mid in zip(lanes, (low, usual, high), strict=True):
            (it,) = await claim(self.store, lane)
            self.assertEqual((it.message.id, it.delivery.priority, it.message.priority), (mid, *[lane.priority] * 2))
            await self.store.settle([settlement(it.delivery, replace(it.delivery, next_attempt=NOON + 9))])
        self.assertEqual(self.store.due(NOON, 10), [])
        self.assertEqual(set(self.store.due(NOON + 9, 10)), set(lanes))
        match = QueueFilter(destination=DESTINATION, customer=CUSTOMER)
        self.assertEqual([message.id for message, _ in (await self.store.page(match)).found], [low, usual, high])
        self.assertEqual(self.store.stats().destinations, 1)

    async def test_what_is_due_next_is_due_then(self) -> None:
        random = Random(3)
        for _ in range(30):
            at = NOON + random.uniform(0, 1e6)
            await send(self.store, at=at)
            due = self.store.next_due()
            self.assertAlmostEqual(due, at, places=5)
            self.assertEqual(self.store.due(due, 1), [LANE])
            for it in await claim(self.store, now=due):
                await self.store.settle([settlement(it.delivery)])
            self.assertIsNone(self.store.next_due())

    async def test_claim_arms_the_next_attempt(self) -> None:
        first = await send(self.store, at=NOON - 2, content=b"first")
        second = await send(self.store, at=NOON - 1, content=b"second")
        await send(self.store, at=NOON + 1)
        await send(self.store, delivery("smtp:other"), at=NOON - 5)
        asked = []

        def rearm(it: Any) -> float:
            asked.append((it.id, it.attempts, it.last_attempt))
            return NOON + 300

        (one,) = await self.store.claim(LANE, NOON, 1, rearm)
        self.assertEqual((one.message.id, one.content), (first, b"first"))
        self.assertEqual((one.delivery.attempts, one.delivery.last_attempt), (1, NOON))
        self.assertEqual(one.delivery.next_attempt, NOON + 300)
        self.assertEqual([replace(it, owner=0) for it in self.store.deliveries(first)], [one.delivery])
        self.assertEqual(asked, [(first, 1, NOON)])
        (two,) = await self.store.claim(LANE, NOON, 10, rearm)
        self.assertEqual(two.message.id, second)
        self.assertEqual(await self.store.claim(LANE, NOON, 10, rearm), [])
        self.assertEqual(await self.store.claim(Lane("smtp:none", ""), NOON, 10, rearm), [])
        self.assertEqual(self.store.due(NOON, 10), [Lane("smtp:other", CUSTOMER)])
        self.assertEqual([it.message.id for it in await self.store.claim(LANE, NOON + 300, 10, rearm)], [asked[-1][0]])

    async def test_what_is_forgotten_is_due_when_its_time_has_come(self) -> None:
        ids = [await send(self.store, armed=True, at=NOON + 5 * number) for number in range(3)]
        ids.append(await send(self.store, armed=True, at=NOON))
        await self.store.act("hold", [(ids[3], DESTINATION)], "root", NOON)
        self.clock.advance(5)
        self.assertIsNone(self.store.next_due())
        self.assertEqual(await claim(self.store, now=NOON + 99), [])
        later = {ids[0]: None, ids[1]: NOON + 50}
        self.assertEqual(await self.store.reclaim(lambda it: later[it.id]), 0)
        self.assertEqual(self.store.next_due(), NOON)
        self.assertEqual([it.message.id for it in await claim(self.store, now=NOON + 99)], ids[:1])
        self.assertEqual([self.store.deliveries(mid)[0].next_attempt for mid in ids[1:]], [NOON + 50, NOON + 10, NOON])
        await self.store.act("release", [(ids[3], DESTINATION)], "root", NOON)
        await self.store.reclaim()
        self.assertEqual([it.message.id for it in await claim(self.store)], ids[3:])

    async def test_what_is_in_memory_already_is_not_taken(self) -> None:
        ids = [await send(self.store) for _ in range(3)]
        later = {ids[0]: NOON + 100, ids[1]: None, ids[2]: None}
        taken = await self.store.claim(LANE, NOON + 60, 10, lambda it: NOON + 200, lambda it: later[it.id])
        self.assertEqual([it.message.id for it in taken], ids[1:])
        (there,) = self.store.deliveries(ids[0])
        self.assertEqual((there.attempts, there.next_attempt, there.owner), (0, NOON + 100, 0))
        await self.store.settle([settlement(it.delivery) for it in taken])
        self.assertEqual(self.store.stats().messages, 1)

    async def test_who_has_it_in_memory_is_on_record_until_the_end(self) -> None:
        mid = await send(self.store, armed=True, at=NOON + 60)
        (fresh,) = self.store.deliveries(mid)
        self.assertNotEqual(fresh.owner, 0)
        self.clock.advance(60)
        await self.store.reclaim()
        self.assertEqual([one.owner for one in self.store.deliveries(mid)], [0])
        (it,) = await claim(self.store, now=NOON + 60)
        self.assertEqual(it.delivery.owner, 0)
        self.assertEqual([one.owner for one in self.store.deliveries(mid)], [fresh.owner])
        await self.store.settle([settlement(it.delivery, it.delivery)])
        self.assertEqual([one.owner for one in self.store.deliveries(mid)], [0])
        waiting = await send(self.store)
        self.assertEqual([one.owner for one in self.store.deliveries(waiting)], [0])
        self.assertEqual(await self.store.reclaim(), 0)

    async def test_stops_that_overlap(self) -> None:
        await send(self.store)
        stops = [self.store.stop() for _ in range(3)]
        for stop in stops:
            self.assertIsNone(await stop)
        self.assertIsNone(await self.store.stop())
        await self.store.start()

    # Settling

    async def test_delivered_leaves_the_queue(self) -> None:
        mid = await send(self.store)
        self.clock.advance(5)
        (it,) = await claim(self.store)
        done = settlement(it.delivery)
        self.assertIsNone(await self.store.settle([done]))
        self.assertIsNone(self.store.message(mid))
        self.assertEqual(self.store.deliveries(mid), [])
        await self.assertFailure(self.store.read(mid, 0), KeyError)
        last = Done(time=NOON + 5, id=mid, seconds=5.0)
        self.assertEqual(self.store.history(mid), [*done.story, last])
        self.assertEqual(self.sink.named(Done), [last])
        stats = self.store.stats()
        self.assertEqual((stats.messages, stats.deliveries, stats.recipients, stats.bytes), (0, 0, 0, 0))
        self.assertEqual((stats.destinations, stats.oldest), (0, None))
        self.assertIsNone(self.store.next_due())

    async def test_deferred_stays(self) -> None:
        mid = await send(self.store, delivery(DESTINATION, "a@x", "b@x"))
        (it,) = await claim(self.store)
        later = replace(
            it.delivery,
            recipients=recipients("b@x"),
            next_attempt=NOON + 77,
            last_reply="450 busy",
            last_status="4.2.0",
            warned=True,
        )
        await self.store.settle([settlement(it.delivery, later)])
        self.assertEqual(self.store.deliveries(mid), [later])
        self.assertEqual(self.store.next_due(), NOON + 77)
        self.assertEqual(self.store.stats().recipients, 1)
        self.assertEqual(self.sink.named(Done), [])

    async def test_a_message_stays_until_its_last_delivery_ends(self) -> None:
        mid = await send(self.store, delivery("smtp:a"), delivery("smtp:b"))
        (a,) = await claim(self.store, Lane("smtp:a", CUSTOMER))
        await self.store.settle([settlement(a.delivery)])
        self.assertIsNotNone(self.store.message(mid))
        self.assertEqual(self.store.usage(CUSTOMER).queued_messages, 1)
        (b,) = await claim(self.store, Lane("smtp:b", CUSTOMER))
        await self.store.settle([settlement(b.delivery)])
        self.assertIsNone(self.store.message(mid))
        self.assertEqual(self.store.usage(CUSTOMER).queued_messages, 0)

    async def test_both_deliveries_in_one_call(self) -> None:
        mid = await send(self.store, delivery("smtp:a"), delivery("smtp:b"))
        claims = [(await claim(self.store, Lane(name, CUSTOMER)))[0] for name in ("smtp:a", "smtp:b")]
        await self.store.settle([settlement(it.delivery) for it in claims])
        self.assertIsNone(self.store.message(mid))
        self.assertEqual(len(self.sink.named(Done)), 1)
        await self.store.settle([])

    async def test_a_changed_route_moves_recipients(self) -> None:
        mid = await send(self.store, delivery(DESTINATION, "a@x", "b@x", "c@x"))
        (it,) = await claim(self.store)
        one = replace(it.delivery, destination="smtp:one", recipients=recipients("a@x"), next_attempt=NOON)
        two = replace(it.delivery, destination="smtp:two", recipients=recipients("b@x"), next_attempt=NOON + 1)
        await self.store.settle([settlement(it.delivery, one, two)])
        self.assertCountEqual(self.store.deliveries(mid), [one, two])
        self.assertEqual(self.store.due(NOON, 10), [Lane("smtp:one", CUSTOMER)])
        self.assertEqual(self.store.stats().destinations, 2)

    async def test_a_route_may_lead_to_where_others_wait(self) -> None:
        mid = await send(self.store, delivery("smtp:a", "a@x"), delivery("smtp:b", "b@x"))
        (a,) = await claim(self.store, Lane("smtp:a", CUSTOMER))
        (b,) = await claim(self.store, Lane("smtp:b", CUSTOMER))
        moved = replace(a.delivery, destination="smtp:b", next_attempt=NOON + 5)
        await self.store.settle([settlement(a.delivery, moved)])
        (joined,) = self.store.deliveries(mid)
        self.assertCountEqual(joined.recipients, recipients("a@x", "b@x"))
        self.assertEqual(joined.next_attempt, NOON + 60)  # it is under way
        # The attempt for b, begun before, must take only b's recipients with it.
        self.clock.advance(7)
        await self.store.settle([settlement(b.delivery)])
        (rest,) = self.store.deliveries(mid)
        self.assertEqual(rest.recipients, recipients("a@x"))
        self.assertEqual((rest.next_attempt, rest.owner), (NOON + 7, 0))

    async def test_a_route_that_leads_to_where_others_wait_for_later(self) -> None:
        mid = await send(self.store, delivery("smtp:a", "a@x"), delivery("smtp:b", "b@x"))
        (a,) = await claim(self.store, Lane("smtp:a", CUSTOMER))
        (b,) = await claim(self.store, Lane("smtp:b", CUSTOMER))
        await self.store.settle([settlement(b.delivery, replace(b.delivery, next_attempt=NOON + 900))])
        await self.store.settle([settlement(a.delivery, replace(a.delivery, destination="smtp:b", next_attempt=NOON))])
        (joined,) = self.store.deliveries(mid)
        self.assertEqual((len(joined.recipients), joined.next_attempt), (2, NOON))

    async def test_reports_exist_exactly_if_the_settlement_does(self) -> None:
        mid = await send(self.store)
        (it,) = await claim(self.store)
        dsn: NewMessage = report(self.store, mid)
        await self.store.settle([settlement(it.delivery, reports=((dsn, b"a report"),))])
        stored = self.store.message(dsn.message.id)
        self.assertEqual((stored.size, stored.chunks, stored.kind, stored.sender), (8, 1, "dsn", ""))
        self.assertEqual(await content_of(self.store, stored.id), b"a report")
        self.assertEqual(self.store.history(stored.id), list(dsn.story))
        self.assertEqual(self.store.due(NOON, 10), [Lane("maildir:acme.example", "")])

    async def test_a_large_report(self) -> None:
        mid = await send(self.store)
        (it,) = await claim(self.store)
        dsn = report(self.store, mid)
        await self.store.settle([settlement(it.delivery, reports=((dsn, b"r" * (CHUNK + 9)),))])
        self.assertEqual(await content_of(self.store, dsn.message.id), b"r" * (CHUNK + 9))

    async def test_settling_what_an_operator_removed(self) -> None:
        mid = await send(self.store)
        (it,) = await claim(self.store)
        await self.store.act("remove", [(mid, DESTINATION)], "root", NOON)
        dsn = report(self.store, mid)
        late = settlement(it.delivery, it.delivery, reports=((dsn, b"a report"),))
        await self.store.settle([late])
        self.assertIsNone(self.store.message(mid))
        self.assertEqual(self.store.deliveries(mid), [])
        self.assertIsNone(self.store.message(dsn.message.id))
        self.assertEqual([type(event) for event in self.store.history(mid)], [Operator, Done, type(late.story[0])])

    # Operators

    async def test_hold_and_release(self) -> None:
        mid = await send(self.store)
        before = self.store.changes()
        self.assertEqual(await self.store.act("hold", [(mid, DESTINATION)], "root", NOON), 1)
        self.assertGreater(self.store.changes(), before)
        self.assertEqual(self.store.deliveries(mid)[0].state, "held")
        self.assertEqual(self.store.due(NOON + 10**6, 10), [])
        self.assertIsNone(self.store.next_due())
        self.assertEqual(await claim(self.store), [])
        self.assertEqual(self.store.stats().held, 1)
        self.assertEqual(await self.store.act("hold", [(mid, DESTINATION)], "root", NOON), 1)
        self.assertEqual(await self.store.act("retry", [(mid, DESTINATION)], "root", NOON), 1)
        self.assertIsNone(self.store.next_due())
        self.assertEqual(await self.store.act("release", [(mid, DESTINATION)], "root", NOON + 5), 1)
        self.assertEqual(self.store.next_due(), NOON + 5)
        self.assertEqual(self.store.stats().held, 0)
        self.assertEqual(await self.store.act("release", [(mid, DESTINATION)], "root", NOON + 9), 1)
        self.assertEqual(self.store.next_due(), NOON + 5)
        events = [
            Operator(time=NOON, id=mid, action="hold", who="root", recipients=("user@example.org",)),
            Operator(time=NOON + 5, id=mid, action="release", who="root", recipients=("user@example.org",)),
        ]
        self.assertEqual(self.store.history(mid), events)
        self.assertEqual(self.sink.named(Operator), events)

    async def test_retry_makes_due_now(self) -> None:
        mid = await send(self.store, at=NOON + 9999)
        self.assertEqual(await self.store.act("retry", [(mid, DESTINATION)], "root", NOON), 1)
        self.assertEqual(self.store.due(NOON, 10), [LANE])

    async def test_an_operator_releases_what_its_sender_put_off(self) -> None:
        later = NOON + 9999
        mid = await send(self.store, at=later, handling=Handling(release=later, request="for;9999"))
        self.assertEqual(self.store.deliveries(mid)[0].release, later)
        await self.store.act("hold", [(mid, DESTINATION)], "root", NOON)
        await self.store.act("release", [(mid, DESTINATION)], "root", NOON + 1)
        self.assertEqual(self.store.next_due(), later, "the end of a hold is not the end of the sender's wish")
        await self.store.act("retry", [(mid, DESTINATION)], "root", NOON + 2)
        self.assertEqual(self.store.next_due(), NOON + 2)
        self.assertIsNone(self.store.deliveries(mid)[0].release)
        await self.store.act("hold", [(mid, DESTINATION)], "root", NOON + 3)
        await self.store.act("release", [(mid, DESTINATION)], "root", NOON + 4)
        self.assertEqual(self.store.next_due(), NOON + 4)

    async def test_remove(self) -> None:
        mid = await send(self.store, delivery("smtp:a"), delivery("smtp:b"), content=b"x" * 40 * CHUNK)
        self.assertEqual(await self.store.act("remove", [(mid, "smtp:a"), (mid, "smtp:a")], "root", NOON), 1)
        self.assertIsNotNone(self.store.message(mid))
        self.assertEqual(await self.store.act("remove", [(mid, "smtp:a"), (mid, "smtp:b")], "root", NOON), 1)
        self.assertIsNone(self.store.message(mid))
        self.assertEqual(self.store.usage(CUSTOMER).queued_bytes, 0)
        self.assertEqual([type(event) for event in self.store.history(mid)], [Operator, Operator, Done])

    async def test_remove_all_that_matches(self) -> None:
        mids = []
        for number in range(40):
            parts = [delivery(f"smtp:{name}", f"u{number}@{name}", f"v{number}@{name}") for name in "abc"[number % 3 :]]
            content = b"x" * (20 * CHUNK if number == 3 else 100)
            handling = Handling(priority=number % 2)
            mids.append(await send(self.store, *parts, content=content, handling=handling, at=NOON + number % 7))
            if number % 5 == 0:
                await self.store.act("hold", [(mids[-1], "smtp:c")], "root", NOON)
            if number % 4 == 0:
                (*_, it) = self.store.deliveries(mids[-1])
                later = replace(it, last_reply="451 No", next_attempt=NOON + 99)
                await self.store.settle([Settlement(delivery=it, remaining=(later,))])
        before, changes = self.store.stats(), self.store.changes()
        self.assertEqual(await self.store.remove(QueueFilter(destination="smtp:b"), "ann", NOON + 5), 27)
        self.assertGreater(self.store.changes(), changes)
        self.assertEqual(self.store.stats().recipients, before.recipients - 54)
        self.assertEqual((await self.store.page(QueueFilter(destination="smtp:b"))).found, [])
        self.assertEqual({lane.destination for lane in self.store.due(NOON + 99, 99)}, {"smtp:a", "smtp:c"})
        self.assertEqual(await self.store.verify(False), [])
        self.assertEqual(await self.store.remove(QueueFilter(sender="nobody@x"), "ann", NOON + 5), 0)
        self.assertEqual(await self.store.remove(QueueFilter(), "ann", NOON + 5), before.deliveries - 27)
        self.assertEqual((self.store.stats().messages, self.store.stats().destinations), (0, 0))
        self.assertIsNone(self.store.next_due())
        self.assertEqual(self.store.usage(CUSTOMER).queued_bytes, 0)
        for number, mid in enumerate(mids):
            kinds = [type(event) for event in self.store.history(mid) if event.time == NOON + 5 or type(event) is Done]
            self.assertEqual(kinds, [Operator] * len("abc"[number % 3 :]) + [Done])
        self.assertEqual(len(self.sink.named(Done)), 40)

    async def test_acting_on_what_is_not_there(self) -> None:
        pairs = [("nonsense", DESTINATION), (self.store.new_id(), DESTINATION), ("", "")]
        self.assertEqual(await self.store.act("remove", pairs, "root", NOON), 0)
        self.assertEqual(await self.store.act("remove", [], "root", NOON), 0)
        await self.assertFailure(self.store.act("burn", pairs, "root", NOON), ValueError)

    async def test_a_hold_outlasts_the_attempt_under_way(self) -> None:
        mid = await send(self.store)
        (it,) = await claim(self.store)
        await self.store.act("hold", [(mid, DESTINATION)], "root", NOON)
        await self.store.settle([settlement(it.delivery, replace(it.delivery, next_attempt=NOON + 5))])
        (held,) = self.store.deliveries(mid)
        self.assertEqual(held.state, "held")
        self.assertIsNone(self.store.next_due())

    # Looking

    async def test_page_filters(self) -> None:
        one = await send(self.store, delivery("smtp:a", "x@a.example"), sender="s@one.example")
        two = await send(self.store, delivery("smtp:b", "y@b.example"), sender="", lane_customer="other")
        self.clock.advance(100)
        three = await send(self.store, delivery("smtp:a", "z@a.example"), arrived=NOON + 100)
        await self.store.act("hold", [(two, "smtp:b")], "root", NOON)
        (it,) = [it for it in await claim(self.store, Lane("smtp:a", CUSTOMER)) if it.message.id == three]
        await self.store.settle([settlement(it.delivery, replace(it.delivery, last_reply="450 4.2.0 Try Later"))])
        for match, expected in (
            (QueueFilter(), [one, two, three]),
            (QueueFilter(id=two), [two]),
            (QueueFilter(destination="smtp:a"), [one, three]),
            (QueueFilter(destination="smtp:b", customer="other"), [two]),
            (QueueFilter(destination="smtp:b", customer=CUSTOMER), []),
            (QueueFilter(customer=CUSTOMER), [one, three]),
            (QueueFilter(customer=""), []),
            (QueueFilter(sender="S@one.example"), [one]),
            (QueueFilter(sender="@ONE.example"), [one]),
            (QueueFilter(sender=""), [two]),
            (QueueFilter(recipient="y@b.example"), [two]),
            (QueueFilter(recipient="@a.example"), [one, three]),
            (QueueFilter(recipient="example"), []),
            (QueueFilter(state="held"), [two]),
            (QueueFilter(state="queued"), [one, three]),
            (QueueFilter(state="held", destination="smtp:a"), []),
            (QueueFilter(state="held", destination="smtp:b"), [two]),
            (QueueFilter(older_than=50), [one, two]),
            (QueueFilter(older_than=500), []),
            (QueueFilter(reason="try later"), [three]),
            (QueueFilter(id=one, destination="smtp:b"), []),
        ):
            found = (await self.store.page(match)).found
            self.assertEqual([message.id for message, _ in found], expected, match)
            self.assertEqual([it.id for _, it in found], expected)

    async def test_pages_hold_everything_once(self) -> None:
        expected = set()
        for number in range(30):
            parts = [delivery(f"smtp:{name}") for name in "abc"[: number % 3 + 1]]
            mid = await send(self.store, *parts, lane_customer=f"c{number % 2}")
            expected |= {(mid, part.destination) for part in parts}
        for match in (QueueFilter(), QueueFilter(destination="smtp:b"), QueueFilter(customer="c1")):
            wanted = {
                pair
                for pair in expected
                if not match.destination or pair[1] == match.destination
                if match.customer is None or self.store.deliveries(pair[0])[0].customer == match.customer
            }
            for limit in (1, 7, 100):
                seen: list[tuple[str, str]] = []
                after = ""
                more = True
                while more:
                    page = await self.store.page(match, after, limit)
                    self.assertLessEqual(len(page.found), limit)
                    seen += [(message.id, it.destination) for message, it in page.found]
                    after = page.more
                    more = bool(after)
                self.assertEqual(len(seen), len(set(seen)))
                self.assertEqual(set(seen), wanted)
                self.assertEqual([mid for mid, _ in seen], sorted(mid for mid, _ in seen))
        self.assertEqual(await self.store.page(QueueFilter(), "nonsense"), Page())
        third = sorted({mid for mid, _ in expected})[2]
        page = await self.store.page(QueueFilter(), third, 1000)
        self.assertEqual({(message.id, it.destination) for message, it in page.found},
                         {pair for pair in expected if pair[0] > third})  # fmt: skip

    async def test_reasons_are_found_by_their_words(self) -> None:
        replies = (
            "421 4.7.28 Greylisted for 1799 seconds - a1b2c3d4",
            "421 4.7.28 GREYLISTED for 1800 seconds - ff00ff",
            "554 Blocked by list7; see postmaster",
        )
        mids = [await send(self.store) for _ in replies]
        for mid, reply in zip(mids, replies, strict=True):
            (it,) = self.store.deliveries(mid)
            later = replace(it, last_reply=reply, next_attempt=NOON + 60)
            await self.store.settle([Settlement(delivery=it, remaining=(later,))])

        async def found(reason: str) -> list[int]:
            page = await self.store.page(QueueFilter(reason=reason))
            return [mids.index(message.id) for message, _ in page.found]

        for reason, expected in (
            ("greylisted", [0, 1]), ("Greylisted for 1799", [0]), ("4.7.28", [0, 1]), ("554", [2]), ("list7;", [2]),
            ("seconds - #", [0, 1]), ("a1b2c3d4", [0]), ("b2c3", [0]), ("list", [0, 1]), ("postmaster", [2]), ("x", []),
        ):  # fmt: skip
            self.assertEqual(await found(reason), expected, reason)
        (it,) = self.store.deliveries(mids[0])
        await self.store.settle([Settlement(delivery=it, remaining=(replace(it, last_reply=replies[2]),))])
        self.assertEqual(await found("greylisted"), [1])
        self.assertEqual(await found("blocked"), [0, 2])
        await self.store.act("remove", [(mids[1], DESTINATION)], "root", NOON)
        self.assertEqual(await found("greylisted"), [])

    # On record

    async def test_told_events_are_in_the_history(self) -> None:
        mid = await send(self.store)
        event = Routed(time=NOON, id=mid, destinations={})
        self.store.tell([event])
        self.assertEqual(self.store.history(mid), [event])
        await send(self.store)
        self.assertEqual(self.store.history(mid), [event])

    async def test_expire_history(self) -> None:
        old = [await send(self.store, delivery(f"smtp:{number}")) for number in range(5)]
        stays = await send(self.store, delivery("smtp:stays"))
        self.store.tell([Routed(time=NOON, id=stays, destinations={})])
        for number in range(5):
            (it,) = await claim(self.store, Lane(f"smtp:{number}", CUSTOMER))
            await self.store.settle([settlement(it.delivery)])
        self.clock.advance(1000)
        young = await send(self.store)
        (it,) = await claim(self.store)
        await self.store.settle([settlement(it.delivery)])
        self.assertEqual(await self.store.expire_history(NOON + 500, 2), 2)
        self.assertEqual(await self.store.expire_history(NOON + 500, 100), 3)
        self.assertEqual(await self.store.expire_history(NOON + 500, 100), 0)
        for mid in old:
            self.assertEqual(self.store.history(mid), [])
        self.assertEqual(len(self.store.history(stays)), 1)
        self.assertEqual(len(self.store.history(young)), 2)

    # The end

    async def test_a_stopped_store_refuses(self) -> None:
        store, self.store = self.store, None
        incoming = store.incoming()
        mid = await send(store)
        (it,) = await claim(store)
        await store.stop()
        refused = self.assertRaises(StoreUnavailable, store.incoming)
        self.assertEqual(refused.reply.code, 421)
        for waiting in (
            incoming.commit(new(incoming.id)),
            store.settle([settlement(it.delivery)]),
            store.claim(LANE, NOON, 1, lambda _: NOON),
            store.act("retry", [(mid, DESTINATION)], "root", NOON),
        ):
            failure = await self.assertFailure(waiting, StoreUnavailable)
            self.assertEqual(failure.reply.code, 421)
        await store.stop()

    async def test_starts_again(self) -> None:
        mid = await send(self.store, content=b"kept")
        await self.store.stop()
        await self.store.start()
        self.assertEqual(await content_of(self.store, mid), b"kept")
        self.assertEqual(self.store.stats().messages, 1)
        self.assertGreater(self.store.new_id(), mid)

    async def test_stop_finishes_what_was_asked(self) -> None:
        waiting: list[Deferred[None]] = []
        ids = []
        for _ in range(20):
            incoming = self.store.incoming()
            incoming.write(b"text")
            ids.append(incoming.id)
            waiting.append(incoming.commit(new(incoming.id)))
        await self.store.stop()
        await gatherResults(waiting)
        await self.store.start()
        for mid in ids:
            self.assertIsNotNone(self.store.message(mid))
