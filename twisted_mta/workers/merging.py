"""The metrics of several processes as one: counters are added up, and what all see alike is taken once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from ..admin.metrics import QUEUE_GAUGES
from .commands import Family

ONCE = {name for name, _, _ in QUEUE_GAUGES} | {
    "mta_build_info",
    "process_start_time_seconds",
    "process_max_fds",
}
"""Families that say the same in every process, or mean something in one only."""
_GROWING = ("counter", "histogram")

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def families(registry: CollectorRegistry) -> list[Family]:
    """What a registry shows now, to be sent."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            tuple((sample.name, dict(sample.labels), float(sample.value)) for sample in metric.samples),
        )
        for metric in registry.collect()
    ]


def merge(snapshots: Iterable[Sequence[Family]]) -> list[Family]:
    """One family of each name.  Of those in :data:`ONCE` the first with samples is taken."""
    found: dict[str, tuple[Family, Samples]] = {}
    for snapshot in snapshots:
        for family in snapshot:
            if family.name not in found:
                found[family.name] = (family, {})
            samples = found[family.name][1]
            if samples and family.name in ONCE:
                continue
            for name, labels, value in family.samples:
                key = (name, tuple(labels.items()))
                samples[key] = samples.get(key, 0.0) + value
    return [
        Family(
            family.name,
            family.documentation,
            family.type,
            tuple((name, dict(labels), value) for (name, labels), value in samples.items()),
        )
        for family, samples in found.values()
    ]


def growing(snapshot: Sequence[Family]) -> list[Family]:
    """What stays of a process that has ended: counters and histograms, so that no sum ever falls."""
    return [family for family in snapshot if family.type in _GROWING and family.name not in ONCE]


class Merged(Collector):
    """Shows families that were merged."""

    def __init__(self, merged: Sequence[Family]) -> None:
        self._merged = merged

    def collect(self) -> Iterable[Metric]:
        """See :class:`prometheus_client.registry.Collector`."""
        for family in self._merged:
            metric = Metric(family.name, family.documentation, family.type)
            for name, labels, value in family.samples:
                metric.add_sample(name, labels, value)
            yield metric


def registry_of(merged: Sequence[Family]) -> CollectorRegistry:
    """A registry that shows them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Merged(merged))
    return registry
