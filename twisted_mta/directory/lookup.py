"""What an address is to us: the rules, over any view of the records.

Source: RFC 5321 §4.5.1 (postmaster), RFC 5233 (details), RFC 6409 §6.1 (who may send as whom).
"""

from __future__ import annotations

import attrs

from ..config.settings import Local
from ..mail.address import detail_split, domain_of, lookup_key, parse_address, quote_local
from .interfaces import Alias, Certificate, Domain, Resolution, User
from .records import R, View, address_key, domain_name

POSTMASTER = "postmaster"
REMOTE = Resolution(kind="remote")
MAX_EXPANSION = 1000
"""Addresses looked at to find out whether an alias delivers to a user."""


@attrs.frozen
class Locality:
    """What the settings say about our own domains."""

    domains: frozenset[str]
    first: str
    delimiter: str
    postmaster: str

    @classmethod
    def of(cls, settings: Local) -> Locality:
        """From the settings.  Raises ValueError for a domain that is none."""
        domains = [domain_name(domain) for domain in settings.domains]
        return cls(
            domains=frozenset(domains),
            first=domains[0] if domains else "",
            delimiter=settings.detail_delimiter,
            postmaster=lookup_key(settings.postmaster),
        )


def is_local(view: View, locality: Locality, domain: str) -> bool:
    """Whether a domain is ours."""
    domain = domain.lower()
    return domain in locality.domains or view.get(Domain, domain.encode()) is not None


def routes(local: str) -> bool:
    """Whether a local part asks, in one of the old ways, to be sent on to elsewhere: ``user%host``, ``host!user``,
    ``"user@host"``, ``@host:user``.  Such an address is ours only if just this user or alias exists."""
    return "%" in local or "!" in local or "@" in local


def resolve(view: View, locality: Locality, address: str) -> Resolution:
    """What a canonical address is to us.  Raises :class:`~twisted_mta.mail.address.AddressError` for what is none."""
    if address.lower() == POSTMASTER:
        # RFC 5321 §4.5.1: "postmaster" alone is the one address without a domain, and must be accepted.
        if not locality.postmaster and not locality.first:
            return Resolution(kind="unknown")
        return _postmaster(locality, f"{POSTMASTER}@{locality.first}", "")
    domain = domain_of(address).lower()
    owner = view.get(Domain, domain.encode())
    if owner is None and domain not in locality.domains:
        return REMOTE
    customer = owner.customer if owner is not None else ""
    local = parse_address(address).local
    if (found := _exact(view, address, "", customer)) is not None:
        return found
    if routes(local):
        return Resolution(kind="unknown", customer=customer)
    base, detail = detail_split(local, locality.delimiter)
    if base != local and (found := _exact(view, f"{quote_local(base)}@{domain}", detail, customer)) is not None:
        return found
    if (found := _exact(view, f"@{domain}", "", customer)) is not None:
        return found
    if base.lower() == POSTMASTER:
        return _postmaster(locality, f"{POSTMASTER}@{domain}", customer)
    return Resolution(kind="unknown", customer=customer)


def _exact(view: View, address: str, detail: str, customer: str) -> Resolution | None:
    key = address_key(address)
    if (user := view.get(User, key)) is not None:
        return Resolution(kind="mailbox", mailbox=user.address, detail=detail, customer=customer)
    if (alias := view.get(Alias, key)) is not None:
        return Resolution(kind="alias", targets=alias.targets, customer=customer)
    return None


def _postmaster(locality: Locality, address: str, customer: str) -> Resolution:
    if locality.postmaster and locality.postmaster != address:
        return Resolution(kind="alias", targets=(locality.postmaster,), customer=customer)
    return Resolution(kind="mailbox", mailbox=address, customer=customer)


class _With:
    """A view in which an alias is there as well."""

    def __init__(self, view: View, alias: Alias) -> None:
        self.under = view.under
        self.owned = view.owned
        self._view = view
        self._alias = alias
        self._key = address_key(alias.address)

    def get(self, kind: type[R], key: bytes) -> R | None:
        """See :class:`~.records.View`."""
        if kind is Alias and key == self._key:
            return self._alias
        return self._view.get(kind, key)


def circle(view: View, locality: Locality, alias: Alias) -> tuple[str, ...]:
    """The addresses by which mail for ``alias``, once it is there, would come back to it, and reach nobody else; empty
    where some of it ends elsewhere, be it in a refusal."""
    after = _With(view, alias)
    seen: dict[str, None] = {}
    ahead = [lookup_key(target) for target in alias.targets]
    while ahead:
        key = ahead.pop(0)
        if key in seen:
            continue
        seen[key] = None
        found = resolve(after, locality, key)
        if found.kind != "alias" or len(seen) >= MAX_EXPANSION:
            return ()
        ahead += [lookup_key(target) for target in found.targets]
    return tuple(key for key in seen if key != lookup_key(alias.address))


def certified(view: View, fingerprint: str) -> User | None:
    """Whom a certificate was registered for (see :class:`~.interfaces.IDirectory`)."""
    found = view.get(Certificate, fingerprint.encode())
    return view.get(User, address_key(found.user)) if found is not None else None


def may_send_as(view: View, locality: Locality, user: User, sender: str) -> bool:
    """Whether a user may use a canonical sender address (see :class:`~.interfaces.IDirectory`)."""
    if not sender:
        return False
    key, own = lookup_key(sender), lookup_key(user.address)
    if key == own or key in user.senders or f"@{domain_of(key)}" in user.senders:
        return True
    seen: set[str] = set()
    ahead = [key]
    while ahead and len(seen) < MAX_EXPANSION:
        key = ahead.pop()
        if key in seen:
            continue
        seen.add(key)
        found = resolve(view, locality, key)
        if found.kind == "mailbox" and lookup_key(found.mailbox) == own:
            return True
        ahead += [lookup_key(target) for target in found.targets]
        if own in ahead:
            return True
    return False
