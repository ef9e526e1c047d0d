"""The Bytewax driver: the same pipelines as one dataflow, with room for a user's own operators.

Only this module imports Bytewax. Batches stay columnar: Bytewax sees one item per batch. Its
recovery, cluster, Kafka connector and web server are not used: progress is the log's and the
shards' business.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

from headwater.flow.pipeline import Tick

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from bytewax.dataflow import Stream as BytewaxStream

    from headwater.flow.pipeline import Pipeline, Source

__all__ = ["run"]

_IDLE_WAIT = timedelta(milliseconds=2)

Via = "Callable[[BytewaxStream[Any]], BytewaxStream[Any]]"


class _Partition(StatelessSourcePartition[Any]):
    def __init__(self, source: Source, stop: threading.Event) -> None:
        self._source = source
        self._stop = stop
        self._awake: datetime | None = None

    def next_batch(self) -> list[Any]:
        # Bytewax has no graceful stop: the input ends, and with it the dataflow.
        if self._stop.is_set():
            raise StopIteration
        batches = list(self._source.poll())
        busy = any(not isinstance(batch, Tick) for batch in batches)
        self._awake = None if busy else datetime.now(UTC) + _IDLE_WAIT
        return batches

    def next_awake(self) -> datetime | None:
        # An explicit time while idle: without one Bytewax comes back at once.
        return self._awake


class _Source(DynamicSource[Any]):
    def __init__(self, source: Source, stop: threading.Event) -> None:
        self._source = source
        self._stop = stop

    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> _Partition:
        return _Partition(self._source, self._stop)


class _Nothing(StatelessSinkPartition[Any]):
    def write_batch(self, items: list[Any]) -> None:
        """Drop what the last stage lets through; stages have done the work."""


class _Sink(DynamicSink[Any]):
    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> _Nothing:
        return _Nothing()


def run(
    pipelines: Sequence[Pipeline],
    stop: threading.Event,
    via: Callable[[BytewaxStream[Any]], BytewaxStream[Any]] | None = None,
) -> None:
    """Run until `stop` is set. `via` adds a user's operators before the first stage."""
    flow = Dataflow("headwater")
    for pipeline in pipelines:
        name = pipeline.name.replace(".", "_")
        stream = op.input(f"{name}_source", flow, _Source(pipeline.source, stop))
        if via is not None:
            stream = via(stream)
        for i, stage in enumerate(pipeline.stages):
            stream = op.flat_map_batch(f"{name}_{i}", stream, stage)
        op.output(f"{name}_end", stream, _Sink())
    run_main(flow)  # type: ignore[no-untyped-call]
