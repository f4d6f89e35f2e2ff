"""The operator's HTTP side, asked over a memory transport."""

from __future__ import annotations

from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel

from tests.admin.fakes import SizedStore
from tests.admin.samples import accepted
from twisted_mta.admin.http import HEADERS, admin_site
from twisted_mta.admin.metrics import Metrics


class Asking(SynchronousTestCase):
    def setUp(self) -> None:
        self.metrics = Metrics()
        self.store = SizedStore()
        self.problem = ""
        self.site = admin_site(self.metrics, self.store, lambda: self.problem)  # type: ignore[arg-type]

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
        channel = self.site.buildProtocol(None)
        assert isinstance(channel, HTTPChannel) or hasattr(channel, "dataReceived")
        transport = StringTransport()
        channel.makeConnection(transport)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        channel.dataReceived(f"{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{lines}\r\n".encode())
        head, _, body = transport.value().decode().partition("\r\n\r\n")
        first, *fields = head.split("\r\n")
        return int(first.split()[1]), {k.title(): v for k, v in (f.split(": ", 1) for f in fields)}, body

    def test_metrics(self) -> None:
        self.metrics(accepted())
        code, headers, body = self.ask("/metrics")
        self.assertEqual(code, 200)
        self.assertTrue(headers["Content-Type"].startswith("text/plain"))
        self.assertIn('mta_messages_accepted_total{listener="submission"} 1.0\n', body)

    def test_openmetrics(self) -> None:
        code, headers, body = self.ask("/metrics", Accept="application/openmetrics-text; version=1.0.0")
        self.assertEqual(code, 200)
        self.assertTrue(headers["Content-Type"].startswith("application/openmetrics-text"))
        self.assertTrue(body.endswith("# EOF\n"))

    def test_well(self) -> None:
        self.assertEqual(self.ask("/healthz")[::2], (200, "ok\n"))

    def test_unwell(self) -> None:
        self.problem = "disk space is below the reserve"
        self.assertEqual(self.ask("/healthz")[::2], (503, "disk space is below the reserve\n"))

    def test_store_that_does_not_answer(self) -> None:
        self.store.answer = OSError("gone")
        code, _, body = self.ask("/healthz")
        self.assertEqual(code, 503)
        self.assertNotIn("gone", body)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_root(self) -> None:
        code, headers, body = self.ask("/")
        self.assertEqual((code, headers["Content-Type"]), (200, "text/html; charset=utf-8"))
        self.assertIn('href="/metrics"', body)
        self.assertIn('href="/healthz"', body)

    def test_nothing_else(self) -> None:
        for path in ("/x", "/metrics/x", "/healthz/..%2f..", "/metrics/", "//", "/%00"):
            self.assertEqual(self.ask(path)[0], 404, path)

    def test_head(self) -> None:
        for path, code in (("/", 200), ("/metrics", 200), ("/healthz", 200), ("/x", 404)):
            got, headers, body = self.ask(path, "HEAD")
            self.assertEqual((got, body), (code, ""))
            self.assertGreater(int(headers["Content-Length"]), 0)

    def test_only_reading(self) -> None:
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            code, headers, _ = self.ask("/metrics", method)
            self.assertEqual((code, headers["Allow"]), (405, "GET, HEAD"))

    def test_headers_on_every_answer(self) -> None:
        for path, method in (("/", "GET"), ("/metrics", "GET"), ("/x", "GET"), ("/metrics", "POST")):
            headers = self.ask(path, method)[1]
            for name, value in HEADERS.items():
                self.assertEqual(headers.get(name.title()), value, (path, name))
