"""The first words: who can't wait for the greeting, and what a client calls itself.

Only strangers on a listener of role "mx" are judged: no user of ours, and none of ``relay.networks``.
"""

from __future__ import annotations

import ipaddress
import re
from collections import OrderedDict
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from ..config.settings import DAY, Settings
from ..mail.status import Reply, printable
from .interfaces import Peer, Policy
from .network import parse_ip, site
from .waiting import Waits

KNOWN_FOR = 7 * DAY
"""Seconds for which an address that has handed in a message need not wait for the greeting again."""
ENTRIES = 50000
"""Such addresses, about 200 octets each; the least recently seen make room."""

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DOMAIN = re.compile(rf"(?=.{{1,255}}$){_LABEL}(?:\.{_LABEL})*\.?")
_BAD_NAME = Reply(501, "5.5.4", "This is no host name: say EHLO with the name of your host, or its address in brackets")


class GreetingPolicy(Policy):
    """Lets strangers wait for the greeting (``defence.greeting_delay``): programs that only send can't, and speak
    before it, which the session refuses (RFC 5321 §4.3.1).  ``clock`` gives seconds."""

    def __init__(self, settings: Settings, clock: IReactorTime, entries: int = ENTRIES) -> None:
        self._clock = clock
        self._waits = Waits(clock)
        self._known: OrderedDict[str, float] = OrderedDict()
        self.tell: Callable[[str, str, int, int], object] | None = None
        """Is told of addresses that are new here, for the :meth:`learn` of other processes; see :mod:`.rates`."""
        self._entries = entries
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings."""
        self._delay = settings.defence.greeting_delay
        self.idle = self._delay <= 0

    async def connect(self, peer: Peer) -> Reply | None:
        """Wait; never refuses.  Behind a proxy, which waits itself, nobody can speak too early."""
        if self._delay > 0 and peer.guarded and not peer.proxy and not self._knows(peer):
            await self._waits.wait(peer, self._delay)
        return None

    def closed(self, peer: Peer) -> None:
        """Remember who has handed in a message."""
        self._waits.end(peer)
        if peer.messages and peer.guarded:
            key = site(peer.address)
            if self.tell is not None and not self._knows(peer):
                self.tell("greeting", key, 0, 0)
            self.learn(key)

    def learn(self, key: str) -> None:
        """An address has handed in a message, here or to another process."""
        self._known[key] = self._clock.seconds() + KNOWN_FOR
        self._known.move_to_end(key)
        if len(self._known) > self._entries:
            self._known.popitem(last=False)

    def _knows(self, peer: Peer) -> bool:
        now = self._clock.seconds()
        return now < self._known.get(site(peer.address), 0.0) <= now + KNOWN_FOR


class HelloPolicy(Policy):
    """Judges the name in HELO and EHLO (``defence.check_helo``): it must be a domain name or an address literal
    (RFC 5321 §4.1.1.1), and be neither our own name nor the literal of another address than the client's.

    That a name does not lead to the client's address is no reason to refuse it (§4.1.4), nor is it asked.
    """

    def __init__(self, settings: Settings) -> None:
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings."""
        self._checks = settings.defence.check_helo
        self._own = settings.hostname.lower()
        self.idle = not self._checks

    async def helo(self, peer: Peer, name: str) -> Reply | None:
        """501 5.5.4 for what is no name, 550 5.7.1 for who says to be somebody else."""
        if not self._checks or not peer.guarded:
            return None
        if name.startswith("["):
            said = read_literal(name)
            if said is None:
                return _BAD_NAME
            if said != parse_ip(peer.address):
                return Reply(550, "5.7.1", f"You are not {printable(name)}: you come from {peer.address}")
            return None
        plain = name.rstrip(".").lower()
        if not _DOMAIN.fullmatch(name) or plain.rpartition(".")[2].isdigit():
            return _BAD_NAME
        if self._own and plain == self._own:
            return Reply(550, "5.7.1", f"You are not {self._own}: that is this host")
        return None


def read_literal(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address of an address literal (RFC 5321 §4.1.3); None for what is none."""
    if not text.endswith("]"):
        return None
    inner = text[1:-1]
    if inner[:5].lower() == "ipv6:":
        inner = inner[5:]
        return parse_ip(inner) if ":" in inner and "%" not in inner else None
    return parse_ip(inner) if ":" not in inner else None
