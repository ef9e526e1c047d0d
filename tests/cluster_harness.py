"""A namespace on a real broker: events that go in, workers that are hurt, and what they must say.

`Cluster` keeps account of every record, so that the oracle knows what a worker must answer.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from bisect import bisect_right
from collections import Counter
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster_features import (
    SECOND_US,
    SERVICE,
    Features,
    Generator,
    Sent,
    bits,
    counts_for,
    moment,
)
from cluster_process import PATIENCE_S, WorkerProcess, run_headwater, wait_until
from confluent_kafka.admin import AdminClient, NewPartitions
from feeding import feeding

import headwater as hw
from headwater.flow.answer import UnavailableError
from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.location import blobs_of
from headwater_connectors.log.kafka import KafkaLog
from headwater_connectors.log.kafka_groups import owners_of
from headwater_connectors.log.log import LogUnreachableError
from headwater_serving.codes import DeadlineError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kafka_broker import Broker

    from headwater_connectors.log.kafka_producer import KafkaProducer

__all__ = [
    "MAX_STALENESS_S",
    "PARTITIONS",
    "PASSING",
    "READ_TIMEOUT_S",
    "SHARDS",
    "Cluster",
    "cluster",
]

PARTITIONS = 4
SHARDS = 4
MAX_STALENESS_S = 4.0
SESSION_TIMEOUT_MS = 6_000  # the least that a broker takes
_BURST_ROWS = 30
_BURST_EVERY_S = 0.1
READ_TIMEOUT_S = 10.0
# Answers in which nothing is wrong: there is none, or it says that it may be old.
PASSING = (DeadlineError, UnavailableError, UnreachableError)


@dataclass
class _Account:
    """Records of one topic in the order of sending, and how many counted for each user by when."""

    sent: list[Sent] = field(default_factory=list)
    ends: Counter[int] = field(default_factory=Counter)
    counts: list[Counter[str]] = field(default_factory=lambda: [Counter()])
    begun_at: list[float] = field(default_factory=list)
    acked_at: list[float] = field(default_factory=list)

    def add(self, records: Sequence[tuple[int, bytes | None, dict[str, Any] | None]]) -> None:
        """Note a burst that is about to be sent."""
        counts = Counter(self.counts[-1])
        for partition, value, row in records:
            self.sent.append(Sent(partition, self.ends[partition], value, row))
            self.ends[partition] += 1
            user = counts_for(row)
            if user is not None:
                counts[user] += 1
        self.counts.append(counts)
        self.begun_at.append(time.monotonic())

    def least(self, at: float) -> Counter[str]:
        """Return what counted in bursts that were acknowledged by then."""
        return self.counts[bisect_right(self.acked_at, at)]

    def most(self, at: float) -> Counter[str]:
        """Return what counted in bursts that were begun by then."""
        return self.counts[bisect_right(self.begun_at, at)]


class Cluster:
    """A namespace of its own: a topic with events, workers, and the oracle of their answers."""

    def __init__(
        self,
        broker: Broker,
        folder: Path,
        *,
        seed: int = 1,
        read_back_s: float = 60.0,
        memory_budget_bytes: int = 64 << 20,
        place: str = "",
        object_store: Mapping[str, str] | None = None,
    ) -> None:
        self.place, self.object_store = place or f"{folder}/shared", object_store or {}
        name = uuid.uuid4().hex[:8]
        self.namespace, self.topic = f"ns-{name}", f"payments-{name}"
        self.folder = folder
        self.log = KafkaLog(broker.bootstrap_servers)
        self.log.create_topic(self.topic, partitions=PARTITIONS, append_time=False)
        self.partitions = PARTITIONS
        self.workers: list[WorkerProcess] = []
        self.read_back_s = read_back_s
        self.features = Features(self.topic)
        self.generator = Generator(seed)
        # What counts beside the records of this topic: those of an earlier one of its name.
        self.earlier: list[Sent] = []
        self.account = _Account()
        self.lost: set[tuple[int, int]] = set()  # partition and offset of what nobody has read
        self._failed: list[BaseException] = []
        self._lock = threading.Lock()
        self._producer: KafkaProducer = self.log.producer()
        self._ingest_group = self.log.consumer(f"{self.namespace}.ingest")
        self._write_files(broker.bootstrap_servers, memory_budget_bytes)

    def _write_files(self, bootstrap_servers: str, memory_budget_bytes: int) -> None:
        definitions = (
            f'from cluster_features import service_of\n\nservice = service_of("{self.topic}")\n'
        )
        (self.folder / "definitions.py").write_text(definitions, encoding="utf-8")
        options = "\n".join(f'"{k}" = "{v}"' for k, v in self.object_store.items())
        settings = f"""
            namespace = "{self.namespace}"
            [kafka]
            bootstrap_servers = "{bootstrap_servers}"
            [worker]
            state = "state"
            archive = "{self.place}/archive"
            checkpoints = "{self.place}/checkpoints"
            shards = {SHARDS}
            read_back_s = {self.read_back_s}
            session_timeout_ms = {SESSION_TIMEOUT_MS}
            max_staleness_ms = {int(MAX_STALENESS_S * 1_000)}
            memory_budget_bytes = {memory_budget_bytes}
            [object_store]
            {options}
        """
        (self.folder / "headwater.toml").write_text(settings, encoding="utf-8")

    # Events

    def push(self, count: int) -> None:
        """Append rows, and return when they are acknowledged."""
        rows = self.generator.rows(count)
        self.push_values([(json.dumps(row).encode(), row) for row in rows])

    def push_values(self, values: Sequence[tuple[bytes | None, dict[str, Any] | None]]) -> None:
        """Append records, with the row that each holds; None for what can't be one."""
        with self._lock:
            at = len(self.account.sent)
            records = [(n % self.partitions, *value) for n, value in enumerate(values, at)]
            self.account.add(records)
            for partition, value, _ in records:
                self._producer.send(self.topic, partition, value)
            self._producer.flush()
            self.account.acked_at.append(time.monotonic())

    @contextmanager
    def feed(self) -> Iterator[None]:
        """Append bursts all the while; what was acknowledged is all there is in the end."""
        with feeding(
            lambda: self.push(_BURST_ROWS),
            every_s=_BURST_EVERY_S,
            failed=self._failed,
            patience_s=PATIENCE_S,
        ):
            yield

    def grow(self, partitions: int) -> None:
        """Let the topic gain partitions; rows go to all of them from now on."""
        admin = AdminClient({"bootstrap.servers": self.log.cluster.servers})
        admin.create_partitions([NewPartitions(self.topic, partitions)])[self.topic].result()
        wait_until(lambda: self.log.topic(self.topic).partitions == partitions, "partitions")
        with self._lock:
            self.partitions = partitions
            self._begin_anew()

    def make_again(self) -> None:
        """Delete the topic and make it again; its events were read and stay."""
        with self._lock:
            self.log.delete_topic(self.topic)
            self.log.create_topic(self.topic, partitions=self.partitions, append_time=False)
            self.earlier += self.account.sent
            self.account = _Account()
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Write with a producer that knows the topic as it is now."""
        self._producer.close()
        self._producer = self.log.producer()

    def lose(self, before: Mapping[int, int]) -> None:
        """Let the topic lose records below these offsets, which none of its readers has read."""
        read = self._ingest_group.committed(self.topic)
        with self._lock:
            self.log.delete_records(self.topic, before)
            self.lost |= {
                (partition, offset)
                for partition, end in before.items()
                for offset in range(read[partition], end)
            }

    # Workers

    def worker(self, name: str, *, processes: int = 1, **environment: str) -> WorkerProcess:
        """Return a worker that isn't started yet."""
        made = WorkerProcess(name, self.folder, processes=processes, environment=environment)
        self.workers.append(made)
        return made

    def started(self, *names: str) -> list[WorkerProcess]:
        """Start workers and return them when they are ready."""
        made = [self.worker(name) for name in names]
        for one in made:
            one.start()
        for one in made:
            one.wait_ready()
        return made

    def headwater(self, *arguments: str) -> Any:
        """Run another command, with the same configuration."""
        return run_headwater([*arguments, "--config", "headwater.toml"], self.folder)

    def owned(self, group: str) -> dict[int, str]:
        """Return the address of the worker that has each partition of a group, {} if none has."""
        topic = self.topic if group == "ingest" else f"{self.namespace}.exchange"
        with suppress(LogUnreachableError):
            return owners_of(self.log, f"{self.namespace}.{group}", topic) or {}
        return {}

    def wait_shared(self, targets: Sequence[str]) -> None:
        """Return when every one of these, and no other, has shards and source partitions."""

        def is_shared() -> bool:
            for group, count in (("shards", SHARDS), ("ingest", self.partitions)):
                owned = self.owned(group)
                if len(owned) != count or {*owned.values()} != {*targets}:
                    return False
            return True

        wait_until(is_shared, lambda: f"{targets} share {self.owned('shards')}")

    def wait_stored(self) -> None:
        """Return when every shard has a checkpoint where other workers find it."""
        found = Path(self.place, "checkpoints").rglob
        wait_until(lambda: len({p.parents[1] for p in found("manifests/*")}) == SHARDS, "stored")

    def read(self) -> int:
        """Return how many records of the topic were read and are safe in the exchange."""
        return sum(self._ingest_group.committed(self.topic).values())

    def wait_progress(self, records: int = 1) -> None:
        """Return when so many more records have been read than were sent by now."""
        wanted = len(self.account.sent) + records

        def is_read() -> bool:
            assert not self._failed, self._failed
            if not any(worker.is_running for worker in self.workers):
                self.workers[0].check()
            with suppress(LogUnreachableError):
                return self.read() >= wanted
            return False

        wait_until(is_read, lambda: f"{wanted} are read")

    # What must hold

    def assert_right(self, *workers: WorkerProcess, statuses: frozenset[str] | None = None) -> None:
        """Every feature of every entity, from every worker, is the oracle's to the last bit.

        An answer that was asked for later than max_staleness after the last event, and that does
        not say that it may be old, has no excuse.
        """
        assert self.log.end_offsets(self.topic) == [
            self.account.ends[p] for p in range(self.partitions)
        ], "the log doesn't hold what was sent"
        newest_us = self.generator.newest_us
        events = [*self.earlier, *self._known()]
        # Not further back than reads may go.
        back_us = int(min(self.read_back_s / 2, 1_800) * SECOND_US)
        times = (newest_us - back_us, newest_us, newest_us + 1, newest_us + 400 * SECOND_US)
        wanted = {t: self.features.at(events, t) for t in times}
        for worker in workers:
            for target in worker.targets:
                for t, rows in wanted.items():
                    self._assert_answer(worker, target, t, rows, statuses)

    def _known(self) -> list[Sent]:
        """Return the records of the topic that a worker can have read."""
        return [one for one in self.account.sent if (one.partition, one.offset) not in self.lost]

    def _assert_answer(
        self,
        worker: WorkerProcess,
        target: str,
        t: int,
        wanted: list[list[object]],
        statuses: frozenset[str] | None,
    ) -> None:
        last_at = self.account.acked_at[-1] if self.account.acked_at else 0.0
        deadline = time.monotonic() + PATIENCE_S
        said = "nothing"
        with hw.connect(target, timeout_s=READ_TIMEOUT_S) as store:
            while time.monotonic() < deadline:
                worker.check()
                asked_at = time.monotonic()
                try:
                    answer = store.answer(SERVICE, at=moment(t), **self._inputs())
                except PASSING as error:
                    said = str(error)
                    time.sleep(0.2)
                    continue
                found = {status for codes in answer.statuses.values() for status in codes}
                if asked_at <= last_at + MAX_STALENESS_S or "STALE" in found:
                    said = f"{found}, {asked_at - last_at:.1f} s after the last event"
                    time.sleep(0.2)
                    continue
                assert found <= (statuses or {"PRESENT", "NULL", "NOT_FOUND"}), (t, found)
                wrong = self._differences(answer.to_polars().rows(), wanted)
                if wrong:
                    self._explain(store, worker, t, wanted, wrong)
                return
        raise AssertionError(f"{target} is never fresh: {said}\n{worker.said()[-3000:]}")

    def _inputs(self) -> dict[str, object]:
        return {name: self.features.inputs[name] for name in self.features.inputs.columns}

    def _differences(
        self, got: Sequence[Sequence[object]], wanted: Sequence[Sequence[object]]
    ) -> list[str]:
        keys = self.features.inputs.rows()
        assert len(got) == len(wanted) == len(keys)
        return [
            f"{name} of {key[:2]}: {x!r}, not {y!r}"
            for key, a, b in zip(keys, got, wanted, strict=True)
            for name, x, y in zip(self.features.names, a, b, strict=True)
            if bits(x) != bits(y)
        ]

    def _explain(
        self,
        store: Any,
        worker: WorkerProcess,
        t: int,
        wanted: list[list[object]],
        wrong: list[str],
    ) -> None:
        """Fail; say whether it was old and not marked, or is wrong for good."""
        time.sleep(2 * MAX_STALENESS_S)
        later = store.answer(SERVICE, at=moment(t), **self._inputs())
        still = self._differences(later.to_polars().rows(), wanted)
        lines = "\n".join(wrong[:12])
        raise AssertionError(
            f"{worker.id} at t = {t}: {len(wrong)} values are wrong, {len(still)} of them a while"
            f" later:\n{lines}\n{worker.said()[-3000:]}"
        )

    def assert_archived(self) -> None:
        """The archive holds each row once, in the order of the offsets, as it was sent.

        Call it when the workers have stopped: they have written what they had. One that stops amid
        a hand-over leaves the rest to whoever comes next.
        """
        archive = Archive(blobs_of(f"{self.place}/archive", self.object_store), stamp="")
        topic_id = self.log.topic(self.topic).id
        known = self._known()
        sent = {p: [one for one in known if one.partition == p] for p in range(self.partitions)}
        ends = {partition: mine[-1].offset for partition, mine in sent.items() if mine}

        def is_whole() -> bool:
            return all(archive.position(self.topic, topic_id, p) == end for p, end in ends.items())

        if not is_whole():
            self.workers[0].start()
            wait_until(is_whole, "everything is archived")
            assert self.workers[0].stop() == 0
        found: dict[int, list[tuple[int, bytes]]] = {partition: [] for partition in sent}
        for partition, frame in archive.scan(self.topic, topic_id, columns=["at"], raw=True):
            found[partition] += frame.select("__offset", "__raw").rows()
        for partition, mine in sent.items():
            wanted = [(one.offset, one.value) for one in mine if one.row is not None]
            assert found[partition] == wanted, f"partition {partition}"

    def close(self) -> None:
        """End everything, whether or not the broker is there."""
        for worker in self.workers:
            worker.kill()
        self.log.close()


@contextmanager
def cluster(broker: Broker, folder: Path, **settings: Any) -> Iterator[Cluster]:
    """Return a cluster; in the end nothing of it runs, whatever has happened."""
    with closing(Cluster(broker, folder, **settings)) as made:
        yield made
