"""`hw.local`: log, worker and store in this process, in memory or in a folder."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import polars as pl

from headwater.definitions.service import Service
from headwater.definitions.view import View
from headwater.errors import (
    ConfigError,
    DefinitionError,
    HeadwaterError,
    NotFoundError,
    did_you_mean,
)
from headwater.flow import plain_driver
from headwater.flow.answer import RequestError
from headwater.flow.dead_letter_frame import dead_letter_frame, dead_letters
from headwater.flow.events import json_records
from headwater.flow.follower import check_same_logic
from headwater.flow.inputs import input_columns, name_of_input, series_of
from headwater.flow.local_folder import LocalFolder, local_settings
from headwater.flow.replay import Replays
from headwater.flow.running import CurrentPlan, Running
from headwater.flow.sample_files import SampleFiles
from headwater.flow.sample_log import SampleLog
from headwater.flow.starts import Start, resolve_start, us_of
from headwater.flow.worker import Worker
from headwater.offline.progress import events_of, progress_bar
from headwater.offline.sources import ArchiveEvents, LogEvents, ParquetEvents, WholeHistory
from headwater.offline.training_set import training_set
from headwater.plan.plan import compile_plan
from headwater.state.store import Stores
from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.blobs import FolderBlobs
from headwater_connectors.archive.named_snapshots import NamedSnapshots
from headwater_connectors.log.embedded import EmbeddedLog
from headwater_connectors.log.memory import MemoryLog
from headwater_serving.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from types import TracebackType

    from headwater.definitions.stream import Stream
    from headwater.flow.answer import Answer, ServiceInfo
    from headwater.flow.replay import Replayed
    from headwater.flow.settings import WorkerSettings
    from headwater.offline.sources import EventSource
    from headwater.plan.plan import Plan
    from headwater_connectors.archive.snapshot import Snapshot
    from headwater_connectors.log.log import Log

__all__ = ["LocalStore", "local"]

_SETTLE_POLL_S = 0.002


def _clock_us() -> int:
    return time.time_ns() // 1_000


def local(
    parts: Service | View | Sequence[Service | View],
    *,
    path: str | Path | None = None,
    partitions: int = 1,
    settings: WorkerSettings | None = None,
    driver: Callable[[Sequence[Any], threading.Event], None] = plain_driver.run,
    clock: Callable[[], int] = _clock_us,
) -> LocalStore:
    """Open a store of these services and views in this process.

    Without `path` everything is in memory and gone when the store is closed; with it the folder
    holds the log, the state and the archive, and is reopened as it was left. Any time can be read
    unless `settings.read_back_us` says otherwise. Raises ConfigError for a folder in use and
    StateError for one that doesn't fit these definitions.
    """
    plan = _plan_of(parts, "hw.local")
    folder = None if path is None else Path(path)
    chosen = settings or local_settings(folder)
    if chosen.samples.per_s and folder is None:
        msg = "hw.local: samples are kept in the store's folder; give path=, or take none"
        raise ConfigError(msg)
    return LocalStore(plan, folder, partitions, chosen, driver, clock)


def _plan_of(parts: Service | View | Sequence[Service | View], call: str) -> Plan:
    listed = [parts] if isinstance(parts, Service | View) else list(parts)
    if not listed:
        msg = f"{call}: nothing to serve; list services or views, e.g. {call}([my_service])"
        raise DefinitionError(msg)
    return compile_plan(listed)


class LocalStore:
    """A store in this process; use it as a context manager."""

    def __init__(
        self,
        plan: Plan,
        path: Path | None,
        partitions: int,
        settings: WorkerSettings,
        driver: Callable[[Sequence[Any], threading.Event], None],
        clock: Callable[[], int],
    ) -> None:
        self.clock = clock
        self._folder = LocalFolder(path, settings) if path is not None else None
        self._stores = Stores(self._folder.state if self._folder is not None else None)
        self._closed = False
        self._applying = threading.Lock()
        self._error: BaseException | None = None
        self._servers: list[Server] = []
        self.log: Log = (
            MemoryLog(clock=clock)
            if self._folder is None
            else EmbeddedLog(self._folder.log, clock=clock)
        )
        try:
            self._worker = self._open_worker(plan, partitions, settings)
            self._worker.reader.check = self.check
            self._worker.reader.samples = self._samples(settings)
            self._start(driver)
        except BaseException:
            self.log.close()
            self._stores.close()
            raise

    def _open_worker(self, plan: Plan, partitions: int, settings: WorkerSettings) -> Worker:
        folder = self._folder
        known = folder.starts() if folder is not None else {}
        starts: dict[str, Start] = {}
        for name, stream in plan.streams.items():
            self.log.create_topic(name, partitions=partitions, append_time=False)
            starts[name] = known.get(name) or resolve_start(self.log, stream, self.clock)
        archive = None
        if folder is not None:
            folder.keep_starts({**known, **starts})
            archive = Archive(FolderBlobs(folder.archive), stamp=str(plan.stamp))
        return Worker(
            CurrentPlan(plan),
            self.log,
            settings,
            clock=self.clock,
            starts=starts,
            stores=self._stores,
            archive=archive,
        )

    def _samples(self, settings: WorkerSettings) -> SampleLog | None:
        if not settings.samples.per_s:
            return None
        assert self._folder is not None
        return SampleLog(
            SampleFiles(FolderBlobs(self._folder.samples), settings.namespace),
            settings.samples,
            self._worker.metrics,
            worker="local",
            clock=self.clock,
            seed=self.clock(),
        )

    def _start(self, driver: Callable[[Sequence[Any], threading.Event], None]) -> None:
        self._stop = threading.Event()
        groups = self._worker.pipelines()
        self._pipelines = [pipeline for group in groups for pipeline in group]
        self._threads = [
            threading.Thread(
                target=self._drive, args=(driver, group), name=f"headwater-{i}", daemon=True
            )
            for i, group in enumerate(groups)
        ]
        for thread in self._threads:
            thread.start()

    def _drive(
        self, driver: Callable[[Sequence[Any], threading.Event], None], group: Sequence[Any]
    ) -> None:
        try:
            driver(group, self._stop)
        except BaseException as error:  # noqa: BLE001 - kept, and raised by the next call
            self._error = error
            self._stop.set()
            for server in self._servers:
                server.set_serving(serving=False)

    @property
    def plan(self) -> Plan:
        """The plan that is run now."""
        return self._worker.current.plan

    def apply(
        self, parts: Service | View | Sequence[Service | View], *, timeout_s: float = 120.0
    ) -> None:
        """Run these definitions from now on, all of them and no others, without closing the store.

        Events stream and calls are answered meanwhile. A view that is new is WARMING until its past
        is loaded, for which `settle` waits; one that isn't listed is gone, with its state. Raises
        StateError for other logic under a version that is there, and ConfigError for a stream that
        the store wasn't opened with; then everything stays as it was.
        """
        self._check()
        plan = _plan_of(parts, "store.apply")
        running = Running.of(plan)
        with self._applying:
            check_same_logic(self.plan, plan)
            for name in plan.streams.keys() - self._worker.ingests.keys():
                msg = f'stream "{name}" is not open in this store; open it anew with hw.local(...)'
                raise ConfigError(msg)
            self._worker.adoption.offer(running)
            self._wait(lambda: self._runs(running), "taken on", "apply", timeout_s)

    def _runs(self, running: Running) -> bool:
        with self._worker.memory.lock:  # the past of new views is awaited from here on, too
            return self._worker.current.now is running

    def check(self) -> None:
        """Raise what stopped a task, if one did, or HeadwaterError if the store is closed."""
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            if isinstance(self._error, HeadwaterError):
                raise self._error
            msg = f"the store has stopped: {type(self._error).__name__}: {self._error}"
            raise HeadwaterError(msg) from self._error
        if self._closed:
            msg = "the store is closed; open it again with hw.local(...)"
            raise HeadwaterError(msg)

    def push(
        self,
        topic: str,
        rows: pl.DataFrame | pl.LazyFrame | Sequence[Mapping[str, Any]],
        *,
        arrival: datetime | None = None,
    ) -> None:
        """Append rows to a stream as JSON events; `arrival` is their timestamp (default: now).

        Raises NotFoundError for a stream no view uses and RequestError for rows without its event
        time. Single rows that can't be events end up in the topic's dead letters.
        """
        records = json_records(self._stream(topic), rows)
        self.push_bytes(topic, records, arrival=arrival)

    def _stream(self, topic: str) -> Stream:
        self._check()
        if topic not in self.plan.streams:
            known = ", ".join(sorted(self.plan.streams))
            msg = (
                f'no stream "{topic}" in this store (known:'
                f" {known}).{did_you_mean(topic, self.plan.streams)}"
            )
            raise NotFoundError(msg)
        return self.plan.streams[topic]

    def push_bytes(
        self, topic: str, values: Sequence[bytes], *, arrival: datetime | None = None
    ) -> None:
        """Append raw records, spread over the partitions in runs."""
        self._check()
        count = self.log.topic(topic).partitions
        stamp = self.clock() if arrival is None else us_of(arrival, "arrival")
        producer = self.log.producer()
        try:
            size = -(-len(values) // count)
            for partition in range(count):
                part = values[partition * size : (partition + 1) * size]
                if part:
                    producer.send_many(topic, partition, part, timestamps_us=[stamp] * len(part))
            producer.flush()
        finally:
            producer.close()

    def dead_letters(self, topic: str) -> pl.DataFrame:
        """Return what of a stream could not be a row: where it was, why, and its bytes."""
        return dead_letter_frame(self.log, self._stream(topic).topic)

    def replay_dead_letters(self, topic: str, *, reason: str | None = None) -> Replayed:
        """Send a stream's dead letters again, or those of one reason; none of them twice.

        They arrive now. What still can't be a row is a dead letter once more.
        """
        stream = self._stream(topic).topic
        replays = Replays(self.log, self._worker.settings.namespace, self.clock)
        found = dead_letters(self.log, stream)
        letters = (one for one in found if reason is None or one.context.reason == reason)
        return replays.replay(stream, letters, lease_us=0)

    def settle(self, timeout_s: float = 120.0) -> None:
        """Wait until everything pushed so far can be read; raise what stopped a task, if any."""
        self._check()
        ends = {topic: self.log.end_offsets(topic) for topic in self.plan.streams}
        self._wait(lambda: self._worker.is_applied(ends), "settled", "settle", timeout_s)

    def _wait(self, done: Callable[[], bool], what: str, call: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            self._check()
            if time.monotonic() > deadline:
                msg = f"not {what} after {timeout_s:g} s; give {call}() a longer timeout_s"
                raise HeadwaterError(msg)
            time.sleep(_SETTLE_POLL_S)

    @property
    def worker(self) -> Worker:
        """The worker, with its shards, metrics and reader."""
        return self._worker

    def online(
        self, service: str | Sequence[str], *, at: datetime | None = None, **inputs: object
    ) -> pl.DataFrame:
        """Return the features of a service, or listed features, as a frame: a row per value given.

        Entities and request inputs are keywords; `at` is the read time (default: now).
        """
        return self.answer(service, at=at, **inputs).values

    def answer(
        self, service: str | Sequence[str], *, at: datetime | None = None, **inputs: object
    ) -> Answer:
        """Return features with statuses, read time and exchange offsets."""
        self._check()
        reader = self._worker.reader
        if isinstance(service, str):
            info = reader.describe(service)
        else:
            info = reader.describe_features(service)
        frame = pl.DataFrame(input_columns(info, _columns_of(info, inputs)))
        return reader.read(info, frame, None if at is None else us_of(at, "at"))

    def training_set(
        self,
        service: str,
        spine: pl.DataFrame | pl.LazyFrame | Mapping[str, object],
        *,
        time: str,
        as_of: str = "event",
        snapshot: Snapshot | str | None = None,
        events: Mapping[str, pl.LazyFrame | pl.DataFrame | str | Path] | None = None,
        progress: bool = False,
    ) -> pl.LazyFrame:
        """Return the spine with a service's features at each row's time.

        `time` names the spine's datetime column (with a time zone). History is what was pushed; or
        what a `snapshot` holds, the same for ever; or Parquet files or lazy frames by stream in
        `events`. Raises FrontierError for rows that a snapshot doesn't reach.
        """
        self._check()
        found = self.plan.service(service)
        source = self._events(snapshot, events)
        total = events_of(found, source) if progress else 0
        with progress_bar(f"{service}: events", total, shown=progress) as advance:
            return training_set(
                self.plan,
                service,
                spine,
                time=time,
                as_of=as_of,
                source=source,
                memory_budget_bytes=self._worker.settings.memory_budget_bytes,
                advance=advance,
            )

    def _events(
        self,
        snapshot: Snapshot | str | None,
        events: Mapping[str, pl.LazyFrame | pl.DataFrame | str | Path] | None,
    ) -> EventSource:
        if events is not None:
            if snapshot is not None:
                msg = "training set: history is snapshot= or events=, not both; leave one out"
                raise RequestError(msg)
            return ParquetEvents(self.plan, events)
        if snapshot is not None:
            archive = self._archive()
            if isinstance(snapshot, str):
                snapshot = NamedSnapshots(archive).resolve(snapshot)
            return ArchiveEvents(archive, snapshot)
        namespace = self._worker.settings.namespace
        if self._worker.archive is not None:
            return WholeHistory(
                self.plan.streams, self._worker.archive, self.log, self._worker.starts, namespace
            )
        return LogEvents(self.log, self._worker.starts, namespace)

    def snapshot(self, timeout_s: float = 120.0) -> Snapshot:
        """Archive everything pushed so far and return the name of what there is now.

        `training_set(..., snapshot=)` takes it, or its text, and repeats from it bit for bit.
        Raises ConfigError for a store in memory, which keeps no archive.
        """
        self._check()
        archive = self._archive()
        tasks = self._worker.archive_tasks.values()
        wanted = [(task, task.complete()) for task in tasks]
        self._wait(
            lambda: all(task.completed >= n for task, n in wanted),
            "archived",
            "snapshot",
            timeout_s,
        )
        return archive.snapshot({name: self.log.topic(name).id for name in self.plan.streams})

    def _archive(self) -> Archive:
        if self._worker.archive is None:
            msg = "a store in memory keeps no archive; give it a folder: hw.local(..., path=...)"
            raise ConfigError(msg)
        return self._worker.archive

    def serve(self, port: int = 6566, *, host: str = "127.0.0.1") -> Server:
        """Answer gRPC on loopback until the store is closed; port 0 takes a free one."""
        self._check()
        self._worker.reader.warm_up()
        server = Server(self._worker.reader, host=host, port=port)
        server.start()
        self._servers.append(server)
        return server

    def close(self) -> None:
        """Stop serving and streaming; with a folder, write everything down first."""
        if self._closed:
            return
        self._closed = True
        for server in self._servers:
            server.stop()
        self._stop.set()
        for thread in self._threads:
            thread.join()
        try:
            if self._error is None:
                self._worker.close()
            else:
                self._worker.abandon()
        finally:
            for pipeline in self._pipelines:
                pipeline.source.close()
            self._worker.reader.close()
            self.log.close()
            self._stores.close()

    def __enter__(self) -> Self:
        """Return the open store."""
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Close the store."""
        self.close()


def _columns_of(info: ServiceInfo, inputs: Mapping[str, object]) -> dict[str, pl.Series]:
    columns = {}
    for name, values in inputs.items():
        target = name_of_input(info, name)
        wanted = info.join_keys.get(target) or info.request_inputs[target]
        columns[name] = series_of(name, values, wanted, f'input "{name}"')
    return columns
