"""Summaries: what no segment of many has is known without asking them, whatever happens while one is made."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.queue.filler import fired
from tests.queue.test_segments import Queue, replace
from twisted_mta.mail.ids import id_key
from twisted_mta.queue import indexing, searching, summing, terms
from twisted_mta.queue.summary import Bits, Header, having, pages_for
from twisted_mta.queue.summing import Summarizer
from twisted_mta.queue.terms import Segment


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of eight messages, four to a summary, made at once."""
    for module in (indexing, terms):
        monkeypatch.setattr(module, "SEGMENT", 8)
        monkeypatch.setattr(module, "SEGMENT_TERMS", 100, raising=False)
    for made in (indexing, summing):
        monkeypatch.setattr(made, "PAUSE", 0)
    monkeypatch.setattr(summing, "GROUP", 4)
    monkeypatch.setattr(summing, "WORN", 1)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list with an item for each segment that was asked."""
    found: list[int] = []

    class Counted(Segment):
        def having(self, wanted: Any) -> list[bytes]:
            found.append(1)
            return super().having(wanted)

    monkeypatch.setattr(searching, "Segment", Counted)
    return found


def summaries(queue: Queue) -> list[tuple[bool, int]]:
    """Of each summary whether it is ready, and of how many segments it says nothing."""
    environment = queue.store._environment
    assert environment is not None
    with environment.read() as txn:
        headers = [Header.read(raw) for key, raw in txn.cursor(environment.tables.summary) if len(key) == 10]
    return [(header.ready, header.struck.bit_count()) for header in headers]


def fill(queue: Queue, count: int) -> list[str]:
    mids = [queue.send(f"x{number}@d{number % 50}.example") for number in range(count)]
    queue.tend()
    return mids


@pytest.mark.parametrize("count", [1, 40, 3000])
def test_bits(count: int) -> None:
    """What a segment has is never denied, and what it has not nearly always is."""
    random = Random(count)
    segments = [[random.randrange(1 << 32) for _ in range(count)] for _ in range(64)]
    bits = Bits(pages_for(count))
    for number, those in enumerate(segments):
        bits.add(number, those)
    pages = dict(bits.rows(b"e" * 10))
    header = Header(True, bits.pages, b"t" * 8, 5, b"d" * 10, [b"e" * 10] * 64)

    def ask(term: int) -> int:
        return having(header, term, lambda number: pages[b"e" * 10 + number.to_bytes(2, "big")])

    for number, those in enumerate(segments):
        assert all(ask(term) >> number & 1 for term in those[:100])
    wrong = sum(ask(random.randrange(1 << 32)).bit_count() for _ in range(200))
    assert wrong <= 200 * 64 * 0.01
    assert Header.read(header.row()) == header


def test_what_nobody_has_is_asked_of_few(tmp_path: Path, asked: list[int]) -> None:
    queue = Queue(tmp_path / "queue")
    mids = fill(queue, 100)
    assert summaries(queue) == [(True, 0)] * 3
    assert queue.found(recipient="nobody@nowhere.example") == []
    assert not asked
    assert queue.found(recipient="x55@d5.example") == mids[55:56]
    assert len(asked) == 1
    assert queue.found(recipient="@d7.example") == [mids[7], mids[57]]
    assert queue.found(recipient="@d7.example", sender="a@acme.example") == [mids[7], mids[57]]
    assert len(asked) <= 6
    queue.close()


def test_what_changes_is_asked_again(tmp_path: Path) -> None:
    """A message goes elsewhere, another comes late, segments are made anew and joined: what they say is found."""
    queue = Queue(tmp_path / "queue")
    mids = [queue.send(f"x{number}@a.example") for number in range(5)]
    late = queue.begin()
    mids += [queue.send(f"x{number}@a.example") for number in range(5, 70)]
    queue.tend()
    assert summaries(queue) == [(True, 0)] * 2
    (it,) = queue.store.deliveries(mids[12])
    queue.settle(it, replace(it, destination="smtp:elsewhere"))
    assert summaries(queue) == [(True, 1), (True, 0)]
    assert queue.found(destination="smtp:elsewhere", recipient="x12@a.example") == [mids[12]]
    queue.clock.advance(60)
    assert fired(queue.store.tend())
    assert queue.segments() == [True] * 8  # made anew, and not what the summary knew
    assert queue.found(destination="smtp:elsewhere", recipient="x12@a.example") == [mids[12]]
    assert summaries(queue) == [(True, 1), (True, 0)]
    mid = queue.commit(late, "late@c.example")
    assert queue.found(recipient="late@c.example") == [mid]
    assert summaries(queue) == [(True, 2), (True, 0)]
    queue.tend()
    assert summaries(queue) == [(True, 0), (True, 0)]  # it was worn out, and made anew
    assert queue.found(recipient="late@c.example") == [mid]
    for one in mids[:60]:
        for it in queue.store.deliveries(one):
            queue.settle(it)
    queue.tend()
    queue.found(recipient="x65@a.example")
    queue.found(recipient="@a.example")
    queue.close()


@pytest.mark.parametrize("when", ["announced", "gathered"])
def test_a_change_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    queue = Queue(tmp_path / "queue")
    mids = [queue.send(f"x{number}@a.example") for number in range(40)]
    gather = Summarizer._gather

    def changed(summarizer: Summarizer, header: Header) -> Any:
        monkeypatch.setattr(Summarizer, "_gather", gather)
        gathered = gather(summarizer, header) if when == "gathered" else None
        (it,) = queue.store.deliveries(mids[12])
        queue.settle(it, replace(it, destination="smtp:elsewhere"))
        return gathered or gather(summarizer, header)

    monkeypatch.setattr(Summarizer, "_gather", changed)
    queue.clock.advance(60)
    while summaries(queue) != [(True, 1)]:
        assert fired(queue.store.tend())
    assert queue.found(destination="smtp:elsewhere", recipient="x12@a.example") == [mids[12]]
    queue.tend()
    assert queue.found(destination="smtp:elsewhere", recipient="x12@a.example") == [mids[12]]
    queue.close()


def test_who_dies_over_it_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(tmp_path / "queue")
    [queue.send(f"x{number}@a.example") for number in range(40)]
    queue.clock.advance(60)
    with monkeypatch.context() as patch:
        patch.setattr(Summarizer, "_gather", lambda summarizer, header: None)
        while not summaries(queue):
            assert fired(queue.store.tend())
    assert summaries(queue) == [(False, 0)]
    assert queue.found(recipient="nobody@a.example") == []
    queue.tend()
    assert summaries(queue) == [(True, 0)]
    queue.close()


def test_a_summary_that_denies_is_found_and_removed(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "queue")
    mids = fill(queue, 40)
    environment = queue.store._environment
    assert environment is not None
    with environment.begin() as txn:
        with txn.cursor(environment.tables.summary) as cursor:
            keys = [key for key, _ in cursor if len(key) > 10]
        for key in keys:
            txn.put(key, bytes(4080), db=environment.tables.summary)
    end = fired(queue.store.verify(True))
    assert [line.partition(" up to ")[0] for line in end] == ["not all segments"]
    assert summaries(queue) == []
    assert queue.found(recipient="x3@d3.example") == [mids[3]]
    assert id_key(mids[31])
    queue.tend()
    assert summaries(queue) == [(True, 0)]
    queue.close()


def test_histories(tmp_path: Path) -> None:
    """Whatever is sent, moved and removed meanwhile, all that there is is found."""
    for seed in range(6):
        random = Random(seed)
        queue = Queue(tmp_path / f"queue{seed}")
        mids: list[str] = []
        for _ in range(120):
            chance = random.random()
            if chance < 0.6 or not mids:
                mids += [queue.send(f"x{random.randrange(30)}@d{random.randrange(9)}.example") for _ in range(4)]
            elif chance < 0.75:
                for it in queue.store.deliveries(random.choice(mids)):
                    moved = (replace(it, destination=f"smtp:e{random.randrange(5)}"),) if random.random() < 0.4 else ()
                    queue.settle(it, *moved)
            else:
                queue.clock.advance(60)
                fired(queue.store.tend())
            queue.found(recipient=f"x{random.randrange(31)}@d{random.randrange(9)}.example")
            queue.found(recipient=f"@d{random.randrange(10)}.example", sender="@acme.example")
        queue.tend()
        for number in range(10):
            queue.found(recipient=f"@d{number}.example")
        queue.close()
