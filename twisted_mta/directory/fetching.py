"""Questions to a web server by Twisted's HTTP client: few at once, within a time limit, with a bound on the answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseNeverReceived,
    _HTTP11ClientFactory,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from .answers import NoAnswer

MAX_ANSWER = 1 << 18
"""Octets of an answer; more is none."""
PENDING = 256
"""Questions that may wait for a connection."""
IDLE = 60
"""Seconds that a connection is kept for the next question."""

_BROKEN = (ResponseNeverReceived, RequestTransmissionFailed, RequestGenerationFailed, ConnectionDone)
"""A connection that was kept and that the server had closed just then."""


class Fetcher:
    """Asks, ``connections`` questions at once, each within ``timeout`` seconds, the wait for its turn included.

    ``ca`` is a PEM file of authorities, "" for the system's.  Whoever makes it calls :meth:`close`.  Redirects are not
    followed: a token belongs to nobody else.  Raises OSError or ValueError when ``ca`` can't be used.
    """

    def __init__(self, reactor: Any, timeout: float, connections: int, ca: str = "") -> None:
        self._reactor = reactor
        self._timeout = timeout
        self._free = connections
        self._waiting: deque[tuple[Deferred[None], float]] = deque()
        self._pool: Any = HTTPConnectionPool(reactor, persistent=True)  # type: ignore[no-untyped-call]
        self._pool.maxPersistentPerHost = connections
        self._pool.cachedConnectionTimeout = IDLE
        self._pool.retryAutomatically = False
        self._pool._factory = _Quiet  # else the log has two lines for each connection
        make: Any = Agent
        self._agent = make(reactor, _policy(ca), connectTimeout=timeout, pool=self._pool)

    async def ask(self, url: str, headers: Mapping[str, str] | None = None, form: bytes | None = None) -> bytes:
        """GET, or POST of a form: the body of a 200.  ``url`` is ASCII.

        Fails with :class:`Refused` for a 400 or 401, and with :class:`NoAnswer` for whatever else goes wrong.
        """
        until = self._reactor.seconds() + self._timeout
        asking: Deferred[bytes] = Deferred.fromCoroutine(self._in_turn(url, headers or {}, form, until))
        try:
            return await asking.addTimeout(self._timeout, self._reactor)
        except (NoAnswer, Refused):
            raise
        except Exception as error:
            # never the error's own words: some repeat the request, and with it the token
            raise NoAnswer(f"it does not answer ({_name(error)})") from None

    async def _in_turn(self, url: str, headers: Mapping[str, str], form: bytes | None, until: float) -> bytes:
        if self._free <= 0:
            if len(self._waiting) >= PENDING:
                raise NoAnswer("too many questions wait for it")
            turn: Deferred[None] = Deferred(self._forget)
            self._waiting.append((turn, until))
            await turn
        else:
            self._free -= 1
        try:
            try:
                return await self._request(url, headers, form)
            except _BROKEN:
                if self._reactor.seconds() >= until:  # it is the time-out that broke it
                    raise
                return await self._request(url, headers, form)
        finally:
            self._next()

    def _forget(self, turn: Deferred[None]) -> None:
        self._waiting = deque(one for one in self._waiting if one[0] is not turn)

    def _next(self) -> None:
        """Whose turn it is; for those whose time is over just now, that is told by their time limit."""
        now = self._reactor.seconds()
        while self._waiting:
            turn, until = self._waiting.popleft()
            if now < until:
                turn.callback(None)
                return
        self._free += 1

    async def _request(self, url: str, headers: Mapping[str, str], form: bytes | None) -> bytes:
        sent = {"Accept": "application/json", "User-Agent": "twisted-mta", **headers}
        if form is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        response: Any = await self._agent.request(
            b"POST" if form is not None else b"GET",
            url.encode("ascii"),
            Headers({name: [value] for name, value in sent.items()}),
            _Form(form) if form is not None else None,
        )
        body = _Body()
        response.deliverBody(body)
        content = await body.complete
        if response.code == 200:
            return content
        if response.code in (400, 401):
            raise Refused(response.code)
        raise NoAnswer(f"it answers with status {response.code}")

    def close(self) -> None:
        """Close idle connections; questions under way end by themselves."""
        self._pool.closeCachedConnections()


class _Quiet(_HTTP11ClientFactory):
    noisy = False


class Refused(Exception):
    """The server has answered that the request is bad (400), or that who asks is not known (401)."""

    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code = code


def _name(error: Exception) -> str:
    reasons = getattr(error, "reasons", None)  # twisted.web wraps what happened
    inner = reasons[0].value if reasons and isinstance(reasons[0], Failure) else error
    return type(inner).__name__


def _policy(ca: str) -> Any:
    if not ca:
        return BrowserLikePolicyForHTTPS()  # type: ignore[no-untyped-call]
    begin = b"-----BEGIN CERTIFICATE-----"
    parts = [begin + part for part in Path(ca).read_bytes().split(begin)[1:]]
    if not parts:
        raise ValueError(f"{ca} has no certificate in it")
    trusted: Any = trustRootFromCertificates([Certificate.loadPEM(part) for part in parts])  # type: ignore[no-untyped-call]
    return BrowserLikePolicyForHTTPS(trusted)  # type: ignore[no-untyped-call]


@implementer(IBodyProducer)
class _Form:
    """A body that is written at once."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: Any) -> Deferred[None]:  # noqa: N802 - Twisted's name
        consumer.write(self._body)
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def stopProducing(self) -> None:  # noqa: N802
        """It is written already."""

    def pauseProducing(self) -> None:  # noqa: N802
        """It is written already."""

    def resumeProducing(self) -> None:  # noqa: N802
        """It is written already."""


class _Body(Protocol):
    """Gathers a body; ``complete`` fires with it, or fails."""

    transport: Any

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self.complete: Deferred[bytes] = Deferred(lambda _: self._abort())

    def _abort(self) -> None:
        abort = getattr(self.transport, "abortConnection", None) or getattr(self.transport, "stopProducing", None)
        if abort is not None:
            abort()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self._size += len(data)
        if self._size <= MAX_ANSWER:
            self._parts.append(data)
        elif not self.complete.called:
            self._abort()
            self.complete.errback(NoAnswer(f"its answer is longer than {MAX_ANSWER} octets"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        if self.complete.called:
            return
        if isinstance(reason.value, ResponseDone | PotentialDataLoss):
            self.complete.callback(b"".join(self._parts))
        else:
            self.complete.errback(NoAnswer("its answer ends too early"))
