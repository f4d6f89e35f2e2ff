"""How users prove who they are, and who else may vouch for them."""

from __future__ import annotations

from typing import Literal, get_args

import attrs

from ..kinds import DAY, HOUR, MINUTE, Duration, MaybeDomain, Positive

Mechanism = Literal["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "OAUTHBEARER", "XOAUTH2", "EXTERNAL"]
Signature = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]


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
