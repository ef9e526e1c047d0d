"""How soon can an event be read? Probes in a steady load, read over gRPC until they are there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from bench.child import Child
from bench.ingest_topic import PacedProducer, make_topic
from bench.ingest_workload import SERVICE
from headwater_serving.client import connect

if TYPE_CHECKING:
    from pathlib import Path

    from headwater_serving.client import Client

__all__ = ["measure_freshness", "probe"]

_PROBE_EVERY_S = 0.02
_POLL_S = 0.004
_WARM_S = 3.0
_PATIENCE_S = 20.0
_COUNT = "count_1h"


def measure_freshness(
    servers: str, topic: str, folder: Path, *, events_per_s: int, seconds: float, users: int
) -> dict[str, object]:
    """Return percentiles of the time from sending an event to the first answer that holds it."""
    make_topic(servers, topic)
    arguments = ["serve", "--servers", servers, "--topic", topic]
    arguments += ["--namespace", topic, "--folder", str(folder / topic)]
    with Child("bench.ingest_worker", arguments, folder) as worker:
        target = worker.read()["target"]
        producer = PacedProducer(servers, topic, events_per_s=events_per_s, users=users)
        with connect(target, timeout_s=_PATIENCE_S) as client:
            # The first call asks what the service takes; that isn't part of an answer.
            client.online(SERVICE, {"user": ["nobody"]})
            with producer:
                probe(client, producer, "warm", min(_WARM_S, seconds / 2))
                worker.ask(start=True)
                worker.read()
                delays_s = probe(client, producer, "probe", seconds)
                worker.ask(stop=True)
                used = worker.read()
    per_m = 1e6 / (events_per_s * used["seconds"])
    delays_ms = np.array(delays_s) * 1_000
    return {
        "p50": float(np.quantile(delays_ms, 0.5)),
        "p99": float(np.quantile(delays_ms, 0.99)),
        "max": float(delays_ms.max()),
        "probes": len(delays_s),
        "events_per_s": events_per_s,
        "seconds": seconds,
        "producer_late_ms": producer.late_s * 1_000,
        # At this rate batches are small: an event costs more than in a backlog.
        "cpu_s_per_m": {
            "worker": used["cpu_seconds"] * per_m,
            "stages": {name: taken * per_m for name, taken in used["stages"].items()},
        },
    }


def probe(client: Client, producer: PacedProducer, prefix: str, seconds: float) -> list[float]:
    """Send a probe every 20 ms and ask for those that aren't there yet; return their delays."""
    waiting: dict[str, float] = {}
    delays: list[float] = []
    sent = 0
    began = next_at = time.monotonic()
    while (now := time.monotonic()) < began + seconds + _PATIENCE_S:
        sending = now < began + seconds
        if sending and now >= next_at:
            name = f"{prefix}{sent:06}"
            waiting[name] = producer.probe(name, sent)
            sent += 1
            next_at = max(now, next_at + _PROBE_EVERY_S)
        if not waiting:
            if not sending:
                break
            time.sleep(max(0.0, next_at - time.monotonic()))
            continue
        counts = client.online(SERVICE, {"user": list(waiting)}).to_polars()[_COUNT].to_list()
        answered = time.monotonic()
        for name, count in zip(list(waiting), counts, strict=True):
            if count:
                delays.append(answered - waiting.pop(name))
        time.sleep(_POLL_S)
    assert not waiting, f"{len(waiting)} events could not be read {_PATIENCE_S:g} s after the last"
    return delays
