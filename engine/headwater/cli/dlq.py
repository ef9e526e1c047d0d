"""`headwater dlq list | replay`: records that could not be events, and sending them again."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - the command line reads the annotations
from pathlib import Path  # noqa: TC003 - the command line reads the annotations
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from headwater.cli.output import write_json, write_text
from headwater.cli.place import clock_us, reached
from headwater.errors import NotFoundError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headwater.flow.dead_letter_frame import DeadLetter
    from headwater.flow.replay import Replays
    from headwater_connectors.log.log import Log

__all__ = ["dlq", "list_letters", "replay"]

_SUFFIX = ".dlq"
_SHOWN_CHARS = 60
_JSON_CHARS = 1_000
_FILE_COLUMNS = 200

dlq = App(name="dlq", default_parameter=Parameter(negative=()), result_action="return_value")


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which log and namespace."""

    folder: Annotated[Path | None, Parameter(help="A store's folder, instead of Kafka.")] = None
    config: Annotated[Path | None, Parameter(help="The configuration file.")] = None
    namespace: Annotated[str | None, Parameter(help="The namespace.")] = None
    bootstrap_servers: Annotated[str | None, Parameter(help="Where Kafka is, host:port.")] = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """Which dead letters."""

    stream: Annotated[str | None, Parameter(help="The stream's topic (default: all).")] = None
    reason: Annotated[str | None, Parameter(help="Only of this reason.")] = None
    since: Annotated[datetime | None, Parameter(help="Only that arrived since, in UTC.")] = None

    def takes(self, letter: DeadLetter, namespace: str) -> bool:
        """Whether a letter is among them; those of other namespaces never are."""
        from headwater.flow.starts import us_of

        context = letter.context
        if context.namespace != namespace or self.reason not in {None, context.reason}:
            return False
        if self.since is None:
            return True
        return letter.arrival_us >= us_of(_zoned(self.since), "--since")


_ALL = Which()
_HERE = Where()


@dlq.command(name="list")
def list_letters(
    *, which: Which = _ALL, where: Where = _HERE, limit: int = 100, json: bool = False
) -> int:
    """Show the dead letters of a namespace, the oldest first.

    Parameters
    ----------
    which
        Which dead letters.
    where
        Which log and namespace.
    limit
        How many to show at most; the numbers by reason are of all of them.
    json
        Print one JSON document, for machines.
    """
    from headwater.flow.dead_letter_frame import dead_letters

    rows: list[dict[str, object]] = []
    reasons: Counter[tuple[str, str]] = Counter()
    with _opened(where) as (log, replays, namespace):
        for stream in _streams(log, which.stream):
            for letter in dead_letters(log, stream):
                if which.takes(letter, namespace):
                    reasons[stream, letter.context.reason] += 1
                    if len(rows) < limit:
                        done = replays.is_done(stream, letter.origin)
                        rows.append(_row(stream, letter, replayed=done))
    total = sum(reasons.values())
    if json:
        counts = [{"stream": s, "reason": r, "letters": n} for (s, r), n in reasons.most_common()]
        write_json({"letters": total, "reasons": counts, "rows": rows})
        return 0
    if rows:
        _show(rows)
    counted = ", ".join(f"{n:,} {reason} in {s}" for (s, reason), n in reasons.most_common())
    more = "" if total == len(rows) else f" ({len(rows):,} shown)"
    write_text(f'{total:,} dead letters in namespace "{namespace}"{more}: {counted or "none"}')
    return 0


@dlq.command
def replay(
    *, which: Which = _ALL, where: Where = _HERE, dry_run: bool = False, json: bool = False
) -> int:
    """Send dead letters again into their source topic, once their cause is mended.

    Each is sent once, however often this is run and wherever it is stopped. They arrive now; what
    still can't be an event becomes a dead letter again.

    Parameters
    ----------
    which
        Which dead letters.
    where
        Which log and namespace.
    dry_run
        Say how many would be sent, and send nothing.
    json
        Print one JSON document, for machines.
    """
    from headwater.flow.dead_letter_frame import dead_letters
    from headwater.flow.replay import LEASE_US

    found: dict[str, dict[str, int]] = {}
    with _opened(where) as (log, replays, namespace):
        for stream in _streams(log, which.stream):
            letters = (one for one in dead_letters(log, stream) if which.takes(one, namespace))
            if dry_run:
                origins = {one.origin for one in letters}
                new = sum(not replays.is_done(stream, origin) for origin in origins)
                found[stream] = {"would_send": new, "sent_before": len(origins) - new}
                continue
            done = replays.replay(stream, letters, lease_us=LEASE_US if where.folder is None else 0)
            found[stream] = {
                "sent": done.sent,
                "sent_before": done.before,
                "recovered": done.recovered,
                "of_an_old_topic": done.gone,
            }
    if json:
        write_json({"namespace": namespace, "dry_run": dry_run, "streams": found})
        return 0
    for stream, counts in found.items():
        told = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
        write_text(f"{stream}: {told}")
    if not found:
        write_text(f'no dead letters in namespace "{namespace}"')
    return 0


@contextmanager
def _opened(where: Where) -> Iterator[tuple[Log, Replays, str]]:
    from headwater.config import load_config
    from headwater.flow.local_folder import LocalFolder
    from headwater.flow.replay import Replays
    from headwater_connectors.log.embedded import EmbeddedLog

    log: Log
    if where.folder is not None:
        place, namespace = LocalFolder.log_of(where.folder)
        log = EmbeddedLog(place, clock=clock_us)
    else:
        settings = load_config(
            where.config,
            flags={
                "--namespace": ("namespace", where.namespace),
                "--bootstrap-servers": ("kafka.bootstrap_servers", where.bootstrap_servers),
            },
        )
        namespace = settings.namespace
        log = reached(settings)
    try:
        yield log, Replays(log, namespace, clock_us), namespace
    finally:
        log.close()


def _streams(log: Log, stream: str | None) -> list[str]:
    """Return the topics that have dead letters, or the one asked for."""
    known = {topic.name for topic in log.topics()}
    with_letters = sorted(
        name.removesuffix(_SUFFIX)
        for name in known
        if name.endswith(_SUFFIX) and name.removesuffix(_SUFFIX) in known
    )
    if stream is None:
        return with_letters
    if stream not in with_letters:
        msg = (
            f'stream "{stream}" has no dead letters here (those that have:'
            f" {', '.join(with_letters) or 'none'}).{did_you_mean(stream, with_letters)}"
        )
        raise NotFoundError(msg)
    return [stream]


def _row(stream: str, letter: DeadLetter, *, replayed: bool) -> dict[str, object]:
    from headwater.offline.frontier import moment_text

    payload = (letter.value or b"").decode(errors="backslashreplace")
    cut = payload if len(payload) <= _JSON_CHARS else f"{payload[: _JSON_CHARS - 1]}…"
    context = letter.context
    return {
        "stream": stream,
        "reason": context.reason,
        "partition": context.partition,
        "offset": context.offset,
        "arrival": moment_text(letter.arrival_us),
        "message": context.message,
        "payload": None if letter.value is None else cut,
        "replayed": replayed,
    }


def _show(rows: list[dict[str, object]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("stream", "reason", "offset", "arrival", "message", "payload", "replayed")
    for row in rows:
        payload = "–" if row["payload"] is None else str(row["payload"])
        short = payload if len(payload) <= _SHOWN_CHARS else f"{payload[: _SHOWN_CHARS - 1]}…"
        at = f"{row['partition']}:{row['offset']}"
        told = [row["stream"], row["reason"], at, row["arrival"], row["message"], short]
        table.add_row(*(escape(str(one)) for one in told), "yes" if row["replayed"] else "")
    console = Console()
    (console if console.is_terminal else Console(width=_FILE_COLUMNS)).print(table)


def _zoned(moment: datetime) -> datetime:
    from datetime import UTC

    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
