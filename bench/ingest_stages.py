"""Where a worker's CPU time goes: a clock around the stages of its threads, from outside.

Stages are methods of the engine, wrapped in this process only. A stage's time is the CPU time of
its thread without that of the stages it calls. What native threads use (librdkafka, Polars) is
read from the kernel's accounts of this process, by the threads' names.
"""

from __future__ import annotations

import functools
import importlib
import resource
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bench.threads import threads_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["STAGES", "StageClock", "find_stage", "process_seconds"]

# What is wrapped, by the stage's name: a module and a name in it. The thread it runs in comes
# before the name: "ingest.fetch" is another stage than "shards.fetch".
STAGES: tuple[tuple[str, str, str], ...] = (
    ("fetch", "headwater_connectors.log.kafka_consumer", "KafkaConsumer.poll"),
    ("commit", "headwater_connectors.log.kafka_consumer", "KafkaConsumer.commit"),
    ("decode", "headwater.flow.decode", "Decoder.decode"),
    ("decode", "headwater.flow.decode", "Decoder.decode_all"),
    ("key_and_split", "headwater.flow.exchange", "Wire.keyed"),
    ("encode", "headwater.flow.exchange", "Wire.encode"),
    ("produce", "headwater_connectors.log.kafka_producer", "KafkaProducer.send"),
    ("produce", "headwater_connectors.log.kafka_producer", "KafkaProducer.flush"),
    ("decode", "headwater.flow.exchange", "Wire.decode"),
    ("evaluate", "headwater.flow.shard_task", "evaluate"),
    ("room", "headwater.flow.evaluate", "Evaluated.words_wanted"),
    ("update", "headwater.flow.evaluate", "Evaluated.apply"),
    ("checkpoint", "headwater.flow.checkpoints", "Checkpoints.__call__"),
    ("checkpoint", "headwater.flow.checkpoints", "Checkpoints.relieve"),
    ("checkpoint", "headwater.state.shard", "Shard.write_checkpoint"),
    ("write", "headwater_connectors.archive.archive", "Archive.append"),
)

# Native threads by how the kernel names them.
_NATIVE = {
    "rdk:": "librdkafka",
    "polars": "polars",
    "async-executor": "polars",
    "tokio": "polars",
    "rocksdb": "rocksdb",
    "jemalloc": "allocator",
}


def find_stage(module: str, name: str) -> tuple[object, str]:
    """Return what holds a stage, and its attribute; AttributeError when it has moved."""
    holder: Any = importlib.import_module(module)
    *path, attribute = name.split(".")
    for part in path:
        holder = getattr(holder, part)
    getattr(holder, attribute)
    return holder, attribute


class StageClock:
    """CPU seconds by thread and stage, from `start` to `stop`.

    With `begins_with` it starts by itself, when that stage is first entered.
    """

    def __init__(
        self,
        thread_time: Callable[[], float] = time.thread_time,
        *,
        begins_with: str | None = None,
    ) -> None:
        self._thread_time = thread_time
        self._begins_with = begins_with
        self.has_begun = False
        self.began_at = 0.0  # by time.perf_counter
        self.wall_seconds = 0.0
        self.cpu_seconds = 0.0  # of the process
        self._seconds: defaultdict[str, float] = defaultdict(float)
        # By thread: the CPU times of the stages under way that belong to stages within them.
        self._within = threading.local()
        self._at_start: dict[str, float] = {}
        self._result: dict[str, float] = {}

    @contextmanager
    def wrapped(self) -> Iterator[None]:
        """Wrap every stage until the context ends."""
        originals = []
        for stage, module, name in STAGES:
            holder, attribute = find_stage(module, name)
            original = getattr(holder, attribute)
            originals.append((holder, attribute, original))
            setattr(holder, attribute, self._timed(stage, original))
        try:
            yield
        finally:
            for holder, attribute, original in reversed(originals):
                setattr(holder, attribute, original)

    def _timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        clock, within, seconds = self._thread_time, self._within, self._seconds

        @functools.wraps(function)
        def timed(*args: object, **kwargs: object) -> object:
            if self._begins_with is not None and f"{_role()}.{stage}" == self._begins_with:
                self._begins_with = None
                self.start()
            outer = getattr(within, "seconds", 0.0)
            within.seconds = 0.0
            began = clock()
            try:
                return function(*args, **kwargs)
            finally:
                took = clock() - began
                seconds[f"{_role()}.{stage}"] += took - within.seconds
                within.seconds = outer + took

        return timed

    def start(self) -> None:
        """Count from here."""
        self._at_start = {**_by_thread(), **self._seconds}
        self.began_at, self.cpu_seconds = time.perf_counter(), process_seconds()
        self.has_begun = True

    def stop(self) -> None:
        """Count to here; threads must still be there."""
        self.wall_seconds = time.perf_counter() - self.began_at
        self.cpu_seconds = process_seconds() - self.cpu_seconds
        now = {**_by_thread(), **self._seconds}
        self._result = {name: now[name] - self._at_start.get(name, 0.0) for name in now}

    def seconds(self) -> dict[str, float]:
        """Return CPU seconds by stage, largest first; a thread's `other` is what no stage took."""
        found = {name: taken for name, taken in self._result.items() if "." in name}
        for thread, total in self._result.items():
            if "." not in thread:
                staged = sum(taken for name, taken in found.items() if _is_of(name, thread))
                found[f"{thread}.other" if staged else thread] = max(0.0, total - staged)
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def process_seconds() -> float:
    """Return the CPU seconds that this process has used, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _is_of(stage: str, thread: str) -> bool:
    return stage.startswith(f"{thread}.")


def _role(name: str | None = None) -> str:
    """Return what a Python thread is for: "headwater-ingest.payments" is "ingest"."""
    name = threading.current_thread().name if name is None else name
    if name == "MainThread":
        return "bench"
    ours = name.startswith(("headwater-", "checkpoint"))
    return name.removeprefix("headwater-").split(".")[0].split("_")[0] if ours else "rest"


def _by_thread() -> dict[str, float]:
    """Return the CPU seconds of every thread there is, by what it is for."""
    python = {thread.native_id: _role(thread.name) for thread in threading.enumerate()}
    found: defaultdict[str, float] = defaultdict(float)
    for thread, name, seconds in threads_of("self"):
        native = next((to for prefix, to in _NATIVE.items() if name.startswith(prefix)), "rest")
        found[python.get(thread, native)] += seconds
    return dict(found)
