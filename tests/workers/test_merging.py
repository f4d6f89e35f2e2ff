"""The metrics of several processes as one."""

from __future__ import annotations

from prometheus_client.exposition import generate_latest
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.admin.metrics import Metrics
from twisted_mta.mail.events import Service
from twisted_mta.workers.commands import Family
from twisted_mta.workers.merging import families, growing, merge, registry_of


class Merging(SynchronousTestCase):
    """merge."""

    def snapshot(self, ready: int, lag: float) -> list[Family]:
        metrics = Metrics()
        for _ in range(ready):
            metrics(Service(time=0.0, what="ready"))
        metrics.lag.observe((), lag)
        return families(metrics.registry)

    def test_counters_and_histograms_are_added_and_the_rest_taken_once(self) -> None:
        queue = Family("mta_queue_messages", "", "gauge", (("mta_queue_messages", {}, 7.0),))
        shown = generate_latest(registry_of(merge([[*self.snapshot(2, 0.002), queue], [*self.snapshot(3, 9), queue]])))
        for line in (
            b'mta_service_events_total{what="ready"} 5.0',
            b'mta_reactor_lag_seconds_bucket{le="0.0025"} 1.0',
            b'mta_reactor_lag_seconds_bucket{le="+Inf"} 2.0',
            b"mta_queue_messages 7.0",
        ):
            self.assertIn(line + b"\n", shown)

    def test_one_process_shows_as_it_would_by_itself(self) -> None:
        metrics = Metrics()
        metrics(Service(time=0.0, what="ready"))

        def lines(text: bytes) -> list[bytes]:
            return [line for line in text.splitlines() if not line.startswith((b"#", b"process_"))]

        ours = generate_latest(registry_of(merge([families(metrics.registry)])))
        self.assertEqual(lines(ours), lines(generate_latest(metrics.registry)))

    def test_sums_do_not_fall_when_a_process_ends(self) -> None:
        left = growing(self.snapshot(2, 1))
        self.assertIn("mta_service_events", {family.name for family in left})
        self.assertEqual({family.type for family in left}, {"counter", "histogram"})
