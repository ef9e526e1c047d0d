"""The oracle: what a worker must answer, folded in plain Python from the raw events."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from simulation.workload import KEYS, SERVICE, keys_frame, view_values

from headwater.flow.answer import Status
from headwater.kernels.keys import shard_of
from headwater.kernels.reference import Event, reference_value
from headwater.offline.sources import LogEvents
from headwater.offline.training_set import training_set
from headwater.state.keys import canonical_keys
from headwater.state.lane import lane_of

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping, Sequence

    from simulation.host import Host
    from simulation.workload import Pushed

    from headwater.flow.starts import Start
    from headwater.plan.plan import Plan, ViewPlan
    from headwater.state.shard import Shard
    from headwater_connectors.log.memory import MemoryLog

__all__ = ["check_offline", "check_online"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def check_online(host: Host, pushed: Sequence[Pushed], t: int, counts: Counter[str]) -> None:
    """Compare every answer at `t` with the oracle.

    A shard's state is always that of the events its lanes have applied, no more and no less, also
    of a worker that is behind; and one that is behind for too long says so.
    """
    reader = host.worker.reader
    if host.peers is not None:
        host.peers.answered.clear()
    answer = reader.read(reader.describe(SERVICE), keys_frame(), t)
    column = 0
    for view in host.worker.current.plan.service(SERVICE).views:
        width = len(view.feature_names)
        got = answer.values[:, column : column + width].rows()
        statuses = answer.statuses[column].tolist()
        column += width
        topic_id = host.broker.log.topic(view.stream.topic).id
        found = _events(view, pushed)
        owners = _owners(view, host.worker.settings.shards)
        for row, key in enumerate(KEYS):
            number = int(owners[row])
            is_stale = statuses[row] == Status.STALE
            shard = _shard_read(host, number, answer.exchange_offsets)
            if shard is None:
                assert is_stale, f"{view.id} of {key}: nobody was asked, and it isn't STALE"
                assert got[row] == (None,) * width, f"{view.id} of {key}: a value from nowhere"
                counts["unread rows"] += 1
                continue
            too_old = t < shard.horizon_us
            assert (statuses[row] == Status.OUT_OF_RANGE) == too_old, (view.id, key, t)
            assert is_stale or too_old or not shard.filling, f"{view.id} of {key} is torn"
            counts["torn rows"] += shard.filling
            if view.id in shard.loading:
                assert statuses[row] == Status.WARMING or is_stale or too_old, (view.id, key)
                assert got[row] == (None,) * width, f"{view.id} of {key}: half its past is shown"
                counts["warming rows"] += 1
                continue
            if too_old or shard.filling:
                continue
            applied = {
                partition: shard.applied.get(lane_of(topic_id, view.binding.id, partition), -1)
                for partition in range(host.broker.log.topic(view.stream.topic).partitions)
            }
            mine = [
                one
                for one in found.get(_key(view, key), [])
                if one.offset <= applied[one.partition]
            ]
            _compare(view, key, got[row], mine, t)
            counts["rows read"] += 1
            counts["stale rows"] += is_stale
            if host.guard is not None and not is_stale:
                _check_fresh(host, view, pushed, applied)
                counts["fresh rows"] += 1


def _shard_read(host: Host, number: int, offsets: Mapping[int, int]) -> Shard | None:
    """Return the shard that answered, here or at another worker; None if nobody did."""
    if number not in offsets:
        return None
    answered = {} if host.peers is None else host.peers.answered
    shard = answered.get(number, host).worker.shards[number]
    assert shard.next_offset == offsets[number], (number, shard.next_offset, offsets)
    return shard


def _check_fresh(
    host: Host, view: ViewPlan, pushed: Sequence[Pushed], applied: Mapping[int, int]
) -> None:
    """What isn't marked has every event that came longer ago than the guard allows."""
    assert host.guard is not None
    now_us = host.broker.clock.elapsed_us
    for one in pushed:
        age_us = now_us - one.elapsed_us
        if one.topic == view.stream.topic and age_us > host.guard.max_staleness_us:
            assert one.offset <= applied[one.partition], (
                f"{view.id} isn't STALE, and lacks offset {one.offset} of partition"
                f" {one.partition}, {age_us} us old"
            )


def check_offline(
    plan: Plan, log: MemoryLog, starts: dict[str, Start], pushed: Sequence[Pushed], at: list[int]
) -> None:
    """Compare a training set over the source topics with the oracle."""
    when = pl.DataFrame({"when": [_EPOCH + timedelta(microseconds=t) for t in at]})
    spine = when.join(keys_frame(), how="cross")
    source = LogEvents(log, starts, "simulation")
    made = training_set(plan, SERVICE, spine, time="when", source=source).collect()
    column = len(spine.columns)
    for view in plan.service(SERVICE).views:
        width = len(view.feature_names)
        got = made[:, column : column + width].rows()
        column += width
        found = _events(view, pushed)
        for n, t in enumerate(at):
            for row, key in enumerate(KEYS):
                mine = found.get(_key(view, key), [])
                _compare(view, key, got[n * len(KEYS) + row], mine, t)


def _key(view: ViewPlan, row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[part] for part in view.entity.key)


def _events(view: ViewPlan, pushed: Sequence[Pushed]) -> dict[tuple[Any, ...], list[Event]]:
    """Return the events of a view by key, after its row logic."""
    found: dict[tuple[Any, ...], list[Event]] = {}
    for one in pushed:
        key = _key(view, one.row)
        if one.topic == view.stream.topic and None not in key:
            values = view_values(view.view.name, one.row)
            if values is not None:
                event = Event(one.row["at"], one.partition, one.offset, values)
                found.setdefault(key, []).append(event)
    return found


def _owners(view: ViewPlan, shards: int) -> Any:
    keys = canonical_keys(keys_frame(), view.entity.key)
    owners = np.empty(len(keys), np.int32)
    shard_of(keys.hashes, shards, owners)
    return owners


def _compare(
    view: ViewPlan, key: dict[str, Any], got: Sequence[object], events: Sequence[Event], t: int
) -> None:
    features = view.view.features.features
    for name, one, value in zip(view.feature_names, features, got, strict=True):
        wanted = reference_value(one.aggregate, one.window, events, t)
        assert _bits(value) == _bits(wanted), (
            f"{view.view.name}.{name} of {key} at {t}: {value!r}, not {wanted!r}"
        )


def _bits(value: object) -> object:
    return struct.pack("<d", value) if isinstance(value, float) else value
