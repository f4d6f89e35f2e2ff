"""What operators do and see."""

from __future__ import annotations

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
from twisted_mta.mail.events import Accepted, Done, Operator, Routed
from twisted_mta.queue.interfaces import (
    CHUNK,
    Page,
    QueueFilter,
    Settlement,
)

from .base import StoreCase

replace = msgspec.structs.replace


class Operators(StoreCase):
    """Actions, pages, history."""

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
        removal = await self.store.remove(QueueFilter(destination="smtp:b"), "ann", NOON + 5)
        self.assertEqual((removal.deliveries, removal.recipients), (27, 54))
        self.assertIsNotNone(removal.ended)
        self.assertGreater(self.store.changes(), changes)
        self.assertEqual(self.store.stats().recipients, before.recipients - 54)
        self.assertEqual((await self.store.page(QueueFilter(destination="smtp:b"))).found, [])
        self.assertEqual({lane.destination for lane in self.store.due(NOON + 99, 99)}, {"smtp:a", "smtp:c"})
        self.assertEqual(await self.store.verify(False), [])
        self.assertEqual((await self.store.remove(QueueFilter(sender="nobody@x"), "ann", NOON + 5)).deliveries, 0)
        removal = await self.store.remove(QueueFilter(), "ann", NOON + 5)
        self.assertEqual(removal.deliveries, before.deliveries - 27)
        self.assertEqual([it.number for it in self.store.removals()], [1, 2, 3])
        self.assertEqual(self.store.removals()[-1], removal)
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

    async def test_recall(self) -> None:
        """Messages by their Message-ID, in the queue and gone, however few entries are looked at in one go."""
        mids = []
        for number in range(6):
            mid = await send(self.store)
            mids.append(mid)
            words = "<one@acme.example>" if number % 2 else "<two@acme.example>"
            to = tuple(f"recipient-{n}@remote.example" for n in range(500 if number == 1 else 1))  # more than a page
            came = Accepted(
                time=NOON, id=mid, session="s", client="192.0.2.7", listener="mx", helo="h", protocol="ESMTP",
                sender="a@acme.example", recipients=to, size=20, message_id=words,
            )  # fmt: skip
            other = Routed(time=NOON, id=mid, destinations={DESTINATION: ("<one@acme.example>",)})
            self.store.tell([came, other])
        gone = mids[3]
        await self.store.act("remove", [(gone, DESTINATION)], "root", NOON)
        self.assertIsNone(self.store.message(gone))
        for limit in (1, 2, 5, 1000):
            found, before = self.store.recall("<one@acme.example>", "", limit)
            looks = 1
            while before:
                more, before = self.store.recall("<one@acme.example>", before, limit)
                found += more
                looks += 1
            self.assertEqual(found, [mids[5], mids[3], mids[1]])
            self.assertEqual(looks > 1, limit < 6)
        self.assertEqual(self.store.recall("<three@acme.example>", "", 1000), ([], ""))

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
