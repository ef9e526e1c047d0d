"""Messages between workers: requests for rows, rows and statuses to and from their plain form."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa

from headwater.errors import HeadwaterError
from headwater.flow.answer import RequestError
from headwater.flow.peers import EntityRows, RowsAnswer, RowsRequest
from headwater.flow.provenance import ShardProvenance
from headwater.flow.shard_reads import ViewRows
from headwater.flow.status import TaskStatus, WorkerStatus
from headwater.state.group import Values
from headwater.state.keys import Keys
from headwater_proto.v1 import peer_pb2

if TYPE_CHECKING:
    from headwater.flow.status import TaskKind, TaskState

__all__ = [
    "rows_answer",
    "rows_request",
    "rows_request_message",
    "rows_response",
    "status_from",
    "status_message",
]

_READ_TIME_MAX_US = 1 << 60


def rows_request_message(request: RowsRequest) -> peer_pb2.ReadRowsRequest:
    """Return the message that asks for rows."""
    return peer_pb2.ReadRowsRequest(
        entities=[
            peer_pb2.EntityRows(
                keys=one.keys.data[one.keys.offsets[0] : one.keys.offsets[-1]].tobytes(),
                lengths=one.keys.lengths.astype("<u4").tobytes(),
                views=[
                    peer_pb2.ViewRef(id=view_id, fingerprint=request.fingerprints[view_id])
                    for view_id in one.view_ids
                ],
            )
            for one in request.entities
        ],
        t_us=request.t_us,
        stamp=request.stamp,
        shard_count=request.shard_count,
        with_provenance=request.with_provenance,
    )


def rows_request(message: peer_pb2.ReadRowsRequest, rows_max: int) -> RowsRequest:
    """Return what a message asks for; raise RequestError for one that makes no sense.

    No entity may have more than `rows_max` keys.
    """
    if not -_READ_TIME_MAX_US < message.t_us < _READ_TIME_MAX_US:
        raise RequestError(f"t_us: {message.t_us} µs since 1970 is not a time")
    views = [view for entity in message.entities for view in entity.views]
    fingerprints = {view.id: view.fingerprint for view in views}
    if len(fingerprints) != len(views):
        raise RequestError("a view is asked for twice; leave one out")
    return RowsRequest(
        [
            EntityRows(_keys(one, rows_max), tuple(view.id for view in one.views))
            for one in message.entities
        ],
        message.t_us,
        fingerprints,
        message.stamp,
        message.shard_count,
        message.with_provenance,
    )


def _keys(message: peer_pb2.EntityRows, rows_max: int) -> Keys:
    count, rest = divmod(len(message.lengths), 4)
    if count > rows_max:
        raise RequestError(f"{count} rows were asked for; the limit is {rows_max}, so split it")
    offsets = np.zeros(count + 1, np.int64)
    if not rest:
        np.cumsum(np.frombuffer(message.lengths, "<u4"), dtype=np.int64, out=offsets[1:])
    if rest or offsets[-1] != len(message.keys):
        raise RequestError(
            f"{len(message.keys)} bytes of keys don't fit their {len(message.lengths)} bytes of"
            " lengths"
        )
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(message.keys)]
    return Keys.from_arrow(pa.Array.from_buffers(pa.large_binary(), count, buffers, 0))


def rows_response(request: RowsRequest, answer: RowsAnswer) -> peer_pb2.ReadRowsResponse:
    """Return the message of an answer."""
    return peer_pb2.ReadRowsResponse(
        views=[
            _view_message(answer.views[view_id])
            for entity in request.entities
            for view_id in entity.view_ids
        ],
        shards=list(answer.offsets),
        exchange_offsets=list(answer.offsets.values()),
        provenance=[
            peer_pb2.ShardProvenance(shard=shard, applied=one.applied, loading=one.loading)
            for shard, one in answer.provenance.items()
        ],
    )


def _view_message(found: ViewRows) -> peer_pb2.ViewRows:
    rows, features = found.values.bits.shape
    return peer_pb2.ViewRows(
        rows=rows,
        features=features,
        bits=found.values.bits.astype("<u8", copy=False).tobytes(),
        valid=found.values.valid.tobytes(),
        found=found.values.found.tobytes(),
        flags=found.flags.tobytes(),
    )


def rows_answer(request: RowsRequest, message: peer_pb2.ReadRowsResponse) -> RowsAnswer:
    """Return an answer's plain form; raise HeadwaterError where it isn't one to this request.

    Arrays lie in the message and can't be written to.
    """
    asked = [(view_id, len(one.keys)) for one in request.entities for view_id in one.view_ids]
    fits = len(asked) == len(message.views) and len(message.shards) == len(message.exchange_offsets)
    if not fits or any(n != one.rows for (_, n), one in zip(asked, message.views, strict=True)):
        raise HeadwaterError(
            f"an answer with {len(message.views)} views came for {len(asked)} that were asked for,"
            " or not with their rows; run workers of one version"
        )
    return RowsAnswer(
        {
            view_id: _view_rows(view_id, one)
            for (view_id, _), one in zip(asked, message.views, strict=True)
        },
        dict(zip(message.shards, message.exchange_offsets, strict=True)),
        {
            one.shard: ShardProvenance(dict(one.applied), tuple(one.loading))
            for one in message.provenance
        },
    )


def _view_rows(view_id: str, message: peer_pb2.ViewRows) -> ViewRows:
    rows, features = message.rows, message.features
    wanted = (8 * rows * features, rows * features, rows, rows)
    lengths = tuple(len(one) for one in (message.bits, message.valid, message.found, message.flags))
    if lengths != wanted:
        raise HeadwaterError(
            f'view "{view_id}" came in buffers of {lengths} bytes instead of {wanted}; run workers'
            " of one version"
        )
    values = Values(0, 0)
    values.bits = np.frombuffer(message.bits, "<u8").reshape(rows, features)
    values.valid = np.frombuffer(message.valid, np.uint8).reshape(rows, features)
    values.found = np.frombuffer(message.found, np.bool_)
    return ViewRows(values, np.frombuffer(message.flags, np.uint8))


def status_message(status: WorkerStatus) -> peer_pb2.GetStatusResponse:
    """Return the message of a worker's status."""
    return peer_pb2.GetStatusResponse(
        worker=status.worker,
        target=status.target,
        namespace=status.namespace,
        started_us=status.started_us,
        tasks=[
            peer_pb2.TaskStatus(
                kind=task.kind,
                topic=task.topic,
                partition=task.partition,
                state=task.state,
                next_offset=task.next_offset,
                end_offset=task.end_offset,
                freshness_ms=task.freshness_ms,
            )
            for task in status.tasks
        ],
        state_bytes=status.state_bytes,
        backlog_rows=status.backlog_rows,
        dead_letters=status.dead_letters,
        history_left=status.history_left,
        plan=status.plan,
        plan_refused=status.plan_refused,
    )


def status_from(message: peer_pb2.GetStatusResponse) -> WorkerStatus:
    """Return the plain form of a worker's status."""
    return WorkerStatus(
        worker=message.worker,
        target=message.target,
        namespace=message.namespace,
        started_us=message.started_us,
        tasks=tuple(_task_from(task) for task in message.tasks),
        state_bytes=message.state_bytes,
        backlog_rows=message.backlog_rows,
        dead_letters=message.dead_letters,
        history_left=message.history_left,
        plan=message.plan,
        plan_refused=message.plan_refused,
    )


def _task_from(message: peer_pb2.TaskStatus) -> TaskStatus:
    return TaskStatus(
        kind=cast("TaskKind", message.kind),
        topic=message.topic,
        partition=message.partition,
        state=cast("TaskState", message.state),
        next_offset=message.next_offset,
        end_offset=message.end_offset if message.HasField("end_offset") else None,
        freshness_ms=message.freshness_ms if message.HasField("freshness_ms") else None,
    )
