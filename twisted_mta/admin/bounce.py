"""Giving deliveries up by hand: the report and the delivery's end are one commit, as when the scheduler does it."""

from __future__ import annotations

from ..delivery.interfaces import Result
from ..delivery.router import Router
from ..delivery.settlement import bounced
from ..mail.envelope import Delivery, Message
from ..mail.events import AnyEvent, HistoryEvent, Operator
from ..mail.status import Reply, printable
from ..queue.interfaces import Settlement
from ..report.dsn import Failure
from ..report.reporter import Reporter
from .context import Context

_WORDS = "The administrator of this mail system has returned the message"


class Bouncer:
    """Bounces deliveries of ``context``'s store with the reason ``text``."""

    def __init__(self, context: Context, text: str = "") -> None:
        self._context = context
        self._store = context.store()
        self._reply = Reply(550, "5.0.0", printable(text, 400) or _WORDS)
        settings = context.settings
        router = Router(settings, context.directory(make=True))
        self._reporter = Reporter(settings, self._store.new_id, router, context.clock)

    def bounce(self, page: list[tuple[Message, Delivery]]) -> int:
        """Give these up; how many it were.

        What a process of the service has in memory is left alone: its recipients may have it already.
        """
        parts = [self._settlement(message, delivery) for message, delivery in page]
        made = self._context.done(self._store.give_up([settlement for settlement, _ in parts]))
        for (_, told), was in zip(parts, made, strict=True):
            for event in told if was else ():
                self._context.events(event)
        return sum(made)

    def close(self) -> None:
        """Have a running service look at what it holds in memory."""
        self._context.done(self._store.act("retry", [], self._context.who, self._context.now()))

    def _settlement(self, message: Message, delivery: Delivery) -> tuple[Settlement, list[AnyEvent]]:
        context, store, now = self._context, self._store, self._context.now()
        try:
            head = context.done(store.read(message.id, 0)) if message.chunks else b""
        except KeyError:  # it has left meanwhile
            head = b""
        failures = [
            Failure(recipient=recipient, reply=self._reply, last_attempt=delivery.last_attempt or now)
            for recipient in delivery.recipients
        ]
        made = context.done(self._reporter.report("failed", message, delivery.customer, failures, head))
        by = Operator(
            time=now,
            id=message.id,
            action="bounce",
            who=context.who,
            recipients=tuple(recipient.address for recipient in delivery.recipients),
        )
        ends: list[HistoryEvent] = [
            bounced(message, delivery, Result(recipient=f.recipient, reply=self._reply), f, now, *made.of(f))
            for f in failures
        ]
        settlement = Settlement(delivery=delivery, reports=made.reports, story=(by, *ends))
        return settlement, [by, *ends, *made.events]
