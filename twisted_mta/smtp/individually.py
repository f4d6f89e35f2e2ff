"""Which recipients of one message are not taken while others are: in LMTP each is answered for itself (RFC 2033 §4.2).

In SMTP there is one reply for all, so a recipient that turns out to lead nowhere bounces later; here it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..mail.address import lookup_key
from ..mail.envelope import Recipient
from ..mail.status import MailError, Reply
from ..queue.interfaces import Routing


def unroutable(recipients: Sequence[Recipient], routing: Routing) -> dict[str, Reply]:
    """The recipients of whom nothing was routed, and why.  Of an alias that is some of its targets can be reached."""
    targets = {lookup_key(alias): ends for alias, ends in routing.expanded.items()}
    found: dict[str, Reply] = {}
    for recipient in recipients:
        address = recipient.address
        why = {lookup_key(one.address): reply for one, reply in routing.refused if one.original == address}
        if why and _all_refused(lookup_key(address), why, targets):
            found[address] = next(iter(why.values()))
    return found


def _all_refused(start: str, why: Mapping[str, Reply], targets: Mapping[str, Sequence[str]]) -> bool:
    if start in why:
        return True
    seen, waiting = {start}, [start]
    while waiting:
        for target in targets.get(waiting.pop(), ()):
            key = lookup_key(target)
            if key in seen:
                if key == start:  # the copy that an alias keeps for itself
                    return False
                continue
            seen.add(key)
            if key in targets:
                waiting.append(key)
            elif key not in why:
                return False
    return True


def without(
    refused: Mapping[str, Reply], recipients: Sequence[Recipient], routing: Routing
) -> tuple[tuple[Recipient, ...], Routing]:
    """The others, and their routing.  Raises :class:`~twisted_mta.mail.status.MailError` when there are none."""
    taken = tuple(recipient for recipient in recipients if recipient.address not in refused)
    if not taken:
        raise MailError(next(iter(refused.values())))
    left = tuple((one, reply) for one, reply in routing.refused if one.original not in refused)
    return taken, msgspec.structs.replace(routing, refused=left)
