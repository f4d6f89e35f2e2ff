"""The agents that carry mail to other hosts: by SMTP to where the MX or a smarthost says, and by LMTP to one server.

Source: RFC 5321 §5.1 (which hosts, in which order), §4.5.4.1 (what to do after a failure), RFC 7435 (opportunistic
TLS), RFC 2033 (LMTP), RFC 8689 §4.2 (REQUIRETLS), RFC 6152 §3 and RFC 3030 §3 (content that a server does not take).

Where a connection is lost between the final dot and its answer, the message is deferred with 4.4.2 and may arrive
twice: nobody but the server knows whether it has it, and losing it would be worse (RFC 1047, RFC 5321 §4.5.3.2.6).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from zope.interface import implementer

from ..config.settings import Settings
from ..mail.events import EventSink, no_events
from ..mail.status import MailError, Reply
from ..smtp.client import MtaClient, SessionError
from ..smtp.tls import client_context
from ..wire.exchange import By, Finished, Outcome, Transfer, too_many_recipients
from ..wire.starttls import TlsPolicy
from .conversion import Converted, fit
from .dns import IResolver
from .interfaces import IDeliveryAgent, Job, Result
from .mx import Hops, NextHops, Target
from .opening import Opener
from .pool import Lease, Pool
from .router import split_host_port

JOB_TIME = 1800.0
"""Seconds for one job in all, besides what its size adds; the wait after a final dot is never cut short by it."""
SLOWEST = 8192
"""Octets a second below which a host is too slow to be waited for."""


class _Spot(msgspec.Struct, frozen=True):
    """Where an outcome came from."""

    relay: str = ""
    host: str = ""
    tls: str = ""
    reused: bool = False
    dsn: bool = False
    timed: bool = False
    converted: str = ""


_NOWHERE = _Spot()
_TOO_LONG = Outcome(Reply(451, "4.4.1", "The attempt took too long"), False)
_STOPPING = Outcome(Reply(451, "4.3.2", "This server is stopping"), False)


class _Attempt:
    """One job under way: what is decided, what is still to be done, and which target is next.

    ``policy`` is what its connections must be like; ``unmet``: a target was passed over that had no TLS to speak of.
    ``converted`` is the content as it was last converted, ``sent`` if the present transaction has it.
    """

    __slots__ = (
        "client",
        "converted",
        "deadline",
        "hops",
        "job",
        "last",
        "lease",
        "next",
        "outcomes",
        "pending",
        "policy",
        "sent",
        "unmet",
    )

    def __init__(self, job: Job, lease: Lease, started: float, policy: TlsPolicy) -> None:
        self.job = job
        self.policy = policy
        self.unmet = False
        self.converted: Converted | None = None
        self.sent: Converted | None = None
        self.lease = lease
        self.client = lease.client
        self.deadline = started + JOB_TIME + job.content.size / SLOWEST
        self.hops: Hops | None = None
        self.next = 0
        self.last: tuple[Outcome, _Spot] | None = None
        count = len(job.delivery.recipients)
        self.outcomes: list[tuple[Outcome, _Spot] | None] = [None] * count
        self.pending = list(range(count))

    def decide(self, index: int, outcome: Outcome, spot: _Spot) -> None:
        """This recipient is through."""
        self.outcomes[index] = (outcome, spot)

    def give_up(self, outcome: Outcome, spot: _Spot = _NOWHERE) -> None:
        """Whoever is not decided gets this."""
        for index in self.pending:
            self.outcomes[index] = (outcome, spot)
        self.pending = []


class _Agent:
    """What SMTP and LMTP have in common."""

    name = ""
    lmtp = False
    _action: Literal["delivered", "relayed"] = "relayed"

    def __init__(self, settings: Settings, reactor: Any, events: EventSink) -> None:
        self._reactor = reactor
        self._opener = Opener(reactor, events, lmtp=self.lmtp)
        self._pool = Pool(**_bounds(settings))
        self._take_over(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings; connections that are up stay as they are."""
        self._pool.configure(**_bounds(settings))
        self._take_over(settings)

    def _take_over(self, settings: Settings) -> None:
        self._together = max(1, settings.relay.recipients_per_transaction)
        self._policy: TlsPolicy = "none"
        self._tls_optional = settings.relay.tls_optional
        self._opener.configure(settings, self._starttls(settings))

    def _starttls(self, settings: Settings) -> SSL.Context | None:
        """The context for STARTTLS; None: it is not used."""
        return None

    async def _find(self, nexthop: str) -> Hops:
        raise NotImplementedError

    @property
    def connections(self) -> tuple[int, int]:
        """Connections open now, and how many of them are idle."""
        return self._pool.open, self._pool.idle

    def stop(self) -> Deferred[None]:
        """See :class:`IDeliveryAgent`.  Connections that are not up yet are given up; transactions are finished."""
        stopped = self._pool.stop()
        self._opener.stop()
        return stopped

    async def deliver(self, job: Job) -> Sequence[Result]:
        """See :class:`IDeliveryAgent`."""
        started = self._reactor.seconds()
        lease = self._pool.lease(job.delivery.destination)
        if isinstance(lease, Deferred):
            lease = await lease
        attempt = _Attempt(job, lease, self._reactor.seconds(), self._policy_for(job))
        try:
            while attempt.pending:
                await self._step(attempt)
        finally:
            self._pool.give_back(lease, attempt.client)
        seconds = self._reactor.seconds() - started
        return [
            Result(
                recipient=recipient,
                reply=outcome.reply,
                relay=spot.relay,
                host=spot.host if outcome.remote else "",
                remote=outcome.remote,
                tls=spot.tls,
                reused=spot.reused,
                seconds=seconds,
                action="passed" if spot.dsn else self._action,
                converted=spot.converted,
                timed=spot.timed,
            )
            for recipient, (outcome, spot) in zip(job.delivery.recipients, _decided(attempt), strict=True)
        ]

    async def _step(self, attempt: _Attempt) -> None:
        """One transaction, or one try to get a connection for it.  Each step decides a recipient, uses up a target, or
        trades a connection that had been used before for a fresh one: so there is an end."""
        client = attempt.client
        if client is not None and not (
            client.ready and _suits(client, attempt.policy) and not self._pool.exhausted(client)
        ):
            client.quit()
            attempt.client = client = None
        if self._pool.stopping:
            attempt.give_up(_STOPPING)
            return
        if client is None:
            await self._connect_next(attempt)
            return
        reused = client.messages > 0
        group = attempt.pending[: min(self._together, client.recipients_max or self._together)]
        client.deadline = attempt.deadline
        finished = await self._transfer(attempt, client, group)
        converted = "" if attempt.sent is None else attempt.sent.target
        spot = _Spot(client.place, client.host, client.tls, reused, client.dsn, client.deliver_by, converted)
        if finished.lost and not finished.dot_sent:
            self._lost(attempt, group, finished, spot)
        else:
            self._note(attempt, group, finished, spot)

    async def _transfer(self, attempt: _Attempt, client: MtaClient, group: list[int]) -> Finished:
        message = attempt.job.message
        recipients = attempt.job.delivery.recipients
        try:
            content, body = await fit(attempt.job, client.eight_bit, client.binary, attempt.converted, self._reactor)
        except Exception as error:
            reply = error.reply if isinstance(error, MailError) else None
            if reply is None or (not reply.temporary and reply.enhanced != "5.6.3"):
                reply = Reply(451, "4.3.0", "The content of the message could not be read")
            return Finished((Outcome(reply, False),) * len(group))
        attempt.sent = content if isinstance(content, Converted) else None
        attempt.converted = attempt.sent or attempt.converted
        if not client.ready:
            gone = Reply(451, "4.4.2", "The connection was lost while the message was looked at")
            return Finished((Outcome(gone, False),) * len(group), lost=True)
        addresses = tuple([recipients[index].address for index in group])
        wishes: tuple[tuple[str, str], ...] = ()
        if client.dsn and any(recipients[index].notify or recipients[index].orcpt for index in group):
            wishes = tuple([(recipients[index].notify, recipients[index].orcpt) for index in group])
        by: By | None = None
        handling = message.handling
        if handling is not None and handling.deliver_by:
            by = By(handling.deliver_by - self._reactor.seconds(), handling.by_mode, handling.trace)
        transfer = Transfer(
            message.sender,
            addresses,
            content.size,
            body == "8BITMIME",
            message.ret,
            message.envid,
            wishes,
            message.utf8,
            body == "BINARYMIME",
            attempt.policy == "require" and bool(client.tls),
            by,
            message.priority,
        )
        return await client.send(transfer, content)

    def _note(self, attempt: _Attempt, group: list[int], finished: Finished, spot: _Spot) -> None:
        """The server has answered, or the content had gone out: what it said counts."""
        again: list[int] = []
        taken = False
        for index, outcome in zip(group, finished.outcomes, strict=True):
            taken = taken or (outcome.remote and outcome.reply.positive)
            if outcome.remote and too_many_recipients(outcome.reply):
                again.append(index)
            attempt.decide(index, outcome, spot)
        rest = attempt.pending[len(group) :]
        # RFC 5321 §4.5.3.1.10: those who were too many for this transaction go into the next.
        attempt.pending = again + rest if taken and not finished.lost else rest
        if attempt.client is not None and not attempt.client.ready:
            attempt.client = None

    def _lost(self, attempt: _Attempt, group: list[int], finished: Finished, spot: _Spot) -> None:
        """The connection ended before the final dot: nothing was delivered, and all may be tried elsewhere."""
        attempt.client = None
        for index, outcome in zip(group, finished.outcomes, strict=True):
            ours = not outcome.remote and outcome.reply.enhanced.startswith("4.3.")  # no other host would mend it
            if ours or (outcome.reply.permanent and outcome.remote):
                attempt.decide(index, outcome, spot)
                attempt.pending.remove(index)
            else:
                attempt.last = (outcome, spot)
        if not spot.reused:
            attempt.next += 1
        # Else a connection that had been idle, or had carried enough for the server's taste, says nothing about the
        # host: the same target again, afresh.

    # Connections

    async def _connect_next(self, attempt: _Attempt) -> None:
        """Try one target; when there is none left, the last failure is everybody's."""
        if attempt.hops is None:
            try:
                attempt.hops = await self._find(attempt.job.delivery.destination.partition(":")[2])
            except MailError as error:
                attempt.give_up(Outcome(error.reply, False))
                return
        targets = attempt.hops.targets
        if attempt.next >= len(targets) and attempt.unmet and not attempt.job.message.sender:
            # RFC 8689 §5: a report is not to be lost for want of REQUIRETLS.
            attempt.policy, attempt.unmet, attempt.next, attempt.last = self._policy, False, 0, None
        if attempt.next >= len(targets) or self._reactor.seconds() >= attempt.deadline:
            attempt.give_up(*(attempt.last or (_TOO_LONG, _NOWHERE)))
            return
        target = targets[attempt.next]
        try:
            attempt.client = await self._opener.open(target, attempt.deadline, attempt.policy)
        except SessionError as error:
            attempt.next += 1
            attempt.unmet = attempt.unmet or error.unmet
            outcome = Outcome(error.reply, error.remote)
            if attempt.hops.fixed and error.reply.permanent and not error.unmet:
                # The host that the operator chose will not talk to us at all: that is to be mended, not bounced.
                outcome = Outcome(Reply(451, "4.3.5", str(error.reply)), error.remote)
            # RFC 5321 §5.1: it bounces only if no host gives hope.
            if attempt.last is None or outcome.reply.temporary or attempt.last[0].reply.permanent:
                attempt.last = (outcome, _Spot(str(target), target.host))

    def _policy_for(self, job: Job) -> TlsPolicy:
        """What the message's own wish makes of the settings' policy."""
        wish = job.message.requiretls
        if wish == "required":
            return "require"
        return "may" if wish == "optional" and self._policy == "encrypt" and self._tls_optional else self._policy


@implementer(IDeliveryAgent)
class SmtpAgent(_Agent):
    """The agent "smtp": "smtp:example.org" goes to the hosts of the domain's MX, "smtp:[host]:port" to that host.

    Keeps idle connections for the next message of their destination.  ``tls`` is the context for STARTTLS, by default
    one with ``settings.tls``; ``rng`` shuffles equal hosts.  Make it on the reactor's thread; ``stop`` it.
    """

    name = "smtp"

    def __init__(
        self,
        settings: Settings,
        resolver: IResolver,
        reactor: Any,
        events: EventSink = no_events,
        tls: SSL.Context | None = None,
        rng: random.Random | None = None,
        hops: NextHops | None = None,
    ) -> None:
        self._hops = hops or NextHops(settings, resolver, rng)
        self._given = tls
        super().__init__(settings, reactor, events)

    def _take_over(self, settings: Settings) -> None:
        super()._take_over(settings)
        self._policy = settings.relay.tls
        self._hops.reconfigure(settings)

    def _starttls(self, settings: Settings) -> SSL.Context:
        return self._given or client_context(settings.tls)

    async def _find(self, nexthop: str) -> Hops:
        return await self._hops.find(nexthop)


@implementer(IDeliveryAgent)
class LmtpAgent(_Agent):
    """The agent "lmtp": "lmtp:unix:/path" or "lmtp:host:port", a server that keeps mailboxes (RFC 2033).

    Without TLS: the socket, or the network in between, is the operator's own.  Only for mail with REQUIRETLS a network
    is not enough: then the server must have TLS and a valid certificate, but need not offer REQUIRETLS, since delivery
    is the end of it (RFC 8689 §4.4).
    """

    name = "lmtp"
    lmtp = True
    _action = "delivered"

    def __init__(
        self,
        settings: Settings,
        resolver: IResolver,
        reactor: Any,
        events: EventSink = no_events,
        rng: random.Random | None = None,
    ) -> None:
        self._hops = NextHops(settings, resolver, rng)
        super().__init__(settings, reactor, events)

    async def _find(self, nexthop: str) -> Hops:
        kind, _, place = nexthop.partition(":")
        if kind == "unix":
            return Hops((Target(path=place),), fixed=True)
        try:
            host, port = split_host_port(nexthop, 24)  # RFC 2033 §5: no port of its own; 24 is for private mail systems
        except ValueError as error:
            raise MailError(Reply(451, "4.3.5", f"local.lmtp: {error}")) from None
        return await self._hops.named(host, port)


def _suits(client: MtaClient, policy: TlsPolicy) -> bool:
    """Whether a connection that is there is what the policy wants; it may have been made for another message's."""
    if policy == "require":
        return client.trusted
    return policy != "encrypt" or bool(client.tls)


def _bounds(settings: Settings) -> dict[str, Any]:
    relay = settings.relay
    return {
        "total": max(1, relay.connections),
        "each": max(1, relay.connections_per_destination),
        "idle": relay.idle,
        "messages": max(1, relay.messages_per_connection),
    }


def _decided(attempt: _Attempt) -> list[tuple[Outcome, _Spot]]:
    return [outcome for outcome in attempt.outcomes if outcome is not None]
