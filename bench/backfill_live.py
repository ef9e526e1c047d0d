"""The live part of the backfill benchmark: how old are answers while a new view gets its past?

A worker takes a steady load in; then it adopts a plan with one view more, whose past is millions of
events. Probes in the load are read over gRPC until they are there, before and meanwhile.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.child import Child
from bench.ingest_freshness import probe
from bench.ingest_topic import PacedProducer, delete_topics, fill, make_topic
from bench.ingest_workload import Load
from headwater.cli.demo import broker as kafka
from headwater_serving.client import connect

if TYPE_CHECKING:
    import argparse

__all__ = ["measure"]

_LIMIT_S = 120.0
_PATIENCE_S = 30.0
_SLICE_S = 1.0
_EVENTS_A_SECOND = 1_000  # of event time: that of the load
_MARGIN_MS = 60_000


def measure(given: argparse.Namespace) -> dict[str, object]:
    """Return percentiles of freshness in ms before and during a backfill, and their ratio."""
    name = f"backfill-{time.time_ns():x}"
    broker = kafka.start()
    try:
        with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
            return _measure(broker.bootstrap_servers, name, Path(folder), given)
    finally:
        if not broker.disposable:
            delete_topics(broker.bootstrap_servers, name)
        broker.stop()


def _measure(
    servers: str, topic: str, folder: Path, given: argparse.Namespace
) -> dict[str, object]:
    past_ms = given.live_past * 1_000 // _EVENTS_A_SECOND
    begin_ms = time.time_ns() // 1_000_000 - past_ms - _MARGIN_MS
    load = Load(given.live_past, given.live_users, begin_ms=begin_ms)
    make_topic(servers, topic)
    fill(servers, topic, load.records())
    arguments = ["grow", "--servers", servers, "--topic", topic]
    arguments += ["--namespace", topic, "--folder", str(folder / topic)]
    with Child("bench.ingest_worker", arguments, folder) as worker:
        target = worker.read()["target"]
        producer = PacedProducer(
            servers, topic, events_per_s=given.live_rate, users=given.live_users
        )
        with connect(target, timeout_s=_PATIENCE_S) as client, producer:
            probe(client, producer, "warm", given.live_s / 3)
            before = probe(client, producer, "before", given.live_s)
            worker.ask(adopt=True)
            began = worker.read()
            during: list[float] = []
            slices, left = 0, 1
            while left and slices * _SLICE_S < _LIMIT_S:
                found = probe(client, producer, f"during{slices}-", _SLICE_S)
                worker.ask(left=True)
                left = worker.read()["left"]
                slices += 1
                # The last slice was only partly beside a backfill; a short one has no other.
                if left or not during:
                    during += found
            ended = worker.read() if not left else {}
    return _result(before, during, {**began, **ended}, given, producer.late_s)


def _result(
    before: list[float],
    during: list[float],
    backfill: dict[str, Any],
    given: argparse.Namespace,
    late_s: float,
) -> dict[str, object]:
    found = {"before": _percentiles(before), "during": _percentiles(during)}
    seconds = backfill.get("seconds")
    return {
        **found,
        "slow_down_p99": found["during"]["p99_ms"] / found["before"]["p99_ms"],
        "past_events": backfill["past"],
        "seconds": seconds,
        "history_events_per_s": None if seconds is None else backfill["past"] / seconds,
        "live_events_per_s": given.live_rate,
        "producer_late_ms": late_s * 1_000,
    }


def _percentiles(delays_s: list[float]) -> dict[str, float]:
    delays_ms = np.array(delays_s) * 1_000
    return {
        "p50_ms": float(np.quantile(delays_ms, 0.5)),
        "p99_ms": float(np.quantile(delays_ms, 0.99)),
        "max_ms": float(delays_ms.max()),
        "probes": len(delays_s),
    }
