"""Tokens as credentials: each is judged by the authorization server that has issued it, or by its published keys.

The directory says who a user is and whose, as with passwords that others check; a token only proves that the client is
that user.  Source: RFC 7628, RFC 7662 (introspection), RFC 6749 §2.3.1 (how we log in for it), RFC 7519 (JWT).
"""

# ruff: noqa: N802, N815 - the names are twisted.cred's

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote_plus, urlencode

import attrs
import msgspec
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import Attribute, implementer

from ..config.settings import OAuth, Settings
from ..mail.status import MailError, Reply
from .answers import NoAnswer
from .auth import find_user
from .claims import Granted, TokenRefused, judge
from .fetching import Fetcher, Refused
from .interfaces import IDirectory
from .jwks import BadSignature, KeySet, NotAJwt, UnknownKey, issuer_of
from .keysource import Configuration, Renewed, key_source

CACHED = 10_000
"""Good tokens that are remembered of each server, at about 300 octets each; the least recently used make room."""

UNAVAILABLE = Reply(454, "4.7.0", "Tokens can't be checked just now; try again later")

_log = Logger()


class IBearer(ICredentials):
    """A token that was shown."""

    username: str = Attribute("""Who the client says it is; "" where that is left to the token.""")
    token: str = Attribute("""The token.""")


@implementer(IBearer)
@attrs.frozen
class BearerToken:
    """Made by :mod:`twisted_mta.smtp.authentication`."""

    username: str
    token: str = attrs.field(repr=False)


class TokenCache:
    """Remembers good tokens, each until it ends and for ``seconds`` at most.

    What is kept is a BLAKE2b hash under a key that only this object knows, never the token.
    """

    def __init__(self, clock: IReactorTime, seconds: float, size: int = CACHED) -> None:
        self._clock = clock
        self._seconds = seconds
        self._size = size
        self._key = os.urandom(32)
        self._known: OrderedDict[bytes, tuple[Granted, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def add(self, token: str, granted: Granted) -> None:
        """Remember that a token is good."""
        now = self._clock.seconds()
        if self._seconds <= 0 or granted.expires <= now:
            return
        digest = self._digest(token)
        self._known[digest] = granted, now
        self._known.move_to_end(digest)
        if len(self._known) > self._size:
            self._known.popitem(last=False)

    def get(self, token: str) -> Granted | None:
        """What a token was good for, if it still is."""
        digest = self._digest(token)
        found = self._known.get(digest)
        if found is None:
            return None
        granted, since = found
        now = self._clock.seconds()
        # A clock that steps back must not make a token last.
        if 0 <= now - since < self._seconds and now < granted.expires:
            self._known.move_to_end(digest)
            return granted
        del self._known[digest]
        return None

    def _digest(self, token: str) -> bytes:
        return hashlib.blake2b(token.encode(), key=self._key, digest_size=32).digest()


class AuthorizationServer(Protocol):
    """Who judges tokens."""

    configuration: str
    """Where a client finds how to get one; "" if nowhere."""

    async def granted(self, token: str) -> Granted:
        """Whom a token names.  Fails with :class:`~.claims.TokenRefused`, and with :class:`~.answers.NoAnswer` or
        anything else where that can't be known now."""
        ...

    def close(self) -> None:
        """Nothing more is asked."""


class Signed:
    """Tokens signed with keys that the server publishes (``kind = "jwt"``)."""

    def __init__(self, name: str, server: OAuth, reactor: Any) -> None:
        self._server = server
        self._clock: IReactorTime = reactor
        self._keys: KeySet | None = None
        self._fetcher: Fetcher | None = None
        self.configuration = ""
        if server.keys.startswith("/"):
            self._keys = KeySet.parse(Path(server.keys).read_bytes())
            return
        self._fetcher = Fetcher(reactor, server.timeout, server.connections, server.ca)
        published = Configuration(name, server, self._fetcher, reactor)
        self._source: Renewed[KeySet] = key_source(name, server, self._fetcher, published, reactor)
        self.configuration = published.url

    async def granted(self, token: str) -> Granted:
        """See :class:`AuthorizationServer`."""
        try:
            try:
                claims = (self._keys or await self._source.value()).claims(token, self._server.algorithms)
            except UnknownKey:
                if self._keys is not None:
                    raise
                claims = (await self._source.renew()).claims(token, self._server.algorithms)
        except NotAJwt:
            raise TokenRefused("it is no signed JWT") from None
        except BadSignature as error:
            words = "its key is not known" if isinstance(error, UnknownKey) else "its signature is not good"
            raise TokenRefused(words) from None
        return judge(claims, self._server, self._clock.seconds())

    def close(self) -> None:
        """See :class:`AuthorizationServer`."""
        if self._fetcher is not None:
            self._fetcher.close()


class Asked:
    """Tokens that the server is asked about (``kind = "introspection"`` and ``"tokeninfo"``)."""

    def __init__(self, name: str, server: OAuth, reactor: Any) -> None:
        self._server = server
        self._clock: IReactorTime = reactor
        self._fetcher = Fetcher(reactor, server.timeout, server.connections, server.ca)
        self._published = Configuration(name, server, self._fetcher, reactor)
        self._cache = TokenCache(reactor, server.cache)
        self._logins: list[dict[str, str]] = [{}]
        if server.client_id and server.client_secret_file:
            secret = Path(server.client_secret_file).read_text("utf-8").rstrip("\r\n")
            # RFC 6749 §2.3.1 has both form-encoded first, which not all servers know; where it makes a difference the
            # other way is tried as well, and what has worked comes first from then on.
            ways = (quote_plus(server.client_id), quote_plus(secret)), (server.client_id, secret)
            pairs = dict.fromkeys(b64encode(":".join(way).encode()).decode() for way in ways)
            self._logins = [{"Authorization": f"Basic {pair}"} for pair in pairs]
        self.configuration = self._published.url

    async def granted(self, token: str) -> Granted:
        """See :class:`AuthorizationServer`."""
        known = self._cache.get(token)
        if known is None:
            known = judge(await self._claims(token), self._server, self._clock.seconds())
            self._cache.add(token, known)
        return known

    async def _claims(self, token: str) -> Mapping[str, Any]:
        server = self._server
        if server.kind == "tokeninfo":
            joint = "&" if "?" in server.endpoint else "?"
            url = f"{server.endpoint}{joint}{urlencode({'access_token': token})}"
            try:
                return _object(await self._fetcher.ask(url))
            except Refused:
                raise TokenRefused("the server does not know it") from None
        endpoint = server.endpoint or await self._published.place("introspection_endpoint")
        form = urlencode({"token": token, "token_type_hint": "access_token"}).encode()
        claims = _object(await self._introspected(endpoint, form))
        if claims.get("active") is not True:
            raise TokenRefused("the server says that it is not active")
        return claims

    async def _introspected(self, endpoint: str, form: bytes) -> bytes:
        status = 0
        for login in tuple(self._logins):
            try:
                answer = await self._fetcher.ask(endpoint, login, form)
            except Refused as error:
                status = error.code
                continue
            if login is not self._logins[0]:
                self._logins.reverse()
            return answer
        # RFC 7662 §2.3: it is we who were refused; what became of the token is not known
        raise NoAnswer(f"it refuses our client_id (status {status})")

    def close(self) -> None:
        """See :class:`AuthorizationServer`."""
        self._fetcher.close()


def _object(text: bytes) -> Mapping[str, Any]:
    try:
        found = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        raise NoAnswer("what it answers is no JSON") from None
    if not isinstance(found, dict):
        raise NoAnswer("what it answers is no JSON object")
    return found


AuthorizationServers = dict[str, tuple[OAuth, AuthorizationServer]]
"""By name, each with the settings that it was made of."""


@implementer(ICredentialsChecker)
class TokenChecker:
    """Checks tokens by the servers that the settings name.  Whoever makes it calls :meth:`stop`.

    A good token whose user the directory does not have is refused like a bad one.
    """

    credentialInterfaces = (IBearer,)

    def __init__(self, settings: Settings, reactor: Any, directory: IDirectory) -> None:
        self._reactor = reactor
        self._directory = directory
        self._made: AuthorizationServers = {}
        self.reconfigure(settings)

    def __bool__(self) -> bool:
        """Whether any token can be good."""
        return bool(self._made)

    @property
    def scope(self) -> str:
        """What a token must allow; "" where servers ask for different things."""
        scopes = {" ".join(settings.scopes) for settings, _ in self._made.values()}
        return scopes.pop() if len(scopes) == 1 else ""

    @property
    def configuration(self) -> str:
        """Where a client finds how to get a token; "" where there are several places."""
        places = {server.configuration for _, server in self._made.values()}
        return places.pop() if len(places) == 1 else ""

    def prepare(self, settings: Settings) -> AuthorizationServers:
        """The servers of changed settings, for :meth:`apply`.  Raises OSError or ValueError where a file that they
        name can't be used."""
        made: AuthorizationServers = {}
        for name, wanted in settings.oauth.items():
            before = self._made.get(name)
            # what came from a file is read again, as a certificate is
            keep = before is not None and before[0] == wanted and not _files(wanted)
            make = Signed if wanted.kind == "jwt" else Asked
            made[name] = before if keep and before is not None else (wanted, make(name, wanted, self._reactor))
        return made

    def apply(self, made: AuthorizationServers) -> None:
        """Take over what was prepared; a server that stays as it was keeps its keys and connections."""
        kept = {id(server) for _, server in made.values()}
        before, self._made = self._made, made
        for _, server in before.values():
            if id(server) not in kept:
                server.close()

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings.  Raises what :meth:`prepare` does; then all stays as it was."""
        self.apply(self.prepare(settings))

    def stop(self) -> None:
        """Close all connections."""
        self.apply({})

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes | tuple[()]]:
        """The canonical address of the user.  Fails with :class:`~.claims.TokenRefused`, or with a 454 of
        :class:`~twisted_mta.mail.status.MailError`."""
        return ensureDeferred(self._check(credentials.username, credentials.token))

    async def _check(self, username: str, token: str) -> bytes:
        granted = await self._granted(token)
        try:
            user = await find_user(self._directory, granted.username)
            wanted = await find_user(self._directory, username) if username else user
        except MailError as error:
            raise MailError(UNAVAILABLE) from error
        if user is None:
            raise TokenRefused("the directory has no such user")
        if wanted is None or wanted.address != user.address:
            raise TokenRefused("it is another user's")
        return user.address.encode()

    async def _granted(self, token: str) -> Granted:
        """What the first server says that knows the token; of those that don't, the last."""
        refused: TokenRefused | None = None
        unavailable = False
        for name, server in self._asked(token):
            try:
                return await server.granted(token)
            except TokenRefused as error:
                _log.info("oauth.{name} refuses a token: {why}", name=name, why=error.why)
                refused = error
            except NoAnswer as error:
                _log.warn("oauth.{name} can't judge a token: {why}", name=name, why=str(error))
                unavailable = True
            except Exception as error:
                # no traceback: it might show the token
                _log.error("oauth.{name} can't judge a token: {why}", name=name, why=type(error).__name__)
                unavailable = True
        if unavailable:
            raise MailError(UNAVAILABLE)
        raise refused or TokenRefused("no server of ours has issued it")

    def _asked(self, token: str) -> Iterable[tuple[str, AuthorizationServer]]:
        """Who is asked: nobody is shown a token that says whose it is, but its issuer."""
        servers = self._made.items()
        issuer = issuer_of(token)
        if issuer is not None:
            own = [(name, server) for name, (settings, server) in servers if settings.issuer == issuer]
            if own:
                return own
        return [
            (name, server)
            for name, (settings, server) in servers
            if settings.kind != "jwt" and (issuer is None or not settings.issuer)
        ]


def _files(server: OAuth) -> bool:
    return server.keys.startswith("/") or bool(server.client_secret_file or server.ca)
