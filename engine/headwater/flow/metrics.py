"""Metrics of one worker, in a registry of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Metrics", "Series"]


class Series:
    """The series of a gauge whose labels come and go."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._known: set[tuple[str, ...]] = set()

    def set(self, values: Mapping[tuple[str, ...], float]) -> None:
        """Set series by their label values and drop others: a scrape in between misses none."""
        for labels, value in values.items():
            self._gauge.labels(*labels).set(value)
        for labels in self._known - values.keys():
            self._gauge.remove(*labels)
        self._known = set(values)


class Metrics:
    """Counters and gauges; labels are bounded: topics, views, reasons, shards, never keys."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.rows = Counter(
            "headwater_rows", "Rows by what became of them", ["topic", "outcome"], registry=registry
        )
        self.dead_letters = Counter(
            "headwater_dead_letters", "Records that could not be rows", ["topic", "reason"],
            registry=registry,
        )  # fmt: skip
        self.view_rows = Counter(
            "headwater_view_rows", "Rows by what a view made of them", ["view", "outcome"],
            registry=registry,
        )  # fmt: skip
        self.unusable_values = Counter(
            "headwater_unusable_values",
            "Values that count as null: NaN, infinite, or outside an aggregate's range",
            ["view"],
            registry=registry,
        )
        self.late_rows = Gauge(
            "headwater_late_rows", "Events too late for every window", ["view"], registry=registry
        )
        self.holes = Counter(
            "headwater_exchange_holes", "Stretches missing from the exchange", ["shard"],
            registry=registry,
        )  # fmt: skip
        self.state_bytes = Gauge(
            "headwater_state_bytes", "Row memory in use", ["kind"], registry=registry
        )
        self.lag_records = Gauge(
            "headwater_lag_records", "Records that are in the log and not taken in",
            ["kind", "topic", "partition"], registry=registry,
        )  # fmt: skip
        self.freshness_seconds = Gauge(
            "headwater_freshness_seconds", "How old the answers of a shard may be", ["shard"],
            registry=registry,
        )  # fmt: skip
        self.tasks = Gauge("headwater_tasks", "Tasks of this worker", ["kind"], registry=registry)
        self.backlog_rows = Gauge(
            "headwater_backlog_rows", "Rows on the exchange not yet applied", registry=registry
        )
        self.checkpoint_seconds = Histogram(
            "headwater_checkpoint_duration_seconds", "Time to write a checkpoint", registry=registry
        )
        self.checkpoint_bytes = Counter(
            "headwater_checkpoint_bytes", "Bytes of rows written by checkpoints", registry=registry
        )
        self.checkpoint_time = Gauge(
            "headwater_checkpoint_last_timestamp_seconds", "When a checkpoint was last written",
            registry=registry,
        )  # fmt: skip
        self.stored_bytes = Counter(
            "headwater_checkpoint_stored_bytes", "Bytes sent to the checkpoint store",
            registry=registry,
        )  # fmt: skip
        self.store_failures = Counter(
            "headwater_checkpoint_store_failures", "Checkpoints that could not be stored",
            registry=registry,
        )  # fmt: skip
        self._add_history(registry)

    def _add_history(self, registry: CollectorRegistry) -> None:
        """Add what is told of plans, their views' past and the archive."""
        self.history_rows = Counter(
            "headwater_history_rows", "Rows of the past read for views that were new to a shard",
            registry=registry,
        )  # fmt: skip
        self.history_left = Gauge(
            "headwater_history_left_records", "Records of the past that views still wait for",
            registry=registry,
        )  # fmt: skip
        self.history_failures = Counter(
            "headwater_history_failures", "Times the past of a view could not be read",
            registry=registry,
        )  # fmt: skip
        self.plan_number = Gauge(
            "headwater_plan_number", "The applied plan that runs, 0 for one from a file",
            registry=registry,
        )  # fmt: skip
        self.plan_refused = Gauge(
            "headwater_plan_refused", "1 while a newer plan is applied that can't be run here",
            registry=registry,
        )  # fmt: skip
        self._add_records()

    def _add_records(self) -> None:
        """Make the metrics of what is written down for later."""
        registry = self.registry
        self.archive_failures = Counter(
            "headwater_archive_failures", "Writes that the archive's store did not take",
            registry=registry,
        )  # fmt: skip
        self.archived_rows = Counter(
            "headwater_archived_rows", "Rows written to the archive", ["topic"], registry=registry
        )
        self.samples = Counter(
            "headwater_samples", "Served vectors taken for audits, by what became of them",
            ["outcome"], registry=registry,
        )  # fmt: skip
