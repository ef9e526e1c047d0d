"""Samples of what was served: vectors with all it takes to compute them again, and their files.

A file is a sealed document. In it, vectors of one service or list of features lie together as two
Arrow streams, requests and answers: those keep every bit, of NaN and −0.0 too.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import polars as pl

from headwater_connectors.archive.errors import ArchiveError
from headwater_connectors.archive.sealed import seal, unseal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from headwater.flow.answer import Answer
    from headwater.flow.provenance import ShardProvenance

__all__ = ["Asked", "Block", "Origin", "Sample", "ShardState", "ViewRef", "pack", "unpack"]

_FORMAT = 1
_CURE = "its vectors are lost to audits; the others can be compared"


class ViewRef(msgspec.Struct, frozen=True):
    """A view version as it was served, and the instant before which its history isn't complete."""

    id: str
    fingerprint: str
    complete_from_us: int


class Origin(msgspec.Struct, frozen=True):
    """What vectors were answers to, and by what they were computed.

    `service` is empty for a list of features; then `columns` has each as `view@version.feature`.
    `plan_number` is that of the applied plan, 0 for one from a file.
    """

    service: str
    columns: tuple[str, ...]
    revision: str
    stamp: str
    shard_count: int
    views: tuple[ViewRef, ...]
    plan_number: int = 0


class ShardState(msgspec.Struct, frozen=True):
    """Of which moment a shard's rows were, and which views had not had all their past by then."""

    exchange_offset: int
    applied: dict[str, int]  # lane → the last source offset applied
    loading: tuple[str, ...]


class Asked(msgspec.Struct, frozen=True):
    """One request: when it was answered and for which time, µs; its rows; what they were made of.

    Shards that nobody could be asked for are left out.
    """

    served_us: int
    t_us: int
    rows: int
    shards: dict[int, ShardState]


@dataclass(frozen=True, slots=True)
class Sample:
    """Vectors of one request: `inputs` (n rows), `values` (n) and `statuses` (features, n)."""

    origin: Origin
    asked: Asked
    inputs: pl.DataFrame
    values: pl.DataFrame
    statuses: NDArray[np.uint8]

    @classmethod
    def of(
        cls,
        origin: Origin,
        inputs: pl.DataFrame,
        answer: Answer,
        made_of: Mapping[int, ShardProvenance],
        *,
        served_us: int,
    ) -> Sample:
        """Return an answer with what it was an answer to."""
        shards = {
            shard: ShardState(answer.exchange_offsets[shard], dict(one.applied), one.loading)
            for shard, one in made_of.items()
        }
        asked = Asked(served_us, answer.t_us, inputs.height, shards)
        return cls(origin, asked, inputs, answer.values, answer.statuses)

    def take(self, rows: NDArray[np.int64]) -> Sample:
        """Return these rows (int64) only."""
        asked = msgspec.structs.replace(self.asked, rows=len(rows))
        statuses = np.ascontiguousarray(self.statuses[:, rows])
        return Sample(self.origin, asked, self.inputs[rows], self.values[rows], statuses)


@dataclass(frozen=True, slots=True)
class Block:
    """Vectors of one origin, request after request: `inputs`, `values` (n), `statuses` (f, n)."""

    worker: str
    origin: Origin
    asked: tuple[Asked, ...]
    inputs: pl.DataFrame
    values: pl.DataFrame
    statuses: NDArray[np.uint8]

    def of_requests(self, keep: Callable[[Asked], bool]) -> Block:
        """Return the vectors of those requests only."""
        kept = [keep(one) for one in self.asked]
        if all(kept):
            return self
        rows = np.repeat(kept, [one.rows for one in self.asked])
        asked = tuple(one for one, stays in zip(self.asked, kept, strict=True) if stays)
        inputs, values = (one.filter(pl.Series(rows)) for one in (self.inputs, self.values))
        statuses = np.ascontiguousarray(self.statuses[:, rows])
        return Block(self.worker, self.origin, asked, inputs, values, statuses)


class _Block(msgspec.Struct, frozen=True):
    origin: Origin
    asked: tuple[Asked, ...]
    inputs: bytes
    values: bytes
    statuses: bytes


class _File(msgspec.Struct, frozen=True):
    format: int
    worker: str
    blocks: tuple[_Block, ...]


class _Version(msgspec.Struct, frozen=True):
    format: int


def pack(worker: str, samples: Sequence[Sample]) -> bytes:
    """Return the bytes of a file of samples, those of one origin together."""
    by_origin: dict[Origin, list[Sample]] = {}
    for sample in samples:
        by_origin.setdefault(sample.origin, []).append(sample)
    blocks = tuple(
        _Block(
            origin,
            tuple(one.asked for one in found),
            _stream([one.inputs for one in found]),
            _stream([one.values for one in found]),
            np.concatenate([one.statuses for one in found], axis=1).tobytes(),
        )
        for origin, found in by_origin.items()
    )
    return seal(_File(_FORMAT, worker, blocks))[0]


def unpack(data: bytes, where: str) -> list[Block]:
    """Return what a file of samples holds; ArchiveError if it is damaged or of another version."""
    body, _ = unseal(data, msgspec.Raw, where, _CURE)
    try:
        version = msgspec.json.decode(body, type=_Version).format
        if version != _FORMAT:
            msg = (
                f"{where} holds samples of format {version}, this version reads {_FORMAT}; audit"
                " them with the version that wrote them"
            )
            raise ArchiveError(msg)
        file = msgspec.json.decode(body, type=_File)
        return [_block(file.worker, one) for one in file.blocks]
    except (msgspec.MsgspecError, pl.exceptions.PolarsError, OSError, ValueError) as error:
        msg = f"{where} holds no samples ({error}); {_CURE}"
        raise ArchiveError(msg) from error


def _stream(frames: Sequence[pl.DataFrame]) -> bytes:
    out = BytesIO()
    pl.concat(frames).write_ipc_stream(out, compression="zstd")
    return out.getvalue()


def _block(worker: str, packed: _Block) -> Block:
    inputs, values = (pl.read_ipc_stream(BytesIO(one)) for one in (packed.inputs, packed.values))
    rows = sum(one.rows for one in packed.asked)
    statuses = np.frombuffer(packed.statuses, np.uint8).reshape(values.width, rows)
    if not inputs.height == values.height == rows:
        msg = f"{inputs.height} requests and {values.height} answers of {rows} rows"
        raise ValueError(msg)
    return Block(worker, packed.origin, packed.asked, inputs, values, statuses)
