"""What comes out of a codec: the good rows as typed columns, and the others with a reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

__all__ = ["REASONS", "Decoded", "Reason", "Reject"]

Reason = Literal[
    "tombstone",  # no value at all
    "empty",  # no bytes, or nothing but white space
    "oversized",  # more bytes than the codec takes
    "not_utf8",  # bytes, or an escape, that are no Unicode text
    "not_json",  # text that does not parse
    "not_an_object",  # JSON, but a list, a number, a text or null
    "wrong_type",  # a column holds a value its type has no place for
    "decoder_failed",  # the decoder itself broke on this record
    "not_framed",  # no schema id in front, where every value has one
    "unknown_schema",  # the registry has no schema of this id
    "unusable_schema",  # there is a schema, but it describes no record that can be read here
    "not_avro",  # bytes that don't follow their writer's schema
]
REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that is no row: its place in the batch, a reason for metrics, a text for people.

    A codec's reasons are in `REASONS`; later stages have their own.
    """

    row: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded batch: row `i` of `frame` came from `values[rows[i]]`.

    `rows` ascends, `rejects` ascend by `row`, and every value of the batch is in exactly one of
    the two.
    """

    frame: pl.DataFrame
    rows: NDArray[np.int64]
    rejects: list[Reject]
