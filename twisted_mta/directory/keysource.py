"""Documents that a server publishes and that we keep: its configuration and its keys, renewed in time.

Source: OpenID Connect Discovery 1.0 §4, RFC 8414 §3 (configuration), RFC 7517 §5 (key sets).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..config.checks.oauth import url_flaw
from ..config.settings import OAuth
from .answers import NoAnswer, one_of_many
from .fetching import Fetcher, Refused
from .jwks import KeySet

T = TypeVar("T")

PAUSE = 30.0
"""Seconds between two fetches at least, whoever asks for one."""
DISCOVERY = "/.well-known/openid-configuration"

_log = Logger()


class Renewed(Generic[T]):
    """Something that is fetched when it is first needed, again ``every`` so many seconds, and kept while that fails.

    Nobody waits for a renewal but who has nothing to use.  ``keep`` is how many seconds the last one serves.
    ``what`` names it in the log.
    """

    def __init__(
        self, what: str, fetch: Callable[[], Awaitable[T]], clock: IReactorTime, every: float, keep: float
    ) -> None:
        self._what = what
        self._fetch = fetch
        self._clock = clock
        self._every = every
        self._keep = keep
        self._value: T | None = None
        self._fetched = 0.0
        self._tried = -PAUSE
        self._trouble = ""
        self._waiting: list[Deferred[T]] | None = None

    async def value(self) -> T:
        """What there is, or what comes.  Fails with :class:`~.answers.NoAnswer`."""
        now = self._clock.seconds()
        age = now - self._fetched
        if self._value is None or not age < self._keep:
            return await self.renew()
        # a clock that steps back must not keep it for ever
        if (age >= self._every or age < 0) and self._due(now):
            Deferred.fromCoroutine(self.renew()).addErrback(_said)
        return self._value

    async def renew(self) -> T:
        """One that is fetched now; the one there is if it was fetched just now.  Fails with
        :class:`~.answers.NoAnswer`, at once if it has just failed."""
        now = self._clock.seconds()
        if self._waiting is not None:
            return await one_of_many(self._waiting)
        if not self._due(now):
            if self._trouble or self._value is None:
                raise NoAnswer(self._trouble)
            return self._value
        self._tried = now
        self._waiting = []
        result: Any
        try:
            result = self._value = await self._fetch()
            self._fetched, self._trouble = self._clock.seconds(), ""
        except Exception as error:
            self._trouble = str(error) if isinstance(error, NoAnswer | ValueError) else type(error).__name__
            kept = "there is none" if self._value is None else "the former serves"
            _log.warn("{what} can't be had, {kept}: {why}", what=self._what, kept=kept, why=self._trouble)
            result = NoAnswer(self._trouble)
        waiting, self._waiting = self._waiting, None
        for one in waiting:
            one.errback(result) if isinstance(result, NoAnswer) else one.callback(result)
        if isinstance(result, NoAnswer):
            raise result
        return result  # type: ignore[no-any-return]

    def _due(self, now: float) -> bool:
        return self._waiting is None and not 0 <= now - self._tried < PAUSE


class Configuration:
    """The configuration that an issuer publishes."""

    def __init__(self, name: str, server: OAuth, fetcher: Fetcher, clock: IReactorTime) -> None:
        self.url = server.issuer.rstrip("/") + DISCOVERY if server.issuer else ""
        self._issuer = server.issuer
        self._fetcher = fetcher
        self._document: Renewed[dict[str, Any]] = Renewed(
            f"The configuration of oauth.{name}", self._fetch, clock, server.refresh, server.stale
        )

    async def place(self, name: str) -> str:
        """The URL of ``jwks_uri`` or ``introspection_endpoint``.  Fails with :class:`~.answers.NoAnswer`."""
        place = (await self._document.value()).get(name)
        if not isinstance(place, str) or url_flaw(place):
            raise NoAnswer(f"its configuration has no {name} that can be used")
        return place

    async def _fetch(self) -> dict[str, Any]:
        document = _json(await _get(self._fetcher, self.url))
        if not isinstance(document, dict) or document.get("issuer") != self._issuer:
            raise NoAnswer("its configuration is of another issuer")  # OpenID Connect Discovery §4.3
        return document


def key_source(
    name: str, server: OAuth, fetcher: Fetcher, configuration: Configuration, clock: IReactorTime
) -> Renewed[KeySet]:
    """The keys of a server, from where its settings say."""

    async def fetch() -> KeySet:
        url = server.keys or await configuration.place("jwks_uri")
        return KeySet.parse(await _get(fetcher, url))

    return Renewed(f"The keys of oauth.{name}", fetch, clock, server.refresh, server.stale)


def _said(failure: Failure) -> None:
    """The log has it already."""
    failure.trap(NoAnswer)  # type: ignore[no-untyped-call]


async def _get(fetcher: Fetcher, url: str) -> bytes:
    try:
        return await fetcher.ask(url)
    except Refused as error:
        raise NoAnswer(f"it answers with status {error.code}") from None


def _json(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        raise NoAnswer("what it answers is no JSON") from None
