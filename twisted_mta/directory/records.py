"""Records of the directory, the keys they are kept under, and the rules for names.

Keys are ordered bytes, so that "all users of a domain" and "all that a customer owns" are prefix scans:

========  ====================================  =====================================
kind      key                                   owned key (no value)
========  ====================================  =====================================
customer  name                                  -
domain    domain                                customer NUL "domain" NUL key
user      domain NUL local part                 customer NUL "user" NUL key
alias     domain NUL local part, or domain NUL  customer NUL "alias" NUL key
certific. fingerprint                           -
========  ====================================  =====================================

All keys are in lower case.  The longest is 64 + 6 + 255 + 130 octets with its dividers, less than LMDB's 511.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

import attrs

from ..config.settings import Quota
from ..config.units import UnitError, parse_fingerprint
from ..mail.address import AddressError, canonical, canonical_domain, lookup_key
from .interfaces import Alias, Certificate, Customer, Domain, User

Record = Customer | Domain | User | Alias | Certificate
R = TypeVar("R", Customer, Domain, User, Alias, Certificate)

KINDS: dict[str, type[Record]] = {"customer": Customer, "domain": Domain, "user": User, "alias": Alias}
"""What operators add and remove."""
TABLES: dict[str, type[Record]] = {**KINDS, "certificate": Certificate}
"""All that is kept: certificates come and go with their users."""
NAMES: dict[type[Record], str] = {record: kind for kind, record in TABLES.items()}
LIMIT_NAMES = frozenset(field.name for field in attrs.fields(Quota))
MAX_KEY = 511

_CUSTOMER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


class View(Protocol):
    """The records as of one moment."""

    def get(self, kind: type[R], key: bytes) -> R | None:
        """The record under a key, None if there is none."""

    def under(self, kind: type[R], prefix: bytes) -> Iterator[R]:
        """All records of a kind whose key starts with ``prefix``, in the order of their keys."""

    def owned(self, prefix: bytes) -> Iterator[bytes]:
        """All owned keys that start with ``prefix``, in order."""


class Change(View, Protocol):
    """One transaction that changes records: all of it happens or nothing."""

    def put(self, key: bytes, record: Record) -> None:
        """Add or replace a record, and its owned key."""

    def delete(self, key: bytes, record: Record) -> None:
        """Remove a record, and its owned key."""


def address_key(address: str) -> bytes:
    """The key of a user or an alias; of "@domain" it is the prefix of all addresses there."""
    local, _, domain = address.lower().rpartition("@")
    return b"%b\0%b" % (domain.encode(), local.encode())


def key_of(kind: type[Record], name: str) -> bytes:
    """The key of a record of a kind, by its name or address."""
    return address_key(name) if kind is User or kind is Alias else name.lower().encode()


def record_key(record: Record) -> bytes:
    """The key that a record is kept under."""
    if isinstance(record, User | Alias):
        return address_key(record.address)
    return record.name.lower().encode()


def owned_key(customer: str, kind: str = "", key: bytes = b"") -> bytes:
    """The owned key of a record; without ``kind`` or ``key`` the prefix of all such."""
    return b"\0".join([customer.lower().encode(), *([kind.encode(), key] if kind else [b""])])


def owned_key_of(record: Record) -> bytes | None:
    """The owned key of a record; None for those that nobody owns."""
    if isinstance(record, Customer) or not record.customer:
        return None
    return owned_key(record.customer, NAMES[type(record)], record_key(record))


def customer_name(name: str) -> str:
    """A name fit for a customer.  Raises ValueError with words for the operator."""
    if not _CUSTOMER.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name for a customer: use 1 to 64 letters, digits, dots, hyphens and underscores,"
            " with a letter or digit at both ends"
        )
    return name


def domain_name(name: str) -> str:
    """A domain in its canonical form.  Raises ValueError with words for the operator."""
    if name.startswith("["):
        raise ValueError(f"{name!r} is an address literal, not a domain")
    try:
        return canonical_domain(name)
    except AddressError as error:
        raise ValueError(f"{name!r} is not a domain: {error.reply.text}") from None


def user_address(address: str) -> str:
    """An address of ours in its canonical form, all in lower case.  Raises ValueError with words for the operator."""
    try:
        address = lookup_key(canonical(address))
    except AddressError as error:
        raise ValueError(f"{address!r} is not an address: {error.reply.text}") from None
    if not address:
        raise ValueError("an address is needed, such as anna@example.org")
    if address.endswith("]"):
        raise ValueError(f"{address!r} has an address literal in place of a domain")
    return address


def alias_address(address: str) -> str:
    """An address, or "@domain", in its canonical form and lower case.  Raises ValueError."""
    return "@" + domain_name(address[1:]) if address.startswith("@") else user_address(address)


def alias_targets(address: str, targets: Iterable[str]) -> tuple[str, ...]:
    """the targets of an alias, canonical, each once, in the order given.  Raises ValueError."""
    found: dict[str, str] = {}
    for target in targets:
        try:
            whole = canonical(target)
        except AddressError as error:
            raise ValueError(f"The target {target!r} of {address} is not an address: {error.reply.text}") from None
        if not whole or lookup_key(whole) == address:
            raise ValueError(f"{address} can't have {target!r} as its target")
        found.setdefault(lookup_key(whole), whole)
    if not found:
        raise ValueError(f"the alias {address} needs at least one target")
    return tuple(found.values())


def user_senders(senders: Iterable[str]) -> tuple[str, ...]:
    """Further senders of a user: addresses or "@domain", canonical and in lower case.  Raises ValueError."""
    return tuple(dict.fromkeys(alias_address(sender) for sender in senders))


def user_certificates(fingerprints: Iterable[str]) -> tuple[str, ...]:
    """SHA-256 fingerprints as they are kept, colons and upper case taken away, each once.  Raises ValueError."""
    found: dict[str, None] = {}
    for text in fingerprints:
        try:
            found[parse_fingerprint(text)] = None
        except UnitError as error:
            raise ValueError(f"{text!r} {error.wrong}: {error.mend}") from None
    return tuple(found)


def customer_limits(limits: dict[str, int | None]) -> dict[str, int | None]:
    """Limits of a customer, checked against the names of ``[quota.default]``.  Raises ValueError."""
    for name, value in limits.items():
        if name not in LIMIT_NAMES:
            raise ValueError(f"{name!r} is not a limit; the limits are: {', '.join(sorted(LIMIT_NAMES))}")
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise ValueError(f"The limit {name} must be a number from 0 on, or none, not {value!r}")
    return dict(limits)
