"""DNS block and allow lists (RFC 5782).

All lists are asked at once when a stranger connects to a listener of role "mx", and what they said is judged when the
first recipient is named, so that a refusal is logged with sender and recipient, and postmaster can be reached by
everybody (RFC 5321 §4.5.1).  A list that does not answer in time, or answers what no list answers, says nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import partial

import attrs
import dns.name
import dns.reversename
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from ..config.dns_lists import DnsList, read_dns_list
from ..config.settings import Settings
from ..directory.interfaces import Resolution
from ..mail.address import local_of
from ..mail.status import MailError, Reply, printable
from .interfaces import Peer, Policy, Transaction
from .names import Names
from .network import parse_ip

NOT_LISTED = "127.0.0.1"
"""The entry that no list has (RFC 5782 §5): one that has it lists everybody, as lists do that were given up."""
NO_ANSWER = ipaddress.IPv4Network("127.255.255.0/24")
"""What operators of lists answer to say that the question was not to be asked, or too often; never a listing."""

_log = Logger()


@attrs.define(slots=True, eq=False)
class _Verdict:
    """What the lists say of one session."""

    missing: int
    score: int = 0
    listed: list[str] = attrs.Factory(list)
    waiting: list[Deferred[None]] = attrs.Factory(list)
    timer: IDelayedCall | None = None

    def finish(self) -> None:
        """Nothing more is waited for."""
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        self.timer = None
        self.missing = 0
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            one.callback(None)


class DnsListPolicy(Policy):
    """Refuses who reaches ``defence.dns_list_threshold`` on ``defence.dns_lists``, and sets ``peer.allowed`` for who
    has a score below 0.  ``clock`` gives seconds."""

    def __init__(self, names: Names, settings: Settings, clock: IReactorTime) -> None:
        self._names = names
        self._clock = clock
        self._verdicts: dict[str, _Verdict] = {}
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings; sessions that are open keep what they have asked."""
        defence = settings.defence
        self._lists: Sequence[DnsList] = tuple(read_dns_list(text) for text in defence.dns_lists)
        self._threshold = defence.dns_list_threshold
        self._timeout = defence.dns_list_timeout
        self.idle = not self._lists

    async def connect(self, peer: Peer) -> Reply | None:
        """Begin to ask; never refuses."""
        if not self._lists or not peer.guarded or parse_ip(peer.address) is None:
            return None
        verdict = self._verdicts[peer.session] = _Verdict(len(self._lists))
        verdict.timer = self._clock.callLater(self._timeout, verdict.finish)
        for one in self._lists:
            Deferred.fromCoroutine(self._ask(one, peer, verdict)).addErrback(
                lambda failure: _log.failure("A DNS list could not be asked", failure)
            ).addCallback(partial(self._answered, peer, verdict))
        return None

    async def rcpt(self, peer: Peer, transaction: Transaction, recipient: str, resolution: Resolution) -> Reply | None:
        """550 5.7.1 for who is listed, but never for postmaster."""
        verdict = self._verdicts.get(peer.session)
        if verdict is None or peer.account is not None or local_of(recipient).lower() == "postmaster":
            return None
        if verdict.missing:
            waiting: Deferred[None] = Deferred()
            verdict.waiting.append(waiting)
            await waiting
        if verdict.score < self._threshold:
            return None
        return Reply(550, "5.7.1", f"{peer.address} is listed by {', '.join(verdict.listed)}")

    def closed(self, peer: Peer) -> None:
        """Forget what was asked."""
        verdict = self._verdicts.pop(peer.session, None)
        if verdict is not None:
            verdict.finish()

    def _answered(self, peer: Peer, verdict: _Verdict, _: object) -> None:
        if verdict.missing:
            verdict.missing -= 1
            if not verdict.missing:
                peer.allowed = verdict.score < 0
                verdict.finish()

    async def _ask(self, one: DnsList, peer: Peer, verdict: _Verdict) -> None:
        name = entry(peer.address, one.zone)
        if not await self._listed(one, name) or await self._lists_everybody(one):
            return
        reason = await self._reason(name) if one.weight > 0 else ""
        if verdict.missing:
            verdict.score += one.weight
            if one.weight > 0:
                verdict.listed.append(f"{one.zone} ({reason})" if reason else one.zone)

    async def _listed(self, one: DnsList, name: str) -> bool:
        try:
            answers = [ipaddress.IPv4Address(answer) for answer in await self._names.ipv4(name)]
        except MailError:
            return False
        return any(answer in network for answer in answers if answer not in NO_ANSWER for network in one.answers)

    async def _lists_everybody(self, one: DnsList) -> bool:
        try:
            wrong = bool(await self._names.ipv4(entry(NOT_LISTED, one.zone)))
        except MailError:
            return False
        if wrong:
            _log.warn("{zone} lists {address}, and so everybody: it is not believed", zone=one.zone, address=NOT_LISTED)
        return wrong

    async def _reason(self, name: str) -> str:
        try:
            texts = await self._names.texts(name)
        except MailError:
            return ""
        return printable(texts[0], 120) if texts else ""


def entry(address: str, zone: str) -> str:
    """The name under which a list has an address: octets (RFC 5782 §2.1) or nibbles (§2.4) turned round."""
    origin = dns.name.from_text(f"{zone}.")
    ip = parse_ip(address)
    return dns.reversename.from_address(str(ip), v4_origin=origin, v6_origin=origin).to_text(omit_final_dot=True)
