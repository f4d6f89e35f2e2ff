"""What tests of the sending agents share: jobs, content in memory, and an agent on a memory network."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, succeed

from twisted_mta.config.settings import Relay, Settings
from twisted_mta.delivery.interfaces import Job, Result
from twisted_mta.delivery.mx import NextHops
from twisted_mta.delivery.smtp_agent import SmtpAgent
from twisted_mta.mail.envelope import Delivery, Message, Recipient
from twisted_mta.testing.dns import FakeResolver
from twisted_mta.testing.network import MemoryNetwork
from twisted_mta.testing.peer import Behaviour, PeerFactory

BODY = b"Subject: hi\r\n\r\nHello.\r\n"
PUBLIC = "93.184.216.34"
PUBLIC2 = "93.184.216.35"


@attrs.define
class Content:
    """An IContent; ``pieces`` of more than one are not whole."""

    pieces: Sequence[bytes]
    broken: Exception | None = None
    reads: int = 0
    plain: bool = False

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))

    @property
    def whole(self) -> bytes | None:
        return self.pieces[0] if len(self.pieces) == 1 and self.broken is None else None

    @property
    def chunks(self) -> int:
        return len(self.pieces)

    def read(self, chunk: int) -> Deferred[bytes]:
        self.reads += 1
        return fail(self.broken) if self.broken else succeed(self.pieces[chunk])


def make_job(
    *recipients: str,
    destination: str = "smtp:example.org",
    content: Content | bytes = BODY,
    sender: str = "sender@isp.example",
    **message: Any,
) -> Job:
    """A job for these recipients."""
    addresses = recipients or ("rcpt@example.org",)
    if isinstance(content, bytes):
        content = Content([content])
    return Job(
        Message(
            id="0123456789abcdef",
            arrived=0.0,
            sender=sender,
            recipients=len(addresses),
            size=content.size,
            chunks=content.chunks,
            expires=1e9,
            **message,
        ),
        Delivery(
            id="0123456789abcdef",
            destination=destination,
            customer="",
            recipients=tuple(Recipient(one, one) for one in addresses),
            next_attempt=60.0,
        ),
        content,
    )


def settings(**relay: Any) -> Settings:
    """Settings with these of ``[relay]``."""
    return Settings(hostname="mta.isp.example", relay=Relay(**relay))


class Scene:
    """An SmtpAgent, a DNS in which example.org has two MX hosts, and a peer at each."""

    def __init__(self, behaviour: Behaviour | None = None, second: Behaviour | None = None, **relay: Any) -> None:
        self.first = PeerFactory(behaviour)
        self.second = PeerFactory(second)
        self.network = MemoryNetwork({(PUBLIC, 25): self.first, (PUBLIC2, 25): self.second})
        self.resolver = FakeResolver(
            {
                "example.org": {"MX": ["10 mx1.example.org.", "20 mx2.example.org."]},
                "mx1.example.org": {"A": [PUBLIC]},
                "mx2.example.org": {"A": [PUBLIC2]},
            }
        )
        self.settings = settings(**relay)
        self.events: list[Any] = []
        self.agent = SmtpAgent(
            self.settings,
            self.resolver,
            self.network,
            self.events.append,
            hops=NextHops(self.settings, self.resolver, random.Random(1), lambda address: False),
        )

    def start(self, job: Job) -> Deferred[Sequence[Result]]:
        """Begin a delivery and let what can happen at once happen."""
        started = Deferred.fromCoroutine(self.agent.deliver(job))
        self.network.flush()
        return started

    def deliver(self, job: Job) -> Sequence[Result]:
        """A delivery that needs no time."""
        return outcome(self.start(job))

    def wait(self, seconds: float) -> None:
        """Let time pass, and what comes of it happen."""
        self.network.advance(seconds)
        self.network.flush()


def outcome(deferred: Deferred[Any]) -> Any:
    """What a Deferred fired with; an error if it has not."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    assert results, "the delivery is still under way"
    if hasattr(results[0], "raiseException"):
        results[0].raiseException()
    return results[0]


TWO = ("x@example.org", "y@example.org")


def said(results: Sequence[Result]) -> list[str]:
    """The codes, and whose they are."""
    return [f"{one.reply.code} {one.reply.status}{'' if one.remote else ' ours'}" for one in results]
