"""Feature vectors as a client sees them: as a frame, dictionaries or a matrix."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from headwater.errors import HeadwaterError
from headwater.flow.answer import RequestError, Status
from headwater_proto.v1 import serving_pb2
from headwater_serving.columns import decode_frame, decode_matrix

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from numpy.typing import NDArray

    from headwater.flow.answer import ServiceInfo

__all__ = ["Decoded", "Vectors"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STATUS_NAMES = {status.value: status.name for status in Status}


class Decoded:
    """The answer to one message, decoded once, when first looked at.

    Raises HeadwaterError where the answer doesn't have the described features and `rows` rows.
    """

    __slots__ = ("_frame", "_lock", "_matrix", "info", "offsets", "response")

    def __init__(
        self, info: ServiceInfo, response: serving_pb2.GetOnlineFeaturesResponse, rows: int
    ) -> None:
        _check_shape(info, response, rows)
        self.info = info
        self.response = response
        self.offsets: Mapping[int, int] = {
            one.shard: one.exchange_offset for one in response.shard_offsets
        }
        self._frame: pl.DataFrame | None = None
        self._matrix: NDArray[np.float64] | None = None
        self._lock = threading.Lock()

    def frame(self) -> pl.DataFrame:
        """Return one column per feature, in order."""
        with self._lock, _readable():
            if self._frame is None:
                self._frame = decode_frame(self.response.values, self.info.features)
            return self._frame

    def matrix(self) -> NDArray[np.float64]:
        """Return numbers of shape (rows, features), NaN for null."""
        with self._lock, _readable():
            if self._matrix is None:
                self._matrix = decode_matrix(self.response.values, self.info.features)
            return self._matrix


class Vectors:
    """The answer to one request: row i is for row i of the inputs.

    `t_us` is the one read time, µs since 1970-01-01 UTC; `exchange_offsets` maps each shard
    touched to the exchange offset its values reflect.
    """

    __slots__ = ("_decoded", "_start", "_stop")

    def __init__(self, decoded: Decoded, start: int, stop: int) -> None:
        self._decoded = decoded
        self._start = start
        self._stop = stop

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(self._decoded.info.features)

    @property
    def t_us(self) -> int:
        """The read time, µs since 1970-01-01 UTC."""
        return self._decoded.response.t_us

    @property
    def t(self) -> datetime:
        """The read time, UTC: every value is as of just before it."""
        return _EPOCH + timedelta(microseconds=self.t_us)

    @property
    def t_from_request(self) -> bool:
        """Whether the request named the read time; else the worker's clock did."""
        return self._decoded.response.t_source == serving_pb2.TIME_SOURCE_REQUEST

    @property
    def revision(self) -> str:
        """The revision of the service that answered."""
        return self._decoded.response.revision

    @property
    def exchange_offsets(self) -> Mapping[int, int]:
        """For each shard touched, the exchange offset its values reflect."""
        return self._decoded.offsets

    @property
    def statuses(self) -> dict[str, list[str]]:
        """For each feature the status of each row, e.g. "PRESENT" or "NOT_FOUND"."""
        return {
            name: [_STATUS_NAMES.get(code, "UNKNOWN") for code in codes[self._start : self._stop]]
            for name, codes in zip(self.features, self._decoded.response.statuses, strict=True)
        }

    def status_codes(self) -> NDArray[np.uint8]:
        """Return the statuses as numbers (`Status`), of shape (features, rows)."""
        codes = self._decoded.response.statuses
        joined = b"".join(one[self._start : self._stop] for one in codes)
        return np.frombuffer(joined, dtype=np.uint8).reshape(len(codes), len(self))

    def to_polars(self) -> pl.DataFrame:
        """Return a frame with one column per feature, in order."""
        return self._decoded.frame()[self._start : self._stop]

    def to_dict(self) -> dict[str, list[Any]]:
        """Return feature → values, one per row, None where there is none."""
        return self.to_polars().to_dict(as_series=False)

    def to_numpy(self) -> NDArray[np.float64]:
        """Return a matrix of shape (rows, features), NaN for null.

        Raises RequestError where a feature is neither a number nor a Boolean.
        """
        for name, dtype in self._decoded.info.features.items():
            if not (dtype.is_numeric() or dtype == pl.Boolean):
                raise RequestError(
                    f'feature "{name}" is {dtype}, which a matrix of numbers can\'t hold;'
                    " take to_polars() and encode it"
                )
        # A copy: the matrix may be shared with other requests of the same message.
        return self._decoded.matrix()[self._start : self._stop].copy()

    def __len__(self) -> int:
        return self._stop - self._start

    def __repr__(self) -> str:
        return f"{self._caption()}\n{self.to_polars()!r}"

    def _repr_html_(self) -> str:
        return f"<small>{self._caption()}</small>{self.to_polars()._repr_html_()}"

    def _caption(self) -> str:
        source = "the request" if self.t_from_request else "the worker's clock"
        return f"t = {self.t.isoformat()} (from {source}), revision {self.revision}"


@contextmanager
def _readable() -> Iterator[None]:
    """Say whose fault it is: what can't be decoded here was sent by the server."""
    try:
        yield
    except RequestError as error:
        raise HeadwaterError(f"the server's answer can't be read: {error}") from error


def _check_shape(
    info: ServiceInfo, response: serving_pb2.GetOnlineFeaturesResponse, rows: int
) -> None:
    features = len(info.features)
    if not (
        len(response.values) == len(response.statuses) == features
        and all(column.rows == rows for column in response.values)
        and all(len(codes) == rows for codes in response.statuses)
    ):
        raise HeadwaterError(
            f"the server's answer is not {features} features of {rows} rows as described;"
            " client and server may be of different versions"
        )
