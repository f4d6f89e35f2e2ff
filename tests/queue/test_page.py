"""A page of the queue: whichever way leads to it, it holds what looking at every delivery would give."""

from __future__ import annotations

from pathlib import Path
from random import Random

import msgspec
import pytest
from twisted.internet.task import Clock

from tests.queue.filler import fired
from tests.queue.samples import NOON, SETTINGS, clock, delivery, new
from twisted_mta.mail.envelope import Delivery, Message
from twisted_mta.queue.interfaces import QueueFilter, Settlement
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.rules import matches
from twisted_mta.queue.writer import InlineWriter

SENDERS = ("", "ann@acme.example", "Ann@acme.example", "bob@other.example", "jörg@müller.example", "x@ACME.example")
RECIPIENTS = ("Bob@one.example", "bob@one.example", "élan@two.example", "carol@two.example", "dave@three.example")
REASONS = ("", "450 4.2.1 Greylisted", "Connection TIMED out", "Zeitüberschreitung beim Lesen")
CUSTOMERS = ("", "acme", "Other")


class Queue:
    """A store with mail of all kinds."""

    def __init__(self, path: Path, random: Random) -> None:
        self.clock: Clock = clock()
        self.store = LmdbStore(path, self.clock, SETTINGS, InlineWriter())
        fired(self.store.start())
        for _ in range(150):
            self.clock.advance(random.random() * 600)
            self.add(random)

    def add(self, random: Random) -> None:
        now = self.clock.seconds()
        incoming = self.store.incoming()
        to = random.sample(RECIPIENTS, random.randrange(1, 4))
        parts = {f"smtp:{address.partition('@')[2]}": address for address in to}
        customer = random.choice(CUSTOMERS)
        fired(
            incoming.commit(
                new(
                    incoming.id,
                    *[delivery(name, address) for name, address in parts.items()],
                    at=now,
                    arrived=now,
                    sender=random.choice(SENDERS),
                    lane_customer=customer,
                    customer=customer,
                )
            )
        )
        for it in self.store.deliveries(incoming.id):
            later = msgspec.structs.replace(it, last_reply=random.choice(REASONS), attempts=1, next_attempt=now + 60)
            fired(self.store.settle([Settlement(delivery=it, remaining=(later,))]))
            if random.random() < 0.1:
                fired(self.store.act("hold", [(it.id, it.destination)], "root", now))

    def all(self) -> list[tuple[Message, Delivery]]:
        found: list[tuple[Message, Delivery]] = fired(self.store.page(QueueFilter(), limit=10_000)).found
        return found


def any_filter(random: Random) -> QueueFilter:
    """A filter of some fields."""

    def maybe(*values: object) -> object:
        return random.choice(values) if random.random() < 0.35 else None

    given = {
        "destination": maybe("smtp:one.example", "smtp:two.example", "smtp:nowhere.example"),
        "customer": maybe(*CUSTOMERS, "nobody"),
        "sender": maybe(*SENDERS, "@acme.example", "@Müller.example", "JÖRG@müller.example", "nobody@x.example"),
        "recipient": maybe(*RECIPIENTS, "BOB@ONE.example", "@two.example", "ÉLAN@two.example", "@x.example"),
        "state": maybe("queued", "held"),
        "older_than": maybe(100.0, 7200.0, 1e6),
        "reason": maybe("greylisted", "timed OUT", "ZEITÜBERSCHREITUNG", "ü", "no such words"),
    }
    return QueueFilter(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [1, 2])
def test_pages_are_what_a_look_at_each_delivery_gives(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    queue = Queue(tmp_path / "queue", random)
    everything, now = queue.all(), queue.clock.seconds()
    assert now > NOON
    assert len(everything) > 150
    found = 0
    for _ in range(400):
        match = any_filter(random)
        expected = [pair for pair in everything if matches(match, *pair, now)]
        limit, after, pages = random.choice([1, 7, 1000]), "", []
        while page := fired(queue.store.page(match, after, limit)).found:
            assert len(page) <= limit
            pages += page
            after = f"{page[-1][0].id}/{page[-1][1].destination}"
        assert pages == expected, match
        found += bool(expected)
    assert found > 100
    fired(queue.store.stop())
