"""What the receiving side takes from whom: limits, defence against harm, and extensions."""

from __future__ import annotations

from typing import Literal

import attrs

from ..kinds import DAY, KIB, MIB, MINUTE, Count, DnsListText, Duration, Network, Positive, Priority, Size


@attrs.frozen(kw_only=True)
class Smtp:
    """Limits of the receiving side.  They hold for every session, whoever it is."""

    banner: str = ""
    """Words after the host name in the greeting; empty: "ESMTP"."""
    recipients: Positive = 1000
    """Recipients in one transaction; RFC 5321 §4.5.3.1.8 asks for 100 at least."""
    message_bytes: Size = Size(50 * MIB)
    """The largest message anybody may send; shown as SIZE (RFC 1870)."""
    header_bytes: Size = Size(256 * KIB)
    """The largest header section."""
    hops: Positive = 100
    """Received fields after which a message is taken to loop; RFC 5321 §6.3 asks for 100 at least."""
    commands: Positive = 10000
    """Commands in one session before it is ended, with 421 for the next one.  A transaction under way is finished
    first, with as many commands again at most."""
    errors: Positive = 20
    """Refused commands in one session before it is ended."""
    connections: Positive = 2000
    """Sessions at once over all listeners."""
    connections_per_address: Positive = 100
    """Sessions at once from one IPv4 address or IPv6 /64; ``relay.networks`` and ``defence.exempt`` are exempt."""
    timeout: Duration = Duration(5 * MINUTE)
    """How long a client may be silent (RFC 5321 §4.5.3.2.7)."""
    overload_timeout: Duration = Duration(10.0)
    """The same for strangers while more than four fifths of ``connections`` are open; users and ``relay.networks`` keep
    the other."""
    accept_wait: Duration = Duration(1.0)
    """How long a connection may wait until there is time for its session: who has waited longer is told 421 at once,
    rather than served when it has given up.  Where the line has had no end for a second, the bound is a fifth of this.
    Users' listeners, ``relay.networks`` and ``defence.exempt`` may wait three times as long, so strangers go first.
    0s: nobody is refused for that."""
    bare_newline: Literal["reject", "replace"] = "reject"
    """What to do with a CR or LF that is not part of CRLF inside a message: refuse the message, or store CRLF
    in its place.  In neither case does it end a line of the dialogue or the message."""
    verify_networks: tuple[Network, ...] = ()
    """Networks whose clients hear by VRFY whether there is a mailbox, and by EXPN for whom an alias stands (RFC 5321
    §3.5).  Others hear 252 and 502: who may ask has soon asked for everybody (§7.3)."""
    auth_attempts: Positive = 3
    """Failed authentications in one session before it is ended."""
    auth_delay: Duration = Duration(1.0)
    """How long the answer to the first failed authentication is delayed; doubles with each further one of the
    same address or user, up to 30 seconds."""


@attrs.frozen(kw_only=True)
class Defence:
    """What is done against clients that do harm.  Rates by address are those of an IPv4 address or an IPv6 /64 and
    hold for who has not authenticated, rates by customer for who has.  Beyond a rate a client is answered late, later
    the further it is beyond; at twice the rate it is turned away with 421 until it has fallen below.
    They hold over all ``workers``, but for what comes within a twentieth of a second."""

    exempt: tuple[Network, ...] = ("127.0.0.0/8", "::1/128")
    """Networks whose clients none of this is done to, such as those of a monitor; ``relay.networks`` are exempt too."""
    connections_per_minute: Positive | None = 300
    """Connections from one address in a minute; "none" is no limit."""
    messages_per_minute: Positive | None = 600
    """Messages from one address in a minute."""
    commands_per_minute: Positive | None = 10000
    """Commands from one address in a minute."""
    errors_per_minute: Positive | None = 60
    """Refused commands from one address in a minute."""
    auth_failures_per_hour: Positive | None = 60
    """Failed logins from one address in an hour.  An address from which a user has logged in within the last day is
    slowed (``smtp.auth_delay``) but never turned away for them."""
    customer_connections_per_minute: Positive | None = 600
    """Sessions of one customer in a minute."""
    customer_messages_per_minute: Positive | None = None
    """Messages of one customer in a minute; ``[quota.default]`` has the longer limits."""
    customer_commands_per_minute: Positive | None = None
    """Commands of one customer in a minute."""
    customer_errors_per_minute: Positive | None = 600
    """Refused commands of one customer in a minute."""
    greeting_delay: Duration = Duration(2.0)
    """How long a stranger on a listener of role "mx" waits for the greeting; one that speaks before it is turned away.
    Who has handed in a message within the last week does not wait.  0s: nobody does."""
    check_helo: bool = True
    """Whether a stranger must call itself by a well-formed domain name or its own address literal, and not by our
    name (RFC 5321 §4.1.1.1)."""
    reverse_dns: bool = True
    """Whether the name of a client's address is looked up for Received and the log; nobody waits for it."""
    dns_lists: tuple[DnsListText, ...] = ()
    """DNS block and allow lists (RFC 5782) that strangers on a listener of role "mx" are looked up in, each written
    "zone", "zone*weight" or "zone=answers*weight", such as "bl.isp.example=127.0.0.2/31,127.0.0.10*2" and
    "good.isp.example*-3"."""
    dns_list_threshold: Positive = 1
    """A client is refused when the weights of the lists that have it add up to this; postmaster takes mail from all."""
    dns_list_timeout: Duration = Duration(5.0)
    """How long after the connection a list may answer before it counts as not having the client."""
    tarpit: Duration = Duration(15.0)
    """How late a client just below twice a rate is answered; also the longest pause after a refused command of a
    stranger, which grows from the eleventh one on.  0s: never late."""


@attrs.frozen(kw_only=True)
class Greylist:
    """Whether strangers on a listener of role "mx" are asked to come again with their first message (RFC 6647)."""

    enabled: bool = False
    """Whether they are.  Users, ``relay.networks``, ``defence.exempt`` and who is on an allow list never are."""
    delay: Duration = Duration(5 * MINUTE)
    """How long after the first attempt the next one is welcome."""
    retry_within: Duration = Duration(2 * DAY)
    """How long after the first attempt it must come; later ones count as first."""
    remember: Duration = Duration(36 * DAY)
    """How long a site (IPv4 /24, IPv6 /64), sender and recipient that have come again are known since their last
    message."""
    allow_after: Count = 5
    """With so many such senders and recipients a site is welcome with all its mail; 0: never."""
    entries: Positive = 1_000_000
    """How much is remembered, at about 250 octets each on disk; what expires first makes room."""


@attrs.frozen(kw_only=True)
class Extensions:
    """What clients may ask for beyond delivery, by extensions of SMTP."""

    future_release: Duration = Duration(30 * DAY)
    """How far ahead users may date the release of a message (FUTURERELEASE, RFC 4865) on a listener of role
    "submission"; it counts for their quotas from the start.  0s: not offered."""
    deliver_by: bool = True
    """Whether a client may say by when a message has to be delivered, and whether it is returned or the sender told if
    it is not (DELIVERBY, RFC 2852)."""
    deliver_by_minimum: Duration = Duration(0)
    """The shortest time after which a message may have to be returned; told to clients."""
    mt_priority: bool = True
    """Whether a client may say how urgent a message is, from -9 to 9 (MT-PRIORITY, RFC 6710).  Who has not logged in
    and is in none of ``relay.networks`` may only ask for less than usual."""
    highest_priority: Priority = 9
    """The highest priority that anybody gets."""
    etrn: tuple[Literal["users", "networks"], ...] = ("users", "networks")
    """Who may have the mail that waits for a domain tried at once (ETRN, RFC 1985): users, for domains that the
    directory has as their customer's, and clients in ``relay.networks`` on a listener of role "mx", for any.  Empty:
    nobody."""
    etrn_interval: Duration = Duration(MINUTE)
    """How long after that the same domain may be asked for again."""
