"""Segments: whatever happens while one is made, every message is found by its terms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred

from tests.queue.filler import fired
from tests.queue.samples import NOON, SETTINGS, clock, delivery, new
from twisted_mta.mail.envelope import Delivery, Message, Recipient
from twisted_mta.queue import indexing, terms
from twisted_mta.queue.indexing import Indexer
from twisted_mta.queue.interfaces import IIncoming, QueueFilter, Settlement
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.memory import MemoryStore
from twisted_mta.queue.rules import matches
from twisted_mta.queue.terms import Segment, is_segment, make_segment, terms_asked, terms_of
from twisted_mta.queue.writer import InlineWriter

replace = msgspec.structs.replace


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of eight messages, made at once."""
    for module in (indexing, terms):
        monkeypatch.setattr(module, "SEGMENT", 8)
        monkeypatch.setattr(module, "SEGMENT_TERMS", 100, raising=False)
    monkeypatch.setattr(indexing, "PAUSE", 0)


class Queue:
    """A store and its twin in memory, with a clock that goes on."""

    def __init__(self, path: Path) -> None:
        self.clock: Any = clock()
        self.store = LmdbStore(path, self.clock, SETTINGS, InlineWriter())
        self.twin = MemoryStore(self.clock, SETTINGS)
        fired(self.store.start())
        fired(self.twin.start())

    def begin(self) -> IIncoming:
        self.clock.advance(1)
        return self.store.incoming()

    def commit(self, incoming: IIncoming, *to: str, sender: str = "a@acme.example") -> str:
        parts = [delivery(f"smtp:{address.partition('@')[2]}", address) for address in to]
        message = new(incoming.id, *parts, sender=sender)
        incoming.write(b"text")
        fired(incoming.commit(message))
        self.twin.accept(message, b"text")
        return incoming.id

    def send(self, *to: str, sender: str = "a@acme.example") -> str:
        return self.commit(self.begin(), *to, sender=sender)

    def settle(self, it: Delivery, *remaining: Delivery) -> None:
        for store in (self.store, self.twin):
            fired(store.settle([Settlement(delivery=it, remaining=remaining)]))

    def found(self, **match: Any) -> list[str]:
        """What is found, as in the twin."""
        pages = [fired(it.page(QueueFilter(**match), limit=1000)).found for it in (self.store, self.twin)]
        assert pages[0] == pages[1], match
        return [message.id for message, _ in pages[0]]

    def segments(self) -> list[bool]:
        """For each interval: whether it has a segment."""
        environment = self.store._environment
        assert environment is not None
        with environment.read() as txn:
            return [is_segment(raw) for _, raw in txn.cursor(environment.tables.segment)]

    def tend(self) -> None:
        self.clock.advance(60)
        idle = 0
        for _ in range(1000):
            idle = 0 if fired(self.store.tend()) else idle + 1
            if idle == 2:  # all round
                return
        raise AssertionError("there is always more to do")

    def close(self) -> None:
        assert fired(self.store.verify(False)) == []
        fired(self.store.stop())


def test_a_segment_knows_its_messages() -> None:
    random = Random(2)
    messages = []
    for number in range(50):
        message = new(f"{number:016}", sender=f"S{number % 3}@acme.example").message
        to = tuple(Recipient(f"R{random.randrange(9)}@b{random.randrange(3)}.example", "list@c.example") for _ in "ab")
        it = Delivery(id=message.id, destination="smtp:b", customer="", recipients=to, next_attempt=NOON)
        messages.append((message, it))
    segment = Segment(memoryview(make_segment([(m.id.encode()[:10], terms_of(m, [it])) for m, it in messages])))
    for match in (
        QueueFilter(sender="s1@acme.example"), QueueFilter(sender="@ACME.example"), QueueFilter(sender="x@y"),
        QueueFilter(recipient="r3@b1.example"), QueueFilter(recipient="@b2.example"), QueueFilter(customer=""),
        QueueFilter(recipient="LIST@c.example"), QueueFilter(recipient="@c.example", sender="s2@acme.example"),
        QueueFilter(destination="smtp:b"), QueueFilter(destination="smtp:c"), QueueFilter(customer="acme"),
    ):  # fmt: skip
        expected = [m.id.encode()[:10] for m, it in messages if matches(match, m, it, NOON)]
        assert segment.having(terms_asked(match)) == expected, match


@pytest.mark.parametrize("spread", [1 << 32, 1 << 20, 7])
def test_a_segment_finds_terms_wherever_they_lie(spread: int) -> None:
    random = Random(spread)
    ids = [number.to_bytes(10, "big") for number in range(1000)]
    messages = [(mid, {random.randrange(spread) for _ in range(random.randrange(8))}) for mid in ids]
    segment = Segment(memoryview(make_segment(messages)))
    known = sorted(set().union(*[found for _, found in messages]))
    for term in (*random.sample(known, min(len(known), 300)), 0, spread - 1, (1 << 32) - 1, random.randrange(1 << 32)):
        assert segment.having([term]) == [mid for mid, found in messages if term in found]


def test_what_is_queued_for_long_gets_segments(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "queue")
    mids = [queue.send(f"x{number}@a.example", f"y{number}@b.example") for number in range(30)]
    queue.clock.advance(-25)
    fired(queue.store.tend())
    assert queue.segments() == []  # it may leave soon
    queue.tend()
    assert queue.segments() == [True] * 3
    assert queue.found(recipient="x3@a.example") == mids[3:4]
    assert queue.found(recipient="y29@b.example") == mids[29:]
    assert queue.found(recipient="nobody@b.example") == []
    queue.close()


def test_what_came_late_or_goes_elsewhere_is_found(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "queue")
    mids = [queue.send(f"x{number}@a.example") for number in range(5)]
    late = queue.begin()
    mids += [queue.send(f"x{number}@a.example") for number in range(5, 20)]
    queue.tend()
    assert queue.segments() == [True, True]
    mid = queue.commit(late, "late@c.example")
    assert queue.segments() == [False, True]
    assert queue.found(recipient="late@c.example") == [mid]
    (it,) = queue.store.deliveries(mids[12])
    queue.settle(it, replace(it, destination="smtp:elsewhere"))
    assert queue.segments() == [False, False]
    assert queue.found(destination="smtp:elsewhere") == [mids[12]]
    queue.tend()
    assert all(queue.segments())
    assert queue.found(destination="smtp:elsewhere", recipient="x12@a.example") == [mids[12]]
    (it,) = queue.store.deliveries(mids[3])
    queue.settle(it, replace(it, recipients=(Recipient("alias@a.example", "x3@a.example"),)))
    assert queue.found(recipient="alias@a.example") == [mids[3]]
    queue.close()


def test_what_was_spoilt_by_a_defect_is_told_and_mended(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "queue")
    for number in range(16):
        queue.send(f"x{number}@a.example")
    queue.tend()
    environment = queue.store._environment
    assert environment is not None
    with environment.begin() as txn, txn.cursor(environment.tables.segment) as cursor:
        assert cursor.first()
        last = cursor.key()
        cursor.put(last, make_segment([(last, set())]))
    assert len(fired(queue.store.verify(True))) == 1
    assert queue.segments() == [False, True]
    queue.tend()
    queue.close()


@pytest.mark.parametrize("moment", [0, 1, 2, 3])
def test_whatever_happens_while_one_is_made(tmp_path: Path, moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """``moment``: behind which of the steps look, mark, gather and enter it happens."""
    queue = Queue(tmp_path / "queue")
    late = queue.begin()
    mids = [queue.send(f"x{number}@a.example") for number in range(8)]
    queue.clock.advance(60)
    steps = 0

    def then(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal steps
            found = step(*args, **kwargs)
            if steps == moment:
                queue.commit(late, "late@c.example")
                (it,) = queue.store.deliveries(mids[4])
                queue.settle(it, replace(it, destination="smtp:elsewhere"))
            steps += 1
            return found

        return run

    writer: Any = queue.store._writer
    indexer = Indexer(queue.store._environment, queue.clock.seconds)  # type: ignore[arg-type]
    Deferred.fromCoroutine(indexer.step(then(queue.store._in_thread), then(writer.submit)))
    assert steps == 4
    assert queue.found(recipient="late@c.example") == [late.id]
    assert queue.found(destination="smtp:elsewhere") == [mids[4]]
    queue.tend()
    assert queue.found(recipient="late@c.example") == [late.id]
    assert queue.found(destination="smtp:elsewhere") == [mids[4]]
    queue.close()


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_things(tmp_path: Path, seed: int) -> None:
    random, queue = Random(seed), Queue(tmp_path / "queue")
    late: list[IIncoming] = []
    found = 0
    for _ in range(600):
        chance = random.random()
        queued: list[tuple[Message, Delivery]] = fired(queue.twin.page(QueueFilter(), limit=10_000)).found
        domains = random.sample(range(6), random.randrange(1, 4))
        to = [f"x{random.randrange(20)}@d{number}.example" for number in domains]
        if chance < 0.3 or not queued:
            queue.send(*to, sender=random.choice(("", "a@acme.example", "b@other.example")))
        elif chance < 0.35:
            late.append(queue.begin())
        elif chance < 0.4 and late:
            queue.commit(late.pop(random.randrange(len(late))), *to)
        elif chance < 0.7:
            _, it = random.choice(queued[:20])
            elsewhere = replace(it, destination=random.choice(("smtp:elsewhere", it.destination)), last_reply="451 No")
            queue.settle(it, *random.choice(((), (), (), (it,), (elsewhere,))))
        elif chance < 0.75:
            _, it = random.choice(queued)
            for store in (queue.store, queue.twin):
                fired(store.act("hold", [(it.id, it.destination)], "root", NOON))
        elif chance < 0.85:
            queue.clock.advance(random.choice((1, 60)))
            fired(queue.store.tend())
        else:
            match = {
                "recipient": random.choice((None, f"x{random.randrange(20)}@d1.example", "@d2.example")),
                "sender": random.choice((None, None, "", "a@acme.example", "@other.example")),
                "destination": random.choice((None, None, "smtp:elsewhere", "smtp:d3.example")),
                "state": random.choice((None, None, "held", "queued")),
                "reason": random.choice((None, None, "no", "yes")),
            }
            found += len(queue.found(**{name: value for name, value in match.items() if value is not None}))
    assert found > 50
    queue.tend()
    assert all(queue.segments())
    queue.close()
