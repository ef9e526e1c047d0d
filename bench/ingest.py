"""How fast do events become features, how fresh are they, and how soon after a restart?

`python -m bench.ingest [--json]`; README.md says what is measured and how to read it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.child import Child
from bench.ingest_freshness import measure_freshness
from bench.ingest_memory import measure
from bench.ingest_restart import measure_restart
from bench.ingest_topic import delete_topics, fill, make_topic
from bench.ingest_workload import PARTITIONS, Load, payment, service
from bench.machine import machine
from bench.peer_environment import QUIX, NoEnvironmentError, peer_python
from bench.report import write_result
from bench.threads import cpu_s_by_name
from bench.tumbling import AGGREGATES, WINDOWS_MS, agree
from bench.workload import ZIPF_EXPONENT
from headwater.cli.demo import broker as kafka
from headwater.plan.plan import compile_plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.tumbling import Totals

__all__ = ["PARTS", "judged", "main", "ratios_of"]

PARTS = ("kafka", "memory", "freshness", "restart")
OURS = "headwater"
# On Kafka, with the module that runs each.
PEERS = {"quix_tumbling": "quix_peer", "bytewax_tumbling": "bytewax_peer"}
RATIO_TARGETS = {"quix_tumbling": 10.0, "bytewax_tumbling": 6.0, "plain_python": 12.0}
EVENTS_PER_S_TARGETS = (250_000.0, 400_000.0)
FRESHNESS_MS_TARGETS = {"p50": 20.0, "p99": 100.0}
RESTART_S_TARGET = 8.0

# What counts as done: an event is when the state that answers reads holds it.
DONE = {
    OURS: "every shard has applied every event: a read holds it; archive and checkpoints run along",
    "headwater_memory": "the same, from bytes in memory: decode, key and split, evaluate, update",
    "quix_tumbling": "the last event has updated its window in all three branches, each with five"
    " aggregates in one pass (`current`); RocksDB and changelog as by default",
    "bytewax_tumbling": "the last event is folded into its window of all three `fold_window` steps;"
    " no recovery store",
    "plain_python_json": "the last event is in its buckets, a dict for each user and window;"
    " the standard library alone",
    "plain_python_msgspec": "the same, decoded by msgspec",
}


@dataclass(frozen=True, slots=True)
class Bench:
    """A run of the benchmark: its broker, its folder, and a name that no other run has."""

    given: argparse.Namespace
    broker: kafka.Broker
    folder: Path
    name: str

    @property
    def servers(self) -> str:
        """The Kafka cluster."""
        return self.broker.bootstrap_servers

    def filled(self, suffix: str, load: Load) -> str:
        """Return a new topic that holds a load."""
        topic = f"{self.name}.{suffix}"
        make_topic(self.servers, topic)
        fill(self.servers, topic, load.records())
        return topic


@contextmanager
def _opened(given: argparse.Namespace) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        broker = kafka.start()
        name = f"bench-{uuid.uuid4().hex[:8]}"
        try:
            yield Bench(given, broker, Path(folder), name)
        finally:
            if not broker.disposable:
                delete_topics(broker.bootstrap_servers, name)
            broker.stop()


def _progress(text: str) -> None:
    sys.stderr.write(f"bench.ingest: {text}\n")
    sys.stderr.flush()


def _figures(
    name: str, events: int, seconds: float, cpu_seconds: float, totals: Totals, wanted: Totals
) -> dict[str, Any]:
    return {
        "events": events,
        "seconds": seconds,
        "events_per_s": events / seconds,
        "cpu_s_per_m": cpu_seconds / events * 1e6,
        "agrees": agree(totals, wanted),
        "done": DONE[name],
    }


def _ours(bench: Bench) -> dict[str, Any]:
    """Return how fast a worker takes a topic in, and where its time and the broker's go.

    The broker has just been started, and a Java program compiles itself while it works: in its
    first seconds that takes as long as the work. Catch-ups before the one that counts are over it;
    the peers, which come later, find the same warm broker.
    """
    load = Load(bench.given.events, bench.given.users)
    topic = bench.filled("events", load)
    for number in range(bench.given.warm_ups):
        _progress(f"warm-up {number + 1} of {bench.given.warm_ups}")
        with _catching_up(bench, topic, f"{topic}.warm{number}") as worker:
            worker.read()
            worker.read()
            worker.ask(stop=True)
    _progress(OURS)
    with _catching_up(bench, topic, topic) as worker:
        worker.read()
        broker_before = cpu_s_by_name(bench.broker.pid)
        found = worker.read()
        broker_after = cpu_s_by_name(bench.broker.pid)
        worker.ask(users=load.user_names(), end_ms=load.end_ms)
        totals = worker.read()["totals"]
        worker.ask(archive=True)
        archived_s = worker.read()["archived_s"]
        worker.ask(stop=True)
    seconds, cpu_seconds = found["seconds"], found["cpu_seconds"]
    ours = _figures(OURS, load.events, seconds, cpu_seconds, totals, load.totals())
    # The last files wait up to 10 s for more events.
    ours["archived_after_s"] = archived_s
    per_m = 1e6 / load.events
    ours["stages"] = {name: taken * per_m for name, taken in found["stages"].items()}
    ours["broker_threads"] = {
        name: taken * per_m
        for name, at_end in broker_after.items()
        if (taken := at_end - broker_before.get(name, 0.0)) > 0
    }
    return ours


def _catching_up(bench: Bench, topic: str, namespace: str) -> Child:
    arguments = ["catch-up", "--servers", bench.servers, "--topic", topic]
    arguments += ["--namespace", namespace, "--folder", str(bench.folder / namespace)]
    return Child("bench.ingest_worker", arguments, bench.folder)


def _peers(bench: Bench, absent: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return how fast the peers are on a topic of their own, which holds our first events."""
    load = Load(bench.given.peer_events, bench.given.users)
    topic, wanted = bench.filled("peers", load), load.totals()
    found = {}
    for name in bench.given.peers:
        module = PEERS[name]
        try:
            python = peer_python() if module == "quix_peer" else _python_with_bytewax()
        except NoEnvironmentError as error:
            absent[name] = str(error)
            continue
        _progress(name)
        folder = bench.folder / module
        folder.mkdir()
        arguments = ["--servers", bench.servers, "--topic", topic, "--events", str(load.events)]
        with Child(
            f"bench.{module}", [*arguments, "--folder", str(folder)], bench.folder, python=python
        ) as peer:
            one = peer.read()
        figures = (one["events"], one["seconds"], one["cpu_seconds"], one["totals"])
        found[name] = _figures(name, *figures, wanted)
    return found


def _python_with_bytewax() -> str:
    if _version("bytewax") is None:
        raise NoEnvironmentError("bytewax has no wheels for this Python")
    return sys.executable


def _memory(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return how fast bytes in memory become state, ours and plain Python's."""
    topic = "payments"
    load = Load(given.memory_events, given.users)
    wanted = load.totals()
    found = {}
    for name, one in measure(compile_plan([service(topic)]), topic, load, given.runs).items():
        found[name] = {
            "events": load.events,
            "events_per_s": one["events_per_s"],
            "cpu_s_per_m": one["cpu_s_per_m"],
            "agrees": agree(one["totals"], wanted),
            "done": DONE[name],
        }
    return found


def ratios_of(speeds: dict[str, float]) -> dict[str, float | None]:
    """Return how many times as fast as each peer we are; None for one that isn't there.

    Of the two plain programs the faster one counts; the other's ratio stands beside it.
    """

    def times(ours: str, *peers: str) -> float | None:
        theirs = [speeds[peer] for peer in peers if peer in speeds]
        return speeds[ours] / max(theirs) if theirs and ours in speeds else None

    plain = ("plain_python_json", "plain_python_msgspec")
    return {
        "quix_tumbling": times(OURS, "quix_tumbling"),
        "bytewax_tumbling": times(OURS, "bytewax_tumbling"),
        "plain_python": times("headwater_memory", *plain),
        "plain_python_json": times("headwater_memory", plain[0]),
    }


def judged(result: dict[str, Any]) -> dict[str, Any]:
    """Return the targets, and the names of those that what was measured misses."""
    missed = [
        name
        for name, target in RATIO_TARGETS.items()
        if (ratio := result["ratios"].get(name)) is not None and ratio < target
    ]
    ours = result["events_per_s"].get(OURS)
    if ours is not None:
        missed += [f"events_per_s {t:g}" for t in EVENTS_PER_S_TARGETS if ours < t]
    freshness = result.get("freshness_ms", {})
    missed += [
        f"freshness_ms.{name}"
        for name, target in FRESHNESS_MS_TARGETS.items()
        if freshness and freshness[name] > target
    ]
    restart = result.get("restart_s")
    if restart and restart["total"] > RESTART_S_TARGET:
        missed.append("restart_s")
    targets = {
        "ratios": RATIO_TARGETS,
        "events_per_s": list(EVENTS_PER_S_TARGETS),
        "freshness_ms": FRESHNESS_MS_TARGETS,
        "restart_s": RESTART_S_TARGET,
    }
    return {"targets": targets, "missed": missed}


def _measured(given: argparse.Namespace) -> dict[str, Any]:
    """Run the parts that were asked for."""
    result: dict[str, Any] = {}
    contestants: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    if "memory" in given.parts:
        _progress("memory")
        contestants |= _memory(given)
    if set(given.parts) - {"memory"}:
        _progress("broker")
        with _opened(given) as bench:
            if "kafka" in given.parts:
                ours = _ours(bench)
                threads = ours.pop("broker_threads")
                result["cpu_s_per_m"] = {
                    "worker": ours["cpu_s_per_m"],
                    "broker": sum(threads.values()) if threads else None,
                    "stages": ours.pop("stages"),
                    "broker_threads": threads,
                }
                contestants |= {OURS: ours, **_peers(bench, absent)}
            if "freshness" in given.parts:
                _progress("freshness")
                result["freshness_ms"] = measure_freshness(
                    bench.servers,
                    f"{bench.name}.fresh",
                    bench.folder,
                    events_per_s=given.freshness_rate,
                    seconds=given.freshness_s,
                    users=given.users,
                )
            if "restart" in given.parts:
                _progress("restart")
                result["restart_s"] = measure_restart(
                    bench.servers, f"{bench.name}.state", bench.folder, entities=given.entities
                )
    rates = {name: one["events_per_s"] for name, one in contestants.items()}
    result = {"contestants": contestants, "events_per_s": rates, **result}
    result["ratios"] = ratios_of(rates)
    # Events for a second of CPU time: what others do on the machine changes it least.
    cpu_rates = {name: 1e6 / one["cpu_s_per_m"] for name, one in contestants.items()}
    result["ratios_cpu"] = ratios_of(cpu_rates)
    result |= judged(result)
    result["absent"] = absent
    result["agrees"] = all(one["agrees"] for one in contestants.values())
    return result


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# Small enough for a smoke test.
_QUICK = {
    "events": 20_000,
    "warm_ups": 1,
    "peer_events": 2_000,
    "memory_events": 5_000,
    "users": 500,
    "runs": 1,
    "freshness_rate": 1_000,
    "freshness_s": 2.0,
    "entities": 2_000,
}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.ingest", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test: its figures mean little"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--peers", nargs="*", choices=tuple(PEERS), default=tuple(PEERS))
    parser.add_argument("--events", type=int, default=3_000_000, help="that a worker catches up")
    parser.add_argument("--warm-ups", type=int, default=2, help="of the broker: not counted")
    parser.add_argument("--peer-events", type=int, default=150_000, help="the first of them")
    parser.add_argument("--memory-events", type=int, default=300_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3, help="in memory; the best is reported")
    parser.add_argument("--freshness-rate", type=int, default=20_000, help="events a second")
    parser.add_argument("--freshness-s", type=float, default=15.0)
    parser.add_argument("--entities", type=int, default=1_000_000, help="over a restart")
    quick, _ = parser.parse_known_args(argv)
    if quick.quick:
        parser.set_defaults(**_QUICK)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark and write its result."""
    given = _arguments(argv)
    sizes = [name for name in vars(given) if name not in {"json", "quick", "parts", "peers"}]
    result = {
        "benchmark": "ingest",
        "machine": machine(),
        "peers": {"quixstreams": QUIX, "bytewax": _version("bytewax"), "kafka": kafka.KAFKA},
        "workload": {
            **{name: getattr(given, name) for name in sizes},
            "partitions": PARTITIONS,
            "event_bytes": len(payment("u000001", 12.34, 1_700_092_800_000)),
            "zipf_exponent": ZIPF_EXPONENT,
            "windows": list(WINDOWS_MS),
            "aggregates": list(AGGREGATES),
        },
        **_measured(given),
    }
    write_result(result, as_json=given.json)


if __name__ == "__main__":
    main()
