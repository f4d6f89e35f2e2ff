"""Counters and histograms that cost little to feed: a dictionary look-up and an addition.

``prometheus_client`` keeps its own behind a lock for each sample, which threads need and the reactor does not.  These
hold plain numbers and turn into prometheus_client's families when somebody scrapes; both happen on the reactor thread.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

SERIES = 1000
"""Combinations of labels in one family; what comes on top is counted as "other", so that memory stays bounded."""

Labels = tuple[str, ...]


class Counter:
    """A number that grows, for each combination of labels.  ``name`` ends with "_total"."""

    __slots__ = ("help", "labels", "name", "values")

    kind = "counter"

    def __init__(self, name: str, help_: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.help = help_
        self.labels = tuple(labels)
        self.values: dict[Labels, float] = {} if labels else {(): 0}

    def add(self, key: Labels, amount: float = 1) -> None:
        """Count ``amount`` more."""
        values = self.values
        if key in values:
            values[key] += amount
        elif len(values) < SERIES:
            values[key] = amount
        else:
            other = ("other",) * len(key)
            values[other] = values.get(other, 0) + amount

    def collect(self) -> Metric:
        """What a scrape gets."""
        family = CounterMetricFamily(self.name, self.help, labels=self.labels)
        for key, value in self.values.items():
            family.add_metric(key, value)
        return family


class Gauge(Counter):
    """A number that goes up and down."""

    __slots__ = ()

    kind = "gauge"

    def collect(self) -> Metric:
        """What a scrape gets."""
        family = GaugeMetricFamily(self.name, self.help, labels=self.labels)
        for key, value in self.values.items():
            family.add_metric(key, value)
        return family


class Histogram:
    """How often values fell below each of some bounds, for each combination of labels."""

    __slots__ = ("bounds", "help", "labels", "name", "values")

    kind = "histogram"

    def __init__(self, name: str, help_: str, bounds: Sequence[float], labels: Sequence[str] = ()) -> None:
        self.name = name
        self.help = help_
        self.labels = tuple(labels)
        self.bounds = tuple(bounds)
        self.values: dict[Labels, list[float]] = {}

    def observe(self, key: Labels, value: float) -> None:
        """Count one value."""
        cells = self.values.get(key)
        if cells is None:
            if len(self.values) >= SERIES:
                key = ("other",) * len(key)
            # one cell for each bound, one for what is beyond them all, one for the sum
            cells = self.values.setdefault(key, [0.0] * (len(self.bounds) + 2))
        cells[bisect_left(self.bounds, value)] += 1
        cells[-1] += value

    def collect(self) -> Metric:
        """What a scrape gets."""
        family = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        names = [str(float(bound)) for bound in self.bounds]
        names.append("+Inf")
        for key, cells in self.values.items():
            total = 0.0
            buckets = []
            for name, count in zip(names, cells, strict=False):
                total += count
                buckets.append((name, total))
            family.add_metric(key, buckets, cells[-1])
        return family
