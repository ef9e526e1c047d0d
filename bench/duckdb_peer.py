"""The DuckDB peers: the same features by range frames, and by a range join."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

__all__ = ["DuckDB", "frames_query", "join_query"]

# Aggregate of our names, as SQL.
_SQL = {"count": "count", "sum": "sum", "mean": "avg", "low": "min", "high": "max"}


def _left_edge(at: str, window: tuple[int, int]) -> str:
    width, hop = window
    return f"(({at} - {width}) // {hop}) * {hop}"


def frames_query(windows: Mapping[str, tuple[int, int]]) -> str:
    """Return range frames over the union of events and spine.

    Frames reach from the window's left edge, which lies on its hop, to one microsecond before the
    row: the engine's windows exactly. An event's own frame is empty, which DuckDB answers fastest:
    frames of a constant width took a third longer.
    """
    lags = ", ".join(f"at_us - {_left_edge('at_us', w)} AS lag_{n}" for n, w in windows.items())
    none = ", ".join(f"0 AS lag_{name}" for name in windows)
    frames = ", ".join(
        f"w_{name} AS (PARTITION BY card ORDER BY at_us"
        f" RANGE BETWEEN lag_{name} PRECEDING AND 1 PRECEDING)"
        for name in windows
    )
    features = ", ".join(
        f"{sql}(amount) OVER w_{window} AS {name}_{window}"
        for name, sql in _SQL.items()
        for window in windows
    )
    return f"""
        WITH rows_of_both AS (
            SELECT card, ts AS at_us, amount, -1 AS i, {none} FROM events
            UNION ALL SELECT card, at_us, NULL, i, {lags} FROM spine
        ), framed AS (SELECT i, {features} FROM rows_of_both WINDOW {frames})
        SELECT * EXCLUDE i FROM framed WHERE i >= 0 ORDER BY i"""


def join_query(windows: Mapping[str, tuple[int, int]]) -> str:
    """Return a join of each spine row with the events of its widest window, grouped again."""
    widest = max(windows.values())
    features = ", ".join(
        f"{sql}(amount) FILTER (ts >= {_left_edge('at_us', w)}) AS {name}_{window}"
        for name, sql in _SQL.items()
        for window, w in windows.items()
    )
    return f"""
        SELECT {features}
        FROM spine LEFT JOIN events
            ON events.card = spine.card AND ts < at_us AND ts >= {_left_edge("at_us", widest)}
        GROUP BY i ORDER BY i"""


class DuckDB:
    """A connection with every core; `of_frames` has events and spine as tables of its own."""

    def __init__(self) -> None:
        import duckdb

        self._stopped: type[Exception] = duckdb.InterruptException
        self._connection = duckdb.connect(config={"threads": os.cpu_count() or 1})

    @classmethod
    def of_frames(cls, events: pl.DataFrame, spine: pl.DataFrame) -> Self:
        """Return one with these frames as tables."""
        made = cls()
        for name, frame in (("events", events), ("spine", spine)):
            made._connection.register("given", frame.to_arrow())
            made._connection.execute(f"CREATE TABLE {name} AS SELECT * FROM given")
            made._connection.unregister("given")
        return made

    @classmethod
    def over_parquet(cls, events: str, spine: str) -> Self:
        """Return one that reads Parquet files when it is asked; `events` is a pattern."""
        made = cls()
        made._connection.execute(
            f"CREATE VIEW events AS SELECT card, ts, amount FROM read_parquet('{events}')"
        )
        made._connection.execute(
            'CREATE VIEW spine AS SELECT card, epoch_us("at") AS at_us,'
            f" row_number() OVER () - 1 AS i FROM read_parquet('{spine}')"
        )
        return made

    def run(self, query: str, limit_s: float) -> pl.DataFrame | None:
        """Return a query's result, or None if it takes longer than `limit_s`."""
        timer = threading.Timer(limit_s, self._connection.interrupt)
        timer.start()
        try:
            found: pl.DataFrame = self._connection.sql(query).pl()
        except self._stopped:
            return None
        else:
            return found
        finally:
            timer.cancel()

    def close(self) -> None:
        """Forget the tables."""
        self._connection.close()
