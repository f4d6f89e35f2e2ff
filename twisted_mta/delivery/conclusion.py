"""From the end of an attempt to its settlement: reports are made and events gathered."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..config.settings import Settings
from ..mail.envelope import Delivery
from ..mail.events import AnyEvent, HistoryEvent
from ..queue.interfaces import CHUNK, IMessageStore, NewMessage, Settlement
from ..report.dsn import Failure as Told
from ..report.dsn import Kind
from ..report.reporter import Reporter
from .interfaces import Result
from .lanes import Entry
from .reroute import Rerouted
from .retry import RetryPolicy
from .settlement import Verdict, all_recipients, bounced, delivered, judge, named, out_of_time
from .settler import Ended, Settler


class Conclusions:
    """Turns what came of an entry into a settlement, with its reports, and hands it to the settler."""

    _log = Logger()

    def __init__(
        self,
        store: IMessageStore,
        reporter: Reporter,
        clock: IReactorTime,
        settler: Settler,
        retry: RetryPolicy,
        settings: Settings,
    ) -> None:
        self._store = store
        self._reporter = reporter
        self._clock = clock
        self._settler = settler
        self.reconfigure(retry, settings)

    def reconfigure(self, retry: RetryPolicy, settings: Settings) -> None:
        """Take over changed settings."""
        self._retry = retry
        self._delay_warning = settings.queue.delay_warning

    def attempted(self, entry: Entry, results: Sequence[Result], now: float, not_before: float = 0.0) -> None:
        """An attempt ended with these results, one for each recipient."""
        verdict = self._judge(entry, results, now, not_before)
        remaining = () if verdict.remaining is None else (verdict.remaining,)
        self._conclude(entry, verdict, remaining, verdict.events, now)

    def taken(self, entry: Entry, results: Sequence[Result], now: float) -> bool:
        """A fault of ours keeps these results from being judged: who has the message is not given it again.

        The others stay queued for when they are armed, and nothing is reported.  False: nobody is known to have it, and
        nothing is written.
        """
        have = {result.recipient for result in results if result.reply.positive}
        if not have:
            return False
        delivery = entry.delivery
        events: list[HistoryEvent] = []
        for result in results:
            if result.reply.positive:
                try:
                    events.append(delivered(entry.message, delivery, result, now))
                except Exception:
                    self._log.failure("{id} was delivered, which can't be told", id=delivery.id)
        rest = tuple(recipient for recipient in delivery.recipients if recipient not in have)
        remaining = (msgspec.structs.replace(delivery, recipients=rest),) if rest else ()
        self._settle(entry, remaining, events, events, ())
        return True

    def out_of_time(self, entry: Entry, now: float) -> None:
        """There was no attempt, and RFC 2852's time is over: what is to be returned is, of the rest the sender is told
        and it goes on as it was."""
        entry.started = now
        delivery = entry.delivery
        results = all_recipients(delivery.recipients, out_of_time(delivery))
        verdict = self._judge(entry, results, now)
        if verdict.remaining is None:
            self._conclude(entry, verdict, (), verdict.events, now)
            return
        back = msgspec.structs.replace(
            delivery,
            next_attempt=now,
            attempts=delivery.attempts - 1,
            warned=verdict.remaining.warned,
            overdue=verdict.remaining.overdue,
        )
        self._conclude(entry, verdict, (back,), (), now)

    def put_back(self, entry: Entry, now: float) -> None:
        """There was no attempt: it is due at once, for the next process."""
        delivery = entry.delivery
        back = msgspec.structs.replace(delivery, next_attempt=now, attempts=delivery.attempts - 1)
        self._settle(entry, (back,), (), (), ())

    def _judge(self, entry: Entry, results: Sequence[Result], now: float, not_before: float = 0.0) -> Verdict:
        return judge(
            entry.message,
            entry.delivery,
            results,
            began=entry.started,
            now=now,
            retry=self._retry,
            delay_warning=self._delay_warning,
            not_before=not_before,
        )

    def reroute(self, entry: Entry, rerouted: Rerouted, now: float) -> None:
        """There was no attempt: the recipients go elsewhere now, or nowhere."""
        results = [Result(recipient=recipient, reply=reply) for recipient, reply in rerouted.refused]
        verdict = judge(
            entry.message,
            entry.delivery,
            results,
            began=now,
            now=now,
            retry=self._retry,
            delay_warning=0,
        )
        self._conclude(entry, verdict, rerouted.deliveries, (rerouted.event, *verdict.events), now)

    def _conclude(
        self,
        entry: Entry,
        verdict: Verdict,
        remaining: tuple[Delivery, ...],
        events: tuple[HistoryEvent, ...],
        now: float,
    ) -> None:
        if not (verdict.failed or verdict.warn or verdict.succeeded or verdict.relayed):
            self._settle(entry, remaining, events, events, ())
            return
        self._settler.write_about()
        reporting = Deferred.fromCoroutine(self._report(entry, verdict, remaining, events, now))
        reporting.addErrback(self._unreported, entry, verdict, remaining, events, now)
        reporting.addBoth(self._settler.written_about, entry)

    async def _report(
        self,
        entry: Entry,
        verdict: Verdict,
        remaining: tuple[Delivery, ...],
        events: tuple[HistoryEvent, ...],
        now: float,
    ) -> None:
        message, delivery = entry.message, entry.delivery
        head = await self._head(entry)
        told: list[AnyEvent] = []
        reports: list[tuple[NewMessage, bytes]] = []
        successes: tuple[tuple[Kind, tuple[Told, ...]], ...] = (
            ("delivered", verdict.succeeded),
            ("relayed", verdict.relayed),
        )
        for kind, those in successes:
            if those:
                made = await self._reporter.report(kind, message, delivery.customer, those, head)
                events = named(events, those, made.id)
                told += made.events
                reports += made.reports
        story = list(events)
        told[:0] = events
        if verdict.failed:
            failures = [failure for _, failure in verdict.failed]
            made = await self._reporter.report("failed", message, delivery.customer, failures, head)
            ends = [
                bounced(message, delivery, result, failure, now, *made.of(failure))
                for result, failure in verdict.failed
            ]
            story += ends
            told += [*ends, *made.events]
            reports += made.reports
        if verdict.warn:
            made = await self._reporter.report("delayed", message, delivery.customer, verdict.late, head)
            story += [event for event in made.events if event.id == message.id]
            told += made.events
            reports += made.reports
        self._settle(entry, remaining, story, told, reports)

    def _unreported(
        self,
        failure: Failure,
        entry: Entry,
        verdict: Verdict,
        remaining: tuple[Delivery, ...],
        events: tuple[HistoryEvent, ...],
        now: float,
    ) -> None:
        """A fault of ours: what failed stays queued rather than vanish without a report."""
        delivery = entry.delivery
        self._log.failure("a report about {id} could not be made", failure, id=delivery.id)
        failed = [result for result, _ in verdict.failed]
        if failed:
            last = failed[-1]
            again = msgspec.structs.replace(
                delivery,
                recipients=tuple(result.recipient for result in failed),
                next_attempt=now + self._retry.wait(delivery.attempts),
                last_attempt=entry.started,
                last_reply=str(last.reply),
                last_status=last.reply.status,
                last_host=last.host,
                deaths=0,
            )
            others = []
            for other in remaining:
                if other.destination == again.destination:
                    recipients = (*other.recipients, *again.recipients)
                    again = msgspec.structs.replace(again, recipients=recipients, warned=delivery.warned)
                else:
                    others.append(other)
            remaining = (again, *others)
        self._settle(entry, remaining, events, events, ())

    def _settle(
        self,
        entry: Entry,
        remaining: tuple[Delivery, ...],
        story: Sequence[HistoryEvent],
        events: Sequence[AnyEvent],
        reports: Sequence[tuple[NewMessage, bytes]],
    ) -> None:
        settlement = Settlement(
            delivery=entry.delivery, remaining=remaining, reports=tuple(reports), story=tuple(story)
        )
        self._settler.add(Ended(settlement, events, entry))

    async def _head(self, entry: Entry) -> bytes:
        """The start of the content, as much as holds the header section of any sensible message."""
        if entry.content is not None:
            return entry.content[:CHUNK]
        try:
            return await self._store.read(entry.message.id, 0)
        except Exception:
            self._log.failure("the header of {id} can't be read for a report", id=entry.message.id)
            return b""
