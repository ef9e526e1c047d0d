"""An expression as a tree of our own nodes: what is allowed, and its canonical text.

Polars serializes an expression as MessagePack with named fields. Only nodes on the allow-list
become ours, so that whatever has a tree has a canonical text and can be checked and stored.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import polars as pl

from headwater.definitions.dtype_text import dtype_of, dtype_text
from headwater.definitions.literal import literal_values, values_text
from headwater.definitions.row_wise import (
    FAMILIES,
    FUNCTIONS,
    LITERAL_ARGUMENTS,
    OPERATORS,
    function_reason,
    node_reason,
    spelling,
)
from headwater.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Node", "Raw", "RefusedError", "expression_of", "expression_tree", "tree_of"]

# A decoded node: a name alone, or a map of one name to its fields.
Raw: TypeAlias = Any

DEPTH_MAX = 100

_TOO_DEEP = f"it is nested more than {DEPTH_MAX} deep; split it into several columns"


class RefusedError(DefinitionError):
    """An expression that holds something no row can do alone; its text lacks the place."""


@dataclass(frozen=True, slots=True)
class Node:
    """One step of an expression: a name of ours, its settings as text, and its inputs.

    `raw` is what Polars calls it, and `literals` the Python values of a literal: both are for
    checking, and no part of what the node means.
    """

    name: str
    settings: tuple[str, ...] = ()
    inputs: tuple[Node, ...] = ()
    raw: Raw = field(default=None, compare=False, repr=False)
    literals: tuple[object, ...] = field(default=(), compare=False, repr=False)

    def __str__(self) -> str:
        """Return the canonical text, e.g. `(gt (col "dep_delay") (lit int 15))`."""
        return f"({' '.join((self.name, *self.settings, *map(str, self.inputs)))})"

    def walk(self) -> Iterator[Node]:
        """Yield this node and all below it."""
        yield self
        for one in self.inputs:
            yield from one.walk()

    def columns(self) -> tuple[str, ...]:
        """Return the columns read, each once, in order of appearance."""
        names = (json.loads(one.settings[0]) for one in self.walk() if one.name == "col")
        return tuple(dict.fromkeys(names))


def _raw_expression(expr: pl.Expr) -> Raw:
    """Return Polars' own tree of an expression; raise RefusedError if it has none."""
    try:
        return msgspec.msgpack.decode(expr.meta.serialize())
    except RecursionError as error:
        raise RefusedError(_TOO_DEEP) from error
    except (pl.exceptions.PolarsError, msgspec.DecodeError, TypeError) as error:
        construct, python = node_reason("AnonymousFunction")
        reason = str(error).split("\n", maxsplit=1)[0]
        raise RefusedError(f"it can't be stored ({reason}); {construct} {python}") from error


def expression_of(raw: Raw) -> pl.Expr:
    """Return the Polars expression of a raw node."""
    return pl.Expr.deserialize(io.BytesIO(msgspec.msgpack.encode(raw)))


def expression_tree(expr: pl.Expr) -> Node:
    """Return an expression's tree; its own name (an outermost alias) is no part of it.

    Raises RefusedError for a node that isn't on the allow-list.
    """
    raw = _raw_expression(expr)
    while isinstance(raw, Mapping) and "Alias" in raw:
        raw = raw["Alias"][0]
    return tree_of(raw)


def tree_of(raw: Raw, depth: int = 0) -> Node:  # noqa: C901 - one branch for each kind
    """Return the tree of a raw node."""
    if depth > DEPTH_MAX:
        raise RefusedError(_TOO_DEEP)
    kind, body = _kind(raw)
    if kind == "Column":
        if body.startswith("^") and body.endswith("$"):
            raise _refused("Selector")
        return Node("col", (json.dumps(body),), raw=raw)
    if kind == "Literal":
        return _literal(raw, body)
    if kind == "BinaryExpr":
        name = OPERATORS.get(body["op"])
        if name is None:
            raise RefusedError(f"the operator {body['op']} {function_reason(body['op'])}")
        inputs = [body["left"], body["right"]]
    elif kind == "Ternary":
        name, inputs = "when", [body["predicate"], body["truthy"], body["falsy"]]
    elif kind == "Alias":
        # Inner names only matter to a struct, which asks for them by itself.
        return tree_of(body[0], depth + 1)
    elif kind == "Cast":
        settings = (_dtype(body["dtype"]), str(body["options"]).lower())
        return Node("cast", settings, (tree_of(body["expr"], depth + 1),), raw)
    elif kind == "Function":
        return _function(raw, body, depth)
    else:
        raise _refused(kind, body)
    return Node(name, (), tuple(tree_of(one, depth + 1) for one in inputs), raw)


def _kind(raw: Raw) -> tuple[str, Any]:
    if isinstance(raw, str):
        return raw, None
    if not isinstance(raw, Mapping) or len(raw) != 1:
        raise RefusedError(f"Polars {pl.__version__} stores it in a form that isn't known")
    ((kind, body),) = raw.items()
    return kind, body


def _refused(kind: str, body: object = None) -> RefusedError:
    detail = next(iter(body), "") if isinstance(body, Mapping) and kind == "Agg" else ""
    construct, reason = node_reason(kind, detail)
    return RefusedError(f"{construct} is not row-wise: it {reason}")


def _dtype(raw: Raw) -> str:
    try:
        return dtype_text(dtype_of(raw))
    except ValueError as error:
        raise RefusedError(f"cast: {error}") from error


def _literal(raw: Raw, body: Mapping[str, Raw]) -> Node:
    ((kind, value),) = body.items()
    if kind == "Dyn" and "Int" in value:
        exact = value["Int"]
        if isinstance(exact, bytes):
            exact = int.from_bytes(exact, "big", signed=True)
        return Node("lit", ("int", str(exact)), raw=raw, literals=(exact,))
    if kind == "Dyn" and "Float" in value:
        number = float(value["Float"])
        return Node("lit", ("float", number.hex()), raw=raw, literals=(number,))
    if kind != "Scalar":
        raise RefusedError("a Series in the expression is not row-wise: write a list or one value")
    try:
        series = pl.select(expression_of(raw).alias("literal")).to_series()
        settings = (dtype_text(series.dtype), *values_text(series))
    except (ValueError, pl.exceptions.PolarsError) as error:
        raise RefusedError(f"a literal can't be stored ({error}); write another") from error
    return Node("lit", settings, raw=raw, literals=literal_values(series))


def _function(raw: Raw, body: Mapping[str, Raw], depth: int) -> Node:
    path, settings = _path(body["function"])
    if path not in FUNCTIONS:
        call = spelling(path)
        call = call if call.endswith(")") else f"{call}()"
        raise RefusedError(f".{call} is not row-wise: it {function_reason(path)}")
    inputs = body["input"]
    for position in LITERAL_ARGUMENTS.get(path, ()):
        if not (isinstance(inputs[position], Mapping) and "Literal" in inputs[position]):
            raise RefusedError(
                f".{spelling(path)}() with a column for its values is not row-wise: it would take "
                "them from all rows; write a list"
            )
    nodes = tuple(tree_of(one, depth + 1) for one in inputs)
    if path == "AsStruct":
        names = (expression_of(one).meta.output_name() for one in inputs)
        nodes = tuple(
            Node("field", (json.dumps(name),), (node,))
            for name, node in zip(names, nodes, strict=True)
        )
    return Node(FUNCTIONS[path], _settings(path, settings), nodes, raw)


def _path(function: Raw) -> tuple[str, Raw]:
    """Return a function's path, such as `StringExpr.Contains`, and its settings."""
    kind, body = _kind(function)
    if kind not in FAMILIES:
        return kind, body
    if isinstance(body, Mapping) and "function" in body:  # a rolling function
        return f"{kind}.{body['function']}", None
    name, settings = _kind(body)
    return f"{kind}.{name}", settings


def _settings(path: str, settings: Raw) -> tuple[str, ...]:
    if path == "StringExpr.Strptime":
        dtype, options = settings
        if options["format"] is None:
            raise RefusedError(
                ".str.strptime() without a format is not row-wise: it guesses one from the first "
                'row; write format="%Y-%m-%d"'
            )
        return (_dtype(dtype), *_settings("", {k: v for k, v in options.items() if k != "cache"}))
    if path == "ReplaceStrict":
        dtype = settings["return_dtype"]
        return () if dtype is None else (_dtype(dtype),)
    if settings is None:
        return ()
    if isinstance(settings, Mapping) and not _wraps(settings):
        return tuple(f"{name}={_setting(value)}" for name, value in sorted(settings.items()))
    return (_setting(settings),)


def _setting(value: Raw) -> str:
    """Return a setting as JSON; floats and bytes in hexadecimal, wrappers left out."""
    return json.dumps(_exact(value), sort_keys=True, separators=(",", ":"))


def _exact(value: Raw) -> Raw:
    if isinstance(value, float | bytes):
        return value.hex()
    if isinstance(value, Mapping):
        if _wraps(value):
            return _exact(value["inner"])
        return {name: _exact(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_exact(one) for one in value]
    return value


def _wraps(value: Mapping[str, Raw]) -> bool:
    """Tell whether a map is only Polars' wrapper around a time zone's name."""
    return set(value) == {"inner"}
