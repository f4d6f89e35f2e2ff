"""The structured events: one per step of a message's walk, each with the message id, as values.

They are made once and go to every sink: the event log (JSON lines or text), the metrics, and the history that
``mta trace`` reads.  Times are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    """What all events share: when it happened."""

    time: float


class Connected(Event, frozen=True, tag="connect"):
    """A client opened a session; ``session`` names it in later events.  ``proxy``: the host that said so by XCLIENT,
    ``here`` where it says that the client had connected to."""

    session: str
    client: str
    port: int
    listener: str
    role: str
    proxy: str = ""
    here: str = ""


class Disconnected(Event, frozen=True, tag="disconnect"):
    """A session ended.  ``reason``: "quit", "lost", "timeout", "refused", "tls", "shutdown", "overload", "xclient"
    (it goes on as another's) or "error"."""

    session: str
    client: str
    listener: str
    reason: str
    seconds: float
    commands: int = 0
    messages: int = 0
    errors: int = 0


class Authenticated(Event, frozen=True, tag="auth"):
    """A client proved to be ``user``."""

    session: str
    client: str
    listener: str
    user: str
    customer: str
    mechanism: str


class AuthFailed(Event, frozen=True, tag="auth-failed"):
    """A client's credentials were refused, or could not be checked (``temporary``)."""

    session: str
    client: str
    listener: str
    user: str
    mechanism: str
    reply: str
    temporary: bool = False


class Rejected(Event, frozen=True, tag="reject"):
    """A command was refused by policy, quota or a fault.  ``stage``: connect, helo, mail, rcpt, data, content,
    etrn."""

    session: str
    client: str
    listener: str
    stage: str
    reply: str
    helo: str = ""
    sender: str = ""
    recipient: str = ""
    user: str = ""
    customer: str = ""
    limit: str = ""
    hostname: str = ""


class TlsFailed(Event, frozen=True, tag="tls-failed"):
    """A TLS handshake with a client broke."""

    session: str
    client: str
    listener: str
    reason: str


class Overloaded(Event, frozen=True, tag="overload"):
    """So many connections were ``refused`` with 421 before their sessions began, within a second or so, because they
    had waited too long to be accepted; the longest for ``waited`` seconds.  ``clients``: the busiest of them, with how
    many were theirs."""

    listener: str
    refused: int
    waited: float
    clients: dict[str, int] = {}


class Accepted(Event, frozen=True, tag="accept"):
    """A message is committed and synced: the 250 may go out.  ``seconds`` is MAIL to commit.  ``requiretls`` is
    "required" or "optional" where the sender said so (RFC 8689).  ``release`` and the rest are what was asked of the
    queue (:class:`~twisted_mta.mail.envelope.Handling`)."""

    id: str
    session: str
    client: str
    listener: str
    helo: str
    protocol: str
    sender: str
    recipients: tuple[str, ...]
    size: int
    seconds: float = 0.0
    user: str = ""
    customer: str = ""
    message_id: str = ""
    tls: str = ""
    mechanism: str = ""
    hostname: str = ""
    requiretls: str = ""
    release: float = 0.0
    deliver_by: float = 0.0
    by_mode: str = ""
    priority: int = 0
    certificate: str = ""
    """SHA-256 fingerprint of what the client has shown under TLS."""


class Routed(Event, frozen=True, tag="route"):
    """Where the recipients of a message go: destination -> addresses.  ``expanded``: alias -> targets."""

    id: str
    destinations: dict[str, tuple[str, ...]]
    expanded: dict[str, tuple[str, ...]] = {}


class Outcome(Event, frozen=True):
    """What all ends of one attempt for one recipient share.

    ``relay`` is "host[address]:port", or "maildir" and its like; ``delay`` is seconds since arrival; ``seconds`` is
    how long this attempt took; ``reply`` is the last word of the other side or of ourselves.
    """

    id: str
    recipient: str
    destination: str
    relay: str
    status: str
    reply: str
    attempt: int
    delay: float
    original: str = ""
    seconds: float = 0.0
    tls: str = ""
    sender: str = ""
    customer: str = ""
    size: int = 0


class Delivered(Outcome, frozen=True, tag="deliver"):
    """The next hop, or the mailbox, took it.  ``file`` names the Maildir file; ``report`` is the id of the DSN that the
    sender asked for (RFC 3461), "" for none; ``converted`` is "7bit" or "8bit" where the content was changed into that
    for a server that takes no more (RFC 6152 §3)."""

    file: str = ""
    report: str = ""
    converted: str = ""


class Deferred(Outcome, frozen=True, tag="defer"):
    """This attempt failed for now; ``next_attempt`` is when the next one is due."""

    next_attempt: float = 0.0


class Bounced(Outcome, frozen=True, tag="bounce"):
    """Delivery failed for good.  ``expired``: it was deferred until the lifetime was over.  ``report``: the id of the
    DSN that tells the sender, "" where none is due (null sender), with ``fate`` saying what became of it."""

    expired: bool = False
    report: str = ""
    fate: str = ""


class Delayed(Event, frozen=True, tag="delay-warning"):
    """The sender was told that delivery is late; ``report`` is the id of that DSN."""

    id: str
    recipients: tuple[str, ...]
    report: str


class Operator(Event, frozen=True, tag="operator"):
    """An operator did ``action`` (retry, hold, release, bounce, remove) to a delivery, or a client had it tried (run).
    ``who``: the login."""

    id: str
    action: str
    who: str
    recipients: tuple[str, ...] = ()


class Reported(Event, frozen=True, tag="report"):
    """A report of our own (a DSN) was queued as ``id`` about message ``about``."""

    id: str
    about: str
    kind: str
    sender: str
    recipients: tuple[str, ...]
    size: int = 0


class Done(Event, frozen=True, tag="done"):
    """No recipient of the message is left in the queue."""

    id: str
    seconds: float = 0.0


class Service(Event, frozen=True, tag="service"):
    """The service itself: start, ready, reload, reload-failed, stop, disk-low, disk-ok, map-grown …"""

    what: str
    detail: str = ""


AnyEvent = (
    Connected
    | Disconnected
    | Authenticated
    | AuthFailed
    | Rejected
    | TlsFailed
    | Overloaded
    | Accepted
    | Routed
    | Delivered
    | Deferred
    | Bounced
    | Delayed
    | Operator
    | Reported
    | Done
    | Service
)
HistoryEvent = Accepted | Routed | Delivered | Deferred | Bounced | Delayed | Operator | Reported | Done

EventSink = Callable[[AnyEvent], None]
"""Takes an event, never raises and never blocks."""


def no_events(event: AnyEvent) -> None:
    """An :data:`EventSink` that drops all."""
