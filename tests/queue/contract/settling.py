"""What comes of an attempt."""

from __future__ import annotations

import msgspec

from tests.queue.samples import (
    CUSTOMER,
    DESTINATION,
    NOON,
    claim,
    content_of,
    delivery,
    recipients,
    report,
    send,
    settlement,
)
from twisted_mta.mail.envelope import Lane
from twisted_mta.mail.events import Done, Operator
from twisted_mta.queue.interfaces import (
    CHUNK,
    NewMessage,
)

from .base import StoreCase

replace = msgspec.structs.replace


class Settling(StoreCase):
    """Delivered, deferred, moved, reported."""

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

    async def test_given_up_while_it_waits(self) -> None:
        mid = await send(self.store, delivery(DESTINATION, "a@x", "b@x"))
        (it,) = self.store.deliveries(mid)
        new = report(self.store, mid)
        ended = settlement(it, reports=((new, b"It failed."),))
        self.assertEqual(await self.store.give_up([ended]), [True])
        self.assertIsNone(self.store.message(mid))
        self.assertIsNotNone(self.store.message(new.message.id))
        self.assertEqual(self.store.history(mid)[: len(ended.story)], list(ended.story))
        self.assertEqual(await self.store.give_up([]), [])

    async def test_what_is_in_memory_is_not_given_up(self) -> None:
        mid = await send(self.store, delivery(DESTINATION, "a@x", "b@x"))
        (before,) = self.store.deliveries(mid)
        (it,) = await claim(self.store)
        there, story = self.store.deliveries(mid), self.store.history(mid)
        for known in (before, *there):
            self.assertEqual(
                await self.store.give_up([settlement(known, reports=((report(self.store, mid), b""),))]), [False]
            )
        self.assertEqual((self.store.deliveries(mid), self.store.history(mid)), (there, story))
        self.assertEqual(self.store.stats().messages, 1, "no report")
        later = replace(it.delivery, recipients=recipients("b@x"), next_attempt=NOON + 77)
        await self.store.settle([settlement(it.delivery, later)])
        story = self.store.history(mid)
        other = settlement(replace(before, destination="smtp:elsewhere"))
        made = await self.store.give_up([settlement(before), other])
        self.assertEqual(made, [False, False], "a@x has it")
        self.assertEqual((self.store.deliveries(mid), self.store.history(mid)), ([later], story))
        self.assertEqual(await self.store.give_up([settlement(later)]), [True])
        self.assertIsNone(self.store.message(mid))
        self.assertEqual(await self.store.give_up([settlement(later)]), [False])

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
