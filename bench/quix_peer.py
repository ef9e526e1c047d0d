"""The Quix Streams peer: tumbling windows of every user, in RocksDB with a changelog topic.

It runs in an environment of its own, in a process of its own; see peer_environment.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.tumbling import AGGREGATES, WINDOWS_MS, PeerRun, peer_arguments, totals_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["main"]

# A user's newest row of a window, by user and the window's start.
_Found = dict[tuple[Any, int], tuple[float, ...]]


def _keep(found: _Found) -> Callable[..., None]:
    def keep(value: dict[str, Any], key: object, _timestamp: int, _headers: object) -> None:
        found[key, value["start"]] = tuple([value[name] for name in AGGREGATES])

    return keep


def main() -> None:
    """Update three windows of five aggregates with every event, and write the totals."""
    from quixstreams import Application
    from quixstreams.dataframe.windows import Count, Max, Mean, Min, Sum

    given = peer_arguments("quix_peer", __doc__)
    run = PeerRun(given.events)
    done = 0

    app = Application(
        broker_address=given.servers,
        consumer_group=f"{given.topic}.quix",
        auto_offset_reset="earliest",
        state_dir=given.folder,
        loglevel="WARNING",
    )

    def first(_value: object) -> None:
        if not done:
            run.begin()

    def last(_value: object) -> None:
        nonlocal done
        done += 1
        if done == given.events:
            run.end(done)
            app.stop()

    events = app.dataframe(app.topic(given.topic, value_deserializer="json")).update(first)
    found: dict[str, _Found] = {}
    for name, size_ms in WINDOWS_MS.items():
        found[name] = {}
        # One pass: the five aggregates share a window's state. `current` makes every update
        # readable, as a feature must be; nothing is written to Kafka but the changelog.
        windows = events.tumbling_window(size_ms, name=name).agg(
            count=Count(),
            sum=Sum("amount"),
            mean=Mean("amount"),
            min=Min("amount"),
            max=Max("amount"),
        )
        windows.current().update(_keep(found[name]), metadata=True)
    events.update(last)
    app.run()
    run.write({name: totals_of(rows.values()) for name, rows in found.items()})


if __name__ == "__main__":
    main()
