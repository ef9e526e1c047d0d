"""`headwater training-set`: a spine in, Parquet out."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import polars as pl

from headwater.archive_store import ArchiveStore
from headwater.cli.definitions_file import load_definitions
from headwater.cli.output import write_json, write_text
from headwater.config import load_config
from headwater.definitions.duration import duration_us
from headwater.errors import ConfigError
from headwater.flow.answer import RequestError
from headwater.offline.frontier import check_frontier, frontier_of, moment_text
from headwater.offline.parts import Parts, Recipe, file_checksum
from headwater.offline.progress import events_of, progress_bar
from headwater.offline.sources import ParquetEvents
from headwater.offline.training_set import spine_times
from headwater.offline.training_set import training_set as make_training_set
from headwater.plan.plan import compile_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headwater.config import Config
    from headwater.offline.sources import EventSource
    from headwater.plan.plan import Plan, ServicePlan

__all__ = ["training_set"]

_PARQUET = ".parquet"


@dataclass(frozen=True, slots=True)
class _History:
    source: EventSource
    name: str  # the snapshot, or the checksums of the files
    snapshot: str | None


def training_set(  # noqa: PLR0913 - the options of the command
    file: str,
    /,
    *,
    service: str,
    spine: Path,
    time: str,
    out: Path,
    archive: str | None = None,
    events: list[str] | None = None,
    snapshot: str | None = None,
    wait: str | None = None,
    as_of: Literal["event", "arrival"] = "event",
    part_rows: int = 1_000_000,
    config: Path | None = None,
    json: bool = False,
) -> int:
    """Write a spine with a service's features, as of each row's time, to Parquet.

    The spine is read and written in parts. A run that was stopped goes on where it was when the
    same command is given again, with the snapshot that it had begun with.

    Parameters
    ----------
    file
        A Python file, or a module such as my.features.
    service
        The service whose features to add.
    spine
        A Parquet file of entities and times, one row an example.
    time
        The spine's time column, a datetime with a time zone.
    out
        A file ending in .parquet, or a folder for a file a part.
    archive
        The archive's folder or URL (default: worker.archive of the configuration).
    events
        History from files instead, as topic=file.parquet; once for each stream.
    snapshot
        What of the archive to use: the text that an earlier run printed, or the name of a named
        snapshot (default: all there is now).
    wait
        How long to wait, at most, for the archive to reach the spine's last row: 30s, 10m.
    as_of
        "event" takes every event before a row's time; "arrival" only those that had come by then.
    part_rows
        How many rows of the spine are held in memory at a time.
    config
        The configuration file (default: headwater.toml, if it is here).
    json
        Print one JSON document, for machines.
    """
    plan = compile_plan(load_definitions(file))
    found = plan.service(service)
    _check(out, part_rows)
    settings = load_config(config, flags={"--archive": ("worker.archive", archive)})
    rows = pl.scan_parquet(_present(spine, "--spine"))
    folder = out.with_name(f"{out.name}.parts") if out.suffix == _PARQUET else out
    if events:
        history = _files(plan, events)
    else:
        begun = snapshot or Parts.history_of(folder)
        history = _archived(ArchiveStore(plan, settings), begun, rows, time, wait)
    frontier_us = frontier_of(found, history.source)
    if time in rows.collect_schema():
        # Of all parts, before the first of them is made.
        check_frontier(spine_times(rows.select(time).collect(), time), frontier_us)
    recipe = _recipe(found, history, spine, rows, time=time, as_of=as_of, part_rows=part_rows)
    parts = Parts(folder, recipe)
    _make(plan, recipe, parts, rows, history.source, settings)
    if out.suffix == _PARQUET:
        _join(parts, recipe, out)
    facts = {"out": str(out), "rows": recipe.rows, "features": len(found.service.columns)}
    frontier = None if frontier_us is None else moment_text(frontier_us)
    _tell({**facts, "snapshot": history.snapshot, "frontier": frontier}, service, json=json)
    return 0


def _recipe(
    service: ServicePlan,
    history: _History,
    spine: Path,
    rows: pl.LazyFrame,
    *,
    time: str,
    as_of: str,
    part_rows: int,
) -> Recipe:
    return Recipe(
        service=service.service.name,
        revision=service.revision,
        history=history.name,
        spine=file_checksum(spine),
        rows=int(rows.select(pl.len()).collect().item()),
        rows_per_part=part_rows,
        time=time,
        as_of=as_of,
    )


def _check(out: Path, part_rows: int) -> None:
    if not out.parent.is_dir():
        msg = f"--out {out}: there is no folder {out.parent}; make it first"
        raise ConfigError(msg)
    if part_rows < 1:
        msg = f"--part-rows {part_rows}: a part has at least one row"
        raise RequestError(msg)


def _tell(facts: dict[str, object], service: str, *, json: bool) -> None:
    if json:
        write_json(facts)
        return
    rows, features = facts["rows"], facts["features"]
    write_text(f"{facts['out']}: {rows:,} rows with {features} features of {service}")
    if facts["snapshot"] is not None:
        write_text(f"snapshot {facts['snapshot']}, complete up to {facts['frontier']}")


def _archived(
    store: ArchiveStore,
    snapshot: str | None,
    spine: pl.LazyFrame,
    time: str,
    wait: str | None,
) -> _History:
    """Return a snapshot's events; of a new one it is seen to that it reaches the spine's end."""
    if snapshot is None and wait is not None:
        timeout_s = duration_us(wait, "--wait") / 1e6
        is_time = isinstance(spine.collect_schema().get(time), pl.Datetime)
        until = spine.select(pl.col(time).max()).collect().item() if is_time else None
        snapshot = str(store.snapshot(until=until, timeout_s=timeout_s))
    source = store.source(store.snapshot() if snapshot is None else snapshot)
    return _History(source, str(source.snapshot), str(source.snapshot))


def _make(
    plan: Plan,
    recipe: Recipe,
    parts: Parts,
    rows: pl.LazyFrame,
    source: EventSource,
    settings: Config,
) -> None:
    """Make the parts that are missing."""
    missing = list(parts.missing())
    total = len(missing) * events_of(plan.service(recipe.service), source) if missing else 0
    with progress_bar(f"{recipe.service}: events", total, shown=True) as advance:
        for number, first in missing:
            made = make_training_set(
                plan,
                recipe.service,
                rows.slice(first, recipe.rows_per_part),
                time=recipe.time,
                source=source,
                as_of=recipe.as_of,
                memory_budget_bytes=settings.worker.memory_budget_bytes,
                advance=advance,
            )
            parts.write(number, made.collect())


def _join(parts: Parts, recipe: Recipe, out: Path) -> None:
    """Make one file of the parts, a stretch at a time, and remove them."""
    partial = out.with_name(f"{out.name}.part")
    pl.scan_parquet(parts.paths()).sink_parquet(partial, metadata=recipe.metadata())
    partial.replace(out)
    shutil.rmtree(parts.folder)


def _files(plan: Plan, events: Sequence[str]) -> _History:
    found: dict[str, Path] = {}
    for one in events:
        topic, equals, path = one.partition("=")
        if not equals or not topic or not path:
            msg = f"--events {one}: write topic=file.parquet"
            raise RequestError(msg)
        if topic in found:
            msg = f"--events {one}: {topic} is given twice; leave one out"
            raise RequestError(msg)
        found[topic] = _present(Path(path), f"--events {topic}=")
    sums = (f"{topic}={file_checksum(path)}" for topic, path in sorted(found.items()))
    return _History(ParquetEvents(plan, found), "+".join(sums), None)


def _present(path: Path, option: str) -> Path:
    if not path.is_file():
        msg = f"{option} {path}: there is no such file"
        raise ConfigError(msg)
    return path
