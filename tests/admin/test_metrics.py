"""The metrics."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import prometheus_client
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.admin.fakes import SizedStore
from tests.admin.samples import NOON, SAMPLES, SESSION, accepted, bounced, deferred, delivered
from twisted_mta.admin import instruments
from twisted_mta.admin.metrics import Metrics, ReactorLag, markdown
from twisted_mta.mail import events as ev
from twisted_mta.queue.interfaces import Commit

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def scrape(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What Prometheus would read, by its own parser."""
    text = prometheus_client.generate_latest(metrics.registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Counting(SynchronousTestCase):
    def setUp(self) -> None:
        self.metrics = Metrics()

    def value(self, name: str, **labels: str) -> float | None:
        return scrape(self.metrics).get((name, tuple(sorted(labels.items()))))

    def test_reception(self) -> None:
        for _ in range(3):
            self.metrics(accepted())
        self.metrics(accepted(listener="mx", size=10, recipients=("a@b",)))
        self.assertEqual(self.value("mta_messages_accepted_total", listener="submission"), 3)
        self.assertEqual(self.value("mta_messages_accepted_total", listener="mx"), 1)
        self.assertEqual(self.value("mta_recipients_accepted_total", listener="submission"), 9)
        self.assertEqual(self.value("mta_accepted_bytes_total", listener="submission"), 3 * 4096)
        self.assertEqual(self.value("mta_accept_seconds_count", listener="submission"), 3)

    def test_overload(self) -> None:
        for count in (800, 12):
            self.metrics(ev.Overloaded(time=NOON, listener="mx", refused=count, waited=0.6))
        self.assertEqual(self.value("mta_overload_refusals_total", listener="mx"), 812)

    def test_sessions_open(self) -> None:
        for n in range(3):
            self.metrics(ev.Connected(time=NOON, port=n, role="submission", **SESSION))
        self.metrics(ev.Disconnected(time=NOON, reason="quit", seconds=1.0, **SESSION))
        self.assertEqual(self.value("mta_sessions_open", listener="submission"), 2)
        self.assertEqual(self.value("mta_connections_total", listener="submission"), 3)
        self.assertEqual(self.value("mta_disconnects_total", listener="submission", reason="quit"), 1)

    def test_refusals(self) -> None:
        for stage, reply, limit in [
            ("rcpt", "550 5.1.1 no", ""),
            ("rcpt", "452 4.5.3 x", "recipients_per_day"),
            ("rcpt", "550 5.7.1 no", ""),
        ]:
            self.metrics(ev.Rejected(time=NOON, stage=stage, reply=reply, limit=limit, **SESSION))
        self.assertEqual(self.value("mta_rejects_total", listener="submission", stage="rcpt", code="5xx"), 2)
        self.assertEqual(self.value("mta_rejects_total", listener="submission", stage="rcpt", code="4xx"), 1)
        self.assertEqual(self.value("mta_quota_rejects_total", limit="recipients_per_day"), 1)

    def test_authentication(self) -> None:
        self.metrics(ev.Authenticated(time=NOON, user="u", customer="c", mechanism="PLAIN", **SESSION))
        self.metrics(ev.AuthFailed(time=NOON, user="u", mechanism="PLAIN", reply="535", **SESSION))
        self.metrics(ev.AuthFailed(time=NOON, user="u", mechanism="PLAIN", reply="454", temporary=True, **SESSION))
        for result in ("ok", "failed", "unavailable"):
            self.assertEqual(self.value("mta_authentications_total", listener="submission", result=result), 1)

    def test_delivery(self) -> None:
        self.metrics(delivered(delay=1.25))
        self.metrics(delivered(delay=4000.0, tls="TLSv1.3"))
        self.metrics(deferred())
        self.metrics(bounced())
        self.metrics(bounced(expired=True))
        self.metrics(bounced(status="5.7.30"))
        self.assertEqual(self.value("mta_recipients_delivered_total", agent="smtp", tls="no"), 1)
        self.assertEqual(self.value("mta_recipients_delivered_total", agent="smtp", tls="yes"), 1)
        self.assertEqual(self.value("mta_recipients_deferred_total", agent="smtp"), 1)
        self.assertEqual(self.value("mta_recipients_bounced_total", agent="smtp", cause="refused"), 1)
        self.assertEqual(self.value("mta_recipients_bounced_total", agent="smtp", cause="expired"), 1)
        self.assertEqual(self.value("mta_recipients_bounced_total", agent="smtp", cause="requiretls"), 1)
        buckets = {
            le: self.value("mta_delivery_delay_seconds_bucket", agent="smtp", le=le)
            for le in ("1.0", "2.5", "3600.0", "14400.0", "+Inf")
        }
        self.assertEqual(buckets, {"1.0": 0, "2.5": 1, "3600.0": 1, "14400.0": 2, "+Inf": 2})
        self.assertEqual(self.value("mta_delivery_delay_seconds_sum", agent="smtp"), 4001.25)

    def test_requiretls(self) -> None:
        for wish in ("required", "optional", "required", ""):
            self.metrics(accepted(requiretls=wish))
        name, labels = "mta_messages_requiretls_total", {"listener": "submission"}
        self.assertEqual(self.value(name, **labels, requiretls="required"), 2)
        self.assertEqual(self.value(name, **labels, requiretls="optional"), 1)

    def test_every_event_is_taken(self) -> None:
        for event in SAMPLES:
            self.metrics(event)
        self.assertEqual(self.value("mta_reports_total", kind="failed"), 1)
        self.assertEqual(self.value("mta_messages_done_total"), 1)
        self.assertEqual(self.value("mta_operator_actions_total", action="remove"), 1)
        self.assertEqual(self.value("mta_service_events_total", what="ready"), 1)

    def test_a_value_on_a_bound_belongs_to_it(self) -> None:
        histogram = instruments.Histogram("x", "", (1.0, 2.0))
        histogram.observe((), 1.0)
        self.assertEqual(histogram.values[()], [1, 0, 0, 1.0])

    def test_nobody_makes_series_without_end(self) -> None:
        for n in range(instruments.SERIES + 50):
            self.metrics(ev.TlsFailed(time=NOON, session="s", client="c", listener=f"l{n}", reason="r"))
            self.metrics.delay.observe((f"a{n}",), 1)
        self.assertEqual(self.value("mta_tls_handshake_failures_total", listener="other"), 50)
        self.assertEqual(len(self.metrics.tls_failures.values), instruments.SERIES + 1)
        self.assertEqual(len(self.metrics.delay.values), instruments.SERIES + 1)

    def test_no_word_of_a_peer_is_a_label(self) -> None:
        marked = "peer-chosen"
        peers = {"client", "user", "helo", "sender", "recipient", "reply", "message_id", "original", "relay", "session"}
        for event in SAMPLES:
            changes = {n: marked for n in event.__struct_fields__ if n in peers}
            fields: dict[str, Any] = {n: getattr(event, n) for n in event.__struct_fields__}
            self.metrics(type(event)(**{**fields, **changes}))
        self.assertNotIn(marked, prometheus_client.generate_latest(self.metrics.registry).decode())


class Gauges(SynchronousTestCase):
    def setUp(self) -> None:
        self.metrics = Metrics()

    def test_queue(self) -> None:
        self.metrics.watch_store(SizedStore())  # type: ignore[arg-type]
        found = scrape(self.metrics)
        self.assertEqual(found["mta_queue_messages", ()], 3)
        self.assertEqual(found["mta_queue_oldest_timestamp_seconds", ()], NOON)
        self.assertEqual(found["mta_store_disk_free_bytes", ()], 1 << 34)

    def test_commits(self) -> None:
        store = SizedStore()
        self.metrics.watch_store(store)  # type: ignore[arg-type]
        assert store.tell is not None
        store.tell(Commit(operations=7, queued=0.002, locked=0.04, took=0.3))
        store.tell(Commit(operations=1, queued=0.0, locked=0.0, took=0.1))
        found = scrape(self.metrics)
        self.assertEqual(found["mta_store_commit_operations_count", ()], 2)
        self.assertEqual(found["mta_store_commit_operations_sum", ()], 8)
        self.assertEqual(found["mta_store_commit_operations_bucket", (("le", "1.0"),)], 1)
        self.assertAlmostEqual(found["mta_store_commit_queued_seconds_sum", ()], 0.002)
        self.assertAlmostEqual(found["mta_store_commit_locked_seconds_sum", ()], 0.04)
        self.assertAlmostEqual(found["mta_store_commit_seconds_sum", ()], 0.4)

    def test_a_store_that_fails_costs_its_gauges_only(self) -> None:
        self.metrics.watch_store(SizedStore(OSError("gone")))  # type: ignore[arg-type]
        self.metrics(accepted())
        found = scrape(self.metrics)
        self.assertNotIn(("mta_queue_messages", ()), found)
        self.assertIn(("mta_messages_accepted_total", (("listener", "submission"),)), found)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_watched(self) -> None:
        self.metrics.watch("mta_a", "One.", lambda: 4)
        self.metrics.watch("mta_b", "Several.", lambda: {"x": 1, "y": 2}, label="kind")
        self.metrics.watch("mta_c", "None.", lambda: None)
        self.metrics.watch("mta_d", "Fails.", lambda: 1 // 0)
        found = scrape(self.metrics)
        self.assertEqual(found["mta_a", ()], 4)
        self.assertEqual(found["mta_b", (("kind", "y"),)], 2)
        self.assertNotIn(("mta_c", ()), found)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_scheduler(self) -> None:
        class Scheduler:
            under_way, unsettled, settle_failures = 3, 2, 1

            def snapshot(self) -> list[SimpleNamespace]:
                return [SimpleNamespace(waiting=5, dead=False), SimpleNamespace(waiting=1, dead=True)]

        self.metrics.watch_scheduler(Scheduler())
        found = scrape(self.metrics)
        shown = {name: value for (name, _), value in found.items() if name.startswith(("mta_deliveries", "mta_dest"))}
        self.assertEqual(
            shown,
            {
                "mta_deliveries_under_way": 3,
                "mta_deliveries_unsettled": 2,
                "mta_deliveries_waiting": 6,
                "mta_destinations_dead": 1,
            },
        )
        self.assertEqual(found["mta_settle_failures_total", ()], 1)

    def test_watching_again_replaces(self) -> None:
        self.metrics.watch("mta_a", "One.", lambda: 4)
        self.metrics.watch("mta_a", "One.", lambda: 5)
        self.assertEqual(scrape(self.metrics)["mta_a", ()], 5)

    def test_lag(self) -> None:
        clock = Clock()
        lag = ReactorLag(self.metrics, clock)
        lag.startService()
        clock.advance(1.0)
        clock.advance(1.3)
        lag.stopService()
        found = scrape(self.metrics)
        self.assertEqual(found["mta_reactor_lag_seconds_count", ()], 2)
        self.assertAlmostEqual(found["mta_reactor_lag_seconds_sum", ()], 0.3)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_two_registries_do_not_meet(self) -> None:
        self.metrics(accepted())
        self.assertNotIn(("mta_messages_accepted_total", (("listener", "submission"),)), scrape(Metrics()))


class Documentation(SynchronousTestCase):
    def test_the_page_is_not_stale(self) -> None:
        self.assertEqual(
            DOCS.read_text(), markdown(Metrics()), "run: python -m twisted_mta.admin.metrics > docs/metrics.md"
        )

    def test_names(self) -> None:
        for family in Metrics().collect():
            self.assertRegex(family.name, r"^mta_[a-z_]+[a-z]$")
            self.assertTrue(family.documentation.endswith("."), family.documentation)
