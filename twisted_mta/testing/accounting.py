"""The books: every accepted recipient has exactly one end, and the history tells it.

This is the second promise of ``docs/architecture.md``.  The books are kept apart from what they check: only what the
store's history and queue say counts, recipient by recipient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import attrs

from ..mail.events import Accepted, AnyEvent, Bounced, Delivered, Done, HistoryEvent, Operator, Reported, Routed
from ..queue.interfaces import IMessageStore


@attrs.frozen(kw_only=True)
class Accounting:
    """How many recipients, reports' included, each counted where aliases have led."""

    accepted: int = 0
    delivered: int = 0
    bounced: int = 0
    queued: int = 0
    removed: int = 0

    @property
    def balanced(self) -> bool:
        """Whether every recipient accepted has an end, or is queued."""
        return self.accepted == self.delivered + self.bounced + self.queued + self.removed


@attrs.define
class MessageBooks:
    """One message's recipients: where they went, and how each ended ("delivered", "bounced", "removed")."""

    id: str
    routed: list[str] = attrs.Factory(list)
    ends: dict[str, list[str]] = attrs.Factory(dict)
    queued: list[str] = attrs.Factory(list)
    done: int = 0
    routes: int = 0

    def read(self, history: Iterable[HistoryEvent]) -> None:
        """Enter what the history tells."""
        for event in history:
            if isinstance(event, Routed):
                self._route(event)
            elif isinstance(event, Delivered):
                self._end(event.recipient, "delivered")
            elif isinstance(event, Bounced):
                self._end(event.recipient, "bounced")
            elif isinstance(event, Operator) and event.action == "remove":
                for recipient in event.recipients:
                    self._end(recipient, "removed")
            elif isinstance(event, Done):
                self.done += 1
        for address, ends in self.ends.items():
            if "removed" in ends and len(ends) > self.routed.count(address):
                ends.remove("removed")  # it was under way when it was removed: what came of it counts

    def _route(self, event: Routed) -> None:
        self.routes += 1
        there = [address for addresses in event.destinations.values() for address in addresses]
        if self.routes > 1:  # the route of some has changed: an alias has other targets now
            for alias in event.expanded:
                if alias not in there and self._pending(alias):
                    self.routed.remove(alias)
        self.routed += [address for address in there if not self._pending(address)]

    def _pending(self, address: str) -> bool:
        return self.routed.count(address) > len(self.ends.get(address, ()))

    def _end(self, recipient: str, end: str) -> None:
        if self.routes > 1 and recipient not in self.routed:  # refused by the router when the route changed
            self.routed.append(recipient)
        self.ends.setdefault(recipient, []).append(end)

    def problems(self) -> list[str]:
        """What does not balance, in words; empty if all is well."""
        found = []
        for address, copies in Counter(self.routed).items():
            ends = [*self.ends.get(address, ()), *("queued" for one in self.queued if one == address)]
            if len(ends) != copies:
                words = f"{address}, routed {copies} times," if copies > 1 else address
                found.append(f"{self.id}: {words} has {len(ends)} ends: {', '.join(ends) or 'none'}")
        strangers = {*self.ends, *self.queued} - {*self.routed}
        found += [f"{self.id}: {address} was never routed" for address in sorted(strangers)]
        if not self.routes:
            found.append(f"{self.id}: it was never routed")
        if self.done != (0 if self.queued else 1):
            found.append(f"{self.id}: {len(self.queued)} recipients are queued, and it was done {self.done} times")
        return found


class Books:
    """The books of all messages that ``events`` accepted, reports of our own included."""

    def __init__(self, events: Iterable[AnyEvent], store: IMessageStore) -> None:
        self.messages: dict[str, MessageBooks] = {}
        for event in events:
            if isinstance(event, (Accepted, Reported)) and event.id not in self.messages:
                self.messages[event.id] = MessageBooks(event.id)
        for name, books in self.messages.items():
            books.read(store.history(name))
            for delivery in store.deliveries(name):
                books.queued += [recipient.address for recipient in delivery.recipients]

    def problems(self) -> list[str]:
        """What does not balance."""
        return [problem for books in self.messages.values() for problem in books.problems()]

    def sum(self) -> Accounting:
        """The totals."""
        everybody = self.messages.values()
        ends = [end for books in everybody for ends in books.ends.values() for end in ends]
        return Accounting(
            accepted=sum(len(books.routed) for books in everybody),
            delivered=ends.count("delivered"),
            bounced=ends.count("bounced"),
            removed=ends.count("removed"),
            queued=sum(len(books.queued) for books in everybody),
        )
