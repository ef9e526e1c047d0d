"""The plain driver: runs pipelines in the calling thread, one poll of each in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.flow.pipeline import Tick

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from headwater.flow.pipeline import Pipeline

__all__ = ["run", "step"]

_WAIT_MIN_S = 0.0005
_WAIT_MAX_S = 0.01


def step(pipeline: Pipeline) -> bool:
    """Poll once and send what comes through every stage; return whether there was anything."""
    batches = pipeline.source.poll()
    busy = any(not isinstance(batch, Tick) for batch in batches)
    for stage in pipeline.stages:
        batches = stage(batches)
    return busy


def run(pipelines: Sequence[Pipeline], stop: threading.Event) -> None:
    """Run until `stop` is set; sleep a little longer after each round that found nothing."""
    wait_s = _WAIT_MIN_S
    while not stop.is_set():
        # A list, not a generator: every pipeline gets its turn even when the first was busy.
        if any([step(pipeline) for pipeline in pipelines]):  # noqa: C419
            wait_s = _WAIT_MIN_S
        else:
            stop.wait(wait_s)
            wait_s = min(wait_s * 2, _WAIT_MAX_S)
