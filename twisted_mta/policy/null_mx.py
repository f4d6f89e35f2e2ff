"""Recipients whose domain says that it takes no mail are refused while the sender is still there to hear it.

Source: RFC 7505 §3 (the null MX), RFC 7504 §4 (556, which a relay that knows answers at RCPT).
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..config.settings import Settings
from ..directory.interfaces import Resolution
from ..mail.address import domain_of
from ..mail.status import MailError, Reply, printable
from .interfaces import Peer, Policy, Transaction

PATIENCE = 1.0
"""Seconds that a client waits for the answer; whatever comes later is for the delivery."""
REST = 30.0
"""Seconds for which nobody is asked after one answer was late: a resolver that does not answer slows nobody twice."""
ASKED = 20
"""Recipients of one message whose domains are looked up; a longer list is for the delivery."""

_log = Logger()


class _Record(Protocol):
    @property
    def host(self) -> str: ...


class Names(Protocol):
    """Looks MX records up, and raises a MailError for what fails: see :class:`twisted_mta.delivery.dns.IResolver`."""

    def mx(self, name: str) -> Coroutine[Any, Any, Sequence[_Record]]:
        """The MX records in no order; "" is the host of the null MX."""
        ...


class NullMxPolicy(Policy):
    """556 5.1.10 for what would bounce at once, if ``relay.refuse_null_mx`` and mail goes by MX.

    Nothing else that the DNS says refuses a recipient: it may be mended before the message expires.
    """

    def __init__(self, names: Names, settings: Settings, clock: IReactorTime) -> None:
        self._names = names
        self._clock = clock
        self._rests_until = 0.0
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings."""
        self.idle = not settings.relay.refuse_null_mx or bool(settings.relay.smarthost)

    async def rcpt(self, peer: Peer, transaction: Transaction, recipient: str, resolution: Resolution) -> Reply | None:
        """See :class:`NullMxPolicy`."""
        if self.idle or resolution.kind != "remote" or len(transaction.recipients) >= ASKED:
            return None
        domain = domain_of(recipient)
        if domain.startswith("[") or self._clock.seconds() < self._rests_until:
            return None
        records = await self._look_up(domain)
        if len(records) == 1 and not records[0].host:
            return Reply(556, "5.1.10", f"{printable(domain)} does not accept mail (null MX)")
        return None

    def _look_up(self, domain: str) -> Deferred[Sequence[_Record]]:
        """The records as far as they are known in time.  The question itself is never given up: others may wait for
        its answer, and the delivery will."""
        answer: Deferred[Sequence[_Record]] = Deferred()
        late = self._clock.callLater(PATIENCE, self._late, answer)

        def answered(records: Sequence[_Record]) -> None:
            if late.active():
                late.cancel()
                answer.callback(records)

        def failed(failure: Failure) -> None:
            if not failure.check(MailError):  # type: ignore[no-untyped-call]
                _log.failure("The MX of {domain} could not be looked up", failure, domain=domain)
            answered(())

        Deferred.fromCoroutine(self._names.mx(domain)).addCallbacks(answered, failed)
        return answer

    def _late(self, answer: Deferred[Sequence[_Record]]) -> None:
        self._rests_until = self._clock.seconds() + REST
        answer.callback(())
