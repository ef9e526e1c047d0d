"""`hw.archive`: training sets from the archive that workers write, without a worker or a log."""

from __future__ import annotations

import time as clocks
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.config import load_config
from headwater.definitions.service import Service
from headwater.definitions.view import View
from headwater.errors import ConfigError, HeadwaterError
from headwater.flow.starts import us_of
from headwater.offline.archived_topics import archived_topics
from headwater.offline.frontier import FrontierError, moment_text
from headwater.offline.progress import events_of, progress_bar
from headwater.offline.sources import ArchiveEvents
from headwater.offline.training_set import training_set
from headwater.plan.plan import compile_plan
from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.location import blobs_of
from headwater_connectors.archive.named_snapshots import NamedSnapshots
from headwater_connectors.formats.schema_registry import RegistrySettings
from headwater_connectors.log.kafka import KafkaLog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import polars as pl

    from headwater.config import Config
    from headwater.plan.plan import Plan
    from headwater_connectors.archive.snapshot import Snapshot

__all__ = ["ArchiveStore", "archive"]

_LOOK_EVERY_S = 1.0


def archive(
    parts: Service | View | Sequence[Service | View], location: str | Path | None = None
) -> ArchiveStore:
    """Return a store that makes training sets from the archive in a folder or an object store.

    Without a location it is the one configured, `worker.archive`. Nothing else is needed; Kafka is
    asked only about a topic that was made again, of which the archive holds several. Raises
    ConfigError where there is no archive.
    """
    listed = [parts] if isinstance(parts, Service | View) else list(parts)
    config = load_config(flags={"location": ("worker.archive", location)})
    return ArchiveStore(compile_plan(listed), config)


class ArchiveStore:
    """A namespace's archive and the services it can be read for."""

    def __init__(
        self,
        plan: Plan,
        config: Config,
        *,
        sleep: Callable[[float], None] = clocks.sleep,
        now_s: Callable[[], float] = clocks.monotonic,
    ) -> None:
        location = config.worker.archive
        if location is None or (isinstance(location, Path) and not location.is_dir()):
            where = "no archive is configured" if location is None else f"no archive at {location}"
            msg = f"{where}; name the place that workers archive to (worker.archive)"
            raise ConfigError(msg)
        self.plan = plan
        blobs = blobs_of(location, config.object_store)
        self._archive = Archive(blobs, stamp=str(plan.stamp))
        self._config = config
        self._sleep = sleep
        self._now_s = now_s
        self._ids: dict[str, str] = {}

    def snapshot(self, *, until: datetime | None = None, timeout_s: float = 0.0) -> Snapshot:
        """Return the name of what the archive holds now: `training_set` repeats from it.

        With `until` it waits, at most `timeout_s`, for the frontier to have passed that moment.
        Raises FrontierError if it has not by then.
        """
        wanted_us = None if until is None else us_of(until, "until")
        deadline = self._now_s() + timeout_s
        while True:
            found = self._archive.snapshot(self._topic_ids())
            if wanted_us is None or (frontier_us := self._frontier_us(found)) >= wanted_us:
                return found
            left_s = deadline - self._now_s()
            if left_s <= 0:
                msg = (
                    f"the archive is complete up to {moment_text(frontier_us)}, and"
                    f" {moment_text(wanted_us)} was asked for; wait longer (timeout_s), see that"
                    " the workers run and archive, or ask for less"
                )
                raise FrontierError(msg)
            self._sleep(min(_LOOK_EVERY_S, left_s))

    def frontier(self, snapshot: Snapshot | str) -> datetime | None:
        """Return the arrival up to which a snapshot holds every event; None if it is empty."""
        found_us = self._frontier_us(self._found(snapshot))
        try:
            return datetime.fromisoformat(moment_text(found_us))
        except ValueError:
            return None

    def _frontier_us(self, snapshot: Snapshot) -> int:
        source = ArchiveEvents(self._archive, snapshot)
        return min(source.frontier_us(stream) for stream in self.plan.streams.values())

    def _topic_ids(self) -> Mapping[str, str]:
        if not self._ids:
            self._ids = archived_topics(self._archive, self.plan.streams, self._newest_id)
        return self._ids

    def _newest_id(self, topic: str) -> str:
        kafka = self._config.kafka
        try:
            with closing(KafkaLog(kafka.bootstrap_servers, config=kafka.config)) as log:
                return log.topic(topic).id
        except HeadwaterError as error:
            msg = (
                f'topic "{topic}" was made again: the archive holds several of that name, and'
                f" Kafka does not say which is the present one ({error}); let it be reached, or"
                " give a snapshot"
            )
            raise ConfigError(msg) from error

    def source(self, snapshot: Snapshot | str) -> ArchiveEvents:
        """Return the events that a snapshot holds."""
        given = self._config.schema_registry
        registry = RegistrySettings.of(given.url, given.basic_auth)
        return ArchiveEvents(self._archive, self._found(snapshot), registry=registry)

    def _found(self, snapshot: Snapshot | str) -> Snapshot:
        if isinstance(snapshot, str):
            return NamedSnapshots(self._archive).resolve(snapshot)
        return snapshot

    def training_set(
        self,
        service: str,
        spine: pl.DataFrame | pl.LazyFrame | Mapping[str, object],
        *,
        time: str,
        as_of: str = "event",
        snapshot: Snapshot | str | None = None,
        progress: bool = False,
    ) -> pl.LazyFrame:
        """Return the spine with a service's features at each row's time.

        `time` names the spine's datetime column (with a time zone). History is what `snapshot`
        holds, given as its text or its name; by default what the archive holds now. Raises
        FrontierError for rows that it doesn't reach.
        """
        found = self.plan.service(service)
        source = self.source(self.snapshot() if snapshot is None else snapshot)
        total = events_of(found, source) if progress else 0
        with progress_bar(f"{service}: events", total, shown=progress) as advance:
            return training_set(
                self.plan,
                service,
                spine,
                time=time,
                as_of=as_of,
                source=source,
                memory_budget_bytes=self._config.worker.memory_budget_bytes,
                advance=advance,
            )
