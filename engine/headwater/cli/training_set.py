"""`headwater training-set`: a spine in, Parquet out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl

from headwater.cli.definitions_file import load_definitions
from headwater.cli.output import write_json, write_text
from headwater.errors import ConfigError
from headwater.flow.answer import RequestError
from headwater.offline.sources import ParquetEvents
from headwater.offline.training_set import training_set as make_training_set
from headwater.plan.plan import compile_plan

__all__ = ["training_set"]


def training_set(
    file: str,
    /,
    *,
    service: str,
    spine: Path,
    time: str,
    events: list[str],
    out: Path,
    as_of: Literal["event", "arrival"] = "event",
    json: bool = False,
) -> int:
    """Write a spine with a service's features, as of each row's time, to a Parquet file.

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
    events
        History as topic=file.parquet; once for each stream.
    out
        The Parquet file to write.
    as_of
        "event" takes every event before a row's time; "arrival" only those that had come by then.
    json
        Print one JSON document, for machines.
    """
    plan = compile_plan(load_definitions(file))
    plan.service(service)
    if not out.parent.is_dir():
        msg = f"--out {out}: there is no folder {out.parent}; make it first"
        raise ConfigError(msg)
    source = ParquetEvents(plan, _history(events))
    rows = pl.scan_parquet(_present(spine, "--spine"))
    found = make_training_set(plan, service, rows, time=time, source=source, as_of=as_of).collect()
    partial = out.with_name(f"{out.name}.part")
    found.write_parquet(partial)
    partial.replace(out)
    features = len(plan.services[service].service.columns)
    if json:
        write_json({"out": str(out), "rows": found.height, "features": features})
    else:
        write_text(f"{out}: {found.height:,} rows with {features} features of {service}")
    return 0


def _history(events: list[str]) -> dict[str, Path]:
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
    return found


def _present(path: Path, option: str) -> Path:
    if not path.is_file():
        msg = f"{option} {path}: there is no such file"
        raise ConfigError(msg)
    return path
