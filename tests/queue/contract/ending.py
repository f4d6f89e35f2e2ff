"""The end of a store, and its next start."""

from __future__ import annotations

import msgspec
from twisted.internet.defer import Deferred, gatherResults

from tests.queue.samples import (
    DESTINATION,
    LANE,
    NOON,
    claim,
    content_of,
    new,
    send,
    settlement,
)
from twisted_mta.queue.interfaces import (
    StoreUnavailable,
)

from .base import StoreCase

replace = msgspec.structs.replace


class Ending(StoreCase):
    """Stop and start."""

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
