"""Where mail comes in, and the certificates that are shown there."""

from __future__ import annotations

from typing import Literal

import attrs

from ..kinds import FileMode, ListenAddress, ListenPort, Network

Role = Literal["mx", "submission", "lmtp", "nomail"]
TlsMode = Literal["none", "starttls", "implicit"]


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
