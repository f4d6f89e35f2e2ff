"""Messages, recipients and deliveries as the queue keeps them and every room passes them on.

Times are seconds since the epoch, sizes are octets.  Addresses are plain ``local@domain`` strings whose domain is in
lower case and, for domains beyond ASCII, in A-labels; the local part may be beyond ASCII (RFC 6531).  The null sender
is "" (RFC 5321 §4.5.5).
"""

from __future__ import annotations

from typing import Literal

import msgspec

Body = Literal["7BIT", "8BITMIME"]
State = Literal["queued", "held"]
Occasion = Literal["SUCCESS", "FAILURE", "DELAY"]
Return = Literal["", "FULL", "HDRS"]


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


class Message(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=1):
    """One accepted message without its content: the envelope and the facts of its reception.

    ``id`` is time-ordered and unique over processes and restarts.  ``customer`` is "" for mail that is nobody's
    submission (the world on port 25).  ``protocol`` is the ``with`` keyword of RFC 3848.  ``expires`` is when a
    deferred recipient is given up.  ``kind`` is "dsn" for reports of our own: a report about a report is never sent.
    ``ret`` and ``envid`` are the RET and ENVID of RFC 3461 (the latter in xtext, as given), "" where not given.
    ``utf8``: the header section has UTF-8, and came with SMTPUTF8 (RFC 6531).
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


class Delivery(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=1):
    """The recipients of one message that share a destination, and how far their delivery has come.

    ``destination`` is ``agent:nexthop``: "smtp:example.org" (by MX), "smtp:[relay.example]:587" (a smarthost),
    "maildir:isp.example".  With ``customer`` it names the lane in which the delivery waits its turn.  ``attempts``
    counts attempts begun.  ``warned``: the sender has had a "delayed" report.  ``next_attempt`` is already armed for
    the attempt after the present one.  ``owner`` is the incarnation of the process that has it in memory, to be
    attempted or under way, 0 where none has; ``deaths`` counts the processes that died with it since its last attempt.
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

    @property
    def lane(self) -> Lane:
        """The lane this delivery waits in."""
        return Lane(self.destination, self.customer)


class Lane(msgspec.Struct, frozen=True, array_like=True, order=True):
    """What waits for one destination on behalf of one customer.

    Lanes are what the scheduler takes turns between: neither a slow destination nor a customer with a million
    messages for a quick one holds up another's mail.
    """

    destination: str
    customer: str
