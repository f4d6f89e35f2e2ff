"""Test cases of the LMDB engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor, task
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.queue.samples import (
    SETTINGS,
    Sink,
    clock,
    new,
)
from twisted_mta.config.settings import Queue
from twisted_mta.queue.environment import Environment
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.thread_writer import ThreadWriter
from twisted_mta.queue.writer import InlineWriter, IWriter

REACTOR = cast(Any, reactor)


class LmdbCase(TestCase):
    """A store on the disk, with the writer of the case."""

    threaded = True

    async def setUp(self) -> None:
        self.clock = clock()
        self.path = Path(self.mktemp())
        self.sink = Sink()
        self.store = self.make()
        await self.store.start()

    def make(self, settings: Queue = SETTINGS) -> LmdbStore:
        self.writer: IWriter = ThreadWriter(REACTOR) if self.threaded else InlineWriter()
        return LmdbStore(self.path, self.clock, settings, self.writer, self.sink)

    async def restart(self, settings: Queue = SETTINGS) -> None:
        await self.store.stop()
        self.store = self.make(settings)
        await self.store.start()

    async def tearDown(self) -> None:
        try:
            if self.store._environment is not None:
                self.assertEqual(await self.store.verify(False), [])
        finally:
            await self.store.stop()

    @property
    def environment(self) -> Environment:
        assert self.store._environment is not None
        return self.store._environment

    def rows(self, table: str) -> list[tuple[bytes, bytes]]:
        with self.environment.read() as txn, txn.cursor(getattr(self.environment.tables, table)) as cursor:
            return list(cursor)

    def commit_many(self, count: int, content: bytes = b"text", **facts: Any) -> list[Deferred[None]]:
        waiting = []
        for _ in range(count):
            incoming = self.store.incoming()
            incoming.write(content)
            waiting.append(incoming.commit(new(incoming.id, **facts)))
        return waiting

    async def until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        """Turn the reactor until something is so."""
        for _ in range(int(seconds / 0.005)):
            if condition():
                return
            await task.deferLater(REACTOR, 0.005, lambda: None)
        self.fail("it never came to be")
