"""A profile: what may happen under one seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulation.broker import Rates
from simulation.workload import HOUR_US, MINUTE_US, SECOND_US, plans

from headwater.flow.settings import WorkerSettings

if TYPE_CHECKING:
    import random

    from headwater.plan.plan import Plan

__all__ = ["Profile"]

_NO_BACKLOG = 1 << 62


@dataclass(frozen=True, slots=True)
class Profile:
    """Plan, settings, and the kinds of faults; each is there in some of the seeds."""

    plans: tuple[Plan, ...]
    is_live: bool  # any of the plans may be applied while workers run; else they grow at a start
    settings: WorkerSettings
    workers: int
    partitions: int
    rates: Rates
    is_grouped: bool  # the groups hand out the tasks; else one worker has them all
    is_stored: bool  # checkpoints go to a store that the workers share
    is_guarded: bool  # answers that are too old are marked
    max_staleness_us: int
    stored_checkpoints: int
    grace_us: int
    zombies: bool  # processes that are gone for their group, and do not know it
    rollback: bool  # disks lose what was flushed
    clocks: bool  # clocks jump
    outages: bool  # nobody reaches a broker
    grows: bool  # topics gain partitions
    budget_bytes: int | None  # of rows in memory
    slice_rows: int | None  # that are applied at once
    piece_rows: int  # of the past that are read at once
    lossless: bool  # nothing happens that may leave a hole, so there must be none

    @classmethod
    def of(cls, rng: random.Random) -> Profile:
        """Draw a profile."""

        def maybe(rate: float) -> float:
            return rate * rng.choice((0, 0.3, 1))

        def often(chance: float = 0.5) -> bool:
            return rng.random() < chance

        lossless = often(0.25)
        workers = rng.choice((1, 2, 2, 3))
        is_grouped = workers > 1 or often()
        is_stored = is_grouped and (lossless or often(0.85))
        found = plans()
        name = rng.choice(list(found))
        chosen = found[name]
        lossy = 0 if lossless else 1
        rates = Rates(
            fail=lossy * maybe(0.02),
            lost_ack=maybe(0.01),
            duplicate=maybe(0.1),
            lose=lossy * maybe(0.06),
            early=maybe(0.3),
            delay=maybe(0.4),
            blob=lossy * maybe(0.05),
            crash=maybe(0.08),
            halt=lossy * maybe(0.15),
        )
        settings = WorkerSettings(
            namespace="sim",
            shards=rng.randint(1, 3),
            memory_budget_bytes=1 << 20,
            read_back_us=rng.choice((None, 0, MINUTE_US, HOUR_US)),
            poll_records_max=rng.choice((5, 20, 60)),
            backlog_rows_max=_NO_BACKLOG if is_grouped else rng.choice((5, 1000)),
            checkpoint_every_us=rng.choice((2, 20)) * SECOND_US,
            checkpoint_rows=rng.choice((5, 500)),
            checkpoint_idle_every_us=rng.choice((10, 60)) * SECOND_US,
            store_checkpoint_every_us=rng.choice((0, 15)) * SECOND_US,
            progress_every_us=SECOND_US if is_grouped or rates.lose or often() else None,
            keep_exchange=often(0.15),
        )
        return cls(
            plans=chosen[:1] if lossless else chosen,
            is_live=not lossless and (name.startswith("changing") or often()),
            settings=settings,
            workers=workers,
            partitions=rng.randint(1, 3),
            rates=rates,
            is_grouped=is_grouped,
            is_stored=is_stored,
            is_guarded=is_grouped or settings.progress_every_us is not None,
            max_staleness_us=rng.choice((5, 20, 60)) * SECOND_US,
            stored_checkpoints=rng.randint(1, 2),
            grace_us=HOUR_US if lossless else rng.choice((MINUTE_US, HOUR_US)),
            zombies=not lossless and often(0.7),
            rollback=not lossless and often(0.4),
            clocks=often(),
            outages=often(0.4),
            grows=is_grouped and not lossless and often(0.3),
            budget_bytes=rng.choice((None, None, None, 1 << 12)),
            slice_rows=rng.choice((None, None, 1, 4)),
            piece_rows=rng.choice((1, 1, 3)),
            lossless=lossless,
        )
