"""Messages, charges and stores for the tests of the queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.task import Clock

from twisted_mta.config.settings import Queue, Size
from twisted_mta.mail.envelope import Delivery, Lane, Message, Recipient
from twisted_mta.mail.events import AnyEvent, Delivered, HistoryEvent, Reported
from twisted_mta.queue.interfaces import (
    Charge,
    Claim,
    IIncoming,
    IMessageStore,
    Limits,
    NewDelivery,
    NewMessage,
    Settlement,
)

NOON = 1_800_000_000.0
DESTINATION = "smtp:example.org"
CUSTOMER = "acme"
LANE = Lane(DESTINATION, CUSTOMER)
SETTINGS = Queue(disk_reserve=Size(0), map_size=Size(16 << 20))


def clock() -> Clock:
    """A clock at a fixed noon."""
    memory = Clock()
    memory.advance(NOON)
    return memory


def recipients(*addresses: str) -> tuple[Recipient, ...]:
    return tuple(Recipient(address, address) for address in addresses)


def delivery(destination: str = DESTINATION, *addresses: str) -> NewDelivery:
    return NewDelivery(destination, recipients(*(addresses or (f"user@{destination.partition(':')[2]}",))))


def message(mid: str, **facts: Any) -> Message:
    values: dict[str, Any] = {
        "id": mid,
        "arrived": NOON,
        "sender": "sender@acme.example",
        "recipients": 1,
        "size": 0,
        "chunks": 0,
        "expires": NOON + 432000,
        "customer": CUSTOMER,
    }
    return Message(**{**values, **facts})


def charge(limits: Limits | None = None, count: int = 1, size: int = 0, customer: str = CUSTOMER) -> Charge:
    return Charge(customer=customer, recipients=count, bytes=size, limits=limits or Limits())


def new(
    mid: str,
    *deliveries: NewDelivery,
    at: float = NOON,
    armed: bool = False,
    limits: Limits | None = None,
    story: Sequence[HistoryEvent] = (),
    lane_customer: str = CUSTOMER,
    **facts: Any,
) -> NewMessage:
    parts = deliveries or (delivery(),)
    count = sum(len(part.recipients) for part in parts)
    return NewMessage(
        message=message(mid, recipients=count, **facts),
        deliveries=parts,
        next_attempt=at,
        charge=charge(limits, count) if limits is not None else None,
        story=tuple(story),
        lane_customer=lane_customer,
        armed=armed,
    )


async def send(store: IMessageStore, *deliveries: NewDelivery, content: bytes = b"text", **facts: Any) -> str:
    """Have a message accepted; its id."""
    incoming: IIncoming = store.incoming()
    await fill(incoming, content)
    await incoming.commit(new(incoming.id, *deliveries, **facts))
    return incoming.id


async def fill(incoming: IIncoming, content: bytes, piece: int = 65536) -> None:
    """Write content as a transport does, pausing where it is asked to."""
    for at in range(0, len(content), piece):
        pause = incoming.write(content[at : at + piece])
        if pause is not None:
            await pause


async def claim(store: IMessageStore, lane: Lane = LANE, now: float = NOON, limit: int = 100) -> list[Claim]:
    """Claim what is due, armed for a minute later."""
    claims: list[Claim] = await store.claim(lane, now, limit, lambda _: now + 60)
    return claims


async def content_of(store: IMessageStore, mid: str) -> bytes:
    """All of a message's content."""
    found = store.message(mid)
    assert found is not None
    return b"".join([await store.read(mid, number) for number in range(found.chunks)])


def delivered(it: Delivery, when: float = NOON) -> Delivered:
    return Delivered(
        time=when,
        id=it.id,
        recipient=it.recipients[0].address,
        destination=it.destination,
        relay="mx.example[192.0.2.1]:25",
        status="2.0.0",
        reply="250 2.0.0 Ok",
        attempt=it.attempts,
        delay=1.0,
    )


def settlement(it: Delivery, *remaining: Delivery, **more: Any) -> Settlement:
    return Settlement(delivery=it, remaining=remaining, story=(delivered(it),), **more)


def report(store: IMessageStore, about: str, to: str = "sender@acme.example") -> NewMessage:
    """A DSN about a message."""
    mid = store.new_id()
    domain = to.partition("@")[2]
    return NewMessage(
        message=message(mid, sender="", kind="dsn", customer=""),
        deliveries=(delivery(f"maildir:{domain}", to),),
        next_attempt=NOON,
        story=(Reported(time=NOON, id=mid, about=about, kind="failure", sender="", recipients=(to,)),),
    )


class Sink(list[AnyEvent]):
    """An event sink that keeps everything."""

    def __call__(self, event: AnyEvent) -> None:
        self.append(event)

    def named(self, name: type[AnyEvent]) -> list[Any]:
        return [event for event in self if isinstance(event, name)]
