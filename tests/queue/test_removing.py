"""Removing a great many: in force at once, worked off by and by, by whoever lives."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.queue.samples import CUSTOMER, NOON, SETTINGS, Sink, clock, delivery, new, send
from twisted_mta.mail.envelope import Lane
from twisted_mta.mail.events import Done, Operator, Service
from twisted_mta.queue import pending, removing
from twisted_mta.queue.interfaces import QueueFilter, Settlement, StoreUnavailable
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.records import taken_key
from twisted_mta.queue.removing import Forget, Remover, TakeOut
from twisted_mta.queue.writer import InlineWriter

replace = msgspec.structs.replace


class Killed(BaseException):
    """The process dies."""


class Case(SynchronousTestCase):
    """Fifty messages to eleven destinations, taken out by sevens and forgotten by nines."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.sink = Sink()
        self.clock = clock()
        self.store = self.open()
        self.mids = [self.send(number) for number in range(50)]
        self.patch(removing, "DELIVERIES", 7)
        self.patch(removing, "ENTRIES", 9)

    def open(self) -> LmdbStore:
        self.writer = InlineWriter()
        store = LmdbStore(self.path, self.clock, SETTINGS, self.writer, self.sink)
        self.successResultOf(store.start())
        self.addCleanup(store.stop)
        return store

    def run_now(self, coroutine: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def send(self, number: int, **facts: Any) -> str:
        part = delivery(f"smtp:d{number % 11}", f"u{number}@d{number % 11}")
        mid: str = self.run_now(send(self.store, part, **{"at": NOON + number, **facts}))
        return mid

    def die(self, store: LmdbStore) -> None:
        """What is left of a process that was killed: its lock is gone, its rows are not."""
        store._owners.leave()
        store._environment.close()  # type: ignore[union-attr]
        store._environment = None

    def remove(self, seconds: float | None = 0.0, **match: Any) -> Any:
        return self.successResultOf(self.store.remove(QueueFilter(**match), "root", NOON, seconds))

    def work_off(self) -> int:
        steps = 0
        while self.successResultOf(self.store.work_off()):
            steps += 1
            self.assertEqual(self.successResultOf(self.store.verify(False)), [])
        return steps

    def shown(self, **match: Any) -> set[str]:
        return {message.id for message, _ in self.successResultOf(self.store.page(QueueFilter(**match))).found}

    def claimed(self, destination: str, limit: int = 10, now: float = NOON + 99) -> list[str]:
        claims = self.successResultOf(self.store.claim(Lane(destination, CUSTOMER), now, limit, lambda it: now + 60))
        return [it.message.id for it in claims]


class RemovingTests(Case):
    def test_many_commits(self) -> None:
        commits = self.writer.commits
        removal = self.remove(None)
        self.assertEqual((removal.deliveries, removal.recipients, removal.ended), (50, 50, NOON))
        self.assertEqual(self.writer.commits - commits, 1 + 8 + 6 + 1 + 1)
        self.assertEqual(self.successResultOf(self.store.verify(False)), [])
        self.assertEqual((self.store.stats().messages, self.store.stats().destinations), (0, 0))

    def test_others_have_their_turn(self) -> None:
        rests: list[None] = []
        self.writer.rest = lambda: rests.append(None)  # type: ignore[method-assign]
        with patch.object(self.store._owners, "others", lambda: True):
            self.remove(None)
        self.assertEqual(len(rests), 8 + 6 + 1)

    def test_in_force_from_its_commit(self) -> None:
        commits, changes = self.writer.commits, self.store.changes()
        removal = self.remove(destination="smtp:d3")
        gone = set(self.mids[3::11])
        self.assertEqual(self.writer.commits - commits, 2)
        self.assertGreater(self.store.changes(), changes)
        self.assertEqual((removal.deliveries, removal.ended), (0, None))
        self.assertEqual(self.store.stats().deliveries, 50, "they count as queued until they are worked off")
        self.assertEqual(self.shown(), set(self.mids) - gone)
        self.assertEqual(self.shown(destination="smtp:d3"), set())
        for mid in gone:
            self.assertEqual((self.store.message(mid), self.store.deliveries(mid)), (None, []))
            for action in ("hold", "retry", "release", "remove"):
                self.assertEqual(self.successResultOf(self.store.act(action, [(mid, "smtp:d3")], "ann", NOON)), 0)
        self.assertEqual(self.claimed("smtp:d3"), [])
        self.assertEqual(self.successResultOf(self.store.verify(False)), [])
        self.work_off()
        (over,) = self.store.removals()
        self.assertEqual((over.deliveries, over.recipients, over.ended), (5, 5, NOON))
        self.assertEqual({event.id for event in self.sink.named(Done)}, gone)
        for mid in gone:
            self.assertEqual([type(event) for event in self.store.history(mid)], [Operator, Done])
        self.assertEqual(self.store.usage(CUSTOMER).queued_messages, 45)

    def test_what_is_under_way_ends_and_leaves_nothing(self) -> None:
        (it, *_) = self.successResultOf(self.store.claim(Lane("smtp:d3", CUSTOMER), NOON + 99, 1, lambda it: NOON))
        self.remove(destination="smtp:d3")
        later = replace(it.delivery, last_reply="450 Later", next_attempt=NOON + 30)
        self.successResultOf(self.store.settle([Settlement(delivery=it.delivery, remaining=(later,))]))
        self.assertEqual(self.store.deliveries(it.message.id), [])
        self.work_off()
        self.assertEqual(self.store.stats().deliveries, 45)
        self.assertEqual(self.store.removals()[0].deliveries, 5)

    def test_claims_go_past_what_is_removed(self) -> None:
        for number in range(40):
            self.send(1, sender="spam@x", at=NOON + number / 100)
        self.remove(sender="spam@x")
        self.assertEqual(self.claimed("smtp:d1", 2), [self.mids[1], self.mids[12]])
        self.assertEqual(self.successResultOf(self.store.verify(False)), [])
        self.work_off()
        self.assertEqual(self.store.removals()[0].deliveries, 40)

    def test_claims_go_past_what_is_taken_out(self) -> None:
        for number in range(40):
            self.send(1, sender="spam@x", at=NOON + number / 100)
        self.remove(sender="spam@x")
        while self.store._reader.rows()[0].entries < 40:
            self.successResultOf(self.store.work_off())
        self.assertEqual(self.claimed("smtp:d1", 2), [self.mids[1], self.mids[12]])
        self.assertEqual(self.successResultOf(self.store.verify(False)), [])
        self.work_off()
        self.assertEqual((self.store.stats().deliveries, self.store.removals()[0].deliveries), (50, 40))

    def test_a_filter_is_about_how_it_was(self) -> None:
        """What changes afterwards neither falls under it nor escapes it."""
        claims = [
            self.successResultOf(self.store.claim(Lane(f"smtp:d{n}", CUSTOMER), NOON + 99, 1, lambda _: NOON))[0]
            for n in range(4)
        ]
        replies = ("450 Greylisted", "450 Busy", "450 Greylisted", "450 Busy")
        for it, reply in zip(claims, replies, strict=True):
            later = replace(it.delivery, last_reply=reply, next_attempt=NOON)
            self.successResultOf(self.store.settle([Settlement(delivery=it.delivery, remaining=(later,))]))
        self.remove(reason="greylisted")
        for it in claims[:2]:
            (again,) = [
                one
                for one in self.successResultOf(
                    self.store.claim(Lane(it.delivery.destination, CUSTOMER), NOON, 5, lambda _: NOON + 60)
                )
                if one.message.id == it.message.id
            ] or [it]
            other = "450 Busy" if it is claims[0] else "450 Greylisted"
            later = replace(again.delivery, last_reply=other, next_attempt=NOON + 60)
            self.successResultOf(self.store.settle([Settlement(delivery=again.delivery, remaining=(later,))]))
        gone = {claims[0].message.id, claims[2].message.id}
        self.assertEqual(self.shown(), set(self.mids) - gone)
        self.work_off()
        self.assertEqual(self.shown(), set(self.mids) - gone)
        self.assertEqual(self.shown(reason="greylisted"), {claims[1].message.id})
        self.remove(None, reason="greylisted")
        self.assertEqual(self.shown(reason="greylisted"), set())

    def test_what_comes_later_stays(self) -> None:
        incoming = self.store.incoming()  # has its id before those that the removal is about
        incoming.write(b"text")
        self.send(1)
        self.remove()
        self.assertIsNone(self.successResultOf(incoming.commit(new(incoming.id))))
        after = self.send(2)
        self.assertEqual(self.shown(), {incoming.id, after})
        self.work_off()
        self.assertEqual(self.shown(), {incoming.id, after})
        self.remove(None)
        self.assertEqual(self.shown(), set())

    def test_a_delivery_comes_where_another_was_taken_out(self) -> None:
        """Both have one key in their lane: that of what is on hold has no time in it."""
        mid = self.run_now(send(self.store, delivery("smtp:d1", "a@d1"), delivery("smtp:d2", "b@d2")))
        both = [(mid, "smtp:d1"), (mid, "smtp:d2")]
        self.successResultOf(self.store.act("hold", both, "root", NOON))
        _, other = sorted(self.store.deliveries(mid), key=lambda it: it.destination)
        self.remove(recipient="a@d1")
        while not self.store._reader.rows()[0].forgetting:
            self.successResultOf(self.store.work_off())
        moved = replace(other, destination="smtp:d1")
        self.successResultOf(self.store.settle([Settlement(delivery=other, remaining=(moved,))]))
        self.assertEqual(self.successResultOf(self.store.verify(False)), [])
        self.work_off()
        (there,) = self.store.deliveries(mid)
        self.assertEqual((there.destination, there.state), ("smtp:d1", "held"))
        self.assertEqual(self.store.stats().deliveries, 51)

    def test_in_the_order_of_lanes_whatever_their_number(self) -> None:
        order: list[bytes] = []
        apply = Forget.apply

        def noted(operation: Any, batch: Any) -> Any:
            order.extend(operation._entries)
            return apply(operation, batch)

        with patch.object(Forget, "apply", noted), patch.object(removing, "MOST", 20):
            self.remove(None)
        self.assertEqual(len(order), 50)
        self.assertEqual(order[:21], sorted(order[:21]))
        self.assertEqual(order[21:42], sorted(order[21:42]))
        self.assertEqual(self.successResultOf(self.store.verify(False)), [])

    def test_several_at_once(self) -> None:
        self.remove(destination="smtp:d1")
        self.remove(recipient="u5@d5")
        self.remove(destination="smtp:d5")
        self.assertEqual(self.shown(), {mid for n, mid in enumerate(self.mids) if n % 11 not in (1, 5)})
        self.work_off()
        self.assertEqual([it.deliveries for it in self.store.removals()], [5, 1, 4])
        self.assertEqual(self.store.stats().deliveries, 40)

    def test_no_more_than_can_be_compared(self) -> None:
        self.patch(removing, "MOST_REMOVALS", 2)
        self.remove(destination="smtp:d1")
        self.remove(destination="smtp:d2")
        failure = self.failureResultOf(self.store.remove(QueueFilter(), "root", NOON, 0.0), StoreUnavailable)
        self.assertIn("2 removals under way", str(failure.value))
        self.work_off()
        self.assertEqual(self.remove(None).deliveries, 40)

    def test_the_last_ones_are_told_of(self) -> None:
        self.patch(pending, "KEPT", 3)
        for number in range(5):
            self.remove(None, destination=f"smtp:d{number}")
        self.assertEqual([it.number for it in self.store.removals()], [3, 4, 5])
        said = [event.detail for event in self.sink.named(Service) if event.what == "removal"]
        self.assertEqual(said[0], "removal 1 by root: 5 deliveries, 5 recipients, in 0.0 s")
        self.assertEqual(len(said), 5)


class DyingTests(Case):
    """Whoever works at it may die at any point."""

    def test_at_each_commit(self) -> None:
        expected = 50
        for kind, times in ((TakeOut, 8), (Forget, 6)):
            for _ in range(times):
                if not self.store._reader.rows():
                    self.remove()
                with patch.object(kind, "apply", self.killed):
                    stepped = self.store.work_off()
                if not self.failed(stepped):
                    expected -= 7
                self.flushLoggedErrors(Killed)
                self.die(self.store)
                self.store = self.open()
                self.assertEqual(self.shown(), set())
                self.assertEqual(self.successResultOf(self.store.verify(False)), [])
                self.successResultOf(self.store.work_off())
        self.work_off()
        self.assertEqual((self.store.stats().deliveries, self.store.removals()[0].deliveries), (0, 50))

    def killed(self, operation: Any, batch: Any) -> None:
        raise Killed

    def failed(self, stepped: Deferred[bool]) -> bool:
        outcome: list[Any] = []
        stepped.addBoth(outcome.append)
        return outcome != [True]

    def test_one_who_lives_is_left_at_it(self) -> None:
        number = self.remove().number
        self.successResultOf(self.store.work_off())
        mine = self.store._reader.rows()[0].owner
        self.assertEqual(mine, self.store._owner)
        others = Remover(
            self.store._reader, self.store._owners, mine + 1, self.store._in_thread, self.writer.submit, self.sink
        )
        self.assertFalse(self.run_now(others.step(number)))
        self.store._owners.leave()
        while self.run_now(others.step(number)):
            pass
        self.assertEqual(self.store.removals()[0].deliveries, 50)
        self.assertEqual(self.successResultOf(self.store.verify(False)), [])

    def test_two_who_believe_it_theirs(self) -> None:
        """A page that was looked for before another went on is given up."""
        self.remove()
        row = self.store._reader.rows()[0]
        page = self.store._reader.removed(row, 7, 9.0)
        for _ in range(2):
            self.successResultOf(self.store._writer.submit(TakeOut(row, page, 77)))
        self.assertEqual(self.store._reader.rows()[0].deliveries, 7)
        self.assertEqual(self.store._reader.rows()[0].runs, 1)

    def test_a_command_that_is_interrupted_leaves_it_to_others(self) -> None:
        find, calls = self.store._reader.removed, 0

        def page(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 4:
                raise KeyboardInterrupt
            return find(*args)

        with patch.object(self.store._reader, "removed", page):
            failure = self.failureResultOf(self.store.remove(QueueFilter(), "root", NOON))
        self.assertIs(failure.type, KeyboardInterrupt)
        self.assertEqual(self.store.stats().deliveries, 50 - 21)
        self.assertEqual(self.shown(), set())
        self.assertEqual(self.store._reader.rows()[0].owner, 0)
        self.work_off()
        self.assertEqual(self.store.stats().deliveries, 0)

    def test_a_note_of_the_third_schema_is_mended(self) -> None:
        """Its removals left entries behind that nothing knew of, and a note that this is so."""
        environment = self.store._environment
        assert environment is not None
        with environment.begin() as txn:
            txn.put(b"removing 268435455", b"", db=environment.tables.meta)
            with txn.cursor(environment.tables.delivery) as cursor:
                cursor.first()
                cursor.delete()
        self.assertTrue(self.successResultOf(self.store.verify(False)))
        self.successResultOf(self.store.tend())
        self.assertEqual([event.what for event in self.sink.named(Service)][-1], "repair")
        self.assertEqual(self.successResultOf(self.store.verify(False)), [])
        self.assertEqual(self.store._reader.removing(), [])


class StrayTests(Case):
    def test_what_a_removal_left_is_found(self) -> None:
        environment = self.store._environment
        assert environment is not None
        with environment.begin() as txn:
            txn.put(taken_key(7, 0, 0), b"x" * 46, db=environment.tables.meta)
        self.assertEqual(self.successResultOf(self.store.verify(True)), ["a removal that is over has left something"])
        self.assertEqual(self.successResultOf(self.store.verify(False)), [])

    def test_a_wrong_count_is_found_meanwhile(self) -> None:
        self.remove()
        while self.store._reader.rows()[0].entries < 20:
            self.successResultOf(self.store.work_off())
        environment = self.store._environment
        assert environment is not None
        with environment.begin() as txn, txn.cursor(environment.tables.lanes) as cursor:
            cursor.last()
            cursor.delete()
        self.assertTrue(self.successResultOf(self.store.verify(False)))
        self.successResultOf(self.store.verify(True))
        self.assertEqual(self.successResultOf(self.store.verify(False)), [])
        self.work_off()
