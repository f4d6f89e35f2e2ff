"""Messages, recipients and deliveries as the queue keeps them and every room passes them on.

Times are seconds since the epoch, sizes are octets.  Addresses are plain ``local@domain`` strings whose domain is in
lower case and, for domains beyond ASCII, in A-labels; the local part may be beyond ASCII (RFC 6531).  The null sender
is "" (RFC 5321 §4.5.5).
"""

from __future__ import annotations

from typing import Literal

import msgspec

Body = Literal["7BIT", "8BITMIME", "BINARYMIME"]
"""What the content of a message is: text of ASCII, text beyond it (RFC 6152), or any octets (RFC 3030 §3)."""
State = Literal["queued", "held"]
Occasion = Literal["SUCCESS", "FAILURE", "DELAY"]
Return = Literal["", "FULL", "HDRS"]
RequireTls = Literal["", "required", "optional"]
"""What a sender says of TLS (RFC 8689 §4.1): nothing, REQUIRETLS at MAIL, or "TLS-Required: No" in the header."""
ByMode = Literal["", "N", "R"]

PRIORITIES = range(-9, 10)
"""The priorities of RFC 6710 §3, the highest last."""


class Recipient(msgspec.Struct, frozen=True, array_like=True):
    """One recipient: where the mail goes now, and what the sender wrote before aliases were expanded.

    ``notify`` and ``orcpt`` are RFC 3461's NOTIFY (upper case) and ORCPT (in xtext, as given), "" where not given.
    """

    address: str
    original: str
    notify: str = ""
    orcpt: str = ""

    def wants(self, occasion: Occasion) -> bool:
        """Whether the sender is to be told of this.  Without NOTIFY: of failures and delays (RFC 3461 §4.1)."""
        return occasion in self.notify if self.notify else occasion != "SUCCESS"


class Handling(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a sender asks of the queue beyond delivery, kept only where it asks anything.

    ``release``: not to be delivered before (RFC 4865), 0.0 for at once; ``request`` is that wish as reports repeat it,
    "for;3600".  ``deliver_by``: the time of RFC 2852, 0.0 for none; after it a message of mode "R" is returned and the
    sender of one of mode "N" is told; ``trace``: each relay is told of.  ``priority``: RFC 6710's, from -9 to 9.
    """

    release: float = 0.0
    request: str = ""
    deliver_by: float = 0.0
    by_mode: ByMode = ""
    trace: bool = False
    priority: int = 0


class Message(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=1):
    """One accepted message without its content: the envelope and the facts of its reception.

    ``id`` is time-ordered and unique over processes and restarts.  ``customer`` is "" for mail that is nobody's
    submission (the world on port 25).  ``protocol`` is the ``with`` keyword of RFC 3848.  ``expires`` is when a
    deferred recipient is given up.  ``kind`` is "dsn" for reports of our own: a report about a report is never sent.
    ``ret`` and ``envid`` are the RET and ENVID of RFC 3461 (the latter in xtext, as given), "" where not given.
    ``utf8``: the header section has UTF-8, and came with SMTPUTF8 (RFC 6531).  ``handling``: None is the usual one.
    ``requiretls``: see :data:`RequireTls`.  ``plain``: its content has been seen to have nothing but CRLF that ends a
    line, no NUL and no line that begins with a dot, and to end with CRLF, so that it goes out after DATA as it is.
    """

    id: str
    arrived: float
    sender: str
    recipients: int
    size: int
    chunks: int
    expires: float
    body: Body = "7BIT"
    customer: str = ""
    user: str = ""
    client: str = ""
    helo: str = ""
    protocol: str = ""
    listener: str = ""
    message_id: str = ""
    kind: Literal["mail", "dsn", "local"] = "mail"
    ret: Return = ""
    envid: str = ""
    utf8: bool = False
    handling: Handling | None = None
    requiretls: RequireTls = ""
    plain: bool = False

    @property
    def priority(self) -> int:
        """RFC 6710's, from -9 to 9; 0 is the usual one."""
        return 0 if self.handling is None else self.handling.priority

    @property
    def came_late(self) -> bool:
        """Whether RFC 2852's time was over on receipt: then who sent it on has told the sender (§4.1.4 there)."""
        return self.handling is not None and 0 < self.handling.deliver_by <= self.arrived

    def age(self, now: float) -> float:
        """Seconds since it may be delivered: since its arrival, or its release where the sender has put that off."""
        release = 0.0 if self.handling is None else self.handling.release
        return now - (release if self.arrived < release <= now else self.arrived)


class Delivery(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=1):
    """The recipients of one message that share a destination, and how far their delivery has come.

    ``destination`` is ``agent:nexthop``: "smtp:example.org" (by MX), "smtp:[relay.example]:587" (a smarthost),
    "maildir:isp.example".  With ``customer`` it names the lane in which the delivery waits its turn.  ``attempts``
    counts attempts begun.  ``warned``: the sender has had a "delayed" report.  ``next_attempt`` is already armed for
    the attempt after the present one.  ``owner`` is the incarnation of the process that has it in memory, to be
    attempted or under way, 0 where none has; ``deaths`` counts the processes that died with it since its last attempt.
    the attempt after the present one.  ``priority`` is the message's.  ``release``: not to be tried before, None where
    it was never put off, or not any more.  ``overdue``: the sender has been told that RFC 2852's time is over.
    ``spared`` is the store's: the last removal that it outlived, or came after (:mod:`..queue.pending`).
    """

    id: str
    destination: str
    customer: str
    recipients: tuple[Recipient, ...]
    next_attempt: float
    state: State = "queued"
    attempts: int = 0
    last_attempt: float = 0.0
    last_reply: str = ""
    last_status: str = ""
    last_host: str = ""
    warned: bool = False
    owner: int = 0
    deaths: int = 0
    priority: int = 0
    release: float | None = None
    overdue: bool = False
    spared: int = 0

    def put_off(self, now: float) -> bool:
        """Whether its sender has dated its release, and that is still to come (RFC 4865)."""
        return self.state == "queued" and not self.attempts and (self.release or 0.0) > now

    @property
    def lane(self) -> Lane:
        """The lane this delivery waits in."""
        return Lane(self.destination, self.customer, self.priority)


class Lane(msgspec.Struct, frozen=True, array_like=True, order=True):
    """What waits for one destination on behalf of one customer, with one priority.

    Lanes are what the scheduler takes turns between: neither a slow destination nor a customer with a million
    messages for a quick one holds up another's mail.
    """

    destination: str
    customer: str
    priority: int = 0
