"""Whose turn it is: lanes, destinations and their windows.  Pure: no clock, no I/O.

A :class:`Turns` (one for each agent) goes round over customers, and within a customer over the lanes that have
something to send; lanes of a higher priority before others, as :mod:`.ranks` says.  A :class:`Destination` says how
many attempts it bears at once: a window that grows by 1/N with each success and shrinks with each failed connection,
as Postfix's queue manager does it, and closes when a destination is dead.  A lane whose destination has no room is
parked there, and comes back in order when an attempt ends.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any

from ..mail.envelope import Delivery, Lane, Message
from .ranks import LaneQueue, Ranks

if TYPE_CHECKING:
    from ..runtime.coroutines import Running

START_WINDOW = 5
"""Attempts at once to a destination of which nothing is known."""

DEAD_COHORTS = 3.0
"""How many windows full of failed connections in a row make a destination dead."""

FIRST_PROBE, LAST_PROBE = 60.0, 1800.0
"""Seconds until a dead destination is tried with one delivery; doubles with each failure up to the last."""


class Gate(Enum):
    """What a destination says to one more attempt."""

    OPEN = "open"
    FULL = "full"
    DEAD = "dead"


class Entry:
    """One delivery in memory, from its offer or claim until its settlement is committed.

    ``content`` is the whole content where that is kept in memory; ``octets`` is what it counts for.  ``generation`` is
    the store's ``changes()`` for which it is known to be still wanted.  ``started`` is when its attempt began, or 0.
    ``concluded``: what came of it is on its way to the store.
    """

    __slots__ = (
        "concluded",
        "content",
        "delivery",
        "fresh",
        "generation",
        "lane",
        "message",
        "octets",
        "started",
        "task",
    )

    def __init__(
        self,
        message: Message,
        delivery: Delivery,
        content: bytes | None,
        octets: int,
        lane: WaitingLane,
        fresh: bool,
        generation: int,
    ) -> None:
        self.message = message
        self.delivery = delivery
        self.content = content
        self.octets = octets
        self.lane = lane
        self.fresh = fresh
        self.generation = generation
        self.started = 0.0
        self.concluded = False
        self.task: Running[Any] | None = None


class WaitingLane:
    """What of one lane is in memory, and whether the store has more of it.

    Fresh mail and mail that was claimed from the store take turns, so that neither starves the other.  ``due``: the
    store has deliveries of this lane that are due.  ``queued``: it has its place in the turns, or is parked.
    """

    __slots__ = ("_fresh_next", "claimed", "claiming", "customer", "destination", "due", "fresh", "priority", "queued")

    def __init__(self, destination: Destination, customer: str, priority: int = 0) -> None:
        self.destination = destination
        self.customer = customer
        self.priority = priority
        self.fresh: deque[Entry] | tuple[()] = ()  # an empty deque takes 760 octets, and there may be 20,000 lanes
        self.claimed: deque[Entry] | tuple[()] = ()
        self.due = False
        self.claiming = False
        self.queued = False
        self._fresh_next = True

    @property
    def key(self) -> Lane:
        """The lane's name, as the store knows it."""
        return Lane(self.destination.name, self.customer, self.priority)

    @property
    def place(self) -> str | tuple[str, int]:
        """Its key among the destination's lanes: the customer, where the priority is the usual one."""
        return (self.customer, self.priority) if self.priority else self.customer

    @property
    def idle(self) -> bool:
        """Nothing waits, is asked for or is known to be due."""
        return not (self.fresh or self.claimed or self.due or self.claiming or self.queued)

    def push(self, entry: Entry) -> None:
        """An entry waits here from now on.  Whoever claimed it has counted it already."""
        if entry.fresh:
            self.fresh = self.fresh or deque()
            self.fresh.append(entry)
            self.destination.fresh += 1
        else:
            self.claimed = self.claimed or deque()
            self.claimed.append(entry)

    def pop(self) -> Entry | None:
        """The entry whose turn it is."""
        if self.fresh and (self._fresh_next or not self.claimed):
            self._fresh_next = False
            self.destination.fresh -= 1
            entry = self.fresh.popleft()
            self.fresh = self.fresh or ()
            return entry
        self._fresh_next = True
        if not self.claimed:
            return None
        self.destination.claimed -= 1
        entry = self.claimed.popleft()
        self.claimed = self.claimed or ()
        return entry

    def drain(self) -> list[Entry]:
        """All entries, which leave."""
        entries: list[Entry] = []
        while (entry := self.pop()) is not None:
            entries.append(entry)
        return entries


class Destination:
    """One destination: its lanes, its window, and whether it is alive.

    ``active`` counts attempts under way, ``claimed`` entries claimed (or asked for) from the store and not yet begun,
    ``fresh`` the fresh ones.  ``reason`` is the reply with which the last connection failed.
    """

    __slots__ = (
        "_cohorts",
        "_probe_wait",
        "active",
        "claimed",
        "dead",
        "fresh",
        "hungry",
        "hungry_queued",
        "lanes",
        "limit",
        "name",
        "parked",
        "probe_at",
        "reason",
        "turns",
        "window",
    )

    def __init__(self, name: str, turns: Turns) -> None:
        self.name = name
        self.turns = turns
        self.limit = turns.per_destination
        self.window = float(min(START_WINDOW, self.limit))
        self.active = 0
        self.claimed = 0
        self.fresh = 0
        self.dead = False
        self.probe_at = 0.0
        self.reason = ""
        self.lanes: dict[str | tuple[str, int], WaitingLane] = {}
        self.parked = LaneQueue()
        self.hungry = LaneQueue()
        self.hungry_queued = False
        self._cohorts = 0.0
        self._probe_wait = FIRST_PROBE

    @property
    def idle(self) -> bool:
        """Nothing is under way or waits."""
        return not self.active and not self.lanes

    @property
    def usual(self) -> bool:
        """It is as a new one would be: nothing was learnt about it."""
        return not self.dead and not self._cohorts and self.window == min(START_WINDOW, self.limit)

    def lane(self, customer: str, priority: int = 0) -> WaitingLane:
        """The lane of a customer and a priority, made where there is none."""
        place = (customer, priority) if priority else customer
        lane = self.lanes.get(place)
        if lane is None:
            lane = self.lanes[place] = WaitingLane(self, customer, priority)
        return lane

    def gate(self, now: float) -> Gate:
        """Whether one more attempt may begin.  A dead destination is probed with one at a time."""
        if self.dead:
            if now < self.probe_at:
                return Gate.DEAD
            return Gate.FULL if self.active else Gate.OPEN
        return Gate.OPEN if self.active < int(self.window) else Gate.FULL

    def appetite(self) -> int:
        """How many more deliveries to claim from the store: twice what can be under way is kept at hand."""
        window = int(self.window)
        room = 2 * window - self.claimed
        return room if room >= window or not self.claimed else 0

    def succeeded(self) -> None:
        """The other side answered: the window grows by one over a whole window of successes."""
        self._cohorts = 0.0
        if self.dead:
            self.dead = False
            self._probe_wait = FIRST_PROBE
            self.window = float(min(START_WINDOW, self.limit))
        elif self.window < self.limit:
            self.window = min(float(self.limit), self.window + 1.0 / self.window)

    def failed(self, reason: str, now: float) -> None:
        """A connection failed: the window shrinks, and after enough failures in a row the destination is dead."""
        self.reason = reason
        if self.dead:
            if now < self.probe_at:
                return  # begun before it was declared dead
            self._probe_wait = min(self._probe_wait * 2, LAST_PROBE)
        else:
            self._cohorts += 1.0 / self.window
            self.window = max(1.0, self.window - 1.0 / self.window)
            if self._cohorts < DEAD_COHORTS:
                return
            self.dead = True
            self.window = 1.0
        self.probe_at = now + self._probe_wait

    def ended(self) -> None:
        """An attempt is over: give its place to the lanes that wait for one."""
        self.active -= 1
        free = max(1, int(self.window) - self.active)
        while self.parked and (free > 0 or self.dead):
            self.turns.resume(self.parked.pop())
            free -= 1

    def unpark(self) -> None:
        """What should have begun did not: let the others ask again, where nothing under way would call them."""
        while self.parked and not self.active:
            self.turns.resume(self.parked.pop())

    def set_limit(self, limit: int) -> None:
        """Take over a changed setting."""
        self.limit = limit
        self.window = min(self.window, float(limit))


class _Round:
    """Whose turn it is among those of one priority: round over customers, within each over its lanes."""

    __slots__ = ("_customers", "_lanes")

    def __init__(self) -> None:
        self._customers: deque[str] = deque()
        self._lanes: dict[str, deque[WaitingLane]] = {}

    def __len__(self) -> int:
        return len(self._customers)

    def add(self, lane: WaitingLane) -> None:
        """A lane takes its place at the end."""
        lanes = self._lanes.get(lane.customer)
        if lanes is None:
            self._lanes[lane.customer] = deque((lane,))
            self._customers.append(lane.customer)
        else:
            lanes.append(lane)

    def take(self, now: float) -> tuple[Entry, bool] | None:
        """See :meth:`Turns.take`."""
        customers = self._customers
        while customers:
            customer = customers.popleft()
            lanes = self._lanes[customer]
            lane = lanes.popleft()
            entry = None
            gate = lane.destination.gate(now)
            if gate is Gate.FULL:
                lane.destination.parked.push(lane)
            else:
                entry = lane.pop()
                if lane.fresh or lane.claimed:
                    lanes.append(lane)
                else:
                    lane.queued = False
            if lanes:
                customers.append(customer)
            else:
                del self._lanes[customer]
            if entry is not None:
                return entry, gate is Gate.OPEN
        return None

    def clear(self) -> None:
        """Forget all places."""
        self._customers.clear()
        self._lanes.clear()


class Turns:
    """The turns of one agent: a round for each priority; ``limit`` attempts at once in all."""

    __slots__ = ("_rounds", "_usual", "active", "limit", "per_destination")

    def __init__(self, limit: int, per_destination: int) -> None:
        self.limit = limit
        self.per_destination = per_destination
        self.active = 0
        self._rounds: Ranks[_Round] = Ranks(_Round)
        self._usual = self._rounds.usual

    @property
    def ready(self) -> bool:
        """Whether there may be something to begin now."""
        rounds = self._rounds
        return self.active < self.limit and bool(self._usual._customers or (rounds.others and rounds))

    def add(self, lane: WaitingLane) -> None:
        """A lane has something to send; nothing happens if it has its place already."""
        if not lane.queued:
            lane.queued = True
            self.resume(lane)

    def resume(self, lane: WaitingLane) -> None:
        """A lane that was parked takes its place at the end."""
        (self._rounds.level(lane.priority) if lane.priority else self._usual).add(lane)

    def take(self, now: float) -> tuple[Entry, bool] | None:
        """The next entry, and whether to attempt it (False: its destination is dead); None if nobody can go."""
        if self.active < self.limit:
            if not self._rounds.others:  # nearly always
                return self._usual.take(now)
            for those in self._rounds.order():
                taken = those.take(now)
                if taken is not None:
                    return taken
        return None

    def clear(self) -> None:
        """Forget all places; what was in the lanes is the caller's."""
        for those in self._rounds.all():
            those.clear()
