"""The settings, typed, frozen and with their defaults.  One class is one table of the TOML file.

The docstring under each attribute is the operator's documentation: ``docs/configuration.md`` is generated from it.
Durations are seconds, sizes are octets; in the file they are written "5d", "90s", "50MiB".  The names of
:mod:`.kinds` are plain ``str`` and ``int`` to whoever reads a setting; loading takes from them what a text or number
must look like.
"""

from __future__ import annotations

from typing import Literal, NewType, get_args

import attrs

from .kinds import (
    Count,
    DnsListText,
    Domain,
    FileMode,
    Fingerprint,
    ListenAddress,
    ListenPort,
    MaybeAddressPort,
    MaybeDomain,
    MaybeEndpoint,
    MaybeHostPort,
    MaybeMailbox,
    Network,
    Port,
    Positive,
    Priority,
    Server,
)

Duration = NewType("Duration", float)
"""Seconds.  Written "90s", "5m", "4h", "5d", "1w", or several joined: "1h30m"."""

Size = NewType("Size", int)
"""Octets.  Written "50MiB", "1GiB", "512KiB", "10MB", or a plain number."""

Role = Literal["mx", "submission", "lmtp", "nomail"]
TlsMode = Literal["none", "starttls", "implicit"]
Mechanism = Literal["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "OAUTHBEARER", "XOAUTH2", "EXTERNAL"]
Signature = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@attrs.frozen(kw_only=True)
class Listener:
    """One place where mail comes in; the table's last name is free and appears in logs and metrics."""

    address: tuple[ListenAddress, ...] = ("127.0.0.1",)
    """IP addresses to listen on; "0.0.0.0" and "::" are all of a family.  With role "lmtp" also Unix sockets, such as
    "unix:/run/twisted-mta/lmtp"."""
    port: ListenPort = 25
    """TCP port; 0 is any free one, for tests.  A Unix socket has none."""
    role: Role = "mx"
    """Who is expected: "mx" is the world bringing mail for our domains, "submission" our users handing mail in
    after authentication (RFC 6409), "lmtp" trusted programs handing in mail for our domains, which are answered for
    each recipient (RFC 2033), "nomail" nobody: whoever comes hears 521, that no mail is taken here (RFC 7504)."""
    tls: TlsMode = "starttls"
    """"none", "starttls" (RFC 3207) or "implicit" (RFC 8314)."""
    proxies: tuple[Network, ...] = ()
    """Networks of proxies, such as HAProxy's with "send-proxy-v2": a connection from there has to begin with a PROXY
    header, version 1 or 2, and is the client's that the header names.  Others are served as they are."""
    client_certificates: bool = False
    """Whether clients are asked to show a certificate under TLS, which none of them has to.  Users may log in with
    theirs by EXTERNAL (RFC 4422), if it was registered with ``mta user set --certificate``, or ``client_ca`` vouches
    for their address; with role "mx" ``relay.certificates`` may relay."""
    client_ca: str = ""
    """PEM file of the authorities that vouch for the mail addresses (subjectAltName) in clients' certificates: whoever
    they certify is that user.  If it has revocation lists too, each authority in it needs one that is in force.  A
    reload reads it again."""
    clients: tuple[Network, ...] = ()
    """Networks whose clients are served, others are refused with 554; empty: everybody, but with role "lmtp" this
    machine alone.  Who may open a Unix socket is up to its mode."""
    xclient: tuple[Network, ...] = ()
    """Networks of proxies and filters that may say by XCLIENT, as Postfix has it, for whom they speak: access, limits
    and the log are then about that client, and LOGIN (role "submission") is its user.  Others are refused with 550."""
    relay: bool = False
    """Role "lmtp" alone: whether its clients may send to domains that are not ours as well.  LMTP asks for no
    password, so this is for gateways, which ``clients`` names."""
    socket_mode: FileMode = "0660"
    """The mode of Unix sockets: who may write to one may hand in mail."""
    socket_user: str = ""
    """The owner of Unix sockets, when started by root; empty: the service's user."""
    socket_group: str = ""
    """Their group, which the service's user must belong to unless it is root that starts it, such as the one that
    Postfix runs as; empty: the service's."""


@attrs.frozen(kw_only=True)
class Tls:
    """The certificate we show.  Without one, a self-signed certificate is made and kept in ``state_dir``."""

    certificate: str = ""
    """PEM file with the certificate and its chain."""
    key: str = ""
    """PEM file with the private key."""
    minimum: Literal["1.2", "1.3"] = "1.2"
    """The oldest version of TLS that is spoken, in and out (RFC 8997)."""
    ciphers: str = ""
    """The ciphers of TLS 1.2 in OpenSSL's notation, in and out; empty: Mozilla's "intermediate" list, and behind it AES
    in CBC mode on listeners of role "mx" and to other hosts, where the alternative is clear text."""
    ciphersuites: str = ""
    """The cipher suites of TLS 1.3, with colons between; empty: all three of AES-GCM and ChaCha20."""


@attrs.frozen(kw_only=True)
class Sni:
    """A further certificate, shown to clients that ask for one of its names (SNI, RFC 6066 §3); the table's last name
    is free.  The names are read off the certificate, a wildcard stands for one label.  A reload reads it again, and
    takes over tables that were added or removed."""

    certificate: str = ""
    """PEM file with the certificate and its chain."""
    key: str = ""
    """PEM file with the private key."""


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
    """Commands in one session before it is ended."""
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
class Submission:
    """What is done to mail that users hand in (RFC 6409)."""

    mechanisms: tuple[Mechanism, ...] = (
        "PLAIN",
        "LOGIN",
        "SCRAM-SHA-256",
        "SCRAM-SHA-256-PLUS",
        "OAUTHBEARER",
        "XOAUTH2",
        "EXTERNAL",
    )
    """How users may prove who they are (RFC 4954).  SCRAM (RFC 7677) needs keys, which a user has once their password
    was set, or was checked by PLAIN or LOGIN, while one of the two was listed; until then their program has to use
    PLAIN.  Without SCRAM no keys are made: whoever steals the directory guesses at them faster than at argon2id.
    OAUTHBEARER and XOAUTH2 are offered where there is an [oauth] table, EXTERNAL to who shows a certificate of a user's
    (``listen.NAME.client_certificates``)."""
    check_sender: bool = True
    """Whether the sender must be an address that the user may use (RFC 6409 §6.1)."""
    auth_cache: Duration = Duration(10 * MINUTE)
    """How long verified credentials are remembered, under a keyed hash, before argon2 is asked again; 0s: never."""

    @property
    def scram(self) -> bool:
        """Whether users' SCRAM keys are wanted."""
        return any(name.startswith("SCRAM-") for name in self.mechanisms)


@attrs.frozen(kw_only=True)
class Checker:
    """Somebody else who checks passwords, by PLAIN and LOGIN, of users whom the directory has without one
    (`mta user add --no-password`); the table's last name is free.  They are asked in the order of the file, until one
    says that the password is right; when none does and one can't be asked, the client is told to try later."""

    kind: Literal["dovecot", "ldap", "sql"] = "dovecot"
    """Dovecot's authentication socket, a bind to an LDAP server (extra "ldap"), or a database: SQLite, or PostgreSQL
    (extra "postgresql")."""
    server: str = ""
    """Where it is: "unix:/run/dovecot/auth-client" or "host:port"; "ldaps://host" or "ldap://host", where STARTTLS is
    insisted upon but on loopback; "sqlite:/path", or a "postgresql://" address as libpq reads it, whose password
    belongs into a passfile."""
    timeout: Duration = Duration(5.0)
    """How long it may take to connect, and to answer."""
    threads: Positive = 4
    """LDAP and SQL: how many are checked at once."""
    dn: str = ""
    """LDAP: the DN of a user's entry, with {address}, {user} (before the @) and {domain}; with filter, the DN that the
    service itself searches as, empty for nobody's."""
    password_file: str = ""
    """LDAP with filter: the file with the password of ``dn``."""
    base: str = ""
    """LDAP with filter: where the search begins."""
    filter: str = ""
    """LDAP: what finds a user's one entry, such as "(&(objectClass=person)(mail={address}))"."""
    ca: str = ""
    """LDAP: PEM file of the authorities that may sign the server's certificate; empty: the system's."""
    query: str = ""
    """SQL: gives the argon2id hash for :address (or :user and :domain), or nothing; with :password in it, something
    true if the password is right, such as PostgreSQL's "SELECT crypt(:password, hash) = hash FROM ..."."""


@attrs.frozen(kw_only=True)
class OAuth:
    """An authorization server whose tokens users of the directory may log in with, by OAUTHBEARER (RFC 7628) and
    XOAUTH2; the table's last name is free.  A token that names its issuer is judged by that issuer's table alone, any
    other by each "introspection" and "tokeninfo" in the order of the file.  When the server can't be asked, the client
    is told to try later."""

    kind: Literal["jwt", "introspection", "tokeninfo"] = "jwt"
    """How a token is judged: a signed one by the server's published keys (RFC 7519), any by asking the server
    (RFC 7662), or any by GET of ``endpoint`` with "access_token=", as Google has it."""
    issuer: str = ""
    """Who must have issued the token ("iss"), such as "https://login.isp.example/realms/isp".  Its configuration (RFC
    8414, OpenID Connect Discovery) is asked for what the two settings below leave empty."""
    keys: str = ""
    """jwt: the URL or the absolute path of the key set (RFC 7517); a file is read at start and reload."""
    endpoint: str = ""
    """introspection and tokeninfo: the URL that is asked."""
    client_id: str = ""
    """introspection: who we are to the server."""
    client_secret_file: str = ""
    """introspection: the file with our password for it."""
    audience: tuple[str, ...] = ()
    """For whom a token must be ("aud"), one of these.  Without it a token that a user gave to some other service would
    do, so only introspection may leave it empty."""
    scopes: tuple[str, ...] = ()
    """What a token must allow ("scope", "scp"), all of these; shown to clients whose token does not."""
    algorithms: tuple[Signature, ...] = get_args(Signature)
    """jwt: the signatures that count."""
    user: str = "email"
    """The claim that names the user: an address that the directory has.  It must be one that users can't set for
    themselves; an "email" that the server calls unverified is refused."""
    domain: MaybeDomain = ""
    """What follows the @ where the claim is a name without one."""
    leeway: Duration = Duration(60.0)
    """How far the server's clock may be from ours."""
    timeout: Duration = Duration(5.0)
    """How long one question to the server may take, with the wait for a connection."""
    connections: Positive = 10
    """Questions to the server at once."""
    cache: Duration = Duration(5 * MINUTE)
    """introspection and tokeninfo: how long a good token is good without asking, but never beyond its end; a token that
    is revoked works that long.  0s: asked each time."""
    refresh: Duration = Duration(1 * HOUR)
    """jwt: how often the keys are fetched; also at once when a token has an unknown one, but not twice in 30 s."""
    stale: Duration = Duration(1 * DAY)
    """jwt: how long keys serve that can't be fetched again."""
    ca: str = ""
    """PEM file of the authorities that may sign the server's certificate; empty: the system's."""


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
    """How long after that the same domain may be asked for again; each of ``workers`` counts for itself."""


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


@attrs.frozen(kw_only=True)
class Admin:
    """The operator's HTTP side: /metrics, /healthz."""

    listen: MaybeAddressPort = "127.0.0.1:8025"
    """"address:port"; empty: none."""
    public: bool = False
    """Whether ``listen`` may be an address that other machines reach.  /metrics asks for no password and shows the
    names of customers and destinations, so a firewall or a proxy must stand before it."""


@attrs.frozen(kw_only=True)
class Log:
    """The event log."""

    format: Literal["text", "json"] = "text"
    """"text" reads like Postfix's log, "json" is one object a line."""
    file: str = "-"
    """Where events go; "-": standard output.  A file is reopened on SIGUSR1, for logrotate."""
    sessions: bool = True
    """Whether connects and disconnects are logged."""


def _listeners() -> dict[str, Listener]:
    return {
        "mx": Listener(port=2525, role="mx", tls="starttls"),
        "submission": Listener(port=2587, role="submission", tls="starttls"),
        "submissions": Listener(port=2465, role="submission", tls="implicit"),
    }


@attrs.frozen(kw_only=True)
class Settings:
    """Everything.  With no file at all: loopback on 2525, 2587, 2465 and 8025, state under ``./var``."""

    hostname: MaybeDomain = ""
    """Our name in greetings, EHLO, Received and reports (RFC 5321 §2.3.5); empty: the machine's."""
    state_dir: str = "./var"
    """Where the queue, the directory, mailboxes and made-up certificates live."""
    workers: int = 0
    """Worker processes that serve beside a parent that watches them; 0: one process does everything."""
    worker_timeout: Duration = Duration(30)
    """How long a worker may give no sign of life before it is killed and replaced."""
    user: str = ""
    """Whom to become once the ports are bound, when started by root; empty: stay."""
    group: str = ""
    """The group likewise; empty: the user's."""
    listen: dict[str, Listener] = attrs.Factory(_listeners)
    tls: Tls = Tls()
    sni: dict[str, Sni] = attrs.Factory(dict)
    smtp: Smtp = Smtp()
    defence: Defence = Defence()
    greylist: Greylist = Greylist()
    submission: Submission = Submission()
    checker: dict[str, Checker] = attrs.Factory(dict)
    oauth: dict[str, OAuth] = attrs.Factory(dict)
    extensions: Extensions = Extensions()
    relay: Relay = Relay()
    local: Local = Local()
    queue: Queue = Queue()
    quota: dict[str, Quota] = attrs.Factory(lambda: {"default": Quota()})
    """``[quota.default]`` holds for every customer; a customer's own values in the directory override it."""
    dns: Dns = Dns()
    admin: Admin = Admin()
    log: Log = Log()
