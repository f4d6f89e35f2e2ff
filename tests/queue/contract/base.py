"""A store of the engine that is tried, for each test."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from tests.queue.samples import (
    Sink,
    clock,
)


class StoreCase:
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
