"""The LMDB store beside a model that is a few dictionaries, through random histories."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any
from unittest.mock import patch

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.python.failure import Failure

from tests.queue.samples import NOON, SETTINGS, Sink, clock, delivered, delivery, new, report
from twisted_mta.mail.envelope import Delivery, Handling, Lane
from twisted_mta.mail.events import Done
from twisted_mta.queue import removing
from twisted_mta.queue.interfaces import CHUNK, Claim, Limits, QueueFilter, QuotaExceeded, Settlement
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.pending import KEPT
from twisted_mta.queue.records import key_time, time_key
from twisted_mta.queue.rules import DEATHS
from twisted_mta.queue.writer import InlineWriter

replace = msgspec.structs.replace

DESTINATIONS = ("smtp:a", "smtp:b", "maildir:c")
CUSTOMERS = ("", "acme", "other")
ADDRESSES = ("x@a", "y@a", "z@b")
REPLIES = ("", "450 Busy", "450 Greylisted")
SENDER = "sender@acme.example"
RATE = 12
QUEUED = 6

parts = st.dictionaries(
    st.sampled_from(DESTINATIONS), st.sets(st.sampled_from(ADDRESSES), min_size=1), min_size=1, max_size=3
)


def fired(deferred: Any) -> Any:
    """The result of a Deferred that has one; a Failure is given, not raised."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    assert len(results) == 1, "the inline writer does everything at once"
    return results[0]


filters = st.one_of(
    st.just(QueueFilter()),
    st.builds(QueueFilter, destination=st.sampled_from(DESTINATIONS)),
    st.builds(QueueFilter, recipient=st.sampled_from(ADDRESSES)),
    st.builds(QueueFilter, customer=st.sampled_from(CUSTOMERS)),
    st.builds(QueueFilter, state=st.sampled_from(["queued", "held"])),
    st.builds(QueueFilter, sender=st.sampled_from(["", SENDER])),
    st.builds(QueueFilter, older_than=st.sampled_from([1.0, 1000.0])),
    st.builds(QueueFilter, reason=st.sampled_from(["greylisted", "busy"])),
)


class Model(RuleBasedStateMachine):
    """``expected`` maps (id, destination) to (recipients, due time or None when held, customer of the lane).  What a
    removal is about leaves it at once, and is counted until it is worked off: ``doomed`` is how many that may be."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.clock = clock()
        self.sink = Sink()
        self.expected: dict[tuple[str, str], tuple[frozenset[str], float | None, str]] = {}
        self.content: dict[str, bytes] = {}
        self.customer: dict[str, str] = {}
        self.priority: dict[str, int] = {}
        self.charged: list[tuple[float, str, int]] = []
        self.claims: list[Claim] = []
        self.owned: set[tuple[str, str]] = set()
        self.died: set[tuple[str, str]] = set()  # of these: what a process had in memory that is not there any more
        self.sender: dict[str, str] = {}
        self.arrived: dict[str, float] = {}
        self.reply: dict[tuple[str, str], str] = {}
        self.early: list[Any] = []
        self.doomed = 0
        self.removed = 0
        self.was_removing = False
        self.ids: list[str] = []
        self.gone: list[str] = []
        self.open()

    def open(self) -> None:
        self.early = []
        self.store = LmdbStore(self.folder, self.clock, SETTINGS, InlineWriter(), self.sink)
        assert fired(self.store.start()) is None

    def teardown(self) -> None:
        self.steps.stop()
        assert fired(self.store.stop()) is None
        shutil.rmtree(self.folder)

    @property
    def now(self) -> float:
        return self.clock.seconds()

    def queued(self, customer: str) -> list[str]:
        return [mid for mid, owner in self.customer.items() if owner == customer and mid not in self.gone]

    @property
    def waiting(self) -> dict[tuple[str, str], tuple[frozenset[str], float | None, str]]:
        """What is in no process' memory."""
        return {key: there for key, there in self.expected.items() if key not in self.owned}

    @property
    def removing(self) -> bool:
        """Whether something is removed and still counted."""
        return any(removal.ended is None for removal in self.store.removals())

    def forget(self, mid: str) -> None:
        """A message is gone with its last delivery."""
        if mid not in self.gone and not any(key[0] == mid for key in self.expected):
            self.gone.append(mid)

    # What happens

    @rule(
        to=parts,
        customer=st.sampled_from(CUSTOMERS),
        lane_customer=st.sampled_from(CUSTOMERS),
        armed=st.booleans(),
        size=st.sampled_from([0, 10, CHUNK, 2 * CHUNK + 1, 20 * CHUNK]),
        wait=st.sampled_from([-10.0, 0.0, 60.0, 5000.0]),
        limited=st.booleans(),
        late=st.booleans(),
        priority=st.sampled_from([0, 0, -4, 4]),
    )
    def accept(
        self,
        to: dict[str, set[str]],
        customer: str,
        lane_customer: str,
        armed: bool,
        size: int,
        wait: float,
        limited: bool,
        late: bool,
        priority: int,
    ) -> None:
        incoming = self.early.pop() if late and self.early else self.store.incoming()
        body = bytes([len(self.ids) % 256]) * size
        incoming.write(body)
        limits = Limits(recipients_per_hour=RATE, queued_messages=QUEUED) if limited and customer else None
        message = new(
            incoming.id,
            *[delivery(name, *sorted(addresses)) for name, addresses in to.items()],
            at=self.now + wait,
            customer=customer,
            lane_customer=lane_customer,
            arrived=self.now,
            armed=armed,
            handling=Handling(priority=priority) if priority else None,
        )
        count = message.message.recipients
        if limits is not None:
            charge = {"customer": customer, "recipients": count, "bytes": 0, "limits": limits}
            message = replace(message, charge=msgspec.convert(charge, type=type(new("", limits=limits).charge)))
        full = self.store.usage(customer).queued_messages >= QUEUED
        result = fired(incoming.commit(message))
        if limits is not None:
            used = sum(some for at, owner, some in self.charged if owner == customer and at > self.now - 3600)
            longest = sum(some for at, owner, some in self.charged if owner == customer and at > self.now - 3900)
            if used + count > RATE or full:
                assert isinstance(result, Failure)
            if longest + count <= RATE and not full:
                assert result is None
        if isinstance(result, Failure):
            assert limits is not None
            assert result.check(QuotaExceeded)
            assert self.store.message(incoming.id) is None
            return
        if limits is not None:
            self.charged.append((self.now, customer, count))
        self.ids.append(incoming.id)
        self.content[incoming.id] = body
        self.customer[incoming.id] = customer
        self.priority[incoming.id] = priority
        self.sender[incoming.id], self.arrived[incoming.id] = SENDER, self.now
        for name, addresses in to.items():
            self.expected[incoming.id, name] = (frozenset(addresses), self.now + wait, lane_customer)
            self.reply[incoming.id, name] = ""
            if armed:
                self.owned.add((incoming.id, name))

    @rule(size=st.sampled_from([0, 10, 5 * CHUNK]))
    def give_up(self, size: int) -> None:
        incoming = self.store.incoming()
        incoming.write(b"z" * size)
        incoming.abort()

    @precondition(lambda self: len(self.early) < 3)
    @rule()
    def begin_message(self) -> None:
        """It has its id from now on, and is stored later."""
        self.early.append(self.store.incoming())

    @rule(limit=st.integers(1, 4), again=st.sampled_from([60.0, 600.0]))
    def claim(self, limit: int, again: float) -> None:
        firsts: dict[Lane, float] = {}
        for (mid, name), (_, when, customer) in self.waiting.items():
            if when is not None and when <= self.now:
                lane = Lane(name, customer, self.priority.get(mid, 0))
                firsts[lane] = min(when, firsts.get(lane, when))
        due = sorted(firsts.items(), key=lambda item: item[1])
        lanes = self.store.due(self.now, 100)
        times = dict(due)
        if self.removing:
            assert set(times) <= set(lanes)
        else:
            assert set(times) == set(lanes)
            assert [times[lane] for lane in lanes] == sorted(times.values())
        for lane in lanes:
            waiting = sorted(
                (when, mid)
                for (mid, name), (_, when, customer) in self.waiting.items()
                if Lane(name, customer, self.priority.get(mid, 0)) == lane and when is not None and when <= self.now
            )
            claims: list[Claim] = fired(self.store.claim(lane, self.now, limit, lambda _: self.now + again))
            assert [it.message.id for it in claims] == [mid for _, mid in waiting[:limit]]
            for it in claims:
                key = (it.message.id, lane.destination)
                addresses, _, customer = self.expected[key]
                assert {recipient.address for recipient in it.delivery.recipients} == addresses
                body = self.content[it.message.id]
                assert it.content == (body if len(body) <= CHUNK else None)
                self.expected[key] = (addresses, self.now + again, customer)
                self.owned.add(key)
                self.claims.append(it)

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(),
        stay=st.sets(st.sampled_from(ADDRESSES)),
        to=st.sampled_from([*DESTINATIONS, ""]),
        bounced=st.booleans(),
        held_up=st.booleans(),
        reply=st.sampled_from(REPLIES),
    )
    def settle(self, data: st.DataObject, stay: set[str], to: str, bounced: bool, held_up: bool, reply: str) -> None:
        """One attempt, perhaps an old one, ends: some recipients stay, perhaps for another destination."""
        claim = data.draw(st.sampled_from(self.claims), "claim")
        if not held_up:
            self.claims.remove(claim)
        it: Delivery = claim.delivery
        kept = [recipient for recipient in it.recipients if recipient.address in stay]
        destination = to or it.destination
        remaining = (
            (
                replace(
                    it, recipients=tuple(kept), destination=destination, next_attempt=self.now + 30, last_reply=reply
                ),
            )
            if kept
            else ()
        )
        dsn = report(self.store, it.id)
        reports = ((dsn, b"report"),) if bounced else ()
        settlement = Settlement(delivery=it, remaining=remaining, reports=reports, story=(delivered(it, self.now),))
        assert fired(self.store.settle([settlement])) is None
        key = (it.id, it.destination)
        there = self.expected.pop(key, None)
        if there is None:
            assert self.store.message(dsn.message.id) is None
            return
        addresses, when, customer = there
        held = when is None
        self.own_no_more(key)
        rest = addresses - {recipient.address for recipient in it.recipients}
        if rest:
            self.expected[key] = (rest, None if held else self.now, customer)
        if kept:
            if (it.id, destination) not in self.expected:
                self.reply[it.id, destination] = reply
            self.join((it.id, destination), {recipient.address for recipient in kept}, self.now + 30, it.customer, held)
        if bounced:
            self.ids.append(dsn.message.id)
            self.content[dsn.message.id] = b"report"
            self.customer[dsn.message.id] = ""
            self.sender[dsn.message.id], self.arrived[dsn.message.id] = "", NOON
            self.reply[dsn.message.id, dsn.deliveries[0].destination] = ""
            self.expected[dsn.message.id, dsn.deliveries[0].destination] = (
                frozenset({"sender@acme.example"}),
                NOON,
                CUSTOMERS[0] if not dsn.lane_customer else dsn.lane_customer,
            )
        self.forget(it.id)

    def own_no_more(self, key: tuple[str, str]) -> None:
        self.owned.discard(key)
        self.died.discard(key)

    def join(self, key: tuple[str, str], addresses: set[str], when: float, customer: str, held: bool) -> None:
        there = self.expected.get(key)
        if there is None:
            self.expected[key] = (frozenset(addresses), None if held else when, customer)
        else:
            others, at, lane = there
            at = at if at is None or key in self.owned else min(at, when)  # in memory: when that attempt has ended
            self.expected[key] = (others | addresses, at, lane)

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), action=st.sampled_from(["retry", "hold", "release", "remove"]))
    def act(self, data: st.DataObject, action: str) -> None:
        keys = data.draw(st.lists(st.sampled_from(sorted(self.expected)), max_size=3, unique=True), "keys")
        before = self.store.changes()
        assert fired(self.store.act(action, [*keys, ("0" * 16, "smtp:a")], "root", self.now)) == len(keys)
        assert self.store.changes() > before
        for key in keys:
            addresses, when, customer = self.expected[key]
            if action == "remove":
                del self.expected[key]
                self.own_no_more(key)
                self.forget(key[0])
            elif action == "hold":
                self.expected[key] = (addresses, None, customer)
            elif (action == "release" and when is None) or (action == "retry" and when is not None):
                self.expected[key] = (addresses, self.now, customer)

    def matches(self, match: QueueFilter, key: tuple[str, str]) -> bool:
        (mid, destination), (addresses, when, customer) = key, self.expected[key]
        return (
            match.destination in ("", destination)
            and (not match.recipient or match.recipient in addresses)
            and match.customer in (None, customer)
            and match.state in (None, "held" if when is None else "queued")
            and match.sender in (None, self.sender[mid])
            and (match.older_than is None or self.now - self.arrived[mid] >= match.older_than)
            and match.reason in self.reply[key].lower()
        )

    @rule(match=filters, at_once=st.booleans())
    def remove(self, match: QueueFilter, at_once: bool) -> None:
        keys = [key for key in self.expected if self.matches(match, key)]
        before = {removal.number for removal in self.store.removals() if removal.ended is not None}
        removal = fired(self.store.remove(match, "root", self.now, None if at_once else 0.0))
        assert removal.number not in before
        assert (removal.ended is not None) == at_once
        self.removed += len(keys)
        self.doomed += len(keys)
        for key in keys:
            del self.expected[key]
            self.own_no_more(key)
            self.forget(key[0])
        found = fired(self.store.page(match, limit=10000)).found
        assert not [1 for message, it in found if (message.id, it.destination) in keys]

    @rule()
    def work_off(self) -> None:
        worked = fired(self.store.work_off())
        assert worked == self.was_removing

    @rule(seconds=st.sampled_from([0.5, 29.0, 61.0, 1000.0, 4000.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def restart(self) -> None:
        assert fired(self.store.stop()) is None
        self.open()
        self.died |= self.owned
        self.was_removing = self.removing

    @rule(in_memory=st.booleans())
    def reclaim(self, in_memory: bool) -> None:
        """What the dead had is due at once, what we had armed for a time that is over is due unless we have it."""
        deaths = {
            (it.id, it.destination): it.deaths for _, it in fired(self.store.page(QueueFilter(), limit=9999)).found
        }
        for count in (len(self.died), 0):
            assert fired(self.store.reclaim(lambda it: self.now + 7 if in_memory else None)) == count
        for key in list(self.owned):
            addresses, when, customer = self.expected[key]
            if key in self.died:
                self.own_no_more(key)
                if when is not None and deaths[key] < DEATHS:
                    self.expected[key] = (addresses, min(when, self.now), customer)
            elif when is not None and when <= self.now:
                if in_memory:
                    self.expected[key] = (addresses, self.now + 7, customer)
                else:
                    self.own_no_more(key)

    @rule()
    def repair_finds_nothing(self) -> None:
        assert fired(self.store.verify(True)) == []

    @initialize()
    def begin(self) -> None:
        assert self.store.stats().messages == 0
        self.steps = patch.multiple(removing, DELIVERIES=2, ENTRIES=2)
        self.steps.start()

    # What must hold

    @invariant()
    def deliveries_agree(self) -> None:
        found = {
            (message.id, it.destination): (
                frozenset(recipient.address for recipient in it.recipients),
                None if it.state == "held" else it.next_attempt,
                it.customer,
            )
            for message, it in fired(self.store.page(QueueFilter(), limit=10000)).found
        }
        assert found == self.expected

    @invariant()
    def counters_agree(self) -> None:
        assert fired(self.store.verify(False)) == []
        stats = self.store.stats()
        queued = {mid for mid, _ in self.expected}
        removals = self.store.removals()
        if not self.removing:
            self.doomed = 0
        if len(removals) < KEPT:
            assert stats.deliveries - len(self.expected) == self.removed - sum(it.deliveries for it in removals)
        self.was_removing = self.removing
        if self.was_removing:
            assert len(self.expected) <= stats.deliveries <= len(self.expected) + self.doomed
            assert len(queued) <= stats.messages <= len(queued) + self.doomed
            return
        assert stats.messages == len(queued)
        assert stats.deliveries == len(self.expected)
        assert stats.recipients == sum(len(addresses) for addresses, _, _ in self.expected.values())
        assert stats.bytes == sum(len(self.content[mid]) for mid in queued)
        assert stats.destinations == len({name for _, name in self.waiting})
        assert stats.held == sum(when is None for _, when, _ in self.expected.values())
        times = [when for _, when, _ in self.waiting.values() if when is not None]
        assert self.store.next_due() == (key_time(time_key(min(times))) if times else None)
        for customer in CUSTOMERS[1:]:
            usage = self.store.usage(customer)
            assert usage.queued_messages == len(self.queued(customer))
            assert usage.queued_bytes == sum(len(self.content[mid]) for mid in self.queued(customer))

    @invariant()
    def done_is_told_once(self) -> None:
        done = sorted(event.id for event in self.sink.named(Done))
        if self.removing:
            assert len(done) == len(set(done))
            assert set(done) <= set(self.gone)
        else:
            assert done == sorted(self.gone)
        for mid in self.gone[-3:]:
            assert self.store.message(mid) is None
            if mid not in done:
                continue
            assert isinstance(fired(self.store.read(mid, 0)), Failure)
            assert [type(event) for event in self.store.history(mid)].count(Done) == 1

    @invariant()
    def content_is_kept(self) -> None:
        for mid in {mid for mid, _ in self.expected}:
            message = self.store.message(mid)
            assert message is not None
            got = b"".join(fired(self.store.read(mid, number)) for number in range(message.chunks))
            assert got == self.content[mid]


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=settings().max_examples * 2 // 5, stateful_step_count=30)
