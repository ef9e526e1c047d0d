"""The embedded log: durable, one process, one SQLite database in a folder.

What `flush` and `commit` acknowledged survives the death of the process at any moment. The
database is not synced at every write (WAL, synchronous=NORMAL): a power failure may take the last
seconds with it, never an older record, and never half of a flush.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from headwater_connectors.log.local import Limits, LocalLog, new_topic_id, wall_clock_us
from headwater_connectors.log.sqlite import SqliteStorage

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EmbeddedLog"]


class EmbeddedLog(LocalLog):
    """A Log in a folder, for one process at a time.

    The space of deleted records is used again; the file does not shrink.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        clock: Callable[[], int] = wall_clock_us,
        topic_id: Callable[[], str] = new_topic_id,
        limits: Limits | None = None,
        cache_bytes_max: int = 64 << 20,
    ) -> None:
        """Open or create the log in a folder.

        `clock` gives µs UTC. `cache_bytes_max` bounds the decoded batches kept for consumers near
        the end. ConfigError if the folder can't be used or is in use; StateError if it holds
        something else, another format, or a damaged database.
        """
        storage = SqliteStorage(Path(folder), cache_bytes_max=cache_bytes_max)
        super().__init__(storage, clock=clock, topic_id=topic_id, limits=limits or Limits())
