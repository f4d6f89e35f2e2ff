"""Removing a great many: others have their turn, and a process that dies over it leaves nothing wrong for long."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.queue.samples import CUSTOMER, NOON, SETTINGS, Sink, clock, delivery, send
from twisted_mta.mail.envelope import Lane
from twisted_mta.mail.events import Service
from twisted_mta.queue import lmdb_store
from twisted_mta.queue.interfaces import QueueFilter
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.removing import Forget
from twisted_mta.queue.writer import InlineWriter


class Killed(BaseException):
    """The process dies."""


class RemovingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.sink = Sink()
        self.clock = clock()
        self.store = self.open()
        for number in range(50):
            self.send(number)
        self.patch(lmdb_store, "DELIVERIES", 7)
        self.patch(lmdb_store, "ENTRIES", 9)

    def open(self) -> LmdbStore:
        self.writer = InlineWriter()
        store = LmdbStore(self.path, self.clock, SETTINGS, self.writer, self.sink)
        self.successResultOf(store.start())
        self.addCleanup(store.stop)
        return store

    def send(self, number: int) -> None:
        part = delivery(f"smtp:d{number % 11}", f"u{number}@d{number % 11}")
        self.successResultOf(Deferred.fromCoroutine(send(self.store, part, at=NOON + number)))

    def die(self, store: LmdbStore) -> None:
        """What is left of a process that was killed: its lock is gone, its notes are not."""
        store._owners.leave()
        store._environment.close()  # type: ignore[union-attr]
        store._environment = None

    def test_many_commits(self) -> None:
        commits = self.writer.commits
        self.assertEqual(self.successResultOf(self.store.remove(QueueFilter(), "root", NOON)), 50)
        self.assertEqual(self.writer.commits - commits, 8 + 6 + 1)
        self.assertEqual(self.successResultOf(self.store.verify(False)), [])

    def test_others_have_their_turn(self) -> None:
        rests: list[None] = []
        self.writer.rest = lambda: rests.append(None)  # type: ignore[method-assign]
        with patch.object(self.store._owners, "others", lambda: True):
            self.successResultOf(self.store.remove(QueueFilter(), "root", NOON))
        self.assertEqual(len(rests), 8 + 6)

    def test_what_is_taken_out_is_gone_at_once(self) -> None:
        def killed(operation: Any, batch: Any) -> None:
            raise Killed

        with patch.object(Forget, "apply", killed):
            self.failureResultOf(self.store.remove(QueueFilter(), "root", NOON))
        self.die(self.store)
        self.flushLoggedErrors(Killed)
        self.store = self.open()
        self.assertEqual(self.store.stats().deliveries, 0)
        self.assertEqual(self.successResultOf(self.store.page(QueueFilter())).found, [])
        claimed = self.store.claim(Lane("smtp:d3", CUSTOMER), NOON + 99, 10, lambda it: NOON + 999)
        self.assertEqual(self.successResultOf(claimed), [])
        self.assertTrue(self.successResultOf(self.store.verify(False)))
        self.send(3)
        self.assertFalse(self.successResultOf(self.store.tend()))
        self.assertEqual([event.what for event in self.sink.named(Service)][-1], "repair")
        self.assertEqual(self.successResultOf(self.store.verify(False)), [])
        repairs = len(self.sink.named(Service))
        self.successResultOf(self.store.tend())
        self.assertEqual(len(self.sink.named(Service)), repairs)

    def test_one_that_fails_removes_what_it_began(self) -> None:
        find, calls = self.store.page, 0

        def page(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 4:
                raise KeyboardInterrupt
            return find(*args)

        with patch.object(self.store, "page", page):
            failure = self.failureResultOf(self.store.remove(QueueFilter(), "root", NOON))
        self.assertIs(failure.type, KeyboardInterrupt)
        self.assertEqual(self.store.stats().deliveries, 50 - 21)
        self.assertEqual(self.successResultOf(self.store.verify(False)), [])
