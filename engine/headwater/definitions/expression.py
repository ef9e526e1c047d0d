"""Row-wise expressions: what is checked when they are written, and how rows are run through them.

Rows are independent (the third line of defence is the probe): a row on which an expression
raises is found by bisecting and left out; it never changes or stops the others.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
import polars as pl

from headwater.definitions.expression_tree import Node, RefusedError, expression_of, expression_tree
from headwater.definitions.probing import find_leak, random_frame
from headwater.definitions.row_wise import node_reason
from headwater.errors import DefinitionError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "Filter",
    "Select",
    "Step",
    "WithColumns",
    "apply_steps",
    "check_row_wise",
    "evaluate_rows",
    "step_text",
]

PROBE_ROWS = 40

_MASK = "\0mask"
# A panic inside Polars (a date beyond its calendar, say) is a row's fault like any other.
_ROW_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Filter:
    """Keep the rows for which a Boolean expression is true: not false, not null."""

    expr: pl.Expr

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads."""
        return tuple(self.expr.meta.root_names())


@dataclass(frozen=True, slots=True)
class WithColumns:
    """Add columns by name, or replace them; each reads the columns from before the step."""

    exprs: tuple[tuple[str, pl.Expr], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads."""
        return tuple(name for _, expr in self.exprs for name in expr.meta.root_names())


@dataclass(frozen=True, slots=True)
class Select:
    """Keep only these columns; each reads the columns from before the step."""

    exprs: tuple[tuple[str, pl.Expr], ...]


Step: TypeAlias = Filter | WithColumns


def step_text(step: Step | Select) -> str:
    """Return the canonical text of a step, on one line."""
    if isinstance(step, Filter):
        return f"(filter {expression_tree(step.expr)})"
    kind = "select" if isinstance(step, Select) else "with_columns"
    columns = (f"({json.dumps(name)} {expression_tree(expr)})" for name, expr in step.exprs)
    return f"({kind} {' '.join(columns)})"


def check_row_wise(
    expr: pl.Expr, schema: Mapping[str, pl.DataType], where: str, *, seed: int = 0
) -> pl.DataType:
    """Return the type of a row-wise expression over a schema.

    `where` opens every message, e.g. `view "plane_delays", filter`. Three lines of defence: an
    allow-list of Polars' nodes, Polars' own opinion, and a probe that compares results on random
    frames (from `seed`) whole, split, row by row and permuted, bit for bit. Raises
    DefinitionError with what is wrong and the way out.
    """
    if not isinstance(expr, pl.Expr):
        raise DefinitionError(f"{where}: {expr!r} is not a Polars expression such as pl.col(…) > 0")
    try:
        tree = expression_tree(expr)
        content = expr.meta.serialize()
        return _row_wise_dtype(content, tree, tuple(schema.items()), seed)
    except RefusedError as error:
        raise DefinitionError(f"{where}: {error}") from error


# A worker that follows a plan reads all of it again with every change, mostly what it knows.
@lru_cache(4_096)
def _row_wise_dtype(
    content: bytes, tree: Node, columns: tuple[tuple[str, pl.DataType], ...], seed: int
) -> pl.DataType:
    """Return the type of an expression in Polars' bytes; raise RefusedError without the place."""
    expr, schema = pl.Expr.deserialize(io.BytesIO(content)), dict(columns)
    for column in tree.columns():
        if column not in schema:
            raise RefusedError(
                f'unknown column "{column}".{did_you_mean(column, schema)}'
                f" Columns: {', '.join(schema)}"
            )
    try:
        _check_types(tree, schema)
        dtype = _empty(schema).with_columns(expr.alias(_MASK)).schema[_MASK]
    except _ROW_ERRORS as error:
        raise RefusedError(f"{_reason(error)}, in {_brief(expr)}") from error
    leak = _leak(expr, tree, schema, seed) if _separable(expr) else "Polars says so"
    if leak is not None:
        _, cure = node_reason("Agg")
        raise RefusedError(f"{_brief(expr)} is not row-wise ({leak}): it {cure}")
    return dtype


def _check_types(tree: Node, schema: Mapping[str, pl.DataType]) -> None:
    """Refuse what is row-wise for some types of input only."""
    frame = pl.LazyFrame(schema=schema)
    for node in tree.walk():
        if node.name == "is_in" and node.inputs[1].name != "lit":
            dtype = _dtype(frame, node.inputs[1])
            if not isinstance(dtype, pl.List | pl.Array):
                raise RefusedError(
                    ".is_in(column) is not row-wise: it looks in all rows of the column; give it a "
                    "list of values, or compare with =="
                )
        to_time = node.name == "cast" and node.settings[0].startswith(("Date", "Time"))
        # Before Polars 2 such a cast guesses the format from the first row.
        if to_time and _dtype(frame, node.inputs[0]) == pl.String:
            raise RefusedError(
                f"cast from String to {node.settings[0]} is not row-wise: write "
                'str.to_datetime("%Y-%m-%d %H:%M:%S"), str.to_date or str.to_time with a format'
            )


def _dtype(frame: pl.LazyFrame, node: Node) -> pl.DataType:
    return frame.select(expression_of(node.raw).alias(_MASK)).collect_schema()[_MASK]


def _separable(expr: pl.Expr) -> bool:
    """Return Polars' own opinion; without one (it is young and can raise) the probe decides."""
    try:
        return bool(expr.meta.is_row_separable())
    except (AttributeError, pl.exceptions.PolarsError):
        return True


def _leak(expr: pl.Expr, tree: Node, schema: Mapping[str, pl.DataType], seed: int) -> str | None:
    """Run random frames through an expression; say how a row's value depends on other rows."""
    literals = tuple(value for node in tree.walk() for value in node.literals)
    rng = np.random.default_rng(seed)
    used = {name: schema[name] for name in tree.columns()} or dict(schema)
    for nulls in (True, False):
        frame = random_frame(used, PROBE_ROWS, rng, nulls=nulls, literals=literals)
        leak = find_leak(lambda rows: evaluate_rows(rows, [expr]), frame, rng)
        if leak is not None:
            return leak
    return None


def _empty(schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    return pl.DataFrame(schema=dict(schema))


def _reason(error: BaseException) -> str:
    return str(error).split("\n", maxsplit=1)[0].strip().rstrip(".")


def _brief(expr: pl.Expr) -> str:
    text = " ".join(str(expr).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def evaluate_rows(
    frame: pl.DataFrame, exprs: Sequence[pl.Expr]
) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """Evaluate row-wise expressions; return the good rows' values and the failed rows' indices.

    One Polars call where no row raises; else the rows that raise are found by bisecting, so that
    a good row has the value it has alone. Raises what Polars raises if the fault is no row's.
    """
    step = Select(tuple((expr.meta.output_name(), expr) for expr in exprs))
    values, _, failed = apply_steps(frame, [step])
    return values, failed


def apply_steps(
    frame: pl.DataFrame, steps: Sequence[Step | Select]
) -> tuple[pl.DataFrame, NDArray[np.int64], NDArray[np.int64]]:
    """Run rows through steps; return the frame, the kept rows' indices and the failed rows'.

    Indices are into `frame`, ascending. A row that a filter drops never reaches the steps after
    it; a row on which any step raises has failed. The result is the same for any batching.
    """
    parts, failed = _bisect(frame, lambda rows: _run_steps(rows, steps))
    kept = np.concatenate([offset + kept for offset, (_, kept) in parts])
    return _concat([part for _, (part, _) in parts]), kept, failed


def _run_steps(
    frame: pl.DataFrame, steps: Sequence[Step | Select]
) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    kept = np.arange(frame.height, dtype=np.int64)
    for step in steps:
        if frame.height == 1:
            frame, kept = frame[[0, 0]], kept[[0, 0]]
        frame = _solid(frame)
        if isinstance(step, Filter):
            mask = frame.with_columns(step.expr.alias(_MASK)).get_column(_MASK)
            if mask.null_count():
                mask = mask.fill_null(value=False)
            if not mask.all():  # filtering costs more than all the rest
                frame, kept = frame.filter(mask), kept[mask.to_numpy()]
        else:
            frame = _assign(frame, step)
    if kept.size == 2 and kept[0] == kept[1]:
        frame, kept = frame[:1], kept[:1]
    return frame, kept


def _solid(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame as plain columns in one chunk each.

    Polars divides by a literal as a multiplication by 1/x, but divides a lone row (or a chunk of
    one row, or a column it holds as one repeated value) exactly: other bits for the same row. So
    rows are only ever evaluated two or more at a time, in one chunk, with every value written out.
    """
    return pl.DataFrame(frame.get_columns()).rechunk()


def _assign(frame: pl.DataFrame, step: WithColumns | Select) -> pl.DataFrame:
    columns = [expr.alias(name) for name, expr in step.exprs]
    if isinstance(step, WithColumns):
        return frame.with_columns(columns)
    values = frame.select(columns)
    if values.height == frame.height:
        return values
    # Nothing but literals, which Polars selects as one row.
    return frame.with_columns(columns).select([name for name, _ in step.exprs])


def _bisect(
    frame: pl.DataFrame, evaluate: Callable[[pl.DataFrame], _T]
) -> tuple[list[tuple[int, _T]], NDArray[np.int64]]:
    """Evaluate a frame in the fewest halves that don't raise; at most two calls a row.

    Returns the parts with the offset of their first row, in order, and the rows that raise alone.
    """
    try:
        return [(0, evaluate(frame))], np.empty(0, np.int64)
    except _ROW_ERRORS:
        # The fault may be no row's (an unknown column, say): then this raises as well.
        parts = [(0, evaluate(frame.clear()))]
    failed = []
    waiting = _halves(0, frame.height)
    while waiting:
        start, stop = waiting.pop()
        try:
            parts.append((start, evaluate(frame[start:stop])))
        except _ROW_ERRORS:
            if stop - start == 1:
                failed.append(start)
            else:
                waiting += _halves(start, stop)
    return parts, np.array(failed, np.int64)


def _halves(start: int, stop: int) -> list[tuple[int, int]]:
    """Return a range's halves, the first one last: it is taken first from a stack."""
    middle = (start + stop) // 2
    return [part for part in ((middle, stop), (start, middle)) if part[0] < part[1]]


def _concat(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return parts[0] if len(parts) == 1 else pl.concat(parts, rechunk=True)
