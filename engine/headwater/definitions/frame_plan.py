"""A lazy frame's plan as a list of operations, read from Polars' own serialized form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl

from headwater.definitions.row_wise import spelling
from headwater.errors import DefinitionError

if TYPE_CHECKING:
    from headwater.definitions.expression_tree import Raw

__all__ = ["Operation", "method_names", "operations"]

OPERATIONS_MAX = 200

_MAGIC = b"DSL_VERSION"
# After the magic come two 16-bit versions and, since Polars 1.31, a hash of the schema in hex.
_HEADER_BYTES = (len(_MAGIC) + 4 + 64, len(_MAGIC) + 4)

_UNKNOWN = f"the plan's form in Polars {pl.__version__} isn't known to Headwater"

# The methods that make a node, the likeliest first.
_METHODS: Mapping[str, tuple[str, ...]] = {
    "Cache": ("cache",),
    "DataFrameScan": ("lazy",),
    "Distinct": ("unique",),
    "Explode": ("explode",),
    "Filter": ("filter", "drop_nulls", "drop_nans", "remove"),
    "FillNan": ("fill_nan",),
    "GroupBy": ("group_by", "group_by_dynamic", "rolling"),
    "HConcat": ("concat",),
    "Hint": ("set_sorted",),
    "Join": ("join", "join_asof", "join_where", "update"),
    "MatchToSchema": ("match_to_schema",),
    "OpaquePython": ("map_batches", "inspect"),
    "Pivot": ("pivot",),
    "RowIndex": ("with_row_index",),
    "SQL": ("sql",),
    "Slice": ("head", "limit", "slice", "tail", "first", "last", "clear"),
    "Sort": ("sort", "top_k", "bottom_k"),
    "Stats": ("sum", "mean", "min", "max", "median", "std", "var", "quantile"),
    "Union": ("concat",),
    "Unnest": ("unnest",),
    "Unpivot": ("unpivot",),
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One node of a plan: Polars' name for it, and its fields."""

    kind: str
    body: Mapping[str, Any]


def method_names(kind: str) -> tuple[str, ...]:
    """Return the methods a user may have called to get a node, the likeliest first."""
    return _METHODS.get(kind, (spelling(kind),))


def operations(frame: pl.LazyFrame) -> list[Operation]:
    """Return a plan from its source to its last operation.

    The walk ends at a node without a single input, so the first is a scan, a join, a union, …
    Raises DefinitionError where the plan can't be stored or read.
    """
    root, plans = _decoded(frame)
    found: list[Operation] = []
    node = root
    while node is not None:
        if len(found) == OPERATIONS_MAX:
            raise DefinitionError(f"it has more than {OPERATIONS_MAX} operations; write fewer")
        kind, body = _operation(_resolved(node, plans))
        if kind == "IR":  # a plan whose schema was asked for keeps both of its forms
            node = body["dsl"]
            continue
        found.append(Operation(kind, body))
        node = body.get("input")
    return found[::-1]


def _decoded(frame: pl.LazyFrame) -> tuple[Raw, Raw]:
    """Return the root node and, where nodes refer to each other by index, the list of all."""
    try:
        content = frame.serialize()
    except (pl.exceptions.PolarsError, TypeError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise DefinitionError(
            f"the plan can't be stored ({reason}): Python functions such as map_batches and "
            "map_elements don't reach the workers; write Polars expressions"
        ) from error
    for header in _HEADER_BYTES:
        try:
            tree = msgspec.msgpack.decode(content[header:])
        except msgspec.DecodeError:
            continue
        if isinstance(tree, Mapping) and content.startswith(_MAGIC):
            plans = tree.get("dsl_plans")
            return (tree["root"], plans) if plans is not None else (tree, None)
    raise DefinitionError(_UNKNOWN)


def _resolved(node: Raw, plans: Raw) -> Raw:
    if isinstance(node, Mapping) and set(node) == {"idx", "version"}:
        return plans[node["idx"]]["value"]
    return node


def _named(node: Raw) -> Mapping[str, Any]:
    return node if isinstance(node, Mapping) else {node: {}}


def _operation(node: Raw) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(node, Mapping) or len(node) != 1:
        raise DefinitionError(_UNKNOWN)
    ((kind, body),) = node.items()
    if kind == "MapFunction":
        function = body["function"]
        ((name, fields),) = _named(function).items()
        return name, {"input": body["input"], "fields": fields}
    return kind, body
