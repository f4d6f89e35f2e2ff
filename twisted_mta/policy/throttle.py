"""Slowing down who guesses passwords, without locking anybody out.

Failures are counted by address (IPv6: by /64), by user, and by the two together; each count halves every ten minutes.
The answer to an attempt waits ``smtp.auth_delay``, doubled with each further failure, 30 seconds at most:

- a pair of address and user that has logged in within the last day waits for its own failures only: guesses from
  elsewhere, or by a neighbour behind the same address, do not slow it;
- any other attempt waits for the failures of its address, or, up to five seconds, for those of the user. So guesses at
  one user from everywhere slow all strangers to that user, but an own phone in a new network just a little.

A good password is always granted in the end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from ..config.settings import DAY, MINUTE, Settings
from ..mail.status import Reply
from .interfaces import IAuthThrottle, Peer
from .network import site

HALF_LIFE = 10 * MINUTE
LONGEST = 30.0
LONGEST_BY_USER = 5.0
KNOWN_FOR = 1 * DAY
ENTRIES = 10000
"""Entries in each of the four tables, about 300 octets each; the least recently used make room."""

_TOO_MANY = Reply(421, "4.7.0", "Too many failed logins in this session; goodbye")


@implementer(IAuthThrottle)
class AuthThrottle:
    """The throttle for all sessions of this process.  ``clock`` gives seconds.

    ``tell``, where it is set, is told of each attempt (address, user, whether it was good), for the :meth:`learn` of
    the service's other processes.
    """

    def __init__(self, settings: Settings, clock: IReactorTime, entries: int = ENTRIES) -> None:
        self._clock = clock
        self.tell: Callable[[str, str, bool], object] | None = None
        self._addresses = _Counts(entries)
        self._users = _Counts(entries)
        self._pairs = _Counts(entries)
        self._known: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._entries = entries
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings."""
        self._delay = settings.smtp.auth_delay
        self._attempts = settings.smtp.auth_attempts

    def delay(self, peer: Peer, user: str) -> float:
        """See :class:`~.interfaces.IAuthThrottle`."""
        now = self._clock.seconds()
        pair = _pair(peer, user)
        if now < self._known.get(pair, 0.0) <= now + KNOWN_FOR:
            return self._wait(self._pairs.count(pair, now), LONGEST)
        address, name = pair
        by_address = self._wait(self._addresses.count(address, now), LONGEST)
        return max(by_address, self._wait(self._users.count(name, now), LONGEST_BY_USER))

    def failed(self, peer: Peer, user: str) -> Reply | None:
        """See :class:`~.interfaces.IAuthThrottle`."""
        address, name = _pair(peer, user)
        self.learn(address, name, False)
        if self.tell is not None:
            self.tell(address, name, False)
        return _TOO_MANY if peer.auth_failures >= self._attempts else None

    def succeeded(self, peer: Peer, user: str) -> None:
        """See :class:`~.interfaces.IAuthThrottle`.  The address stays counted: else one good account of their own
        would let guessers start anew between any two guesses."""
        address, name = _pair(peer, user)
        self.learn(address, name, True)
        if self.tell is not None:
            self.tell(address, name, True)

    def learn(self, address: str, name: str, good: bool) -> None:
        """An attempt has failed or succeeded, here or in another process."""
        now = self._clock.seconds()
        pair = address, name
        if not good:
            self._addresses.add(address, now)
            if name:  # else it would be everybody's who says no name with a token
                self._users.add(name, now)
                self._pairs.add(pair, now)
            return
        self._pairs.forget(pair)
        self._known[pair] = now + KNOWN_FOR
        self._known.move_to_end(pair)
        if len(self._known) > self._entries:
            self._known.popitem(last=False)

    def _wait(self, failures: float, longest: float) -> float:
        if failures < 0.5:
            return 0.0
        # 2 ** 20 seconds are longer than any wait, and a float for any count
        return float(min(self._delay * 2 ** min(max(failures - 1, 0), 20), longest))


def _pair(peer: Peer, user: str) -> tuple[str, str]:
    return site(peer.address), user[:320].lower()


@attrs.define(slots=True)
class _Count:
    failures: float
    since: float

    def at(self, now: float) -> float:
        return float(self.failures * 0.5 ** (max(now - self.since, 0.0) / HALF_LIFE))


class _Counts:
    """Counts that halve every :data:`HALF_LIFE`, at most ``entries`` of them."""

    def __init__(self, entries: int) -> None:
        self._counts: OrderedDict[object, _Count] = OrderedDict()
        self._entries = entries

    def count(self, key: object, now: float) -> float:
        found = self._counts.get(key)
        return found.at(now) if found is not None else 0.0

    def add(self, key: object, now: float) -> None:
        self._counts[key] = _Count(self.count(key, now) + 1, now)
        self._counts.move_to_end(key)
        if len(self._counts) > self._entries:
            self._counts.popitem(last=False)

    def forget(self, key: object) -> None:
        self._counts.pop(key, None)
