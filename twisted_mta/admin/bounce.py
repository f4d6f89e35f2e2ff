"""Giving deliveries up by hand: the report and the delivery's end are one commit, as when the scheduler does it."""

from __future__ import annotations

from ..delivery.interfaces import Result
from ..delivery.router import Router
from ..delivery.settlement import bounced
from ..mail.envelope import Delivery, Message
from ..mail.events import HistoryEvent, Operator
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
        """Give these up; how many it were."""
        self._told: list[HistoryEvent] = []
        settlements = [self._settlement(message, delivery) for message, delivery in page]
        self._context.done(self._store.settle(settlements))
        for event in self._told:
            self._context.events(event)
        return len(settlements)

    def close(self) -> None:
        """Have a running service look at what it holds in memory."""
        self._context.done(self._store.act("retry", [], self._context.who, self._context.now()))

    def _settlement(self, message: Message, delivery: Delivery) -> Settlement:
        context, store, now = self._context, self._store, self._context.now()
        head = context.done(store.read(message.id, 0)) if message.chunks else b""
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
        self._told += [by, *ends, *made.events]
        return Settlement(delivery=delivery, reports=made.reports, story=(by, *ends))
