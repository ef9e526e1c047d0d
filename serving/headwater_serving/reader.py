"""The seam to the engine: all that serving needs of whoever holds the state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from headwater.flow.answer import Answer, RequestError, ServiceInfo, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

__all__ = ["Answer", "Reader", "RequestError", "ServiceInfo", "Status"]


class Reader(Protocol):
    """Reads feature values; called from many threads at once.

    `describe` is called for every request, so it should be a look-up.
    """

    def services(self) -> Sequence[str]:
        """Return the names of the services that can be read."""
        ...

    def describe(self, service: str) -> ServiceInfo:
        """Return what a service takes and gives; raises NotFoundError."""
        ...

    def describe_features(self, features: Sequence[str]) -> ServiceInfo:
        """Return what a list of features takes and gives; raises NotFoundError, RequestError."""
        ...

    def read(self, info: ServiceInfo, inputs: pl.DataFrame, at_us: int | None) -> Answer:
        """Return the values for every row of `inputs` at one read time, µs since 1970 UTC.

        `inputs` holds exactly the join keys and then the request inputs of `info`, in its order
        and types; nulls are allowed. `at_us` None means the reader's clock.
        Raises NotFoundError for a service that is gone, RequestError for values it can't take.
        """
        ...
