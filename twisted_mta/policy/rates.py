"""How much may come from one address, or for one customer, in a while.

Each rate is a generic cell rate algorithm: of each counter one number is kept, the time at which it will have run
empty.  A client may use a whole window's worth at once.  Beyond that it is answered late, the later the further it is
beyond, and at twice the rate with 421.  A counter never stands higher than at three windows, so nobody is turned away
for more than one window after the last offence.

Counters by address hold for who has not authenticated; a customer's sessions are counted for the customer from the
first MAIL on, wherever they come from.  So what one address does never turns away the customer's others, and an
address from which a user has logged in within the last day is not turned away for failed logins of its neighbours: it
is slowed by :mod:`.throttle` alone.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from ..config.settings import DAY, HOUR, MINUTE, Defence, Settings
from ..mail.status import Reply, printable
from .interfaces import Peer, Policy, Transaction
from .network import site
from .waiting import Waits

ENTRIES = 50000
"""Addresses, and customers, of which counters are kept, about 300 octets each; the least recently seen make room."""
KNOWN_FOR = 1 * DAY

CONNECTIONS, MESSAGES, COMMANDS, ERRORS, AUTH_FAILURES = range(5)
_NAMES = ("connections", "messages", "commands", "refused commands", "failed logins")
_WINDOWS = (MINUTE, MINUTE, MINUTE, MINUTE, HOUR)

KNOWN = len(_NAMES)
"""In place of a counter: a user has logged in from there."""
AGAIN = 1 * HOUR
"""Seconds after which other processes are told again that one has."""

Tell = Callable[[str, str, int, int], object]
"""Is told what happened here, for the ``learn`` of other processes: whose counters ("address", "customer"), of which
key, which counter, and how much."""


class _Counters:
    """Of one address or customer: when each counter will have run empty, and until when it is known as a user's."""

    __slots__ = ("empty", "key", "known")

    def __init__(self, key: str) -> None:
        self.key = key
        self.empty = [0.0] * len(_NAMES)
        self.known = 0.0


class Rates:
    """The counters of many, each with the same ``limits`` (a window's worth; None for none) in the order of the
    constants above."""

    def __init__(self, scope: str, entries: int = ENTRIES) -> None:
        self._scope = scope
        self.tell: Tell | None = None
        self._counters: OrderedDict[str, _Counters] = OrderedDict()
        self._entries = entries
        self.limits: tuple[int | None, ...] = (None,) * len(_NAMES)

    def __len__(self) -> int:
        return len(self._counters)

    def of(self, key: str) -> _Counters:
        """The counters of ``key``, made if there are none."""
        found = self._counters.get(key)
        if found is None:
            found = self._counters[key] = _Counters(key)
            if len(self._counters) > self._entries:
                self._counters.popitem(last=False)
        else:
            self._counters.move_to_end(key)
        return found

    def add(self, counters: _Counters, kind: int, amount: int, now: float) -> None:
        """Count what has happened here."""
        if self.limits[kind] is not None and amount and self.tell is not None:
            self.tell(self._scope, counters.key, kind, amount)
        self.learn(counters, kind, amount, now)

    def learn(self, counters: _Counters, kind: int, amount: int, now: float) -> None:
        """Count what has happened, wherever it was."""
        limit, window = self.limits[kind], _WINDOWS[kind]
        if limit is not None and amount:
            empty = max(self._empty(counters, kind, now), now) + amount * window / max(limit, 0.5)
            counters.empty[kind] = min(empty, now + 3 * window)

    def know(self, counters: _Counters, now: float) -> None:
        """A user has logged in here."""
        if self.tell is not None and not now < counters.known - KNOWN_FOR + AGAIN:
            self.tell(self._scope, counters.key, KNOWN, 0)
        counters.known = now + KNOWN_FOR

    def _empty(self, counters: _Counters, kind: int, now: float) -> float:
        """When a counter will have run empty.  Further ahead than :meth:`add` goes it can only be because the clock has
        gone back: nobody is to be refused until it has caught up."""
        empty = counters.empty[kind]
        if empty > now + 3 * _WINDOWS[kind]:
            empty = counters.empty[kind] = now
        return empty

    def excess(self, counters: _Counters, kind: int, now: float, amount: int = 0) -> float:
        """How far beyond its rate a counter would stand with ``amount`` more: 0 and less is within, 1 is twice."""
        limit = self.limits[kind]
        if limit is None:
            return -1.0
        window = _WINDOWS[kind]
        empty = self._empty(counters, kind, now)
        return (max(empty - now, 0.0) + amount * window / max(limit, 0.5)) / window - 1.0


class RatePolicy(Policy):
    """Rates of connections, messages, commands, errors and failed logins, by address and by customer.

    ``peer.stranger`` must be set before this stage is asked: others are never counted.  ``clock`` gives seconds.
    """

    def __init__(self, settings: Settings, clock: IReactorTime, entries: int = ENTRIES) -> None:
        self._clock = clock
        self._waits = Waits(clock)
        self._addresses = Rates("address", entries)
        self._customers = Rates("customer", entries)
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings; what has been counted stays so."""
        defence: Defence = settings.defence
        self._longest = defence.tarpit
        self._addresses.limits = (
            defence.connections_per_minute,
            defence.messages_per_minute,
            defence.commands_per_minute,
            defence.errors_per_minute,
            defence.auth_failures_per_hour,
        )
        self._customers.limits = (
            defence.customer_connections_per_minute,
            defence.customer_messages_per_minute,
            defence.customer_commands_per_minute,
            defence.customer_errors_per_minute,
            None,
        )

    @property
    def tell(self) -> Tell | None:
        """Who is told of what is counted here."""
        return self._addresses.tell

    @tell.setter
    def tell(self, tell: Tell | None) -> None:
        self._addresses.tell = self._customers.tell = tell

    def learn(self, scope: str, key: str, kind: int, amount: int) -> None:
        """Something has happened in another process."""
        rates = self._customers if scope == "customer" else self._addresses
        counters, now = rates.of(key), self._clock.seconds()
        if kind == KNOWN:
            counters.known = now + KNOWN_FOR
        else:
            rates.learn(counters, kind, amount, now)

    async def connect(self, peer: Peer) -> Reply | None:
        """Late, or 421 4.7.0, where the address has had too many connections, commands, errors or failed logins."""
        if not peer.stranger:
            return None
        now, key = self._clock.seconds(), site(peer.address)
        counters = self._addresses.of(key)
        kinds = [(CONNECTIONS, 1), (COMMANDS, 0), (ERRORS, 0)]
        if counters.known < now:
            kinds.append((AUTH_FAILURES, 0))
        return await self._judge(peer, self._addresses, counters, kinds, now, f"from {printable(key)}")

    async def mail(self, peer: Peer, transaction: Transaction) -> Reply | None:
        """Late, or 421 4.7.0, where the address, or the customer of a user, has had too much of anything."""
        if not peer.stranger:
            return None
        now = self._clock.seconds()
        if peer.account is None:
            counters, rates, whose = self._addresses.of(site(peer.address)), self._addresses, "from your address"
        else:
            self._addresses.know(self._addresses.of(site(peer.address)), now)
            counters, rates, whose = self._customers.of(peer.customer), self._customers, f"of {peer.customer}"
        self._settle(peer, rates, counters, now)
        kinds = [(MESSAGES, 1), (COMMANDS, 0), (ERRORS, 0)]
        if peer.account is not None and peer.charged[3] != peer.customer:
            kinds.append((CONNECTIONS, 1))
        reply = await self._judge(peer, rates, counters, kinds, now, whose)
        if reply is None:
            peer.charged = (*peer.charged[:3], peer.customer)
        return reply

    def closed(self, peer: Peer) -> None:
        """Count what the session has not been charged for yet."""
        self._waits.end(peer)
        if not peer.stranger:
            return
        now = self._clock.seconds()
        if peer.account is not None:
            self._addresses.know(self._addresses.of(site(peer.address)), now)
            self._settle(peer, self._customers, self._customers.of(peer.customer), now)
        else:
            self._settle(peer, self._addresses, self._addresses.of(site(peer.address)), now)

    def _settle(self, peer: Peer, rates: Rates, counters: _Counters, now: float) -> None:
        """Charge the commands, errors and failed logins since the last time; the last to the address always."""
        commands, errors, failures, customer = peer.charged
        rates.add(counters, COMMANDS, peer.commands - commands, now)
        rates.add(counters, ERRORS, peer.errors - errors, now)
        if peer.auth_failures > failures:
            self._addresses.add(
                self._addresses.of(site(peer.address)), AUTH_FAILURES, peer.auth_failures - failures, now
            )
        peer.charged = (peer.commands, peer.errors, peer.auth_failures, customer)

    async def _judge(
        self, peer: Peer, rates: Rates, counters: _Counters, kinds: list[tuple[int, int]], now: float, whose: str
    ) -> Reply | None:
        """Charge each of ``kinds`` with its amount, unless one of them is beyond twice its rate."""
        excess, worst = max((rates.excess(counters, kind, now, amount), kind) for kind, amount in kinds)
        if excess > 1.0:
            seconds = math.ceil((excess - 1.0) * _WINDOWS[worst])
            return Reply(421, "4.7.0", f"Too many {_NAMES[worst]} {whose}; try again in {seconds} seconds")
        for kind, amount in kinds:
            rates.add(counters, kind, amount, now)
        if excess > 0.0 and self._longest > 0.0:
            await self._waits.wait(peer, self._longest * excess)
        return None
