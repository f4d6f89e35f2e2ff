"""The contract, run for every engine."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from tests.queue.contract import Contract
from tests.queue.samples import SETTINGS, Sink
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.memory import MemoryStore
from twisted_mta.queue.thread_writer import ThreadWriter
from twisted_mta.queue.writer import InlineWriter


class MemoryStoreTest(Contract, TestCase):
    def make(self, clock: Clock, sink: Sink) -> MemoryStore:
        return MemoryStore(clock, SETTINGS, sink)


class InlineLmdbStoreTest(Contract, TestCase):
    def make(self, clock: Clock, sink: Sink) -> LmdbStore:
        return LmdbStore(self.mktemp(), clock, SETTINGS, InlineWriter(), sink)


class ThreadLmdbStoreTest(Contract, TestCase):
    def make(self, clock: Clock, sink: Sink) -> LmdbStore:
        return LmdbStore(self.mktemp(), clock, SETTINGS, ThreadWriter(reactor), sink)
