"""Expressions for the registry: canonical text to fingerprint, Polars' bytes to run."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import msgspec
import polars as pl

from headwater.definitions.expression import Filter, Select, WithColumns, step_text
from headwater.definitions.expression_tree import RefusedError, expression_tree, tree_of
from headwater.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headwater.definitions.expression import Step

__all__ = [
    "canonical",
    "canonical_steps",
    "deserialize_expression",
    "deserialize_steps",
    "serialize_expression",
    "serialize_steps",
]

_CURE = "apply the definitions again"
_KINDS: dict[str, type[WithColumns | Select]] = {"with_columns": WithColumns, "select": Select}


def canonical(expr: pl.Expr) -> str:
    """Return our own text of an expression, e.g. `(gt (col "dep_delay") (lit int 15))`.

    The same logic written the same way gives the same text, whatever the version of Polars; an
    outermost alias is no part of it. Raises DefinitionError for a node we have no name for.
    """
    try:
        return str(expression_tree(expr))
    except RefusedError as error:
        raise DefinitionError(f"{str(expr)!r} can't be fingerprinted: {error}") from error


def canonical_steps(steps: Sequence[Step | Select]) -> str:
    """Return the canonical text of a chain of steps, a line each."""
    return "\n".join(map(step_text, steps))


def serialize_expression(expr: pl.Expr) -> bytes:
    """Return Polars' own bytes of an expression, to run it elsewhere under the same Polars."""
    canonical(expr)
    return expr.meta.serialize()


def deserialize_expression(content: bytes) -> pl.Expr:
    """Return the expression in Polars' bytes.

    Only nodes on the allow-list are let through: bytes that hold a pickled Python function never
    reach Polars, which would run it. Raises DefinitionError for anything else.
    """
    try:
        raw = msgspec.msgpack.decode(content)
        naming = raw
        while isinstance(naming, dict) and "Alias" in naming:
            naming = naming["Alias"][0]
        tree_of(naming)
        return pl.Expr.deserialize(io.BytesIO(content))
    except (
        RefusedError,
        RecursionError,
        msgspec.DecodeError,
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
    ) as error:
        raise DefinitionError(
            f"a stored expression can't be read by Polars {pl.__version__} ({error}); {_CURE}"
        ) from error
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DefinitionError(f"a stored expression is damaged; {_CURE}") from error


def serialize_steps(steps: Sequence[Step | Select]) -> bytes:
    """Return the bytes of a chain of steps."""
    return msgspec.msgpack.encode([_packed(step) for step in steps])


def deserialize_steps(content: bytes) -> tuple[Step | Select, ...]:
    """Return the chain of steps in the bytes; raise DefinitionError if there is none."""
    try:
        packed = msgspec.msgpack.decode(content, type=list[tuple[str, list[tuple[str, bytes]]]])
    except msgspec.DecodeError as error:
        raise DefinitionError(f"stored steps are damaged; {_CURE}") from error
    return tuple(_unpacked(kind, columns) for kind, columns in packed)


def _packed(step: Step | Select) -> tuple[str, list[tuple[str, bytes]]]:
    if isinstance(step, Filter):
        return "filter", [("", serialize_expression(step.expr))]
    kind = "select" if isinstance(step, Select) else "with_columns"
    return kind, [(name, serialize_expression(expr)) for name, expr in step.exprs]


def _unpacked(kind: str, columns: list[tuple[str, bytes]]) -> Step | Select:
    exprs = tuple((name, deserialize_expression(content)) for name, content in columns)
    if kind == "filter" and len(exprs) == 1:
        return Filter(exprs[0][1])
    if kind not in _KINDS:
        raise DefinitionError(f"stored steps hold an unknown step {kind!r}; {_CURE}")
    return _KINDS[kind](exprs)
