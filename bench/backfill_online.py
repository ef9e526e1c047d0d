"""The online part of the backfill benchmark, in a process of its own: an archive into state.

A worker, whole but for its log, opens on shards that have applied the stream without the view, and
gives it its past from the archive, until it can be read. It prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench import workload
from bench.backfill_workload import END_US, PARTITIONS, TOPIC_ID, Prepared
from headwater.flow import plain_driver
from headwater.flow.exchange import lane_of
from headwater.flow.running import CurrentPlan
from headwater.flow.settings import WorkerSettings
from headwater.flow.starts import Start
from headwater.flow.warm_up import warm_up
from headwater.flow.worker import Worker
from headwater.state.store import Stores
from headwater_connectors.log.memory import MemoryLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headwater.flow.pipeline import Batches, Pipeline

__all__ = ["main", "measure"]


def measure(
    made: Prepared, folder: Path, windows: tuple[str, ...], memory_budget_bytes: int
) -> dict[str, object]:
    """Return how long the past of one view takes, to its last event and to its checkpoint."""
    plan = workload.plan(windows)
    warm_up(plan)
    history = made.archive()
    log = MemoryLog(clock=lambda: time.time_ns() // 1_000)
    log.create_topic(workload.STREAM, partitions=PARTITIONS, append_time=True)
    worker = Worker(
        CurrentPlan(plan),
        log,
        WorkerSettings(memory_budget_bytes=memory_budget_bytes),
        clock=lambda: time.time_ns() // 1_000,
        starts={workload.STREAM: Start(TOPIC_ID, {}, 0)},
        stores=Stores(folder),
        archive=history,
        ahead=ThreadPoolExecutor(1),
    )
    _, (shards,), _ = worker.pipelines()
    plain_driver.step(shards)
    (view,) = plan.views.values()
    ends = [history.position(workload.STREAM, TOPIC_ID, p) or -1 for p in range(PARTITIONS)]
    for shard in worker.shards.values():
        shard.applied = {
            lane_of(TOPIC_ID, view.binding.id, partition): end for partition, end in enumerate(ends)
        }
        shard.advance(0, END_US)
        shard.unbuilt = {view.id}
    worker.backfill.begin(list(worker.shards.values()))
    events = worker.backfill.left
    loaded = threading.Event()
    wall, cpu = time.perf_counter(), time.process_time()
    plain_driver.run([_until_loaded(shards, worker, loaded)], loaded)
    took, took_cpu = time.perf_counter() - wall, time.process_time() - cpu
    worker.close()
    written = time.perf_counter() - wall
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "events": events,
        "read": worker.metrics.registry.get_sample_value("headwater_history_rows_total"),
        "seconds": took,
        "cpu_seconds": took_cpu,
        "seconds_to_checkpoint": written,
        "events_per_s": events / took,
        "events_per_cpu_s": events / took_cpu,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / (1 << 30),
        "state_bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }


def _until_loaded(shards: Pipeline, worker: Worker, loaded: threading.Event) -> Pipeline:
    """Return the shards' pipeline, which says when nothing of the past is left."""

    def look(batches: Batches) -> Batches:
        if not worker.backfill.left:
            loaded.set()
        return batches

    return replace(shards, stages=(*shards.stages, look))


def main(argv: Sequence[str] | None = None) -> None:
    """Load once and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--memory-budget-mib", type=int, default=1_024)
    parser.add_argument("--windows", nargs="+", default=workload.WINDOWS)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        budget_bytes = given.memory_budget_mib << 20
        found = measure(Prepared(given.folder), Path(folder), tuple(given.windows), budget_bytes)
    sys.stdout.write(json.dumps({"cores": os.cpu_count(), **found}) + "\n")


if __name__ == "__main__":
    main()
