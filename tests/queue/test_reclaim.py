"""What a process that died had in memory is due again at once; what one that lives has is nobody else's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.queue.samples import DESTINATION, LANE, NOON, SETTINGS, Sink, claim, clock, delivery, send, settlement
from twisted_mta.mail.events import Service
from twisted_mta.queue import lmdb_store, reading
from twisted_mta.queue.interfaces import QueueFilter
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.records import owner_key, time_key
from twisted_mta.queue.rules import DEATHS
from twisted_mta.queue.writer import InlineWriter

LATER = NOON + 3600


class ReclaimCase(SynchronousTestCase):
    """``self.store`` and others on the same path."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.clock = clock()
        self.sink = Sink()
        self.store = self.open()

    def open(self) -> LmdbStore:
        store = LmdbStore(self.path, self.clock, SETTINGS, InlineWriter(), self.sink)
        self.successResultOf(store.start())
        return store

    def wait(self, coroutine: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def live(self, store: LmdbStore) -> int:
        """A process opens an environment once: this one is open no more, and its process lives.  Gives its lock."""
        with mock.patch.object(store._owners, "leave"):
            self.successResultOf(store.stop())
        assert store._owners._own is not None
        return store._owners._own[1]

    def die(self, store: LmdbStore) -> None:
        """As the kernel does it: the lock is gone, all else is as it was."""
        os.close(self.live(store))


class DeadTests(ReclaimCase):
    """SIGKILL."""

    def test_what_was_accepted_and_never_attempted(self) -> None:
        mid = self.wait(send(self.store, armed=True, at=NOON + 60))
        later = self.wait(send(self.store, at=LATER))  # nobody had this in memory: somebody wants it to be late
        self.die(self.store)
        other = self.open()
        self.assertEqual(other.due(NOON, 10), [])
        self.assertEqual(self.successResultOf(other.reclaim()), 1)
        self.assertEqual(other.due(NOON, 10), [LANE])
        (it,) = self.wait(claim(other))
        self.assertEqual((it.message.id, it.delivery.attempts), (mid, 1))
        self.assertEqual([one.next_attempt for one in other.deliveries(later)], [LATER])
        self.assertEqual(self.successResultOf(other.reclaim()), 0)
        self.assertEqual([event.what for event in self.sink.named(Service)], ["reclaim"])
        self.assertEqual(self.successResultOf(other.verify(False)), [])
        self.successResultOf(other.stop())

    def test_what_was_claimed(self) -> None:
        self.wait(send(self.store))
        self.successResultOf(self.store.claim(LANE, NOON, 10, lambda it: LATER))
        lock = self.live(self.store)
        other = self.open()
        self.assertEqual(self.successResultOf(other.reclaim()), 0)
        os.close(lock)
        self.assertEqual(self.successResultOf(other.reclaim()), 1)
        (it,) = self.wait(claim(other))
        self.assertEqual((it.delivery.attempts, it.delivery.deaths), (2, 1))
        self.successResultOf(other.stop())

    def test_an_operator_gives_up_what_the_dead_had_and_the_living_have_not(self) -> None:
        mid = self.wait(send(self.store))
        self.wait(claim(self.store))
        lock = self.live(self.store)
        other = self.open()
        (there,) = other.deliveries(mid)
        self.assertTrue(there.owner)
        self.assertEqual(self.successResultOf(other.give_up([settlement(there)])), [False])
        os.close(lock)
        self.assertEqual(self.successResultOf(other.give_up([settlement(there)])), [True])
        self.assertIsNone(other.message(mid))
        self.assertEqual(self.successResultOf(other.verify(False)), [])
        self.successResultOf(other.stop())

    def test_what_was_settled_is_nobodys(self) -> None:
        self.wait(send(self.store))
        (it,) = self.wait(claim(self.store))
        self.successResultOf(self.store.settle([settlement(it.delivery, it.delivery)]))
        self.die(self.store)
        other = self.open()
        self.assertEqual(self.successResultOf(other.reclaim()), 0)
        self.successResultOf(other.stop())

    def test_what_several_died_of_waits(self) -> None:
        mid = self.wait(send(self.store, armed=True, at=NOON + 60))
        store = self.store
        for death in range(1, DEATHS + 2):
            self.die(store)
            store = self.open()
            self.assertEqual(self.successResultOf(store.reclaim()), 1)
            (it,) = store.deliveries(mid)
            self.assertEqual((it.deaths, it.owner), (death, 0))
            self.assertEqual(it.next_attempt, NOON if death <= DEATHS else LATER)
            self.successResultOf(store.claim(LANE, NOON, 10, lambda it: LATER))
        self.successResultOf(store.stop())

    def test_what_an_operator_holds_stays_on_hold(self) -> None:
        mid = self.wait(send(self.store, armed=True, at=NOON + 60))
        self.successResultOf(self.store.act("hold", [(mid, DESTINATION)], "root", NOON))
        self.die(self.store)
        other = self.open()
        self.successResultOf(other.reclaim())
        self.assertEqual([(it.state, it.owner) for it in other.deliveries(mid)], [("held", 0)])
        self.assertEqual(other.due(LATER, 10), [])
        self.assertEqual(self.successResultOf(other.verify(False)), [])
        self.successResultOf(other.stop())

    def test_a_long_queue_is_looked_through_in_pieces(self) -> None:
        with mock.patch.object(lmdb_store, "RECLAIMED", 7):
            parts = [delivery(f"smtp:d{number}.example") for number in range(3)]
            for number in range(40):
                self.wait(send(self.store, *parts, armed=number % 3 == 0, at=NOON + 60))
            self.die(self.store)
            other = self.open()
            self.assertEqual(self.successResultOf(other.reclaim()), 14 * 3)
            page = self.successResultOf(other.page(QueueFilter(), limit=1000))
            self.assertEqual({it.owner for _, it in page.found}, {0})
            self.successResultOf(other.stop())

    def test_who_is_interrupted_is_followed_by_another(self) -> None:
        self.wait(send(self.store, armed=True, at=NOON + 60))
        self.die(self.store)
        other = self.open()
        with mock.patch.object(reading.Reader, "owned", side_effect=KeyError):
            self.failureResultOf(other.reclaim(), KeyError)
        self.assertEqual(self.successResultOf(other.reclaim()), 1)
        self.successResultOf(other.stop())


class AliveTests(ReclaimCase):
    """Several processes that live."""

    def test_a_claim_outlasts_the_attempt(self) -> None:
        mid = self.wait(send(self.store))
        (it,) = self.wait(claim(self.store))
        lock = self.live(self.store)
        self.addCleanup(os.close, lock)
        other = self.open()
        self.clock.advance(60)  # the attempt takes longer than it is armed for
        self.assertEqual(self.wait(claim(other, now=NOON + 60)), [])
        self.assertEqual(self.successResultOf(other.reclaim()), 0)
        self.assertEqual(other.due(NOON + 60, 10), [])
        (there,) = other.deliveries(mid)
        self.assertEqual((there.attempts, there.next_attempt), (1, NOON + 60))
        self.successResultOf(other.settle([settlement(it.delivery)]))
        self.assertIsNone(other.message(mid))
        self.successResultOf(other.stop())

    def test_an_operators_retry_takes_nothing_from_another(self) -> None:
        mid = self.wait(send(self.store))
        self.wait(claim(self.store))
        lock = self.live(self.store)
        other = self.open()
        self.successResultOf(other.act("retry", [(mid, DESTINATION)], "root", NOON + 1))
        self.assertEqual(self.wait(claim(other, now=NOON + 1)), [])
        self.assertEqual(self.successResultOf(other.reclaim()), 0)
        os.close(lock)
        self.assertEqual(self.successResultOf(other.reclaim()), 1)
        self.assertEqual(len(self.wait(claim(other, now=NOON + 1))), 1, "who had it has ended")
        self.successResultOf(other.stop())

    def test_what_has_just_been_committed_is_on_its_way_to_the_memory(self) -> None:
        """An operator's retry, and a look at what is due, may come between a commit and the turn that tells of it.  Put
        into its lane then, it would be another process' for the taking while the attempt goes on here."""
        fresh = self.wait(send(self.store, armed=True, at=NOON + 60))
        self.wait(send(self.store))
        (claimed,) = self.wait(claim(self.store))
        owner = self.store.deliveries(fresh)[0].owner
        for mid in (fresh, claimed.message.id):
            self.successResultOf(self.store.act("retry", [(mid, DESTINATION)], "root", NOON))
            self.successResultOf(self.store.reclaim())
            self.assertEqual([it.owner for it in self.store.deliveries(mid)], [owner])
            self.assertEqual(self.store.due(LATER, 10), [])
            self.successResultOf(self.store.reclaim(lambda it: LATER))
            self.assertEqual([(it.owner, it.next_attempt) for it in self.store.deliveries(mid)], [(owner, LATER)])
        self.successResultOf(self.store.stop())

    def test_what_was_forgotten_is_due_at_the_second_look(self) -> None:
        with mock.patch.object(lmdb_store, "RECLAIMED", 7):
            ids = [self.wait(send(self.store, armed=True, at=NOON)) for _ in range(20)]
            for _ in range(2):
                self.assertEqual([mid for mid in ids if not self.store.deliveries(mid)[0].owner], [])
                self.successResultOf(self.store.reclaim())
            self.assertEqual(len(self.wait(claim(self.store, limit=99))), 20)
        self.successResultOf(self.store.stop())

    def test_who_left_with_some_left_them_to_others(self) -> None:
        mid = self.wait(send(self.store, armed=True, at=LATER))
        self.successResultOf(self.store.stop())  # its file is gone, unlike that of one that was killed
        other = self.open()
        self.assertEqual(self.successResultOf(other.reclaim()), 1)
        self.assertEqual([it.message.id for it in self.wait(claim(other))], [mid])
        self.successResultOf(other.stop())

    def test_what_leads_to_nothing_is_removed(self) -> None:
        self.wait(send(self.store, armed=True, at=LATER))
        self.successResultOf(self.store.stop())
        other = self.open()
        environment = other._environment
        assert environment is not None
        with environment.begin() as txn:
            stray = owner_key(77) + time_key(NOON) + b"i" * 10 + b"d" * 16
            txn.put(stray, b"", db=environment.tables.owned)
        self.assertEqual(self.successResultOf(other.reclaim()), 1)
        with environment.read() as txn:
            self.assertEqual(txn.stat(environment.tables.owned)["entries"], 0)
        self.assertEqual(self.successResultOf(other.verify(False)), [])
        self.successResultOf(other.stop())
