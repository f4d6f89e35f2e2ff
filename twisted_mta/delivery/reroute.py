"""Whether what was queued for one destination still goes there."""

from __future__ import annotations

import msgspec

from ..mail.envelope import Delivery, Recipient
from ..mail.events import Routed
from ..mail.status import Reply
from ..queue.interfaces import IRouter


class Rerouted(msgspec.Struct, frozen=True):
    """A changed route: the deliveries to put in place of the old one, and recipients that have no route any more."""

    deliveries: tuple[Delivery, ...]
    refused: tuple[tuple[Recipient, Reply], ...]
    event: Routed


async def reroute(router: IRouter, delivery: Delivery, now: float) -> Rerouted | None:
    """Ask the router again; None if nothing has changed.  Fails with MailError as the router does.

    A recipient that still goes to the same address at the same destination stays as it is, whatever else an alias of
    that address may have come to mean since the message was accepted.
    """
    routing = await router.route(delivery.recipients, delivery.customer)
    staying: set[str] = set()
    for part in routing.deliveries:
        if part.destination == delivery.destination:
            staying.update(recipient.address for recipient in part.recipients)
    moved = tuple(recipient for recipient in delivery.recipients if recipient.address not in staying)
    if not moved:
        return None
    if len(moved) < len(delivery.recipients):
        routing = await router.route(moved, delivery.customer)
    parts: dict[str, tuple[Recipient, ...]] = {}
    stayed = tuple(recipient for recipient in delivery.recipients if recipient.address in staying)
    if stayed:
        parts[delivery.destination] = stayed
    for part in routing.deliveries:
        parts[part.destination] = (*parts.get(part.destination, ()), *part.recipients)
    deliveries = tuple(
        msgspec.structs.replace(delivery, destination=destination, recipients=recipients, next_attempt=now)
        for destination, recipients in parts.items()
    )
    event = Routed(
        time=now,
        id=delivery.id,
        destinations={name: tuple(recipient.address for recipient in them) for name, them in parts.items()},
        expanded=routing.expanded,
    )
    return Rerouted(deliveries, routing.refused, event)
