"""Brings what is due from the store into the active queue, a page at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..mail.envelope import Delivery, Lane
from ..mail.status import MailError
from ..queue.interfaces import Claim, IMessageStore
from .active import PAGE, ActiveQueue
from .lanes import Destination, WaitingLane
from .retry import RetryPolicy

LANES = 500
"""Due lanes asked for at once, beyond those that are known to be due."""

FIRST_LANES = 16
"""The same at first: each is read from anywhere in a file of which nothing may be in memory."""

MOST_LANES = 20_000
"""Due lanes asked for at most."""

TOLD_LANES = 10_000
"""Due lanes beyond those of which others may tell."""

CLAIMS = 100
"""Claims under way at once."""

FIRST_CLAIMS = 4
"""The same at first, one more with each that was answered: a commit writes what is claimed in it together, anywhere in
the file, and nothing goes out before."""

HELD = 600.0
"""Seconds for which a delivery that is due in the store, but in memory already, is armed again."""

SETTLING = 1.0
"""The same for one whose attempt has ended: what is due of it is due then, the end was only not heard of yet."""


class Claims:
    """Knows which lanes are due, and claims from them as their destinations have room.

    A lane that is due and was not claimed dry is "hungry" at its destination; a destination that has hungry lanes and
    an appetite waits in ``_hungry`` for its claim.  ``generation`` is kept by the scheduler, and so is ``mine``, which
    says whether a destination is this process's; None: all are.
    """

    _log = Logger()

    def __init__(
        self,
        store: IMessageStore,
        active: ActiveQueue,
        retry: RetryPolicy,
        clock: IReactorTime,
        arrived: Callable[[], None],
    ) -> None:
        self._store = store
        self._active = active
        self._clock = clock
        self._arrived = arrived
        self._hungry: deque[Destination] = deque()
        self._due = 0
        self._feeding = False
        self._most = PAGE
        self._lanes = FIRST_LANES
        self._at_once = FIRST_CLAIMS
        self._more = False
        self._short = False  # a claim got less than it asked for
        self.retry = retry
        self.mine: Callable[[str], bool] | None = None
        self.generation = 0
        self.outstanding = 0
        self.halted = False

    def poll(self, now: float) -> None:
        """Ask the store what is due."""
        if self.halted:
            return
        due = self._store.next_due()
        if due is None or due > now:
            return
        # Lanes known to be due come first in the answer as long as they wait: look behind them.
        limit = min(self._lanes + self._due, MOST_LANES)
        found = self._store.due(now, limit, self.mine)
        self._more = self._lanes < LANES and len(found) >= limit
        self._lanes = min(self._lanes * 8, LANES)
        for key in found:
            self._note(key)
        self.feed()

    def notice(self, lanes: Iterable[Lane], probe: bool = False) -> None:
        """Somebody says that these lanes are due; ``probe``: and that the destinations are to be tried, dead or not."""
        if self.halted:
            return
        for key in lanes:
            if self._due >= MOST_LANES + TOLD_LANES:
                return  # they are found once others are done
            self._note(key)
            if probe:
                destination = self._active.destination(key.destination)
                destination.probe_at = min(destination.probe_at, self._clock.seconds())
        self.feed()

    def _note(self, key: Lane) -> None:
        destination = self._active.destination(key.destination)
        self._is_due(destination.lane(key.customer, key.priority))
        self._wants(destination)

    def left(self, destination: Destination) -> None:
        """An entry of a destination left its lane: there may be room for more."""
        if destination.hungry:
            self._wants(destination)
            self.feed()

    def feed(self) -> None:
        """Begin the claims there is room for."""
        if self._feeding:  # a store in memory answers at once
            return
        self._feeding = True
        try:
            self._feed(self._clock.seconds())
        finally:
            self._feeding = False

    def _feed(self, now: float) -> None:
        hungry = self._hungry
        while hungry and self.outstanding < self._at_once and not self.halted:
            destination = hungry.popleft()
            destination.hungry_queued = False
            if not destination.hungry:
                continue
            if self.mine is not None and not self.mine(destination.name):
                self._leave_to_others(destination)
                continue
            count = min(self._active.appetite(destination, now), self._most)
            if count > 0:
                self._claim(destination.hungry.pop(), count, now)
                self._wants(destination)

    def _leave_to_others(self, destination: Destination) -> None:
        for lane in destination.hungry.drain():
            lane.due = False
            self._due -= 1
            self._active.may_be_empty(lane)

    def _wants(self, destination: Destination) -> None:
        if destination.hungry and not destination.hungry_queued:
            destination.hungry_queued = True
            self._hungry.append(destination)

    def _is_due(self, lane: WaitingLane) -> None:
        if not lane.due:
            lane.due = True
            self._due += 1
            if not lane.claiming:
                lane.destination.hungry.push(lane)

    def _claim(self, lane: WaitingLane, count: int, now: float) -> None:
        lane.due = False
        self._due -= 1
        lane.claiming = True
        lane.destination.claimed += count
        self._active.claimed += count
        self.outstanding += 1

        def rearm(delivery: Delivery) -> float:
            return self.retry.armed(delivery.attempts, now)  # the store has counted this attempt in

        try:
            claimed = self._store.claim(lane.key, now, count, rearm, self.busy)
        except Exception:
            self._refused(Failure(), lane, count)  # type: ignore[no-untyped-call]
            return
        claimed.addCallback(self._got, lane, count, self.generation)
        claimed.addErrback(self._refused, lane, count)

    def busy(self, delivery: Delivery) -> float | None:
        """Until when a delivery is in memory, as far as is known; None: it is not."""
        entry = self._active.entries.get((delivery.id, delivery.destination))
        if entry is None:
            return None
        return self._clock.seconds() + (SETTLING if entry.concluded else HELD)

    def _got(self, claims: list[Claim], lane: WaitingLane, count: int, generation: int) -> None:
        active = self._active
        room = active.memory
        taken = 0
        for claim in claims:
            delivery = claim.delivery
            content = claim.content
            octets = len(content) if content is not None else 0
            if active.octets + octets > room:
                content, octets = None, 0
            active.admit(claim.message, delivery, content, lane, fresh=False, generation=generation, octets=octets)
            taken += 1
        self._over(lane, count - taken)
        self._short = self._short or taken < count
        self._at_once = min(self._at_once + 1, CLAIMS)
        self._most = min(self._most * 2, PAGE)
        if lane.due:  # said to be due again while it was claimed
            lane.destination.hungry.push(lane)
        elif len(claims) >= count:
            self._is_due(lane)
        self._wants(lane.destination)
        active.may_be_empty(lane)
        self._arrived()
        try:
            self._go_on()
        except Exception:  # this claim is over: it must not be counted out a second time
            self._log.failure("looking for what is due failed")

    def _go_on(self) -> None:
        if not self._hungry and (self._more or self._passed_removed()):
            self.poll(self._clock.seconds())
        else:
            self.feed()

    def _passed_removed(self) -> bool:
        """Whether claims, all of them answered, may have ended among what is removed, so that there is more behind it:
        a claim takes some of that out, and whoever waits behind it should not wait for the next look too."""
        if not self._short or self.outstanding:
            return False
        self._short = False
        return any(removal.ended is None for removal in self._store.removals())

    def _refused(self, failure: Failure, lane: WaitingLane, count: int) -> None:
        """The next poll finds the lane due again.  A store without room may have some for one delivery."""
        self._most = 1
        if not isinstance(failure.value, MailError):
            self._log.failure("claiming from {lane} failed", failure, lane=lane.key)
        else:
            self._log.warn("can't claim what is due: {reason}", reason=failure.getErrorMessage())
        self._over(lane, count)
        if lane.due:
            lane.destination.hungry.push(lane)
        self._active.may_be_empty(lane)
        self._arrived()

    def _over(self, lane: WaitingLane, unused: int) -> None:
        self.outstanding -= 1
        lane.claiming = False
        lane.destination.claimed -= unused
        self._active.claimed -= unused
