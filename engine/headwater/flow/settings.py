"""Settings of a worker; every limit has a name, a unit and a default here."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WorkerSettings"]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Limits and intervals of one worker."""

    namespace: str = "default"
    shards: int = 16
    memory_budget_bytes: int = 512 << 20
    read_back_us: int | None = 60_000_000  # None: any time can be read
    poll_records_max: int = 16_384
    backlog_rows_max: int = 400_000  # rows on the exchange not yet applied, before ingest waits
    checkpoint_every_us: int = 10_000_000
    checkpoint_rows: int = 500_000  # rows applied since the last checkpoint, before the next starts
    keep_exchange: bool = False  # keep exchange records below the checkpoint, for recomputation
