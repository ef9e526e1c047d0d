"""`headwater archive`: look after the history of events."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path  # noqa: TC003 - the command line reads the annotations
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from headwater.cli.output import progress_bars, write_json, write_text
from headwater.cli.place import clock_us
from headwater.errors import ConfigError, NotFoundError, did_you_mean
from headwater.flow.size_text import size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headwater.config import Config
    from headwater_connectors.archive.archive import Archive

__all__ = ["archive", "compact", "remove_snapshot", "retain", "snapshot", "snapshots", "verify"]

archive = App(
    name="archive", default_parameter=Parameter(negative=()), result_action="return_value"
)

_Partition = tuple[str, str, int]


@dataclass(frozen=True)
class ArchivePlace:
    """Where the archive is.

    Parameters
    ----------
    config
        A TOML file of settings; headwater.toml is read where it is there.
    archive
        The folder or URL of the archive; else what worker.archive says.
    """

    config: Path | None = None
    archive: str | None = None

    def open(self) -> tuple[Archive, Config]:
        """Return the archive and the settings; ConfigError if none is configured."""
        from headwater.config import load_config
        from headwater_connectors.archive.archive import Archive
        from headwater_connectors.archive.location import blobs_of

        settings = load_config(self.config, flags={"--archive": ("worker.archive", self.archive)})
        location = settings.worker.archive
        if location is None:
            msg = "no archive is configured; name one with --archive, or set worker.archive"
            raise ConfigError(msg)
        return Archive(blobs_of(location, settings.object_store), stamp=""), settings


_Place = Annotated[ArchivePlace | None, Parameter(name="*")]


@archive.command
def verify(topic: str | None = None, /, *, place: _Place = None, json: bool = False) -> int:
    """Read every manifest and every byte, and say what is wrong; exit code 1 if anything is.

    Parameters
    ----------
    topic
        One topic; else all that are archived.
    json
        Print one JSON document, for machines.
    """
    from headwater_connectors.archive.verification import verify as verify_partition

    found, _ = (place or ArchivePlace()).open()
    partitions = _partitions(found, topic)
    with _bar("verify") as show:
        results = [
            verify_partition(found, *partition, progress=show(partition))
            for partition in partitions
        ]
    problems = [problem for result in results for problem in result.problems]
    if json:
        told = [{**asdict(result), "stamps": sorted(result.stamps)} for result in results]
        write_json({"partitions": told, "problems": len(problems)})
    else:
        for result in results:
            write_text(
                f"{_name(result)}: {result.rows:,} rows in {result.files:,} files"
                f" ({size_text(result.size_bytes)}), {result.manifests:,} manifests,"
                f" {len(result.problems)} problems"
            )
        for problem in problems:
            write_text(f"  {problem}")
    return 1 if problems else 0


@archive.command
def compact(topic: str | None = None, /, *, place: _Place = None, json: bool = False) -> int:
    """Make few large files of many small ones; readers and writers go on meanwhile.

    Parameters
    ----------
    topic
        One topic; else all that are archived.
    json
        Print one JSON document, for machines.
    """
    from headwater_connectors.archive.compaction import Sizes
    from headwater_connectors.archive.compaction import compact as compact_partition

    found, settings = (place or ArchivePlace()).open()
    sizes = Sizes(settings.archive.file_bytes, settings.archive.file_rows)
    told = []
    partitions = _partitions(found, topic)
    with _bar("compact") as show:
        for partition in partitions:
            advance = show(partition)
            before = after = 0
            while done := compact_partition(found, *partition, now_us=clock_us(), sizes=sizes):
                before += done.files_before
                after += done.files_after
                advance(before, before if done.is_done else before + 1)
                if done.is_done:
                    break
            told.append({**_facts(partition), "files_before": before, "files_after": after})
    if json:
        write_json({"partitions": told})
    else:
        for facts in told:
            write_text(
                f"{_text(facts)}: {facts['files_before']} files became {facts['files_after']}"
            )
    return 0


@archive.command
def retain(
    topic: str | None = None,
    /,
    *,
    older_than: str | None = None,
    dry_run: bool = False,
    place: _Place = None,
    json: bool = False,
) -> int:
    """Drop whole files whose events all arrived longer ago, unless a named snapshot needs them.

    What was dropped or replaced is deleted when the grace period is over, by the next visit.

    Parameters
    ----------
    topic
        One topic; else all that are archived.
    older_than
        A duration such as 90d; else archive.keep_days. With neither nothing is dropped.
    dry_run
        Say what would go, and change nothing.
    json
        Print one JSON document, for machines.
    """
    from headwater.definitions.duration import duration_us
    from headwater.flow.archive_care import CareSettings
    from headwater_connectors.archive.retention import retain as retain_partition

    found, settings = (place or ArchivePlace()).open()
    now_us = clock_us()
    care = CareSettings.of(settings.archive)
    keep_us = care.keep_us
    if older_than is not None:
        keep_us = duration_us(older_than, "--older-than")
    results = [
        retain_partition(
            found,
            *partition,
            before_us=now_us - keep_us if keep_us else None,
            grace_us=care.grace_us,
            now_us=now_us,
            dry_run=dry_run,
        )
        for partition in _partitions(found, topic)
    ]
    if json:
        write_json({"dry_run": dry_run, "partitions": [asdict(result) for result in results]})
        return 0
    would = "would " if dry_run else ""
    for result in results:
        held = f"; held by {', '.join(result.held_by)}" if result.held_by else ""
        write_text(
            f"{_name(result)}: {would}drop {result.dropped_files:,} files"
            f" ({result.dropped_rows:,} rows, {size_text(result.dropped_bytes)}) and {would}delete"
            f" {result.deleted_files:,} ({size_text(result.deleted_bytes)}){held}"
        )
    return 0


@archive.command
def snapshot(
    name: str, topic: str | None = None, /, *, place: _Place = None, json: bool = False
) -> int:
    """Give the present extent of the archive a name; retention keeps what it needs.

    Parameters
    ----------
    name
        What to call it.
    topic
        One topic; else all that are archived.
    json
        Print one JSON document, for machines.
    """
    from headwater_connectors.archive.named_snapshots import NamedSnapshots

    found, _ = (place or ArchivePlace()).open()
    pairs = sorted({(topic, topic_id) for topic, topic_id, _ in _partitions(found, topic)})
    if not pairs:
        msg = "nothing is archived yet; take the snapshot when something is"
        raise NotFoundError(msg)
    taken = NamedSnapshots(found).take(name, pairs, clock_us())
    if json:
        write_json({"name": taken.name, "snapshot": taken.snapshot, "taken_us": taken.taken_us})
    else:
        write_text(f"{taken.name}: {taken.snapshot}")
    return 0


@archive.command
def snapshots(*, place: _Place = None, json: bool = False) -> int:
    """List the named snapshots.

    Parameters
    ----------
    json
        Print one JSON document, for machines.
    """
    from datetime import UTC, datetime

    from headwater_connectors.archive.named_snapshots import NamedSnapshots

    found, _ = (place or ArchivePlace()).open()
    named = NamedSnapshots(found).all()
    if json:
        write_json(
            [{"name": n.name, "snapshot": n.snapshot, "taken_us": n.taken_us} for n in named]
        )
        return 0
    for one in named:
        taken = datetime.fromtimestamp(one.taken_us // 1_000_000, UTC)
        write_text(f"{one.name}  {taken:%Y-%m-%d %H:%M:%S} UTC  {one.snapshot}")
    return 0


@archive.command
def remove_snapshot(name: str, /, *, place: _Place = None) -> int:
    """Forget a named snapshot, so that retention may drop what it needed.

    Parameters
    ----------
    name
        What it is called.
    """
    from headwater_connectors.archive.named_snapshots import NamedSnapshots

    found, _ = (place or ArchivePlace()).open()
    NamedSnapshots(found).remove(name)
    return 0


def _partitions(found: Archive, topic: str | None) -> list[_Partition]:
    everything = found.partitions()
    if topic is None:
        return everything
    chosen = [one for one in everything if one[0] == topic]
    if not chosen:
        known = sorted({one[0] for one in everything})
        msg = f'no topic "{topic}" in the archive.{did_you_mean(topic, known)}'
        raise NotFoundError(msg)
    return chosen


def _facts(partition: _Partition) -> dict[str, object]:
    return dict(zip(("topic", "topic_id", "partition"), partition, strict=True))


def _text(facts: dict[str, object]) -> str:
    return f"{facts['topic']}@{facts['topic_id']}[{facts['partition']}]"


def _name(result: object) -> str:
    return _text({name: getattr(result, name) for name in ("topic", "topic_id", "partition")})


@contextmanager
def _bar(what: str) -> Iterator[Callable[[_Partition], Callable[[int, int], None]]]:
    """Show a bar for each partition; yields what begins one and returns what moves it."""
    with progress_bars() as bars:

        def begin(partition: _Partition) -> Callable[[int, int], None]:
            task = bars.add_task(f"{what} {_text(_facts(partition))}", total=None)

            def move(done: int, total: int) -> None:
                bars.update(task, completed=done, total=total)

            return move

        yield begin
