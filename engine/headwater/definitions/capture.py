"""On-demand functions: run once on an empty typed frame, kept as the plan they return.

No pickle, no source text: the steps are Polars expressions, checked row-wise one by one, and the
same code runs them online and offline.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import CodeType, MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import polars as pl

from headwater.definitions.expression import (
    Select,
    WithColumns,
    apply_steps,
    check_row_wise,
    step_text,
)
from headwater.definitions.expression_tree import Raw, expression_of
from headwater.definitions.frame_plan import Operation, method_names, operations
from headwater.errors import DefinitionError

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

__all__ = ["CaptureStep", "Captured", "capture"]

CaptureStep: TypeAlias = WithColumns | Select

_ALLOWED = "with_columns, select, rename and drop"
_SELECTORS = {"Selector", "Wildcard", "Columns", "DtypeColumn", "IndexColumn", "Nth", "Exclude"}
_EAGER = {"collect", "collect_async", "collect_batches", "describe", "fetch", "profile", "remote"}
# What a user's function raises by mistake; anything else is theirs to see as it is.
_MISTAKES = (pl.exceptions.PolarsError, AttributeError, KeyError, TypeError, ValueError)


class _Collected(Exception):  # noqa: N818 - a signal, caught a few frames up
    """The function asked for rows while it was being captured."""


class _Captive(pl.LazyFrame):
    """An empty frame that hands out no rows: logic on collected rows would be lost."""

    def __getattribute__(self, name: str) -> object:
        if name in _EAGER or name.startswith("sink_"):
            raise _Collected(name)
        return super().__getattribute__(name)


@dataclass(frozen=True, slots=True)
class Captured:
    """What an on-demand function does: its inputs, steps, outputs and canonical text."""

    inputs: tuple[str, ...]
    steps: tuple[CaptureStep, ...]
    outputs: Mapping[str, pl.DataType]
    canonical: str

    def run(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, NDArray[np.int64]]:
        """Return the outputs, one row for each row of `frame`, and the failed rows' indices.

        Only the inputs are read. Rows are independent: where an expression raises, that row's
        outputs are null.
        """
        values, kept, failed = apply_steps(frame.select(self.inputs), self.steps)
        values = values.select(self.outputs.keys())
        if failed.size:
            place = np.full(frame.height, -1)
            place[kept] = np.arange(kept.size)
            rows = pl.Series(place).replace(-1, None).cast(pl.UInt32)
            values = values.select(pl.all().gather(rows))
        return values, failed


def capture(
    function: Callable[[pl.LazyFrame], pl.LazyFrame],
    schema: Mapping[str, pl.DataType],
    where: str,
) -> Captured:
    """Run a function once on an empty frame of this schema; return what it does to a row.

    `where` opens every message, e.g. `on-demand "unusual"`. The function may use with_columns,
    select, rename and drop with row-wise expressions, and gives its outputs names of their own.
    Raises DefinitionError with what is wrong, on which line if that is known, and the way out.
    """
    if not schema:
        raise DefinitionError(f"{where}: no inputs; name the views and request values it reads")
    source = _Captive(schema=dict(schema))
    result = _returned(function, source, where)
    try:
        scan, *rest = operations(result)
        own = operations(source)[0]
    except DefinitionError as error:
        raise DefinitionError(f"{where}: {error}") from error
    if scan.kind != own.kind:
        raise _refused(scan, function, where)
    building = _Building(dict(schema), dict(schema), function, where)
    steps = tuple(building.step(operation) for operation in rest)
    # A collected frame comes back as a plain one, or with other columns.
    if not isinstance(result, _Captive) or scan.body["schema"] != own.body["schema"]:
        raise DefinitionError(
            f"{where}: it returns another frame than the one it was given; build the result from "
            "its argument, without collect()"
        )
    outputs = {name: dtype for name, dtype in building.schema.items() if name not in schema}
    if not outputs:
        raise DefinitionError(f"{where}: it adds no column; write row.with_columns(name=…)")
    text = "\n".join((*map(step_text, steps), f"(outputs {' '.join(outputs)})"))
    return Captured(tuple(schema), steps, MappingProxyType(outputs), text)


def _returned(
    function: Callable[[pl.LazyFrame], pl.LazyFrame], source: pl.LazyFrame, where: str
) -> pl.LazyFrame:
    try:
        result: object = function(source)
    except _Collected as error:
        line = _raised_line(function, error.__traceback__)
        raise DefinitionError(
            f"{where}: .{error}(){line} asks for rows, but the function is captured on an empty "
            "frame; stay lazy: return row.with_columns(…)"
        ) from None
    except _MISTAKES as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        line = _raised_line(function, error.__traceback__)
        raise DefinitionError(f"{where}: the function raises{line}: {reason}") from error
    if isinstance(result, pl.LazyFrame):
        return result
    kind = type(result).__name__
    raise DefinitionError(
        f"{where}: it returns {kind}, not a lazy frame; write return row.with_columns(…)"
    )


@dataclass(slots=True)
class _Building:
    """The schema while a plan is read, operation by operation."""

    inputs: Mapping[str, pl.DataType]
    schema: dict[str, pl.DataType]
    function: Callable[..., object]
    where: str

    def step(self, operation: Operation) -> CaptureStep:
        """Return an operation as a step, and move the schema past it."""
        kind, body = operation.kind, operation.body
        if kind == "HStack":
            columns = self._columns(body["exprs"])
            self.schema |= {name: dtype for name, _, dtype in columns}
            return WithColumns(tuple((name, expr) for name, expr, _ in columns))
        if kind == "Select":
            return self._select(self._columns(body["expr"]))
        if kind == "Rename":
            fields = body["fields"]
            names = dict(zip(fields["existing"], fields["new"], strict=True))
            return self._keep({new: old for old in self.schema if (new := names.get(old, old))})
        if kind == "Drop":
            dropped = self._dropped(body["fields"])
            return self._keep({name: name for name in self.schema if name not in dropped})
        raise _refused(operation, self.function, self.where)

    def _columns(self, raws: list[Raw]) -> list[tuple[str, pl.Expr, pl.DataType]]:
        columns = [column for raw in raws if not _internal(raw) for column in self._column(raw)]
        names = [name for name, _, _ in columns]
        for name in names:
            if names.count(name) > 1:
                raise DefinitionError(f'{self.where}: "{name}" is defined twice; rename one')
        return columns

    def _column(self, raw: Raw) -> list[tuple[str, pl.Expr, pl.DataType]]:
        expr = expression_of(raw)
        kind = raw if isinstance(raw, str) else next(iter(raw))
        if kind in _SELECTORS:
            names = pl.LazyFrame(schema=self.schema).select(expr).collect_schema().names()
            return [(name, pl.col(name), self.schema[name]) for name in names]
        name = expr.meta.output_name(raise_if_undetermined=False)
        where = self.where if name is None else f'{self.where}, column "{name}"'
        raw = _unnamed(raw)
        expr = expression_of(raw)
        dtype = check_row_wise(expr, self.schema, where)
        if name is None:
            raise DefinitionError(f'{self.where}: a column without a name; add .alias("name")')
        self._check_name(name, raw)
        return [(name, expr, dtype)]

    def _check_name(self, name: str, raw: Raw) -> None:
        if name in self.inputs and raw != {"Column": name}:
            raise DefinitionError(
                f'{self.where}: column "{name}" is an input and can\'t be replaced; give the '
                "result a name of its own"
            )

    def _keep(self, sources: Mapping[str, str]) -> Select:
        """Return the step that keeps columns, under new names."""
        for name, source in sources.items():
            self._check_name(name, {"Column": source})
        return self._select([(n, pl.col(old), self.schema[old]) for n, old in sources.items()])

    def _select(self, columns: list[tuple[str, pl.Expr, pl.DataType]]) -> Select:
        self.schema = {name: dtype for name, _, dtype in columns}
        return Select(tuple((name, expr) for name, expr, _ in columns))

    def _dropped(self, fields: Raw) -> set[str]:
        """Return the names in a `drop`, which was an operation of its own before Polars 1.31."""
        try:
            return {one["Root"]["Column"] for one in fields["to_drop"]}
        except (KeyError, TypeError) as error:
            raise DefinitionError(f"{self.where}: drop: name the columns one by one") from error


def _internal(raw: Raw) -> bool:
    """Tell whether a column only helps Polars with an operation that is refused a step later."""
    column = raw.get("Alias", [None, raw.get("Column")])[1] if isinstance(raw, Mapping) else None
    return isinstance(column, str) and column.startswith("__POLARS_")


def _unnamed(raw: Raw) -> Raw:
    """Return an expression without what names its result; the name is kept beside it."""
    while isinstance(raw, Mapping):
        if "Alias" in raw:
            raw = raw["Alias"][0]
        elif "RenameAlias" in raw:
            raw = raw["RenameAlias"]["expr"]
        elif "KeepName" in raw:
            raw = raw["KeepName"]
        else:
            break
    return raw


def _refused(operation: Operation, function: Callable[..., object], where: str) -> DefinitionError:
    names = method_names(operation.kind)
    used = {name for code in _codes(function) for name in code.co_names}
    name = next((one for one in names if one in used), names[0])
    spelled = f"pl.{name}()" if name == "concat" else f".{name}()"
    return DefinitionError(
        f"{where}: {spelled}{_line(function, [name])} is not row-wise; an on-demand function may "
        f"only use {_ALLOWED}"
    )


def _codes(function: Callable[..., object]) -> Iterator[CodeType]:
    """Yield a function's code and that of the functions written inside it."""
    waiting = [getattr(inspect.unwrap(function), "__code__", None)]
    while waiting:
        code = waiting.pop()
        if isinstance(code, CodeType):
            yield code
            waiting += code.co_consts


def _line(function: Callable[..., object], names: list[str]) -> str:
    """Return where a function mentions one of these names, e.g. ` (features.py, line 12)`."""
    for code in _codes(function):
        for one in dis.get_instructions(code):
            if one.argval in names and one.positions is not None and one.positions.lineno:
                return f" ({PurePath(code.co_filename).name}, line {one.positions.lineno})"
    return ""


def _raised_line(function: Callable[..., object], traceback: TracebackType | None) -> str:
    """Return the line of the function that an error came through."""
    codes = set(_codes(function))
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code in codes:
            return f" ({PurePath(code.co_filename).name}, line {traceback.tb_lineno})"
        traceback = traceback.tb_next
    return ""
