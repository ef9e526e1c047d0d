"""`headwater audit`: what was served is computed again from history and compared bit for bit."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from headwater.cli.applied import applied_plan
from headwater.cli.definitions_file import load_definitions
from headwater.cli.output import write_json, write_table, write_text
from headwater.cli.place import PlaceFlags, clock_us
from headwater.definitions.duration import duration_us
from headwater.errors import ConfigError
from headwater.flow.answer import RequestError
from headwater.flow.local_folder import LocalFolder, local_settings
from headwater.flow.sample_files import SampleFiles
from headwater.flow.starts import us_of
from headwater.offline.audit import Audit
from headwater.offline.audited_view import History
from headwater.offline.frontier import moment_text
from headwater.offline.progress import progress_bar
from headwater.plan.plan import compile_plan
from headwater_connectors.archive.errors import ArchiveError
from headwater_connectors.archive.location import blobs_of

if TYPE_CHECKING:
    from headwater.cli.place import Place
    from headwater.config import Config
    from headwater.flow.samples import Asked, Block
    from headwater.offline.audited_columns import Audited, Difference
    from headwater.plan.plan import Plan

__all__ = ["audit"]

_COLUMNS = ("service", "feature", "entity", "t", "what", "served", "recomputed", "worker")


@dataclass(slots=True)
class _Samples:
    """What was read of the sample log, and the files that could not be read, with the reason."""

    place: str
    blocks: list[Block] = field(default_factory=list)
    vectors: int = 0
    files: int = 0
    skipped: list[str] = field(default_factory=list)


def audit(
    file: str | None = None,
    /,
    *,
    since: str | None = None,
    until: str | None = None,
    limit: int = 100_000,
    json: bool = False,
    flags: Annotated[PlaceFlags | None, Parameter(name="*")] = None,
) -> int:
    """Compute a sample of what was served again, and name every value that is not the same.

    Exit code 1 if a value differs, or if there was nothing to compare.

    Parameters
    ----------
    file
        A Python file, or a module such as my.features; else what is applied.
    since
        Only what was served since then: 2h or 7d for so long ago, or a time in UTC.
    until
        Only what was served before then.
    limit
        How many vectors to compare at most, the newest first; a request is compared whole.
    json
        Print one JSON document, for machines.
    """
    place_flags = flags or PlaceFlags()
    now_us = clock_us()
    since_us, until_us = _moment(since, "--since", now_us), _moment(until, "--until", now_us)
    if limit < 1:
        msg = f"--limit {limit}: compare at least one vector"
        raise RequestError(msg)
    if place_flags.folder is not None and not place_flags.has_store:
        msg = f"no store in folder {place_flags.folder}; give the one that headwater serve has"
        raise ConfigError(msg)
    settings = place_flags.settings()
    with place_flags.opened() as place:
        namespace = place.topic.namespace
        newest = (
            applied_plan(place.log, namespace)[1]
            if file is None
            else compile_plan(load_definitions(file))
        )
        samples = _samples(_files(place_flags, settings, namespace), since_us, until_us, limit)
        # What was served before the last change is compared by the plan that it was served by.
        plans = chain([newest], place.topic.plans())
        history_of = partial(_history_of, place, settings.worker.memory_budget_bytes, {})
        work = Audit(plans, samples.blocks, history_of, place.starts)
        with progress_bar("audit: events", work.events, shown=not json) as advance:
            found = work.run(advance)
    if json:
        write_json(_document(found, samples))
    else:
        _tell(found, samples)
    return 1 if found.differing or not found.compared else 0


def _history_of(
    place: Place, memory_budget_bytes: int, known: dict[int, History], plan: Plan
) -> History:
    """Return the history of a plan's streams, `known` from the second time on."""
    if id(plan) not in known:
        known[id(plan)] = History.of(
            plan,
            place.archive,
            place.log,
            place.starts,
            place.topic.namespace,
            memory_budget_bytes=memory_budget_bytes,
            registry=place.schemas,
        )
    return known[id(plan)]


def _moment(text: str | None, option: str, now_us: int) -> int | None:
    """Return a time in µs, given as one or as how long ago."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return now_us - duration_us(text, option)
    return us_of(moment if moment.tzinfo else moment.replace(tzinfo=UTC), option)


def _files(flags: PlaceFlags, settings: Config, namespace: str) -> SampleFiles:
    if flags.folder is None:
        location = settings.audit.samples
    else:
        location = LocalFolder(flags.folder, local_settings(flags.folder)).samples
    return SampleFiles(blobs_of(location, settings.object_store), namespace)


def _samples(
    files: SampleFiles, since_us: int | None, until_us: int | None, limit: int
) -> _Samples:
    """Read the newest files until there are enough vectors; what is damaged is told, not fatal."""
    found = _Samples(files.place)

    def wanted(one: Asked) -> bool:
        if found.vectors >= limit:
            return False
        in_time = (since_us is None or one.served_us >= since_us) and (
            until_us is None or one.served_us < until_us
        )
        found.vectors += one.rows if in_time else 0
        return in_time

    for name in files.names(since_us, until_us):
        if found.vectors >= limit:
            break
        try:
            blocks = files.read(name)
        except ArchiveError as error:
            found.skipped.append(" ".join(str(error).split()))
            continue
        found.files += 1
        kept = (block.of_requests(wanted) for block in blocks)
        found.blocks += [block for block in kept if block.asked]
    return found


def _document(found: Audited, samples: _Samples) -> dict[str, object]:
    return {
        "vectors": found.vectors,
        "compared": found.compared,
        "differing": found.differing,
        "differences": [
            {
                **asdict(one),
                "t": moment_text(one.t_us),
                "served_at": moment_text(one.served_us),
            }
            for one in found.differences
        ],
        "not_compared": [
            {"reason": reason, "values": values}
            for reason, values in found.not_compared.most_common()
        ],
        "files": samples.files,
        "skipped": samples.skipped,
    }


def _tell(found: Audited, samples: _Samples) -> None:
    if found.differences:
        write_table(_COLUMNS, map(_cells, found.differences))
    if found.differing > len(found.differences):
        write_text(f"and {found.differing - len(found.differences):,} more differences")
    for reason, values in found.not_compared.most_common():
        write_text(f"not compared: {values:,} values: {reason}")
    for reason in samples.skipped:
        write_text(f"not read: {reason}")
    if not samples.blocks:
        write_text(
            f"nothing was compared: no samples of that time in {samples.place}; workers take them"
            " where audit.samples_per_s is above 0"
        )
        return
    many = f"{found.compared:,} values of {found.vectors:,} vectors"
    differ = f"{found.differing:,} differ" if found.differing else "none differs"
    write_text(f"compared {many}: {differ}" if found.compared else "nothing was compared")


def _cells(one: Difference) -> tuple[str, ...]:
    t, service = moment_text(one.t_us), one.service or "(features)"
    texts = (one.what, one.served, one.recomputed, one.worker)
    return (service, one.feature, one.entity, t, *texts)
