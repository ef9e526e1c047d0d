"""Answers: what a read of feature values returns, and what a service is to those who read it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater.errors import HeadwaterError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

__all__ = [
    "Answer",
    "PlanChangedError",
    "RequestError",
    "ServiceInfo",
    "Status",
    "UnavailableError",
]


class RequestError(HeadwaterError, ValueError):
    """A request that can't be answered as it was written: wrong names, types, lengths or times."""

    exit_code = 2


class UnavailableError(HeadwaterError):
    """What is asked for can't be read now: too old, on its way to another worker; try again."""


class PlanChangedError(UnavailableError):
    """Another plan came between the description of what is asked for and its read; ask again."""


class Status(enum.IntEnum):
    """What is known about one value; the numbers are those of the wire contract."""

    PRESENT = 1
    NULL = 2
    NOT_FOUND = 3
    WARMING = 4
    STALE = 5
    OUT_OF_RANGE = 6


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """What to send to read a service, or a list of features, and what comes back.

    `join_keys` and `request_inputs` together are the columns of a request and share no name;
    `entities` maps an entity to its join keys; `features` are the columns of an answer, in order.
    `name` is empty for a list of features. `revision` changes whenever any of this changes.
    """

    name: str
    revision: str
    join_keys: Mapping[str, pl.DataType]
    request_inputs: Mapping[str, pl.DataType]
    entities: Mapping[str, tuple[str, ...]]
    features: Mapping[str, pl.DataType]


@dataclass(frozen=True, slots=True)
class Answer:
    """Values for the rows of one request, all at one read time.

    `values` has one column per feature, in order; `statuses` is (features, rows) of `Status`;
    `t_us` is the read time, from the request or else the clock of the worker; `exchange_offsets`
    maps each shard touched to its next exchange offset when it was read.
    """

    values: pl.DataFrame
    statuses: NDArray[np.uint8]
    t_us: int
    t_from_request: bool
    exchange_offsets: Mapping[int, int]
    revision: str

    @property
    def status_names(self) -> dict[str, list[str]]:
        """The statuses by feature, as names such as "PRESENT"."""
        names = {status.value: status.name for status in Status}
        pairs = zip(self.values.columns, self.statuses.tolist(), strict=True)
        return {feature: [names[code] for code in codes] for feature, codes in pairs}
