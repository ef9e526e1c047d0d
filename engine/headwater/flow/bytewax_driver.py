"""The Bytewax driver: the same pipelines as one dataflow, with room for a user's own operators.

Only this module imports Bytewax. Batches stay columnar: Bytewax sees one item per batch. Its
recovery, cluster, Kafka connector and web server are not used: progress is the log's and the
shards' business.
"""

from __future__ import annotations

from collections.abc import Callable  # noqa: TC003 - Bytewax reads an operator's annotations
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow, operator
from bytewax.dataflow import Stream as BytewaxStream
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

from headwater.flow.pipeline import Tick

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from headwater.flow.pipeline import Batches, Pipeline, Source, Stage

__all__ = ["run"]

_IDLE_WAIT = timedelta(milliseconds=2)


class _End:
    """When the dataflow ends: when it is told to, or when a source or a stage has raised.

    Bytewax would end in a panic and wrap the error in its own; the type matters to who catches it.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self.error: Exception | None = None

    @property
    def has_come(self) -> bool:
        """Whether nothing more is to be done."""
        return self.error is not None or self._stop.is_set()

    def guard(self, stage: Stage) -> Stage:
        """Return the stage, which does nothing more once anything has raised."""

        def guarded(batches: Batches) -> Batches:
            if self.error is not None:
                return []
            try:
                return stage(batches)
            except Exception as error:  # noqa: BLE001 - raised when the dataflow has ended
                self.error = error
                return []

        return guarded


class _Partition(StatelessSourcePartition[Any]):
    def __init__(self, source: Source, end: _End) -> None:
        self._poll = end.guard(lambda _nothing: source.poll())
        self._end = end
        self._awake: datetime | None = None

    def next_batch(self) -> list[Any]:
        # Bytewax has no graceful stop: the input ends, and with it the dataflow.
        if self._end.has_come:
            raise StopIteration
        batches = list(self._poll([]))
        busy = any(not isinstance(batch, Tick) for batch in batches)
        self._awake = None if busy else datetime.now(UTC) + _IDLE_WAIT
        return batches

    def next_awake(self) -> datetime | None:
        # An explicit time while idle: without one Bytewax comes back at once.
        return self._awake


class _Source(DynamicSource[Any]):
    def __init__(self, source: Source, end: _End) -> None:
        self._source = source
        self._end = end

    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> _Partition:
        return _Partition(self._source, self._end)


class _Nothing(StatelessSinkPartition[Any]):
    def write_batch(self, items: list[Any]) -> None:
        """Drop what the last stage lets through; stages have done the work."""


class _Sink(DynamicSink[Any]):
    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> _Nothing:
        return _Nothing()


@operator
def _attached(
    step_id: str,  # noqa: ARG001 - Bytewax gives the scope this name
    up: BytewaxStream[Any],
    build: Callable[[BytewaxStream[Any]], BytewaxStream[Any]],
) -> BytewaxStream[Any]:
    """Put a user's operators in a scope of their own: their ids repeat with every pipeline."""
    return build(up)


def run(
    pipelines: Sequence[Pipeline],
    stop: threading.Event,
    via: Callable[[BytewaxStream[Any]], BytewaxStream[Any]] | None = None,
) -> None:
    """Run until `stop` is set, or raise what a source or a stage raised.

    `via` adds a user's operators to every pipeline, before its first stage.
    """
    flow = Dataflow("headwater")
    end = _End(stop)
    for number, pipeline in enumerate(pipelines):
        name = f"{number}_{pipeline.name.replace('.', '_')}"
        stream = op.input(f"{name}_source", flow, _Source(pipeline.source, end))
        if via is not None:
            stream = _attached(f"{name}_via", stream, via)
        for i, stage in enumerate(pipeline.stages):
            stream = op.flat_map_batch(f"{name}_{i}", stream, end.guard(stage))
        op.output(f"{name}_end", stream, _Sink())
    run_main(flow)  # type: ignore[no-untyped-call]
    if end.error is not None:
        raise end.error
