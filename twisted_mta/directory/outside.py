"""Passwords that others check: Dovecot, LDAP or SQL, for users whom the directory has without a password.

The directory says who a user is and which customer's; the others say only whether a password is right.  So quotas,
senders and suspension hold for everybody alike, and nobody gets in whom the directory does not know.
"""

# ruff: noqa: N802, N815 - the names are twisted.cred's

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger
from zope.interface import implementer

from ..config.settings import Checker, Settings
from ..mail.address import AddressError, canonical, lookup_key
from ..mail.status import MailError, Reply
from .auth import CredentialCache, find_user
from .dovecot import DovecotSource
from .interfaces import IDirectory
from .ldap import LdapSource
from .passwords import prepare
from .sql import SqlSource

UNAVAILABLE = Reply(454, "4.7.0", "Passwords can't be checked just now; try again later")

_log = Logger()


class Source(Protocol):
    """One place that knows passwords."""

    def start(self) -> None:
        """Be ready; opens no connection yet."""

    def stop(self) -> None:
        """Close what is open; what is under way fails for now."""

    async def good(self, address: str, password: str) -> bool:
        """Whether the password of a user with this canonical address is right.  Fails with anything when that can't
        be known now, within the time that the settings allow."""
        ...


SOURCES: Mapping[str, Callable[[str, Checker, Any], Source]] = {
    "dovecot": DovecotSource,
    "ldap": LdapSource,
    "sql": SqlSource,
}
"""What makes the source of each ``kind`` from its name, its settings and the reactor."""


@implementer(ICredentialsChecker)
class OutsideChecker:
    """Asks one source.

    It is asked whether or not the directory has the user, so that the time tells nobody.
    """

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, name: str, source: Source, directory: IDirectory, cache: CredentialCache) -> None:
        self.name = name
        self.source = source
        self._directory = directory
        self._cache = cache

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes | tuple[()]]:
        """The canonical address of the user.  Fails with UnauthorizedLogin, or with a temporary :class:`MailError`."""
        return ensureDeferred(self._check(credentials.username, credentials.password))

    async def _check(self, name: bytes, password: bytes) -> bytes:
        try:
            address, prepared = lookup_key(canonical(name.decode())), prepare(password.decode())
        except (AddressError, ValueError):
            raise UnauthorizedLogin from None
        if not address:
            raise UnauthorizedLogin
        user = await find_user(self._directory, address)
        try:
            good = await self.source.good(address, prepared)
        except MailError:
            raise
        except Exception as error:
            _log.warn(
                "Passwords can't be checked by checker.{name}: {kind}: {error}",
                name=self.name,
                kind=type(error).__name__,
                error=str(error).replace(prepared, "***"),
            )
            raise MailError(UNAVAILABLE) from None  # whose traceback may hold the password
        if not good or user is None or user.password_hash:
            raise UnauthorizedLogin
        self._cache.add(user, prepared)
        return user.address.encode()


class OutsideCheckers:
    """The checkers that the settings name, in their order; iterate for those of now.

    Whoever calls :meth:`start` calls :meth:`stop`.
    """

    def __init__(self, settings: Settings, reactor: Any, directory: IDirectory, cache: CredentialCache) -> None:
        self._reactor = reactor
        self._directory = directory
        self._cache = cache
        self._running = False
        self._made: dict[str, tuple[Checker, OutsideChecker]] = {}
        self.reconfigure(settings)

    def __iter__(self) -> Iterator[OutsideChecker]:
        return iter([checker for _, checker in self._made.values()])

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings; a checker that stays as it was keeps its connections."""
        before, self._made = self._made, {}
        for name, wanted in settings.checker.items():
            old = before.get(name)
            if old is not None and old[0] == wanted:
                self._made[name] = before.pop(name)
                continue
            source = SOURCES[wanted.kind](name, wanted, self._reactor)
            self._made[name] = wanted, OutsideChecker(name, source, self._directory, self._cache)
            if self._running:
                source.start()
        if self._running:
            for _, checker in before.values():
                checker.source.stop()

    def start(self) -> None:
        """Be ready."""
        self._running = True
        for checker in self:
            checker.source.start()

    def stop(self) -> None:
        """Close all connections."""
        self._running = False
        for checker in self:
            checker.source.stop()
