"""What the directory knows, and the avatar that a customer's user becomes.

Look-ups are coroutines, since LDAP and SQL answer later; ours answers at once.  Failures are
:class:`~twisted_mta.mail.status.MailError` with a temporary reply: a directory that is down never says "unknown".
"""

from __future__ import annotations

from typing import Any

import msgspec
from zope.interface import Attribute, Interface


class Customer(msgspec.Struct, frozen=True, kw_only=True, tag=1):
    """Who pays: a name, and limits that override ``[quota.default]`` (names of settings -> number; None: no limit)."""

    name: str
    limits: dict[str, int | None] = {}
    suspended: bool = False
    created: float = 0.0


class Domain(msgspec.Struct, frozen=True, kw_only=True, tag=1):
    """A domain of ours: its mail is local, its users belong to ``customer``."""

    name: str
    customer: str
    created: float = 0.0


class User(msgspec.Struct, frozen=True, kw_only=True, tag=1):
    """A person with a mailbox and a password.  ``senders``: further addresses, or "@domain", that they may send as."""

    address: str
    customer: str
    password_hash: str
    senders: tuple[str, ...] = ()
    suspended: bool = False
    created: float = 0.0
    scram: str = ""
    """The same password's SCRAM keys (:class:`~twisted_mta.wire.scram.Keys` as text); "": there are none."""
    certificates: tuple[str, ...] = ()
    """SHA-256 fingerprints of TLS certificates that prove to be this user, in lower-case hexadecimal."""

    def __repr__(self) -> str:
        """Without the hash, which has no place in a log or a traceback."""
        return f"User(address={self.address!r}, customer={self.customer!r}, suspended={self.suspended!r})"


class Certificate(msgspec.Struct, frozen=True, kw_only=True, tag=1):
    """Whose a certificate is: ``name`` is its fingerprint as in ``User.certificates``, ``user`` the address."""

    name: str
    user: str
    customer: str = ""


class Alias(msgspec.Struct, frozen=True, kw_only=True, tag=1):
    """An address that stands for others.  "@domain" as the address catches what is otherwise unknown there."""

    address: str
    targets: tuple[str, ...]
    customer: str = ""
    created: float = 0.0


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    """What an address is to us.

    ``kind``: "mailbox" (deliver to ``mailbox``, the canonical user address; ``detail`` is what followed "+"),
    "alias" (goes to ``targets``), "unknown" (the domain is ours, the address is not), "remote" (not our domain).
    ``customer`` is the domain's owner, "" for domains that only the settings name.
    """

    kind: str
    mailbox: str = ""
    detail: str = ""
    targets: tuple[str, ...] = ()
    customer: str = ""


class IDirectory(Interface):
    """Who our customers, domains, users and aliases are.  All addresses given are canonical, case is ignored."""

    async def resolve(address: str) -> Resolution:
        """What an address is to us: the exact address, then without its detail, then the domain's catch-all.
        "postmaster" exists in each domain of ours (RFC 5321 §4.5.1)."""

    async def is_local(domain: str) -> bool:
        """Whether a domain is ours: named in ``local.domains`` or in the directory."""

    async def customer(name: str) -> Customer | None:
        """A customer."""

    async def domain(name: str) -> Domain | None:
        """A domain of ours, if the directory has it."""

    async def user(address: str) -> User | None:
        """A user."""

    async def certified(fingerprint: str) -> User | None:
        """The user whom a TLS certificate was registered for; ``fingerprint`` is as in ``User.certificates``."""

    async def may_send_as(user: User, sender: str) -> bool:
        """Whether a user may use a sender address: their own (with any detail), an alias that delivers to them, or one
        of ``user.senders``.  The null sender is for servers: False (RFC 6409 §6.1)."""


class IDirectoryAdmin(IDirectory):
    """The directory that is ours to change.  All methods block briefly on LMDB: for the command line.

    Adding what exists, or to a parent that does not, raises ValueError with words for the operator; removing what is
    not there raises KeyError.
    """

    def add_customer(name: str, limits: dict[str, int | None] = ...) -> Customer:
        """Add a customer."""

    def set_customer(name: str, **changes: Any) -> Customer:
        """Change limits or ``suspended`` of a customer."""

    def add_domain(name: str, customer: str) -> Domain:
        """Add a domain."""

    def check_user(address: str, senders: tuple[str, ...] = ...) -> None:
        """Raise what :meth:`add_user` would, and add nothing: a password need not be known for it."""

    def add_user(address: str, password: str, senders: tuple[str, ...] = ...) -> User:
        """Add a user of an existing domain; the password is hashed with argon2id."""

    def set_user(address: str, **changes: Any) -> User:
        """Change ``password``, ``senders``, ``suspended`` or ``certificates`` (fingerprints, all of them) of a user."""

    def replace_hash(address: str, old: str, new: str, scram: str = ...) -> bool:
        """Store ``new`` as the password hash of a user whose hash is still ``old``, and the same password's SCRAM keys
        if given; whether it was.  For the first login after the parameters or the mechanisms have changed.  May be
        called from any thread."""

    def add_alias(address: str, targets: tuple[str, ...]) -> Alias:
        """Add an alias in an existing domain."""

    def remove(kind: str, name: str) -> None:
        """Remove a "customer", "domain", "user" or "alias".  ValueError while something still belongs to it."""

    def entries(kind: str, customer: str = "") -> list[Customer] | list[Domain] | list[User] | list[Alias]:
        """All of one kind, sorted by name; of one customer if given."""


class IMailAccount(Interface):
    """The avatar: what a session that has authenticated may do.  Made by the realm, owned by the session."""

    user: User = Attribute("""Who it is.""")
    customer: Customer = Attribute("""Whose quotas its mail is charged to.""")
