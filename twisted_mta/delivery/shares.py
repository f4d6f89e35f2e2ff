"""Which destinations are this process's, where several deliver from one store.

Each destination belongs to one of them, so that what holds for a destination (its window, whether it is dead) holds
over all.  Who is wrong about it for a moment delivers nothing twice: claims are the store's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set

from ..mail.envelope import Lane
from ..queue.interfaces import NewDelivery, NewMessage
from .claims import Claims

Tell = Callable[[Mapping[Lane, int], bool], None]
"""Is given lanes of others that are due, with how many deliveries have just come into each, and whether they are to be
tried though their destinations seem dead."""


class Shares:
    """What is ours; until :meth:`divide` all is.  ``came`` is told how many new deliveries of ours the store has."""

    def __init__(self, claims: Claims, tell: Tell | None, came: Callable[[int], object]) -> None:
        self._claims = claims
        self._tell = tell
        self._came = came
        self.mine: Callable[[str], bool] | None = None

    def divide(self, mine: Callable[[str], bool] | None) -> None:
        """Take over another division; ``mine`` says of a destination whether it is ours, and never changes its mind."""
        self.mine = self._claims.mine = mine

    def ours(self, destination: str) -> bool:
        """Whether a destination is ours."""
        return self.mine is None or self.mine(destination)

    def all_ours(self, deliveries: Sequence[NewDelivery]) -> bool:
        """Whether all of these go to destinations of ours."""
        return self.mine is None or all(self.mine(delivery.destination) for delivery in deliveries)

    def announce(self, new: NewMessage) -> None:
        """A message was committed as due now: tell whoever delivers it."""
        lanes = Counter(Lane(part.destination, new.lane_customer, new.message.priority) for part in new.deliveries)
        ours = sum(count for lane, count in lanes.items() if self.ours(lane.destination))
        if ours:
            self._came(ours)
        self._due(lanes)

    def are_due(self, lanes: Set[Lane]) -> None:
        """Mail in these lanes was committed as due now: tell whoever delivers it."""
        self._due(dict.fromkeys(lanes, 0))

    def _due(self, lanes: Mapping[Lane, int]) -> None:
        others = {lane: count for lane, count in lanes.items() if not self.ours(lane.destination)}
        if others and self._tell is not None:
            self._tell(others, False)
        self._claims.notice(lanes.keys() - others.keys())

    def run(self, lanes: Iterable[Lane]) -> None:
        """Somebody wants what is due in these lanes to be tried: tell whoever delivers it."""
        wanted = set(lanes)
        others = {lane for lane in wanted if not self.ours(lane.destination)}
        if others and self._tell is not None:
            self._tell(dict.fromkeys(others, 0), True)
        self._claims.notice(wanted - others, True)

    def notice(self, lanes: Mapping[Lane, int], probe: bool = False) -> None:
        """Another process says that these lanes are due, and how many deliveries are new in each; ``probe``: and that
        somebody wants them tried."""
        ours = {lane: count for lane, count in lanes.items() if self.ours(lane.destination)}
        new = sum(ours.values())
        if new:
            self._came(new)
        self._claims.notice(ours, probe)
