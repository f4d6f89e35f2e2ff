"""Changing the directory: what each change checks, over any transaction.

All raise ValueError with words for the operator, or KeyError for what is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from .interfaces import Alias, Certificate, Customer, Domain, User
from .lookup import Locality, circle
from .records import (
    KINDS,
    LIMIT_NAMES,
    Change,
    R,
    Record,
    View,
    address_key,
    alias_address,
    alias_targets,
    customer_limits,
    customer_name,
    domain_name,
    key_of,
    owned_key,
    record_key,
    user_address,
    user_certificates,
    user_senders,
)

HashPassword = Callable[[str], str]


def add_customer(change: Change, name: str, limits: dict[str, int | None], now: float) -> Customer:
    """Add a customer."""
    name = customer_name(name)
    return _add(change, Customer(name=name, limits=customer_limits(limits), created=now))


def set_customer(change: Change, name: str, changes: dict[str, Any]) -> Customer:
    """Change a customer: ``suspended``, ``limits`` (all of them), or a limit by its own name."""
    customer = _require(change, Customer, name)
    limits = customer_limits(changes.pop("limits", customer.limits))
    limits |= customer_limits({name: changes.pop(name) for name in LIMIT_NAMES & changes.keys()})
    suspended = _flag("suspended", changes.pop("suspended", customer.suspended))
    _nothing_left("customer", changes)
    return _replace(change, msgspec.structs.replace(customer, limits=limits, suspended=suspended))


def add_domain(change: Change, name: str, customer: str, now: float) -> Domain:
    """Add a domain of an existing customer."""
    name = domain_name(name)
    owner = change.get(Customer, customer.lower().encode())
    if owner is None:
        raise ValueError(f"there is no customer {customer!r} to own {name}: add the customer first")
    return _add(change, Domain(name=name, customer=owner.name, created=now))


def add_user(
    change: Change, address: str, password_hash: str, senders: tuple[str, ...], now: float, scram: str = ""
) -> User:
    """Add a user of an existing domain."""
    user = new_user(change, address, senders)
    return _add(change, msgspec.structs.replace(user, password_hash=password_hash, created=now, scram=scram))


def new_user(view: View, address: str, senders: tuple[str, ...]) -> User:
    """The user that can be added, without a password yet.  Raises ValueError."""
    address = user_address(address)
    domain = address.rpartition("@")[2]
    owner = view.get(Domain, domain.encode())
    if owner is None:
        raise ValueError(f"{domain} is not a domain of any customer: add the domain first")
    if view.get(Alias, address_key(address)) is not None:
        raise ValueError(f"{address} is an alias: remove it first")
    if view.get(User, address_key(address)) is not None:
        raise ValueError(f"{address} exists already")
    return User(address=address, customer=owner.customer, password_hash="", senders=user_senders(senders), created=0.0)


def set_user(change: Change, address: str, changes: dict[str, Any]) -> User:
    """Change a user: ``password_hash`` and ``scram`` (a new hash forgets the former keys), ``senders`` (all of them),
    ``suspended``, ``certificates`` (all of them)."""
    user = _require(change, User, user_address(address))
    scram = changes.pop("scram", "" if "password_hash" in changes else user.scram)
    password_hash = changes.pop("password_hash", user.password_hash)
    senders = user_senders(changes.pop("senders", user.senders))
    suspended = _flag("suspended", changes.pop("suspended", user.suspended))
    certificates = user_certificates(changes.pop("certificates", user.certificates))
    _nothing_left("user", changes)
    _certify(change, user, certificates)
    changed = msgspec.structs.replace(
        user,
        password_hash=password_hash,
        scram=scram,
        senders=senders,
        suspended=suspended,
        certificates=certificates,
    )
    return _replace(change, changed)


def _certify(change: Change, user: User, certificates: tuple[str, ...]) -> None:
    """Keep who is found by a certificate in step with what the user's record says."""
    for fingerprint in certificates:
        taken = change.get(Certificate, fingerprint.encode())
        if taken is not None and taken.user != user.address:
            raise ValueError(f"the certificate {fingerprint} is {taken.user}'s: take it from there first")
        _replace(change, Certificate(name=fingerprint, user=user.address))
    for fingerprint in set(user.certificates) - set(certificates):
        change.delete(fingerprint.encode(), Certificate(name=fingerprint, user=user.address))


def replace_hash(change: Change, address: str, old: str, new: str, scram: str = "") -> bool:
    """Replace a user's password hash if it is still ``old``, and the same password's SCRAM keys if given."""
    user = change.get(User, address_key(address))
    if user is None or user.password_hash != old:
        return False
    _replace(change, msgspec.structs.replace(user, password_hash=new, scram=scram or user.scram))
    return True


def add_alias(change: Change, locality: Locality, address: str, targets: tuple[str, ...], now: float) -> Alias:
    """Add an alias in an existing domain, be it the directory's or the settings'."""
    address = alias_address(address)
    domain = address.rpartition("@")[2]
    owner = change.get(Domain, domain.encode())
    if owner is None and domain not in locality.domains:
        raise ValueError(f"{domain} is not a domain of ours: add the domain first")
    if change.get(User, address_key(address)) is not None:
        raise ValueError(f"{address} is a user with a mailbox: an alias can't have the same address")
    customer = owner.customer if owner is not None else ""
    alias = Alias(address=address, targets=alias_targets(address, targets), customer=customer, created=now)
    if by := circle(change, locality, alias):
        named = ", ".join(by[:3]) + (", …" if len(by) > 3 else "")
        raise ValueError(f"mail for {address} would come back to it by {named} and reach nobody: name another target")
    return _add(change, alias)


def remove(change: Change, kind: str, name: str) -> None:
    """Remove a record to which nothing belongs any more."""
    record_type = _kind(kind)
    if record_type is not Customer:
        name = domain_name(name) if record_type is Domain else alias_address(name)
    record: Record = _require(change, record_type, name)
    if belongings := _belongings(change, record):
        raise ValueError(f"{name} still has {belongings}: remove them first")
    if isinstance(record, User):
        _certify(change, record, ())
    change.delete(record_key(record), record)


def entries(view: View, kind: str, customer: str = "") -> list[Any]:
    """All records of a kind, sorted by name; of one customer if given."""
    record_type = _kind(kind)
    if not customer:
        found = list(view.under(record_type, b""))
    elif record_type is Customer:
        one = view.get(Customer, customer.lower().encode())
        found = [one] if one is not None else []
    else:
        prefix = owned_key(customer, kind)
        keys = (key[len(prefix) :] for key in view.owned(prefix))
        found = [record for key in keys if (record := view.get(record_type, key)) is not None]
    return sorted(found, key=lambda record: _name(record).lower())


def _kind(kind: str) -> type[Any]:
    try:
        return KINDS[kind]
    except KeyError:
        raise ValueError(f"{kind!r} is none of {', '.join(KINDS)}") from None


def _name(record: Record) -> str:
    return record.address if isinstance(record, User | Alias) else record.name


def _require(view: View, kind: type[R], name: str) -> R:
    record = view.get(kind, key_of(kind, name))
    if record is None:
        raise KeyError(name)
    return record


def _add(change: Change, record: R) -> R:
    key = record_key(record)
    if change.get(type(record), key) is not None:
        raise ValueError(f"{_name(record)} exists already")
    change.put(key, record)
    return record


def _replace(change: Change, record: R) -> R:
    change.put(record_key(record), record)
    return record


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is True or False, not {value!r}")
    return value


def _nothing_left(kind: str, changes: dict[str, Any]) -> None:
    if changes:
        raise ValueError(f"a {kind} has no {', '.join(sorted(changes))} to change")


def _belongings(view: View, record: Record) -> str:
    if isinstance(record, Customer):
        prefix = owned_key(record.name)
        kinds = [key[len(prefix) :].partition(b"\0")[0].decode() for key in view.owned(prefix)]
    elif isinstance(record, Domain):
        prefix = address_key(f"@{record.name}")
        kinds = ["user" for _ in view.under(User, prefix)] + ["alias" for _ in view.under(Alias, prefix)]
    else:
        return ""
    counts = [(kind, kinds.count(kind)) for kind in KINDS if kind in kinds]
    plural = {"domain": "domains", "user": "users", "alias": "aliases"}
    return ", ".join(f"{count} {kind if count == 1 else plural[kind]}" for kind, count in counts)
