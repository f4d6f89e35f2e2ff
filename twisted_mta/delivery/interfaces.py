"""Between the scheduler and the agents that carry mail out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from ..mail.envelope import Delivery, Message, Recipient
from ..mail.status import Reply


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended for one recipient.

    ``reply`` decides: 2yz is delivered (or relayed), 4yz is deferred, 5yz bounces.  ``host`` is the remote MTA's name
    where it was the remote that spoke ("" when we never got that far), ``relay`` is "host[address]:port" or the
    agent's own word for the place; ``remote``: the reply's text is the remote's (RFC 3464 §2.3.6 Diagnostic-Code
    smtp) and not ours.  ``file`` is the Maildir file's path.  ``reused``: on a connection opened for earlier mail.
    ``action`` is what a 2yz means: in the mailbox; given to a next hop that sends no reports of success (RFC 3461
    §5.2.2); or to one that has to send them now (§5.2.1).  ``timed``: the next hop sees to RFC 2852's time now.
    ``converted``: to "7bit" or "8bit" MIME, "" if the content went as it was.
    """

    recipient: Recipient
    reply: Reply
    relay: str = ""
    host: str = ""
    remote: bool = False
    tls: str = ""
    file: str = ""
    reused: bool = False
    seconds: float = 0.0
    action: Literal["delivered", "relayed", "passed"] = "delivered"
    timed: bool = False
    converted: str = ""


class IContent(Interface):
    """The content of one message, to be read once or more from the start.  Nothing to close."""

    size: int = Attribute("""Octets.""")
    whole: bytes | None = Attribute("""All of it, where it is small enough to be in memory; else None.""")
    chunks: int = Attribute("""How many chunks there are to read.""")
    plain: bool = Attribute("""Whether it may be sent after DATA as it is: see ``Message.plain``.""")

    def read(chunk: int) -> Deferred[bytes]:
        """One chunk.  Lines end with CRLF, unless the message is binary; chunks may end anywhere."""


class Job(msgspec.Struct, frozen=True):
    """One delivery to attempt now.  ``content`` provides :class:`IContent`."""

    message: Message
    delivery: Delivery
    content: IContent


class IDeliveryAgent(Interface):
    """Carries messages to the destinations of one kind.  Found as a ``twisted.plugin`` or made by the service."""

    name: str = Attribute("""The part of a destination before the colon: "smtp", "maildir" …""")

    async def deliver(job: Job) -> Sequence[Result]:
        """Attempt a delivery; exactly one result for each of its recipients, in their order.

        Never raises for what a network or a disk does: that is a 4yz result.  What it raises all the same defers all
        recipients and is logged as a fault of ours.  Ends within a bounded time.
        """

    def stop() -> Deferred[None]:
        """Begin nothing new; end idle connections; fire when nothing is under way."""
