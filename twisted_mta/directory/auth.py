"""Logging in: the realm, the checkers and what they remember, all behind a ``twisted.cred`` portal.

Any checker for ``IUsernamePassword`` can join (LDAP, SQL, Dovecot): it answers with the canonical address of a user
whom the directory has, so that their customer and their senders are known.  Checkers are asked in turn; one that is
down never makes a good password a wrong one.
"""

# ruff: noqa: N802, N803, N815 - the names are twisted.cred's

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import attrs
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import Attribute, Interface, implementer

from ..config.settings import Settings
from ..mail.address import AddressError, canonical, lookup_key
from ..mail.status import MailError, Reply
from ..wire.scram import Keys
from .interfaces import Customer, IDirectory, IDirectoryAdmin, IMailAccount, User
from .passwords import Hasher, prepare

_log = Logger()

# RFC 4954 §6: 454 4.7.0 says that it was not the credentials.
_UNAVAILABLE = Reply(454, "4.7.0", "Passwords can't be checked just now; try again later")
# RFC 5248's registry: X.7.13 "User Account Disabled", said only after a good password.
_SUSPENDED = Reply(525, "5.7.13", "This account is suspended; please ask your provider")


class Suspended(UnauthorizedLogin, MailError):
    """The credentials are right, but the user or their customer is suspended.  Its reply is 525 5.7.13."""

    def __init__(self) -> None:
        MailError.__init__(self, _SUSPENDED)


@implementer(IMailAccount)
@attrs.frozen
class MailAccount:
    """The avatar: who a session has proved to be, and whose quotas it is charged to."""

    user: User
    customer: Customer


@implementer(IRealm)
class MailRealm:
    """Gives :class:`IMailAccount` avatars for the users of a directory."""

    def __init__(self, directory: IDirectory) -> None:
        self._directory = directory

    def requestAvatar(self, avatarId: bytes | tuple[()], mind: object, *interfaces: type[Interface]) -> Deferred[Any]:
        """The account of the user whose canonical address ``avatarId`` is.

        Fails with :class:`Suspended`, with UnauthorizedLogin for a user who is not in the directory (any more), and
        with a temporary :class:`MailError` when the directory can't tell.
        """
        if IMailAccount not in interfaces:
            raise NotImplementedError("This realm has IMailAccount avatars only")
        return ensureDeferred(self._account(bytes(avatarId).decode()))

    async def _account(self, address: str) -> tuple[type[Interface], MailAccount, Any]:
        try:
            user = await self._directory.user(address)
            customer = await self._directory.customer(user.customer) if user is not None else None
        except MailError as error:
            raise MailError(_UNAVAILABLE) from error
        if user is None or customer is None:
            raise UnauthorizedLogin
        if user.suspended or customer.suspended:
            raise Suspended
        return IMailAccount, MailAccount(user, customer), _logout


def _logout() -> None:
    """An account holds nothing that would have to be given back."""


class CredentialCache:
    """Remembers for ``seconds`` that a password was right, so that a busy client does not pay argon2 each time.

    What is kept is a BLAKE2b hash under a key that only this process knows and that dies with it; the user's password
    hash is part of it, so a changed password is never mistaken for the one before.  ``seconds`` of 0 remembers
    nothing; at most ``size`` logins are kept (about 200 octets each), the least recently used make room.
    """

    def __init__(self, clock: IReactorTime, seconds: float, size: int = 10000) -> None:
        self.seconds = seconds
        self._clock = clock
        self._size = size
        self._key = os.urandom(32)
        self._expires: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._expires)

    def add(self, user: User, password: str) -> None:
        """Remember that the password is this user's."""
        if self.seconds <= 0:
            return
        digest = self._digest(user, password)
        self._expires[digest] = self._clock.seconds() + self.seconds
        self._expires.move_to_end(digest)
        if len(self._expires) > self._size:
            self._expires.popitem(last=False)

    def knows(self, user: User, password: str) -> bool:
        """Whether the password was this user's within the time that is remembered.  The time is not prolonged."""
        digest = self._digest(user, password)
        expires = self._expires.get(digest)
        if expires is None:
            return False
        # A clock that steps back must not make a login last.
        if 0 < expires - self._clock.seconds() <= self.seconds:
            self._expires.move_to_end(digest)
            return True
        del self._expires[digest]
        return False

    def _digest(self, user: User, password: str) -> bytes:
        words = f"{user.address}\0{user.password_hash}\0{password}"
        return hashlib.blake2b(words.encode("utf-8", "surrogatepass"), key=self._key, digest_size=32).digest()


class KeptElsewhere(UnauthorizedLogin):
    """The user has no password in the directory: somebody else may know it.

    ``owed`` takes the time that the check of a password takes, and is for who refuses in the end, lest a quick refusal
    says which users there are.
    """

    def __init__(self, owed: Callable[[], Awaitable[object]]) -> None:
        super().__init__()
        self.owed = owed


@implementer(ICredentialsChecker)
class DirectoryChecker:
    """Checks user names and passwords against a directory.

    A user name is an address of a user, in any case.  A wrong name and a wrong password take the same time; a user
    without a password is refused with :class:`KeptElsewhere`.
    ``keys``: a user who has no SCRAM keys gets them once the password is known to be good; may be set at any time.
    """

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, directory: IDirectory, hasher: Hasher, cache: CredentialCache, keys: bool = False) -> None:
        self._directory = directory
        self._hasher = hasher
        self._cache = cache
        self.keys = keys

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings."""
        self.keys = settings.submission.scram

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes | tuple[()]]:
        """The canonical address of the user.  Fails with UnauthorizedLogin, or with a temporary :class:`MailError`
        when that can't be known now."""
        return ensureDeferred(self._check(_text(credentials.username), _text(credentials.password)))

    async def _check(self, name: str | None, password: str | None) -> bytes:
        user = await find_user(self._directory, name)
        password = _prepared(password)
        if password is None:
            raise UnauthorizedLogin
        if user is not None and self._cache.knows(user, password):
            return user.address.encode()
        password_hash = user.password_hash if user is not None else ""
        if user is not None and not password_hash:
            raise KeptElsewhere(partial(self._hasher.verify, "", password))
        if not await self._hasher.verify(password_hash, password) or user is None:
            raise UnauthorizedLogin
        if self._hasher.outdated(password_hash) or (self.keys and self._hasher.outdated_keys(user.scram)):
            user = await self._renew(user, password)
        self._cache.add(user, password)
        return user.address.encode()

    async def _renew(self, user: User, password: str) -> User:
        """Store the password as today's settings have it; if that fails, what is stored stays and serves."""
        if not IDirectoryAdmin.providedBy(self._directory):
            return user
        replace_hash = self._directory.replace_hash
        try:
            outdated = self._hasher.outdated(user.password_hash)
            new = await self._hasher.hash(password) if outdated else user.password_hash
            stale = self.keys and self._hasher.outdated_keys(user.scram)
            scram = await self._hasher.keys(password) if stale else ""
            await self._hasher.run(lambda: replace_hash(user.address, user.password_hash, new, scram))
            return await self._directory.user(user.address) or user
        except Exception:
            _log.failure("The password of {user} could not be stored anew; what is stored stays", user=user.address)
            return user


class IProven(ICredentials):
    """Somebody whom a SASL exchange has proved to be who they say."""

    username: bytes = Attribute("""As the client gave it.""")


@implementer(IProven)
@attrs.frozen
class Proven:
    """Made by :mod:`twisted_mta.smtp.authentication` alone, after the proof."""

    username: bytes


@implementer(ICredentialsChecker)
class ProvenChecker:
    """Finds the user who was proved."""

    credentialInterfaces = (IProven,)

    def __init__(self, directory: IDirectory) -> None:
        self._directory = directory

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes | tuple[()]]:
        """See :class:`DirectoryChecker`."""
        return ensureDeferred(self._check(_text(credentials.username)))

    async def _check(self, name: str | None) -> bytes:
        user = await find_user(self._directory, name)
        if user is None:
            raise UnauthorizedLogin
        return user.address.encode()


class ICertified(ICredentials):
    """Somebody who has shown a certificate, and the key that belongs to it."""

    username: bytes = Attribute("""Whom to act as, as the client gave it; empty: whoever it is.""")
    fingerprint: str = Attribute("""The certificate's, as in :class:`~.interfaces.User`.""")
    addresses: tuple[str, ...] = Attribute("""Mail addresses for which an authority vouches.""")


@implementer(ICertified)
@attrs.frozen
class Certified:
    """Made by :mod:`twisted_mta.smtp.authentication` of what TLS has shown."""

    username: bytes
    fingerprint: str
    addresses: tuple[str, ...] = ()


@implementer(ICredentialsChecker)
class CertificateChecker:
    """Finds the user whose certificate was shown.  One that is several users' needs to be told whom it is used for."""

    credentialInterfaces = (ICertified,)

    def __init__(self, directory: IDirectory) -> None:
        self._directory = directory

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes | tuple[()]]:
        """See :class:`DirectoryChecker`."""
        return ensureDeferred(self._check(credentials))

    async def _check(self, credentials: Any) -> bytes:
        users = await certified_users(self._directory, credentials.fingerprint, credentials.addresses)
        if credentials.username:
            wanted = _address(_text(credentials.username))
            users = [user for user in users if lookup_key(user.address) == wanted]
        if len(users) != 1:
            raise UnauthorizedLogin
        return users[0].address.encode()


MAX_CERTIFIED = 16
"""Addresses in one certificate that are looked at."""


async def certified_users(directory: IDirectory, fingerprint: str, addresses: Iterable[str]) -> list[User]:
    """The users that a certificate stands for: whom it was registered for, and those whose address it certifies."""
    registered = await directory.certified(fingerprint)
    users = {registered.address: registered} if registered is not None else {}
    for address in tuple(addresses)[:MAX_CERTIFIED]:
        user = await find_user(directory, address)
        if user is not None:
            users[user.address] = user
    return list(users.values())


class ScramKeys:
    """Finds users' SCRAM keys.  ``secret``: the directory's; see :meth:`~twisted_mta.wire.scram.Keys.made_up`."""

    def __init__(self, directory: IDirectory, secret: bytes) -> None:
        self._directory = directory
        self._secret = secret

    async def find(self, username: str) -> Keys:
        """The keys of a user; of one who is not there, or has none, keys that look the same and fit nothing.  Fails
        with a temporary :class:`MailError` when the directory can't tell."""
        user = await find_user(self._directory, username)
        keys = Keys.parse(user.scram) if user is not None else None
        return keys or Keys.made_up(self._secret, _address(username) or username.lower())


async def find_user(directory: IDirectory, name: str | None) -> User | None:
    """The user who has a name, which is their address in any case."""
    address = _address(name)
    return await directory.user(address) if address else None


def _address(name: str | None) -> str:
    """A user name as the directory has it, the same for all ways to write it; "" for what is no address."""
    try:
        return lookup_key(canonical(name)) if name else ""
    except AddressError:
        return ""


@implementer(ICredentialsChecker)
class CheckerChain:
    """Asks several checkers for ``IUsernamePassword`` in turn, until one of them grants.

    When none does and one of them could not tell, the answer is a temporary :class:`MailError`, always a 454: a
    checker that is down never makes "unauthorized" of a good password.
    """

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, checkers: Iterable[ICredentialsChecker], more: Iterable[ICredentialsChecker] = ()) -> None:
        self._checkers = tuple(checkers)
        self._more = more  # looked at anew each time, since settings may change it

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes | tuple[()]]:
        """See :class:`DirectoryChecker`."""
        return ensureDeferred(self._check(credentials))

    async def _check(self, credentials: Any) -> bytes | tuple[()]:
        unavailable: MailError | None = None
        owed: Callable[[], Awaitable[object]] | None = None
        for checker in (*self._checkers, *self._more):
            try:
                return await maybeDeferred(checker.requestAvatarId, credentials)
            except KeptElsewhere as elsewhere:
                owed = elsewhere.owed
            except UnauthorizedLogin:
                continue
            except MailError as error:
                unavailable = error if error.reply.code == _UNAVAILABLE.code else MailError(_UNAVAILABLE)
            except Exception:
                _log.failure("{checker} could not check a password", checker=type(checker).__name__)
                unavailable = MailError(_UNAVAILABLE)
        if unavailable is not None:
            raise unavailable
        if owed is not None:
            await owed()
        raise UnauthorizedLogin


def make_portal(
    directory: IDirectory,
    hasher: Hasher,
    cache: CredentialCache,
    extra_checkers: Iterable[ICredentialsChecker] = (),
    own: DirectoryChecker | None = None,
    others: Iterable[ICredentialsChecker] = (),
) -> Portal:
    """The portal for all who log in: the directory's own passwords first (``own``, if that is made already), then
    ``extra_checkers`` in their order.  ``others`` check what is no password."""
    own = own or DirectoryChecker(directory, hasher, cache)
    chain = CheckerChain((own,), extra_checkers)
    return Portal(MailRealm(directory), [chain, ProvenChecker(directory), CertificateChecker(directory), *others])


def _text(words: bytes | str) -> str | None:
    if isinstance(words, str):
        return words
    try:
        return words.decode()
    except UnicodeDecodeError:
        return None


def _prepared(password: str | None) -> str | None:
    try:
        return prepare(password) if password is not None else None
    except ValueError:
        return None
