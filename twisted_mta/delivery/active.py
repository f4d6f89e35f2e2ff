"""The active queue: what of the queue is in memory, and its bounds.

The name is Postfix's.  All of it is in the store too, armed for later, so that losing this loses nothing but time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from ..config.settings import Settings
from ..mail.envelope import Delivery, Message
from ..queue.interfaces import NewDelivery
from .deadlines import Deadlines
from .lanes import Destination, Entry, Gate, Turns, WaitingLane

FRESH = 20_000
"""Entries of fresh mail in memory at most."""

FRESH_PER_DESTINATION = 10_000
"""The same for one destination, so that a slow one can't use up the room of all."""

CLAIMED = 10_000
"""Entries claimed from the store in memory at most."""

PAGE = 50
"""Deliveries in one claim."""

LOCAL_ATTEMPTS = 50
"""Deliveries to Maildirs at once, in all and for one domain."""

IDLE_DESTINATIONS = 10_000
"""Destinations without mail of which is remembered what was learnt: the window, and whether they are dead."""


def limits(agent: str, settings: Settings) -> tuple[int, int]:
    """Attempts at once of an agent, in all and for one destination."""
    if agent == "maildir":
        return LOCAL_ATTEMPTS, LOCAL_ATTEMPTS
    return settings.relay.connections, min(settings.relay.connections, settings.relay.connections_per_destination)


class DestinationState(msgspec.Struct, frozen=True, kw_only=True):
    """What delivery has to do with one destination now, for operators."""

    destination: str
    active: int
    waiting: int
    window: int
    dead: bool
    probe_at: float
    reason: str


class ActiveQueue:
    """Entries, lanes, destinations and turns.

    ``octets`` is the content in memory, ``fresh`` and ``claimed`` count entries (the latter with those asked for).
    """

    def __init__(self, settings: Settings, agents: Iterable[str]) -> None:
        self._settings = settings
        self.entries: dict[tuple[str, str], Entry] = {}
        self.turns = {name: Turns(*limits(name, settings)) for name in agents}
        self.octets = 0
        self.fresh = 0
        self.claimed = 0
        self._destinations: dict[str, Destination] = {}
        self._idle: dict[str, Destination] = {}
        self._empty: set[WaitingLane] = set()
        self.deadlines = Deadlines(self.waits)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed limits."""
        self._settings = settings
        for name, turns in self.turns.items():
            turns.limit, turns.per_destination = limits(name, settings)
        for destination in (*self._destinations.values(), *self._idle.values()):
            destination.set_limit(destination.turns.per_destination)

    def __iter__(self) -> Iterator[Destination]:
        """The destinations that have mail here, or are dead."""
        yield from self._destinations.values()
        yield from (destination for destination in self._idle.values() if destination.dead)

    @property
    def ready(self) -> bool:
        """Whether there may be something to begin now."""
        for turns in self.turns.values():  # noqa: SIM110 - a generator costs three times as much, at each attempt
            if turns.ready:
                return True
        return False

    @property
    def memory(self) -> int:
        """Octets of content that may be in memory."""
        return self._settings.queue.memory

    def destination(self, name: str) -> Destination:
        """A destination, made where there is none."""
        destination = self._destinations.get(name)
        if destination is None:
            destination = self._idle.pop(name, None)
            if destination is None:
                agent = name.partition(":")[0]
                turns = self.turns.get(agent)
                if turns is None:  # nobody delivers there: the scheduler says so when its turn comes
                    turns = self.turns[agent] = Turns(*limits(agent, self._settings))
                destination = Destination(name, turns)
            self._destinations[name] = destination
        return destination

    def has_room(self, deliveries: Sequence[NewDelivery]) -> bool:
        """Whether a new message with these deliveries may be kept in memory."""
        if self.fresh + len(deliveries) > FRESH or self.octets >= self._settings.queue.memory:
            return False
        destinations = self._destinations
        for delivery in deliveries:
            destination = destinations.get(delivery.destination)
            if destination is not None and destination.fresh >= FRESH_PER_DESTINATION:
                return False
        return True

    def appetite(self, destination: Destination, now: float) -> int:
        """How many deliveries of a destination to claim now."""
        if self.claimed >= CLAIMED:
            return 0
        if self.claimed >= CLAIMED // 2:  # room is short: nobody keeps a store, and nobody is left out
            return 0 if destination.claimed or destination.active else 1
        if destination.gate(now) is Gate.DEAD:  # they will be put off, not tried
            return 0 if destination.claimed else PAGE
        return min(destination.appetite(), PAGE)

    def admit(
        self,
        message: Message,
        delivery: Delivery,
        content: bytes | None,
        lane: WaitingLane,
        *,
        fresh: bool,
        generation: int,
        octets: int = 0,
    ) -> Entry:
        """Put a delivery in its lane."""
        entry = Entry(message, delivery, content, octets, lane, fresh, generation)
        self.entries[delivery.id, delivery.destination] = entry
        self.octets += octets
        if fresh:
            self.fresh += 1
        if message.handling is not None:
            self.deadlines.add(entry, len(self.entries))
        lane.push(entry)
        if not lane.queued:
            lane.destination.turns.add(lane)
        return entry

    def waits(self, entry: Entry) -> bool:
        """Whether an entry is here and its attempt has not begun."""
        return not entry.started and self.entries.get((entry.delivery.id, entry.delivery.destination)) is entry

    def release(self, entry: Entry) -> None:
        """Its content is not needed any more."""
        self.octets -= entry.octets
        entry.octets = 0
        entry.content = None

    def forget(self, entry: Entry) -> None:
        """An entry is over, or was dropped."""
        self.release(entry)
        delivery = entry.delivery
        if self.entries.pop((delivery.id, delivery.destination), None) is None:
            return
        if entry.fresh:
            self.fresh -= 1
        else:
            self.claimed -= 1
        if entry.lane.idle:
            self._empty.add(entry.lane)

    def may_be_empty(self, lane: WaitingLane) -> None:
        """A claim brought nothing."""
        if lane.idle:
            self._empty.add(lane)

    def sweep(self) -> None:
        """Forget lanes that are empty and destinations without any, but what was learnt of these."""
        for lane in self._empty:
            destination = lane.destination
            if lane.idle and destination.lanes.get(lane.place) is lane:
                del destination.lanes[lane.place]
            if destination.idle:
                self._destinations.pop(destination.name, None)
                if not destination.usual:
                    self._idle[destination.name] = destination
        self._empty.clear()
        while len(self._idle) > IDLE_DESTINATIONS:
            del self._idle[next(iter(self._idle))]

    def drain(self) -> list[Entry]:
        """Take out all entries that wait, leaving those under way."""
        for turns in self.turns.values():
            turns.clear()
        entries: list[Entry] = []
        for destination in self._destinations.values():
            destination.parked.drain()
            for lane in destination.lanes.values():
                entries.extend(lane.drain())
                lane.queued = False
        return entries

    def snapshot(self) -> list[DestinationState]:
        """The destinations that have mail here or are dead, by name."""
        states = [
            DestinationState(
                destination=it.name,
                active=it.active,
                waiting=sum(len(lane.fresh) + len(lane.claimed) for lane in it.lanes.values()),
                window=int(it.window),
                dead=it.dead,
                probe_at=it.probe_at,
                reason=it.reason,
            )
            for it in self
        ]
        return sorted(states, key=lambda state: state.destination)
