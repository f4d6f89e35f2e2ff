"""What both directories share: every method of the contract, over three things that a storage has to give."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from ..config.settings import Local
from . import changes, lookup
from .interfaces import Alias, Customer, Domain, IDirectoryAdmin, Resolution, User
from .passwords import hash_password
from .records import Change, View, address_key, user_address, user_senders

T = TypeVar("T")


@implementer(IDirectoryAdmin)
class BaseDirectory(abc.ABC):
    """The rules of the directory without a place to keep it.

    ``settings`` is the ``[local]`` table, ``clock`` says when something was added, ``hash_password`` makes the hash of
    a new password, ``make_keys`` its SCRAM keys (None: it gets none).  Look-ups never wait for another process;
    changes do, briefly.
    """

    secret: bytes
    """32 octets that nobody else knows, the same for all processes that use the directory, at all times."""

    def __init__(
        self,
        settings: Local,
        clock: IReactorTime,
        hash_password: Callable[[str], str] = hash_password,
        make_keys: Callable[[str], str] | None = None,
    ) -> None:
        self._clock = clock
        self._hash_password = hash_password
        self._make_keys = make_keys
        self._locality = lookup.Locality.of(settings)

    @abc.abstractmethod
    def _view(self, read: Callable[[View], T]) -> T:
        """What ``read`` finds in the records as they are now; may answer from memory what was read before."""

    @abc.abstractmethod
    def _change(self, write: Callable[[Change], T]) -> T:
        """Run ``write`` in a transaction: committed and synced when this returns, undone if it raises.  ``write`` may
        be called more than once."""

    def reconfigure(self, settings: Local) -> None:
        """Take over the ``[local]`` table of settings that have changed.  Raises ValueError for a bad domain."""
        self._locality = lookup.Locality.of(settings)

    # Look-ups

    async def resolve(self, address: str) -> Resolution:
        """See :class:`~.interfaces.IDirectory`."""
        return self._view(lambda view: lookup.resolve(view, self._locality, address))

    async def is_local(self, domain: str) -> bool:
        """See :class:`~.interfaces.IDirectory`."""
        return self._view(lambda view: lookup.is_local(view, self._locality, domain))

    async def customer(self, name: str) -> Customer | None:
        """See :class:`~.interfaces.IDirectory`."""
        return self._view(lambda view: view.get(Customer, name.lower().encode()))

    async def domain(self, name: str) -> Domain | None:
        """See :class:`~.interfaces.IDirectory`."""
        return self._view(lambda view: view.get(Domain, name.lower().encode()))

    async def user(self, address: str) -> User | None:
        """See :class:`~.interfaces.IDirectory`."""
        return self._view(lambda view: view.get(User, address_key(address)))

    async def certified(self, fingerprint: str) -> User | None:
        """See :class:`~.interfaces.IDirectory`."""
        return self._view(lambda view: lookup.certified(view, fingerprint))

    async def may_send_as(self, user: User, sender: str) -> bool:
        """See :class:`~.interfaces.IDirectory`."""
        if sender == user.address:
            return bool(sender)
        return self._view(lambda view: lookup.may_send_as(view, self._locality, user, sender))

    # Changes

    def add_customer(self, name: str, limits: dict[str, int | None] | None = None) -> Customer:
        """See :class:`~.interfaces.IDirectoryAdmin`."""
        return self._change(lambda change: changes.add_customer(change, name, limits or {}, self._clock.seconds()))

    def set_customer(self, name: str, **new: Any) -> Customer:
        """Change a customer: ``suspended``, ``limits`` (replaces them all), or one limit by its name, such as
        ``recipients_per_day=100``."""
        return self._change(lambda change: changes.set_customer(change, name, dict(new)))

    def add_domain(self, name: str, customer: str) -> Domain:
        """See :class:`~.interfaces.IDirectoryAdmin`."""
        return self._change(lambda change: changes.add_domain(change, name, customer, self._clock.seconds()))

    def check_user(self, address: str, senders: tuple[str, ...] = ()) -> None:
        """See :class:`~.interfaces.IDirectoryAdmin`."""
        self._view(lambda view: changes.new_user(view, address, senders))

    def add_user(self, address: str, password: str, senders: tuple[str, ...] = ()) -> User:
        """See :class:`~.interfaces.IDirectoryAdmin`.  An empty password is for users that another checker knows:
        they have none here."""
        user_address(address), user_senders(senders)
        password_hash, scram = self._hashed(password)
        return self._change(
            lambda change: changes.add_user(change, address, password_hash, senders, self._clock.seconds(), scram)
        )

    def _hashed(self, password: str) -> tuple[str, str]:
        if not password:
            return "", ""
        return self._hash_password(password), self._make_keys(password) if self._make_keys is not None else ""

    def set_user(self, address: str, **new: Any) -> User:
        """See :class:`~.interfaces.IDirectoryAdmin`."""
        if "password" in new:
            new["password_hash"], new["scram"] = self._hashed(new.pop("password"))
        return self._change(lambda change: changes.set_user(change, address, dict(new)))

    def replace_hash(self, address: str, old: str, new: str, scram: str = "") -> bool:
        """See :class:`~.interfaces.IDirectoryAdmin`."""
        return self._change(lambda change: changes.replace_hash(change, address, old, new, scram))

    def add_alias(self, address: str, targets: tuple[str, ...]) -> Alias:
        """See :class:`~.interfaces.IDirectoryAdmin`."""
        return self._change(
            lambda change: changes.add_alias(change, self._locality, address, targets, self._clock.seconds())
        )

    def remove(self, kind: str, name: str) -> None:
        """See :class:`~.interfaces.IDirectoryAdmin`."""
        self._change(lambda change: changes.remove(change, kind, name))

    def entries(self, kind: str, customer: str = "") -> list[Any]:
        """See :class:`~.interfaces.IDirectoryAdmin`."""
        return self._view(lambda view: changes.entries(view, kind, customer))
