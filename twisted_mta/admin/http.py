"""The operator's HTTP side: ``/metrics``, ``/healthz``, and a page that links them.  It only ever answers; nothing can
be changed through it, and it has no secrets, but it belongs on loopback or a network of the operator's all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from ..queue.interfaces import IMessageStore
from .metrics import Metrics

HEADERS = {
    "Server": "twisted-mta",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_PAGE = b"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>twisted-mta</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:32em;margin:4em auto;padding:0 1em}</style></head>
<body><h1>twisted-mta</h1>
<ul><li><a href="/healthz">/healthz</a>: is the service well?</li>
<li><a href="/metrics">/metrics</a>: for Prometheus</li></ul></body></html>
"""


Gather = Callable[[], "Deferred[CollectorRegistry]"]


class AdminPages(Resource):
    """All pages.  One leaf that knows its paths by heart: what is not in the table is not there."""

    isLeaf = True  # noqa: N815 - Twisted's name
    _log = Logger(namespace="twisted_mta.admin.http")

    def __init__(
        self, metrics: Metrics, store: IMessageStore | None, status: Callable[[], str], gather: Gather | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._metrics = metrics
        self._gather = gather
        self._store = store
        self._status = status
        self._pages: dict[bytes, Callable[[Any], bytes | Deferred[bytes]]] = {
            b"/": self._root,
            b"/metrics": self._metrics_page,
            b"/healthz": self._health,
        }

    def render(self, request: Any) -> Any:
        """Answer a request (a :class:`twisted.web.server.Request`, whose methods have no types)."""
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        body: bytes | Deferred[bytes]
        page = self._pages.get(request.path)
        if page is None:
            body = self._text(request, 404, "There is nothing here. Try /metrics or /healthz.")
        elif request.method not in (b"GET", b"HEAD"):
            request.setHeader("Allow", "GET, HEAD")
            body = self._text(request, 405, "Only GET and HEAD are answered here.")
        else:
            body = page(request)
            if not isinstance(body, bytes):
                body.addCallbacks(lambda body: self._late(request, body), self._failed, errbackArgs=(request,))
                return NOT_DONE_YET
        request.setHeader("Content-Length", str(len(body)))
        return body  # which Request.write leaves out of an answer to HEAD (RFC 9110 §9.3.2)

    def _late(self, request: Any, body: bytes) -> None:
        if not request._disconnected:
            request.setHeader("Content-Length", str(len(body)))
            request.write(body)
            request.finish()

    def _failed(self, failure: Failure, request: Any) -> None:
        self._log.failure("The metrics could not be gathered", failure)
        self._late(request, self._text(request, 503, "The metrics could not be gathered."))

    def _text(self, request: Any, code: int, words: str) -> bytes:
        request.setResponseCode(code)
        request.setHeader("Content-Type", "text/plain; charset=utf-8")
        return f"{words}\n".encode()

    def _root(self, request: Any) -> bytes:
        request.setHeader("Content-Type", "text/html; charset=utf-8")
        return _PAGE

    def _metrics_page(self, request: Any) -> bytes | Deferred[bytes]:
        """Prometheus' text form or OpenMetrics', as the scraper asks.

        Made on the reactor thread, where the numbers live: it takes about a millisecond.
        """
        encode, kind = choose_encoder(request.getHeader("Accept") or "")
        request.setHeader("Content-Type", kind)
        if self._gather is not None:
            return self._gather().addCallback(encode)
        return encode(self._metrics.registry)

    def _health(self, request: Any) -> bytes:
        """200 "ok", or 503 and what is wrong."""
        try:
            problem = self._status()
            if self._store is not None:
                self._store.stats()
        except Exception:
            self._log.failure("The service's health could not be told")
            problem = "the store or the service does not answer"
        if problem:
            request.setHeader("Retry-After", "10")
        return self._text(request, 503 if problem else 200, problem or "ok")


class AdminSite(Site):
    """A site that keeps no access log: scrapes are no news."""

    displayTracebacks = False  # noqa: N815 - Twisted's name
    noisy = False

    def log(self, request: Any) -> None:
        """Nothing."""


def admin_site(
    metrics: Metrics, store: IMessageStore | None, status: Callable[[], str], gather: Gather | None = None
) -> Site:
    """The site to listen with.  ``status`` says "" when the service is well, else in words what is wrong.

    ``gather``, where it is given, gives the metrics to show in place of those of this process.
    """
    return AdminSite(AdminPages(metrics, store, status, gather), timeout=30)  # type: ignore[no-untyped-call]
