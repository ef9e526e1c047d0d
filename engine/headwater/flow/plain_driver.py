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
    busy, _ = _turn(pipeline)
    return busy


def _turn(pipeline: Pipeline) -> tuple[bool, float]:
    """Step; return whether there was anything, and for how many seconds there will be nothing."""
    batches = pipeline.source.poll()
    ticks = [batch for batch in batches if isinstance(batch, Tick)]
    busy = len(ticks) < len(batches)
    for stage in pipeline.stages:
        batches = stage(batches)
    # A stage that had work of its own says so of a tick that was idle.
    if ticks and all(tick.idle for tick in ticks):
        busy = busy or any(isinstance(batch, Tick) and not batch.idle for batch in batches)
    return busy, max((tick.gathers_us for tick in ticks), default=0) / 1e6


def run(pipelines: Sequence[Pipeline], stop: threading.Event) -> None:
    """Run until `stop` is set; sleep a little longer after each round that found nothing.

    While every source lets records gather it sleeps just as long as they do.
    """
    wait_s = _WAIT_MIN_S
    while not stop.is_set():
        turns = [_turn(pipeline) for pipeline in pipelines]
        gathers_s = min((gathers for _, gathers in turns), default=0.0)
        if any(busy for busy, _ in turns):
            wait_s = _WAIT_MIN_S
        elif gathers_s:
            stop.wait(gathers_s)
        else:
            stop.wait(wait_s)
            wait_s = min(wait_s * 2, _WAIT_MAX_S)
