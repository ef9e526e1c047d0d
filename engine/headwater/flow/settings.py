"""Settings of a worker; every limit has a name, a unit and a default here."""

from __future__ import annotations

from dataclasses import dataclass, field

from headwater.flow.archive_care import CareSettings
from headwater.flow.sample_log import SampleSettings

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
    checkpoint_idle_every_us: int = 60_000_000  # so that records without rows are forgotten too
    store_checkpoint_every_us: int = 60_000_000  # to where other workers find it
    ingest_linger_us: int = 0  # how long source records gather, where a poll isn't full
    archive_linger_us: int = 0
    archive_care: CareSettings = field(default_factory=CareSettings)
    samples: SampleSettings = field(default_factory=SampleSettings)
    # Every shard hears of every lane this often; None: only of what is new.
    progress_every_us: int | None = None
    keep_exchange: bool = False  # keep exchange records below the checkpoint, for recomputation
