"""Status: what a worker says of itself and its tasks, for people and for tools."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["TaskKind", "TaskState", "TaskStatus", "WorkerStatus"]

TaskKind = Literal["ingest", "shard", "archive"]
TaskState = Literal["replaying", "running"]


class TaskStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One task: a partition of a source topic, or of the exchange, in the hands of one worker."""

    kind: TaskKind
    topic: str
    partition: int
    state: TaskState
    next_offset: int
    end_offset: int | None  # of the partition, when last asked
    freshness_ms: int | None = None  # how old a read may be; shards only, None: not known yet

    @property
    def lag(self) -> int | None:
        """How many records are there and not taken in."""
        return None if self.end_offset is None else max(0, self.end_offset - self.next_offset)


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A worker: where it answers, what it holds, and its tasks."""

    worker: str
    target: str
    namespace: str
    started_us: int
    tasks: tuple[TaskStatus, ...]
    state_bytes: int
    backlog_rows: int
    dead_letters: int
    plan: int = 0  # the number of the applied plan that runs, 0 for one from a file
    plan_refused: str = ""  # why a newer one isn't run
    history_left: int = 0  # records of the past that its new views still wait for
