"""A namespace at one moment: what Kafka says of its groups, and what each worker says of itself."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from headwater.errors import HeadwaterError, NotFoundError, did_you_mean
from headwater.flow.exchange import EXCHANGE_TOPIC
from headwater.flow.membership import worker_of
from headwater_connectors.log.kafka_groups import committed, describe_group, topics_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headwater.flow.status import TaskKind, TaskStatus, WorkerStatus
    from headwater_connectors.log.kafka import KafkaLog
    from headwater_connectors.log.kafka_groups import Group

__all__ = ["Overview", "TaskRow", "WorkerRow", "overview_of"]

_GROUPS: Mapping[TaskKind, str] = {"ingest": "ingest", "shard": "shards", "archive": "archive"}
_ASKED_AT_ONCE = 16

_Key = tuple["TaskKind", str, int]  # kind, topic, partition


class WorkerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that Kafka knows; with an `error` where it doesn't answer."""

    worker: str
    target: str
    tasks: dict[str, int]  # by kind, as Kafka hands them out
    state_bytes: int | None = None
    dead_letters: int | None = None
    history_left: int | None = None  # records that its new views wait for: they are WARMING
    plan: int | None = None  # the number of the applied plan that it runs, 0 for one from a file
    plan_refused: str | None = None  # why it runs no newer one
    started_us: int | None = None
    error: str | None = None


class TaskRow(msgspec.Struct, frozen=True, kw_only=True):
    """A task, who has it, and how far it is; None is what nobody could say."""

    kind: str
    topic: str
    partition: int
    worker: str | None  # None: nobody has it
    target: str | None
    # As the worker says, or: unknown where it doesn't answer, starting where it hasn't it yet,
    # moving while the group is rebalancing, unowned.
    state: str
    next_offset: int | None
    end_offset: int | None
    lag: int | None
    freshness_ms: int | None


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """Workers and tasks of a namespace; groups are stable, rebalancing or empty."""

    namespace: str
    bootstrap_servers: str
    groups: dict[str, str]
    workers: tuple[WorkerRow, ...]
    tasks: tuple[TaskRow, ...]


class _Owner(msgspec.Struct, frozen=True):
    worker: str
    target: str


def overview_of(log: KafkaLog, namespace: str, ask: Callable[[str], WorkerStatus]) -> Overview:
    """Ask Kafka and every worker; a worker that doesn't answer is part of what is found.

    `ask` is called with a worker's address, in several threads. Raises NotFoundError where no
    worker ever ran.
    """
    exchange = f"{namespace}.{EXCHANGE_TOPIC}"
    _check_namespace(log, namespace, exchange)
    groups = {kind: describe_group(log, f"{namespace}.{name}") for kind, name in _GROUPS.items()}
    owners = _owners(groups)
    targets = {member.client_id for group in groups.values() for member in group.members}
    said = _ask_all(sorted(targets), ask)
    statuses = {target: one for target, one in said.items() if not isinstance(one, str)}
    reported = {
        (task.kind, task.topic, task.partition): (status, task)
        for status in statuses.values()
        for task in status.tasks
    }
    for key, (status, _) in reported.items():
        # While a group is rebalancing Kafka names no owners; the workers still work.
        if groups[key[0]].state == "rebalancing":
            owners.setdefault(key, _Owner(status.worker, status.target))
    positions = _Positions(log, exchange, groups)
    tasks = tuple(
        _task_row(key, owners.get(key), statuses, positions, groups[key[0]])
        for key in sorted(owners.keys() | positions.keys(), key=_order)
    )
    workers = tuple(_worker_row(target, said[target], owners) for target in sorted(targets))
    return Overview(
        namespace=namespace,
        bootstrap_servers=log.cluster.servers,
        groups={group.name: group.state for group in groups.values()},
        workers=tuple(sorted(workers, key=lambda row: row.worker)),
        tasks=tasks,
    )


def _check_namespace(log: KafkaLog, namespace: str, exchange: str) -> None:
    topics = log.cluster.names()
    if exchange not in topics:
        suffix = f".{EXCHANGE_TOPIC}"
        known = [name.removesuffix(suffix) for name in topics if name.endswith(suffix)]
        hint = did_you_mean(namespace, known)
        msg = (
            f'no worker ever ran in namespace "{namespace}" of {log.cluster.servers}; start one'
            f" with headwater run, or give another with --namespace.{hint}"
        )
        raise NotFoundError(msg)


def _owners(groups: Mapping[TaskKind, Group]) -> dict[_Key, _Owner]:
    return {
        # A worker is a member of a group once for every topic, and says so in its name.
        (kind, topic, partition): _Owner(
            worker_of(member.instance_id, topic) or member.client_id, member.client_id
        )
        for kind, group in groups.items()
        for member in group.members
        for topic, partitions in member.partitions.items()
        for partition in partitions
    }


def _ask_all(
    targets: list[str], ask: Callable[[str], WorkerStatus]
) -> dict[str, WorkerStatus | str]:
    """Return what each worker says, or why it doesn't answer."""

    def one(target: str) -> WorkerStatus | str:
        try:
            return ask(target)
        except HeadwaterError as error:
            return " ".join(str(error).split())

    with ThreadPoolExecutor(_ASKED_AT_ONCE, thread_name_prefix="headwater-status") as pool:
        return dict(zip(targets, pool.map(one, targets), strict=True))


class _Positions:
    """What the groups have committed, and where the topics end: asked once for each topic."""

    def __init__(self, log: KafkaLog, exchange: str, groups: Mapping[TaskKind, Group]) -> None:
        self._next: dict[_Key, int | None] = {}
        self._ends: dict[str, list[int]] = {}
        for kind, group in groups.items():
            topics = {topic for member in group.members for topic in member.partitions}
            topics |= set(topics_of(log, group.name)) | ({exchange} if kind == "shard" else set())
            for topic in sorted(topics):
                self._add(log, kind, group.name, topic)

    def _add(self, log: KafkaLog, kind: TaskKind, group: str, topic: str) -> None:
        try:
            if topic not in self._ends:
                self._ends[topic] = log.end_offsets(topic)
            stored = committed(log, group, topic)
        except NotFoundError:
            # It was deleted; what was committed for it is of no use to anyone.
            return
        for partition in range(len(self._ends[topic])):
            self._next[kind, topic, partition] = stored.get(partition)

    def keys(self) -> set[_Key]:
        """Return every task there should be."""
        return set(self._next)

    def next_offset(self, key: _Key) -> int | None:
        """Return a task's committed offset."""
        return self._next.get(key)

    def end_offset(self, key: _Key) -> int | None:
        """Return where a task's partition ends."""
        ends = self._ends.get(key[1], [])
        return ends[key[2]] if key[2] < len(ends) else None


def _task_row(
    key: _Key,
    owner: _Owner | None,
    statuses: Mapping[str, WorkerStatus],
    positions: _Positions,
    group: Group,
) -> TaskRow:
    status = None if owner is None else statuses.get(owner.target)
    told = None if status is None else _task_of(status, key)
    committed_offset = positions.next_offset(key)
    next_offset = committed_offset if told is None else told.next_offset
    end_offset = positions.end_offset(key)
    if owner is None:
        state = "moving" if group.state == "rebalancing" else "unowned"
    elif told is not None:
        state = told.state
    else:
        state = "unknown" if status is None else "starting"
    lag = None
    if next_offset is not None and end_offset is not None:
        lag = max(0, end_offset - next_offset)
    return TaskRow(
        kind=key[0],
        topic=key[1],
        partition=key[2],
        worker=None if owner is None else owner.worker if status is None else status.worker,
        target=None if owner is None else owner.target,
        state=state,
        next_offset=next_offset,
        end_offset=end_offset,
        lag=lag,
        freshness_ms=None if told is None else told.freshness_ms,
    )


def _task_of(status: WorkerStatus, key: _Key) -> TaskStatus | None:
    return next((t for t in status.tasks if (t.kind, t.topic, t.partition) == key), None)


def _worker_row(target: str, said: WorkerStatus | str, owners: Mapping[_Key, _Owner]) -> WorkerRow:
    mine = {key: owner for key, owner in owners.items() if owner.target == target}
    counts = Counter(key[0] for key in mine)
    tasks = {str(kind): counts[kind] for kind in _GROUPS if counts[kind]}
    if isinstance(said, str):
        name = next((owner.worker for owner in mine.values()), target)
        return WorkerRow(worker=name, target=target, tasks=tasks, error=said)
    return WorkerRow(
        worker=said.worker,
        target=target,
        tasks=tasks,
        state_bytes=said.state_bytes,
        dead_letters=said.dead_letters,
        history_left=said.history_left,
        plan=said.plan,
        plan_refused=said.plan_refused or None,
        started_us=said.started_us,
    )


def _order(key: _Key) -> tuple[int, str, int]:
    kind, topic, partition = key
    return [*_GROUPS].index(kind), topic, partition
