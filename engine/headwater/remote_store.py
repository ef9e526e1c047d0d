"""`hw.connect`: the calls of a local store against a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from headwater.config import load_config
from headwater_serving.client import connect as connect_client

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from types import TracebackType

    import polars as pl

    from headwater_serving.client import Client
    from headwater_serving.vectors import Vectors

__all__ = ["RemoteStore", "connect"]


def connect(target: str | None = None, *, timeout_s: float = 5.0) -> RemoteStore:
    """Return a store that reads from the server at `host:port`; the first call connects.

    Without a target it is the one configured: `client.target`, else the worker's own address, by
    HEADWATER_* variables and headwater.toml.
    """
    if target is None:
        target = load_config().target
    return RemoteStore(connect_client(target, timeout_s=timeout_s))


class RemoteStore:
    """A store behind gRPC; use it as a context manager."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def online(
        self, service: str | Sequence[str], *, at: datetime | None = None, **inputs: object
    ) -> pl.DataFrame:
        """Return the features of a service, or listed features, as a frame: a row per value."""
        return self.answer(service, at=at, **inputs).to_polars()

    def answer(
        self, service: str | Sequence[str], *, at: datetime | None = None, **inputs: object
    ) -> Vectors:
        """Return a service's features with statuses, read time and exchange offsets."""
        return self.client.online(service, at=at, **inputs)

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def __enter__(self) -> Self:
        """Return the store."""
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()
