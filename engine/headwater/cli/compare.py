"""`headwater view compare`: where two versions of a view differ, and why."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import polars as pl
from cyclopts import Parameter

from headwater.cli.comparison_report import Report
from headwater.cli.definitions_file import load_definitions
from headwater.cli.output import write_json, write_table, write_text
from headwater.cli.place import PlaceFlags, clock_us
from headwater.errors import ConfigError, NotFoundError, did_you_mean
from headwater.flow.answer import RequestError
from headwater.flow.starts import resolve_start
from headwater.offline.comparison import Comparison
from headwater.offline.progress import progress_bar
from headwater.offline.sources import LogEvents, WholeHistory
from headwater.offline.spine_sample import sample_spine, time_name
from headwater.plan.plan import compile_plan
from headwater.state.store import temporary_folder

if TYPE_CHECKING:
    from headwater.cli.place import Place
    from headwater.definitions.view import View
    from headwater.offline.sources import EventSource

__all__ = ["compare"]

_PART_ROWS = 500_000
_SUFFIXES = (".parquet", ".csv")


def compare(  # noqa: PLR0913 - the options of the command
    old: str,
    new: str,
    /,
    *,
    file: str | None = None,
    spine: Path | None = None,
    time: str | None = None,
    rows: int = 10_000,
    seed: int = 0,
    output: Path | None = None,
    fail_on_difference: bool = False,
    json: bool = False,
    flags: Annotated[PlaceFlags | None, Parameter(name="*")] = None,
) -> int:
    """Compute two versions of a view for the same entities and times; say what differs, and why.

    Values are rebuilt from history, so a version need not be applied or loaded yet. The spine is
    that of a file, or events chosen from history: each entity just after one of its events.

    Parameters
    ----------
    old
        A view version, such as sales@1.
    new
        The one to compare with it, such as sales@2.
    file
        A Python file or module with versions that are not applied; what it defines comes first.
    spine
        A Parquet or CSV file of entities and times, one row an example.
    time
        The time column of --spine, a datetime with a time zone.
    rows
        Without --spine, how many events to choose.
    seed
        Without --spine, chooses the events: the same seed and history give the same.
    output
        A .parquet or .csv file for the rows that differ: old.NAME and new.NAME of each feature.
    fail_on_difference
        Exit with 1 if a value differs, or nothing could be compared.
    json
        Print one JSON document, for machines.
    """
    given = _Spine(spine, time, rows, seed)
    given.check()
    _check_output(output)
    flags = flags or PlaceFlags()
    if flags.folder is not None and not flags.has_store:
        msg = f"there is no store in {flags.folder}: headwater apply makes it"
        raise NotFoundError(msg)
    with ExitStack() as stack:
        place = stack.enter_context(flags.opened())
        comparison = Comparison(
            *_versions(place, (old, new), file),
            memory_budget_bytes=flags.settings().worker.memory_budget_bytes,
        )
        differing = None if output is None else Path(stack.enter_context(temporary_folder()))
        _compare(comparison, given, _history(place, comparison), differing)
        if output is not None and differing is not None:
            _write(differing, output)
    report = Report(comparison, str(given), output)
    if json:
        write_json(report.facts())
    else:
        write_text(report.head)
        write_table(*report.table())
        write_text("\n".join(report.lines()))
    return 1 if fail_on_difference and not comparison.is_same else 0


@dataclass(frozen=True, slots=True)
class _Spine:
    """Where entities and times come from: a file, or `rows` events of history."""

    file: Path | None
    time: str | None
    rows: int
    seed: int

    def check(self) -> None:
        """Raise ConfigError or RequestError for what can't be before any work is done."""
        if self.file is not None and not self.file.is_file():
            msg = f"--spine {self.file}: there is no such file"
            raise ConfigError(msg)
        if (self.file is None) != (self.time is None):
            missing, other = ("--spine", "--time") if self.file is None else ("--time", "--spine")
            msg = f"{other} needs {missing}: a file of rows, and the name of its time column"
            raise RequestError(msg)
        if self.rows < 1:
            msg = f"--rows {self.rows}: at least one is needed"
            raise RequestError(msg)

    def parts(self) -> list[pl.LazyFrame]:
        """Return the file's rows, so many at a time."""
        assert self.file is not None
        is_csv = self.file.suffix == ".csv"
        try:
            frame = (
                pl.scan_csv(self.file, try_parse_dates=True)
                if is_csv
                else pl.scan_parquet(self.file)
            )
            count = int(frame.select(pl.len()).collect().item())
        except (OSError, pl.exceptions.PolarsError) as error:
            reason = " ".join(str(error).split())
            msg = f"--spine {self.file} can't be read: {reason}"
            raise RequestError(msg) from error
        return [frame.slice(first, _PART_ROWS) for first in range(0, max(1, count), _PART_ROWS)]

    def __str__(self) -> str:
        return f"history, seed {self.seed}" if self.file is None else str(self.file)


def _check_output(output: Path | None) -> None:
    if output is None:
        return
    if output.suffix not in _SUFFIXES:
        msg = f"--output {output}: name a file that ends in {' or '.join(_SUFFIXES)}"
        raise RequestError(msg)
    if not output.parent.is_dir():
        msg = f"--output {output}: there is no folder {output.parent}; make it first"
        raise ConfigError(msg)


def _versions(place: Place, names: tuple[str, str], file: str | None) -> list[View]:
    """Return the views of these names, of a file where it has them, else as they are applied."""
    written = {} if file is None else compile_plan(load_definitions(file)).views
    applied = place.topic.plan()
    known = {**({} if applied is None else applied.views), **written}
    for name in names:
        if name not in known:
            raise NotFoundError(_unknown(place, name, list(known)))
    return [known[name].view for name in names]


def _unknown(place: Place, name: str, known: list[str]) -> str:
    from headwater.registry.application import in_step

    listed = f" (known: {', '.join(sorted(known))})" if known else ""
    if "@" not in name:
        return f'"{name}" names no version; write {name}@1{listed}'
    registered = place.registry.read(place.topic.namespace)
    record = in_step(registered, place.topic, at_us=clock_us()).found.views.get(name)
    if record is not None and record.is_removed:
        return f"view {name} was removed; name a file that defines it with --file"
    return (
        f'view {name} is not applied to namespace "{place.topic.namespace}"{listed}.'
        f"{did_you_mean(name, known)} Before it is applied, name its file with --file."
    )


def _history(place: Place, comparison: Comparison) -> EventSource:
    """Return the events there are now: the same for both versions, whatever comes meanwhile."""
    streams = {one.stream.topic: one.stream for one in (comparison.old, comparison.new)}
    starts = {
        topic: place.starts.get(topic) or resolve_start(place.log, stream, clock_us)
        for topic, stream in streams.items()
    }
    if place.archive is None:
        return LogEvents(place.log, starts, place.topic.namespace, registry=place.schemas)
    return WholeHistory(
        streams, place.archive, place.log, starts, place.topic.namespace, registry=place.schemas
    )


def _compare(
    comparison: Comparison, spine: _Spine, source: EventSource, differing: Path | None
) -> None:
    """Compare for every part of the spine; keep the rows that differ in a folder."""
    views = (comparison.old, comparison.new)
    time = spine.time or time_name(comparison.old.entity.key)
    parts = None if spine.file is None else spine.parts()
    passes = 2 if parts is None else len(parts)  # a sample is a pass of its own
    total = passes * sum(source.rows(view.stream) for view in views)
    with progress_bar(f"{views[0].id}, {views[1].id}: events", total, shown=True) as advance:
        if parts is None:
            chosen = sample_spine(views, source, rows=spine.rows, seed=spine.seed, advance=advance)
            parts = [chosen.lazy()]
        for number, part in enumerate(parts):
            found = comparison.add(part.collect(), time=time, source=source, advance=advance)
            if differing is not None:
                found.write_parquet(differing / f"{number:06}.parquet")


def _write(folder: Path, output: Path) -> None:
    partial = output.with_name(f"{output.name}.part")
    rows = pl.scan_parquet(sorted(folder.iterdir()))
    if output.suffix == ".csv":
        rows.sink_csv(partial)
    else:
        rows.sink_parquet(partial)
    partial.replace(output)
