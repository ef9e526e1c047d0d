"""How long until a worker that was killed answers again, over the state on its disk?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from bench.child import Child
from bench.ingest_topic import fill, make_topic
from bench.ingest_workload import Load
from headwater.cli.demo.broker import free_ports

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["measure_restart"]

# Applied and not yet in a checkpoint when the worker is killed.
_REPLAYED_SHARE = 5


def measure_restart(servers: str, topic: str, folder: Path, *, entities: int) -> dict[str, Any]:
    """Return seconds from the start of the process to the first fresh answer, and its parts.

    Every entity has one event in a checkpoint; a fifth of them another that is only in Kafka.
    The worker comes back under the address that it had: Kafka knows it, and hands its tasks out at
    once. Under another one they would wait until the session of the dead one has timed out.
    """
    make_topic(servers, topic)
    (port,) = free_ports(1)
    arguments = ["--servers", servers, "--topic", topic, "--namespace", topic]
    arguments += ["--folder", str(folder / topic), "--port", str(port)]
    first = Load(entities, entities, uniform=True)
    fill(servers, topic, first.records())
    with Child("bench.ingest_worker", ["catch-up", *arguments], folder) as worker:
        worker.read()
        filled = worker.read()
        worker.ask(stop=True)
    more = Load(
        max(1, entities // _REPLAYED_SHARE), entities, uniform=True, begin_ms=first.end_ms, seed=2
    )
    with Child("bench.ingest_worker", ["crash", *arguments], folder) as worker:
        worker.read()
        fill(servers, topic, more.records())
        worker.ask(go=True)
        worker.wait()
    user = first.user_names()[0]
    spawned = time.monotonic()
    restart = ["restart", *arguments, "--user", user, "--at-ms", str(more.end_ms)]
    restart += ["--spawned", repr(spawned)]
    with Child("bench.ingest_worker", restart, folder) as worker:
        found = worker.read()
        worker.ask(stop=True)
    assert found.pop("count_7d") == 2, "the answer after the restart isn't fresh"
    return {
        **found,
        "entities": entities,
        "replayed_events": more.events,
        "filling_events_per_s": entities / filled["seconds"],
    }
