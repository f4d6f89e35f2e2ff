"""What is due when, and who takes it."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec

from tests.queue.samples import (
    CUSTOMER,
    DESTINATION,
    LANE,
    NOON,
    claim,
    delivery,
    send,
    settlement,
)
from twisted_mta.mail.envelope import Handling, Lane
from twisted_mta.queue.interfaces import (
    QueueFilter,
)

from .base import StoreCase

replace = msgspec.structs.replace


class Due(StoreCase):
    """Lanes, claims, owners."""

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
        for _ in range(2):
            self.assertEqual(await self.store.reclaim(lambda it: later[it.id]), 0)
        self.assertEqual(self.store.next_due(), NOON)
        self.assertEqual([it.message.id for it in await claim(self.store, now=NOON + 99)], ids[:1])
        self.assertEqual([self.store.deliveries(mid)[0].next_attempt for mid in ids[1:]], [NOON + 50, NOON + 10, NOON])
        await self.store.act("release", [(ids[3], DESTINATION)], "root", NOON)
        for _ in range(2):
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
        for _ in range(2):
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
