"""What the parent and its workers say to each other, as AMP commands over a socket pair.

Both ends are the same version of the same program, started by the same parent; nobody else can reach the socket.
"""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.protocols import amp

from ..config.settings import Settings

_MOST = 0xFFFF
"""Octets that AMP takes in one value."""


class Packed(amp.Argument):
    """A value of any type that msgspec knows, of any size: what AMP takes no more of goes under further keys."""

    def __init__(self, type_: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._decoder = msgspec.msgpack.Decoder(type_)

    def toBox(self, name: bytes, strings: dict[bytes, bytes], objects: dict[str, Any], proto: Any) -> None:  # noqa: N802
        """See :class:`twisted.protocols.amp.IArgumentType`."""
        data = msgspec.msgpack.encode(objects[name.decode()])
        strings[name] = data[:_MOST]
        for number, start in enumerate(range(_MOST, len(data), _MOST), 1):
            strings[b"%s.%d" % (name, number)] = data[start : start + _MOST]

    def fromBox(self, name: bytes, strings: dict[bytes, bytes], objects: dict[str, Any], proto: Any) -> None:  # noqa: N802
        """See :class:`twisted.protocols.amp.IArgumentType`."""
        parts = [strings[name]]
        while (part := strings.get(b"%s.%d" % (name, len(parts)))) is not None:
            parts.append(part)
        objects[name.decode()] = self._decoder.decode(b"".join(parts))


class Refused(Exception):
    """What was asked for cannot be; the words say why."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """All that a worker needs to begin.

    ``sockets`` are the names of listeners and the descriptors of their sockets; ``slots`` are the workers that have
    destinations; ``counts`` is what is open in the others: (kind, key, number).
    """

    slot: int
    settings: Settings
    pair: tuple[bytes, bytes] | None
    sockets: tuple[tuple[str, int], ...]
    slots: tuple[int, ...]
    counts: tuple[tuple[str, str, int], ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker is; ``trouble`` is "" when it is well.  ``lost``: it has lost its store, which another process can
    open anew."""

    sessions: int = 0
    under_way: int = 0
    messages: int = 0
    trouble: str = ""
    lost: bool = False
    refused: int = 0
    """Connections refused for overload since the start."""
    refused_last: float = 0.0
    """When that was last, seconds since the epoch; 0: never."""


class Family(msgspec.Struct, frozen=True):
    """One family of metrics, with its samples: (name, labels, value)."""

    name: str
    documentation: str
    type: str
    samples: tuple[tuple[str, dict[str, str], float], ...]


Entries = list[tuple[str, str, int]]
Counted = list[tuple[str, str, int, int]]

_NONE: list[tuple[bytes, Any]] = []
_REFUSED: dict[type[Exception], bytes] = {Refused: b"REFUSED"}


class Start(amp.Command):
    """Open the store, take connections; answered when that is done."""

    arguments = [(b"order", Packed(Order))]
    errors = _REFUSED


class Ping(amp.Command):
    """Does the reactor turn?"""

    arguments = _NONE
    response = [(b"report", Packed(Report))]


class Snapshot(amp.Command):
    """What the metrics are now."""

    arguments = _NONE
    response = [(b"families", Packed(list[Family]))]


class Prepare(amp.Command):
    """Be ready to take over settings and a certificate; whatever may fail fails now."""

    arguments = [(b"settings", Packed(Settings)), (b"pair", Packed(tuple[bytes, bytes] | None))]
    errors = _REFUSED


class Commit(amp.Command):
    """Take over what was prepared."""

    arguments = _NONE


class Abandon(amp.Command):
    """Forget what was prepared."""

    arguments = _NONE


class Reopen(amp.Command):
    """Open the event log again."""

    arguments = _NONE


class Retire(amp.Command):
    """Take no more connections, and end when the sessions have."""

    arguments = _NONE


class Stop(amp.Command):
    """Finish what is under way, and end."""

    arguments = _NONE


class Divide(amp.Command):
    """These workers have destinations from now on."""

    arguments = [(b"slots", Packed(tuple[int, ...]))]
    requiresAnswer = False  # noqa: N815 - Twisted's name


class Due(amp.Command):
    """These lanes (destination, customer, priority) are due, are to be tried even where the destination seems dead or
    not, and have had so many new deliveries just now: to the parent, and from it to whose they are."""

    arguments = [(b"lanes", Packed(list[tuple[str, str, int, bool, int]]))]
    requiresAnswer = False  # noqa: N815


class Counts(amp.Command):
    """So many are open, as (kind, key, number): in this worker, to the parent; in the others, from it."""

    arguments = [(b"entries", Packed(Entries))]
    requiresAnswer = False  # noqa: N815


class Attempts(amp.Command):
    """Logins: (address, user, 1 for a good one): to the parent, and from it to the others."""

    arguments = [(b"entries", Packed(Entries))]
    requiresAnswer = False  # noqa: N815


class Rates(amp.Command):
    """What has happened that rates count, as :data:`..policy.rates.Tell` has it: to the parent, and from it to the
    others."""

    arguments = [(b"entries", Packed(Counted))]
    requiresAnswer = False  # noqa: N815
