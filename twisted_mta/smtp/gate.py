"""The gate before a listener: refuses who has waited too long, without a session, and tells of it once a second.

Source: RFC 5321 §3.8 and §4.2.3 (421 as a greeting), RFC 3463 §3.4 (4.3.2), RFC 2033 (the same for LMTP).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IDelayedCall

from ..mail.events import Overloaded
from ..mail.status import Reply
from ..policy.network import Networks, parse_ip
from ..policy.overload import Door, Welcome

if TYPE_CHECKING:
    from .factory import MtaServerFactory

WORDS = "Too busy to take new sessions; try again later"
GATHER = 1.0
"""Seconds of which one event tells."""
CLIENTS = 1000
"""Clients that are told apart in that time."""
SHOWN = 5
"""The busiest of them, whom the event names."""


class Gate:
    """One listener's; see :class:`~twisted_mta.runtime.accepting.IGate`.

    ``refused`` counts who was, ``last`` is when that was the last time, seconds since the epoch, or 0.
    ``pressed`` is called once for each turn of the reactor in which somebody has waited for so long that there is no
    time for all; ``behind`` says whether deliveries have had less than their share meanwhile.
    """

    def __init__(self, factory: MtaServerFactory) -> None:
        self._factory = factory
        self._proxies = Networks(factory.listener.proxies)
        self._door = Door(0.0)
        self._trusting = factory.listener.role in ("submission", "lmtp")
        self._call: IDelayedCall | None = None
        self._asked = 0.0
        self._before = 0
        self._longest = 0.0
        self._clients: dict[str, int] = {}
        self.refused = 0
        self.last = 0.0
        self.words = b""
        self.pressed: Callable[[], object] | None = None
        self.behind: Callable[[], bool] = lambda: False

    def configure(self) -> None:
        """Take over the factory's settings."""
        settings = self._factory.settings
        self._door.wait = settings.smtp.accept_wait
        if self._factory.listener.tls != "implicit":  # there nothing can be said before the handshake
            self.words = Reply(421, "4.3.2", f"{settings.hostname} {WORDS}").encode()

    def admits(self, now: float, waited: float, address: str, filled: float) -> bool:
        """See :class:`~twisted_mta.runtime.accepting.IGate`."""
        welcome = self._door.judge(now, waited, filled)
        if self.pressed is not None and now != self._asked and self._door.presses(waited):
            self._asked = now
            self.pressed()
        if welcome is Welcome.ALL or (welcome is Welcome.CUSTOMERS and self._customer(address)):
            return True
        self._count(address, waited)
        return False

    def _customer(self, address: str) -> bool:
        """Whether this is a customer, as far as can be known before the session; of whom a proxy speaks cannot."""
        ip = parse_ip(address.partition("%")[0])
        return (self._trusting or ip in self._factory.friends) and ip not in self._proxies

    def _count(self, address: str, waited: float) -> None:
        self.refused += 1
        self._longest = max(self._longest, waited)
        clients = self._clients
        if address in clients or len(clients) < CLIENTS:
            clients[address] = clients.get(address, 0) + 1
        if self._call is None:
            self.last = self._factory.clock.seconds()
            self._call = self._factory.clock.callLater(GATHER, self._tell)

    def _tell(self) -> None:
        self._call = None
        clients, self._clients = self._clients, {}
        longest, self._longest = self._longest, 0.0
        count, self._before = self.refused - self._before, self.refused
        self.last = now = self._factory.clock.seconds()
        busiest = sorted(clients.items(), key=lambda one: -one[1])[:SHOWN]
        self._factory.events(
            Overloaded(
                time=now,
                listener=self._factory.name,
                refused=count,
                waited=round(longest, 3),
                clients=dict(busiest),
            )
        )
