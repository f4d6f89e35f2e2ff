"""Makes reports: decides who is told, writes the DSN, and routes it.

Source: RFC 5321 §4.5.5 and §6.1 (reports have the null sender; none is sent about a null sender), RFC 3464 §2,
RFC 3461 §4.1 and §5.2 (NOTIFY).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from twisted.logger import Logger

from ..config.settings import Settings
from ..mail.address import canonical, domain_of, lookup_key
from ..mail.envelope import Handling, Message, Recipient
from ..mail.events import Delayed, HistoryEvent, Reported, Routed
from ..mail.status import MailError
from ..queue.interfaces import CHUNK, IRouter, NewDelivery, NewMessage, Routing
from .dsn import OCCASIONS, Failure, Kind, Notice, write

TOLD = "reported"
DROPPED_NO_POSTMASTER = "dropped: null sender, and no local.postmaster to tell"
DROPPED_LOOP = "dropped: it was itself a report to the postmaster"
UNWANTED = "none: the sender wants no report of this (NOTIFY)"
DROPPED_UNKNOWN = "dropped: nobody to tell, the report's own address can't be reached: "


class Clock(Protocol):
    """What tells the time: a reactor or :class:`twisted.internet.task.Clock`."""

    def seconds(self) -> float:
        """Seconds since the epoch."""


class Made(msgspec.Struct, frozen=True):
    """A report, or why there is none: then ``id`` is "" and ``fate`` says what became of it.

    ``silent`` are those of whom nothing is said, because the sender wants it so.
    """

    id: str
    fate: str
    reports: tuple[tuple[NewMessage, bytes], ...] = ()
    events: tuple[HistoryEvent, ...] = ()
    silent: tuple[Failure, ...] = ()

    def of(self, failure: Failure) -> tuple[str, str]:
        """``id`` and ``fate`` as they are for one of those whom the report was to be about."""
        return ("", UNWANTED) if failure in self.silent else (self.id, self.fate)


def _wanted(failure: Failure, kind: Kind) -> bool:
    """Whether the sender lets itself be told (RFC 3461 §4.1; RFC 2852 §4.1.4 for what DELIVERBY tells)."""
    recipient = failure.recipient
    return recipient.wants(OCCASIONS[kind]) or (failure.unasked and recipient.notify != "NEVER")


class Reporter:
    """The one who writes DSNs.  ``new_id`` is the store's."""

    _log = Logger()

    def __init__(self, settings: Settings, new_id: Callable[[], str], router: IRouter, clock: Clock) -> None:
        self._new_id = new_id
        self._router = router
        self._clock = clock
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings."""
        self._hostname = settings.hostname or socket.gethostname()
        self._lifetime = settings.queue.dsn_lifetime
        self._postmaster = canonical(settings.local.postmaster)

    async def report(
        self,
        kind: Kind,
        message: Message,
        lane_customer: str,
        failures: Sequence[Failure],
        head: bytes,
    ) -> Made:
        """One report about ``failures`` of ``message``.

        ``head`` is the start of the original's content, all of it where it has one chunk only; ``lane_customer`` whose
        lane the report waits in.  It is due at once.  Its events, ``Reported`` and ``Routed``, are in its own story.
        """
        silent = tuple([failure for failure in failures if not _wanted(failure, kind)])
        if silent:
            failures = [failure for failure in failures if failure not in silent]
        if not failures:
            return Made("", UNWANTED, silent=silent)
        to, refusal = self._addressee(kind, message, failures)
        if not to:
            return Made("", refusal, silent=silent)
        routing = await self._route(to, lane_customer)
        if not routing.deliveries:
            words = "; ".join(str(reply) for _, reply in routing.refused)
            return Made("", DROPPED_UNKNOWN + words, silent=silent)
        now = self._clock.seconds()
        own = self._new_id()
        message_id = f"<{own}@{self._hostname}>"
        notice = Notice(
            kind=kind,
            hostname=self._hostname,
            to=to,
            message_id=message_id,
            now=now,
            message=message,
            failures=tuple(failures),
            head=head,
            retry_until=message.expires,
            about_report=to != message.sender,
        )
        content = write(notice)
        recipients = tuple(r.address for delivery in routing.deliveries for r in delivery.recipients)
        name = "double-bounce" if notice.about_report else kind
        reported = Reported(
            time=now, id=own, about=message.id, kind=name, sender="", recipients=(to,), size=len(content)
        )
        destinations = {d.destination: tuple(r.address for r in d.recipients) for d in routing.deliveries}
        routed = Routed(time=now, id=own, destinations=destinations, expanded=routing.expanded)
        report = Message(
            id=own,
            arrived=now,
            sender="",
            recipients=len(recipients),
            size=len(content),
            chunks=-(-len(content) // CHUNK),
            expires=now + self._lifetime,
            body="7BIT" if content.isascii() else "8BITMIME",
            message_id=message_id,
            kind="dsn",
            utf8=not to.isascii(),
            requiretls="required" if message.requiretls == "required" else "",  # RFC 8689 §5
            handling=Handling(priority=message.priority) if message.priority else None,
        )
        new = NewMessage(
            message=report,
            deliveries=routing.deliveries,
            next_attempt=now,
            story=(reported, routed),
            lane_customer=lane_customer,
        )
        events: tuple[HistoryEvent, ...] = (reported, routed)
        if kind == "delayed":
            late = tuple(failure.recipient.address for failure in failures)
            events = (Delayed(time=now, id=message.id, recipients=late, report=own), *events)
        return Made(own, TOLD, ((new, content),), events, silent)

    def _addressee(self, kind: Kind, message: Message, failures: Sequence[Failure]) -> tuple[str, str]:
        """Who is told; or "" and what is done instead."""
        if message.sender and message.kind != "dsn":
            return message.sender, ""
        if not self._postmaster or kind != "failed":
            return "", DROPPED_NO_POSTMASTER
        key = lookup_key(self._postmaster)
        if any(key in (lookup_key(f.recipient.original), lookup_key(f.recipient.address)) for f in failures):
            return "", DROPPED_LOOP
        return self._postmaster, ""

    async def _route(self, to: str, lane_customer: str) -> Routing:
        recipient = Recipient(to, to)
        try:
            return await self._router.route((recipient,), lane_customer)
        except MailError as error:
            if not error.temporary:
                return Routing((), {}, ((recipient, error.reply),))
            self._log.info("can't route a report to {to} yet: {reply}", to=to, reply=str(error.reply))
        # The router is asked again when the report is claimed; until then its domain is as good a place as any.
        return Routing((NewDelivery(f"smtp:{domain_of(to)}", (recipient,)),))
