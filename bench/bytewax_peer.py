"""The Bytewax peer: its windowing operators over its Kafka source, one worker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from bench.tumbling import WINDOWS_MS, PeerRun, peer_arguments, totals_of

if TYPE_CHECKING:
    from bytewax.connectors.kafka import KafkaSourceMessage

__all__ = ["main"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WAIT = timedelta(minutes=1)

# Count, sum, min and max so far; the mean comes of them when it is asked for.
_Fold = list[float]
# An amount and its time.
_Event = tuple[float, datetime]


class _Payment(msgspec.Struct):
    user: str
    amount: float
    ts: int


def _empty() -> _Fold:
    return [0, 0.0, float("inf"), float("-inf")]


def _merge(one: _Fold, other: _Fold) -> _Fold:
    low, high = min(one[2], other[2]), max(one[3], other[3])
    return [one[0] + other[0], one[1] + other[1], low, high]


def main() -> None:
    """Fold every event into three windows of five aggregates, and write the totals."""
    import bytewax.operators as op
    from bytewax.connectors.kafka import KafkaSource
    from bytewax.dataflow import Dataflow
    from bytewax.operators.windowing import EventClock, TumblingWindower, fold_window
    from bytewax.testing import TestingSink, run_main

    given = peer_arguments("bytewax_peer", __doc__)
    run = PeerRun(given.events)
    decoder = msgspec.json.Decoder(_Payment)
    folds = 0

    def decode(message: KafkaSourceMessage[Any, Any]) -> tuple[str, _Event]:
        if not run.has_begun:
            run.begin()
        event = decoder.decode(message.value)
        # Made once, for all three clocks.
        return event.user, (event.amount, _EPOCH + timedelta(milliseconds=event.ts))

    def fold(state: _Fold, event: _Event) -> _Fold:
        nonlocal folds
        amount = event[0]
        state[0] += 1
        state[1] += amount
        state[2] = min(state[2], amount)
        state[3] = max(state[3], amount)
        folds += 1
        if folds == given.events * len(WINDOWS_MS):
            run.end(given.events)
        return state

    flow = Dataflow("tumbling")
    # Not tailing: the source ends where the topic does, and that closes every window.
    source = KafkaSource([given.servers], [given.topic], tail=False)
    events = op.map("decode", op.input("events", flow, source), decode)
    # Events are of the past, and so are the ends of their windows: by default the runtime would
    # wake every user at every turn to close them, which takes nine tenths of its time.
    clock = EventClock(
        lambda event: event[1], wait_for_system_duration=_WAIT, to_system_utc=lambda _: None
    )
    closed: dict[str, list[tuple[str, tuple[int, _Fold]]]] = {}
    for name, size_ms in WINDOWS_MS.items():
        closed[name] = []
        windower = TumblingWindower(length=timedelta(milliseconds=size_ms), align_to=_EPOCH)
        # Unordered: an event is folded when it comes instead of waiting for the watermark.
        windows = fold_window(name, events, clock, windower, _empty, fold, _merge, ordered=False)
        op.output(f"closed_{name}", windows.down, TestingSink(closed[name]))
    run_main(flow)
    run.write(
        {
            name: totals_of(
                [(n, total, total / n, low, high) for _, (_, (n, total, low, high)) in rows]
            )
            for name, rows in closed.items()
        }
    )


if __name__ == "__main__":
    main()
