"""Where mail goes, for how long it is tried, and how much of it a customer may send."""

from __future__ import annotations

from typing import Literal

import attrs

from ..kinds import (
    DAY,
    GIB,
    HOUR,
    MIB,
    MINUTE,
    Count,
    Domain,
    Duration,
    Fingerprint,
    MaybeDomain,
    MaybeEndpoint,
    MaybeHostPort,
    MaybeMailbox,
    Network,
    Port,
    Positive,
    Server,
    Size,
)


@attrs.frozen(kw_only=True)
class Relay:
    """Mail that leaves for other hosts."""

    networks: tuple[Network, ...] = ()
    """Networks whose clients may relay without a password, such as "192.0.2.0/24"."""
    certificates: tuple[Fingerprint, ...] = ()
    """SHA-256 fingerprints of certificates whose holders may relay without a password, from wherever they come, over a
    listener of role "mx" with ``client_certificates``.  Who signed one, and until when, makes no difference."""
    smarthost: MaybeHostPort = ""
    """"host:port" through which all relayed mail goes; empty: the MX of the recipient's domain."""
    port: Port = 25
    """The port of the hosts that MX names."""
    hostname: MaybeDomain = ""
    """The name we give in EHLO; empty: ``hostname``."""
    tls: Literal["none", "may", "encrypt"] = "may"
    """STARTTLS to other hosts: never, when offered (any certificate, RFC 7435), or always (else the mail waits)."""
    connections: Positive = 500
    """Connections out at once, over all destinations."""
    connections_per_destination: Positive = 20
    """Connections at once to one destination."""
    recipients_per_transaction: Positive = 100
    """Recipients of one message in one transaction."""
    messages_per_connection: Positive = 100
    """Messages on one connection before it is closed."""
    idle: Duration = Duration(5.0)
    """How long a connection is kept open for the next message of its destination."""
    tls_optional: bool = True
    """Whether a message with "TLS-Required: No" in its header (RFC 8689 §3) goes in clear to hosts without TLS when
    ``tls`` is "encrypt"; that is how people report that TLS is broken somewhere."""
    ca: str = ""
    """PEM file of the authorities that may sign other hosts' certificates, where those have to be valid: for mail that
    came with REQUIRETLS (RFC 8689); empty: the system's."""
    refuse_null_mx: bool = True
    """Whether a recipient whose domain has a null MX (RFC 7505) is refused with 556 at RCPT, rather than bounced; a
    client waits for the DNS a second at most.  Has no effect with a smarthost."""
    private_addresses: bool = False
    """Whether a public domain's MX may point to loopback and private addresses; for closed networks and tests."""


@attrs.frozen(kw_only=True)
class Local:
    """Mail for our own domains."""

    domains: tuple[Domain, ...] = ()
    """Domains of ours besides those that the directory has."""
    mailbox: str = "{state_dir}/mail/{domain}/{user}/Maildir"
    """The Maildir of a mailbox; ``{state_dir}``, ``{domain}`` and ``{user}`` are filled in."""
    lmtp: MaybeEndpoint = ""
    """"host:port" or "unix:/path" of an LMTP server that keeps the mailboxes instead (RFC 2033); empty: Maildirs."""
    detail_delimiter: str = "+"
    """What divides a mailbox from a detail in ``user+detail@domain``; empty: nothing does (RFC 5233)."""
    postmaster: MaybeMailbox = ""
    """Where "postmaster" of our domains and double bounces go: an address; empty: each domain's own postmaster
    mailbox, and double bounces are dropped on record."""


@attrs.frozen(kw_only=True)
class Queue:
    """How long and how often delivery is tried, and how the store behaves."""

    lifetime: Duration = Duration(5 * DAY)
    """How long a deferred recipient is tried before it bounces (RFC 5321 §4.5.4.1)."""
    dsn_lifetime: Duration = Duration(1 * DAY)
    """The same for reports of our own."""
    retry: tuple[Duration, ...] = (
        Duration(1 * MINUTE),
        Duration(5 * MINUTE),
        Duration(15 * MINUTE),
        Duration(30 * MINUTE),
        Duration(1 * HOUR),
        Duration(2 * HOUR),
    )
    """The waits between attempts; the last repeats.  Each is made up to a fifth longer at random."""
    delay_warning: Duration = Duration(4 * HOUR)
    """When a sender is told that delivery is late; 0s: never."""
    history: Duration = Duration(7 * DAY)
    """How long ``mta trace`` knows a message that has left the queue."""
    sync: Literal["always", "never"] = "always"
    """Whether a commit is on disk before it is acknowledged; "never" loses mail in a power cut, and is for tests."""
    map_size: Size = Size(1 * GIB)
    """The first size of the store's map; it grows by itself."""
    disk_reserve: Size = Size(256 * MIB)
    """Free disk below which new mail is refused with 452 4.3.1; what is queued keeps moving."""
    memory: Size = Size(64 * MIB)
    """Content of new messages kept in memory on its way to its first attempt."""


@attrs.frozen(kw_only=True)
class Quota:
    """Limits of one customer; "none" in the file is no limit."""

    recipients_per_hour: Count | None = 1000
    """Recipients in any 60 minutes."""
    recipients_per_day: Count | None = 5000
    """Recipients in any 24 hours."""
    messages_per_hour: Count | None = None
    """Messages in any 60 minutes."""
    messages_per_day: Count | None = None
    """Messages in any 24 hours."""
    queued_messages: Count | None = 10000
    """Messages in the queue at once."""
    queued_bytes: Size | None = Size(1 * GIB)
    """Octets in the queue at once."""
    message_bytes: Size | None = Size(50 * MIB)
    """The largest message."""
    connections: Count | None = 50
    """Authenticated sessions at once."""


@attrs.frozen(kw_only=True)
class Dns:
    """Where names are looked up."""

    servers: tuple[Server, ...] = ()
    """"address" or "address:port" of resolvers, asked in turn; empty: the system's (/etc/resolv.conf)."""
    timeout: Duration = Duration(5.0)
    """How long one question to one server may take."""
    attempts: Positive = 3
    """How often a question is asked before it counts as failed for now."""
    cache: Count = 10000
    """Answers kept, each as long as its TTL allows."""
    trust_ad: bool = False
    """Whether ``servers`` validate DNSSEC and are reached over loopback or a network that nobody else can write into,
    so that their word (the AD bit) counts; without it mail with REQUIRETLS goes by no MX (RFC 8689 §4.2.1)."""
