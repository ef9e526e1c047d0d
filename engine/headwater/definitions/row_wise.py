"""The Polars operations a row can go through alone, and the words for those it can't.

Polars names its nodes in its own way and renames them between versions. These tables give each
allowed one a name of ours, which is what a fingerprint is made of: never rename on the right.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "FAMILIES",
    "FUNCTIONS",
    "LITERAL_ARGUMENTS",
    "OPERATORS",
    "function_reason",
    "node_reason",
    "spelling",
]

OPERATORS: Mapping[str, str] = {
    "Eq": "eq",
    "NotEq": "ne",
    "EqValidity": "eq_missing",
    "NotEqValidity": "ne_missing",
    "Lt": "lt",
    "LtEq": "le",
    "Gt": "gt",
    "GtEq": "ge",
    "Plus": "add",
    "Minus": "sub",
    "Multiply": "mul",
    "TrueDivide": "truediv",
    "FloorDivide": "floordiv",
    "Modulus": "mod",
    "And": "and",
    "Or": "or",
    "Xor": "xor",
    "LogicalAnd": "and",
    "LogicalOr": "or",
}

# How Polars groups functions, and the name space users know them by.
FAMILIES: Mapping[str, str] = {
    "StringExpr": "str.",
    "TemporalExpr": "dt.",
    "ListExpr": "list.",
    "StructExpr": "struct.",
    "BinaryExpr": "bin.",
    "Bitwise": "bitwise_",
    "Boolean": "",
    "Pow": "",
    "Trigonometry": "",
    "RollingExpr": "rolling_",
    "RollingExprBy": "rolling_by_",
    "Range": "range.",
    "Business": "business.",
    "ArrayExpr": "arr.",
    "CategoricalExpr": "cat.",
}

_PLAIN = """
    Abs Atan2 Ceil Clip Coalesce Exp FillNull Floor Log Log1p MaxHorizontal MeanHorizontal
    MinHorizontal Negate Replace ReplaceStrict Round RoundSF Sign SumHorizontal Truncate
    Boolean.AllHorizontal Boolean.AnyHorizontal Boolean.IsBetween Boolean.IsClose Boolean.IsFinite
    Boolean.IsIn Boolean.IsInfinite Boolean.IsNan Boolean.IsNotNan Boolean.IsNotNull Boolean.IsNull
    Boolean.Not Pow.Cbrt Pow.Generic Pow.Sqrt
    Bitwise.CountOnes Bitwise.CountZeros Bitwise.LeadingOnes Bitwise.LeadingZeros
    Bitwise.TrailingOnes Bitwise.TrailingZeros
    Trigonometry.ArcCos Trigonometry.ArcCosh Trigonometry.ArcSin Trigonometry.ArcSinh
    Trigonometry.ArcTan Trigonometry.ArcTanh Trigonometry.Cos Trigonometry.Cosh Trigonometry.Cot
    Trigonometry.Degrees Trigonometry.Radians Trigonometry.Sin Trigonometry.Sinh Trigonometry.Tan
    Trigonometry.Tanh
"""
_STRINGS = """
    Base64Decode Base64Encode ConcatHorizontal Contains ContainsAny CountMatches EndsWith
    EscapeRegex Extract ExtractAll ExtractGroups ExtractMany Find FindMany Format Head HexDecode
    HexEncode JsonPathMatch LenBytes LenChars Lowercase Normalize PadEnd PadStart Replace
    ReplaceMany Reverse Slice Split SplitExact SplitN StartsWith StripChars StripCharsEnd
    StripCharsStart StripPrefix StripSuffix Strptime Tail Titlecase ToInteger Uppercase ZFill
"""
_TIMES = """
    BaseUtcOffset CastTimeUnit Century Combine ConvertTimeZone DSTOffset Date DatetimeFunction Day
    DaysInMonth Duration Hour IsLeapYear IsoYear Microsecond Millennium Millisecond Minute Month
    MonthEnd MonthStart Nanosecond OffsetBy OrdinalDay Quarter Replace ReplaceTimeZone Round
    Second Time TimeStamp ToString TotalDays TotalHours TotalMicroseconds TotalMilliseconds
    TotalMinutes TotalNanoseconds TotalSeconds Truncate Week WeekDay Year
"""
_LISTS = "Contains CountMatches Get Join Length Max Min Slice"
_BYTES = "Contains EndsWith Size StartsWith"


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


_SPELLINGS: Mapping[str, str] = {
    "FillNullWithStrategy": "fill_null(strategy=…)",
    "RLEID": "rle_id",
    "StringExpr.ConcatVertical": "str.join",
    "StringExpr.Strptime": "str.strptime",
}


def spelling(path: str) -> str:
    """Return a Polars path such as `StringExpr.LenChars` the way users write it."""
    if path in _SPELLINGS:
        return _SPELLINGS[path]
    family, _, name = path.rpartition(".")
    return FAMILIES.get(family, f"{_snake(family)}." if family else "") + _snake(name)


_OWN_NAMES: Mapping[str, str] = {
    "AsStruct": "struct",
    "Pow.Generic": "pow",
    "StructExpr.FieldByName": "struct.field",
}

FUNCTIONS: Mapping[str, str] = {
    path: _OWN_NAMES.get(path, spelling(path))
    for path in (
        *_PLAIN.split(),
        *(f"StringExpr.{name}" for name in _STRINGS.split()),
        *(f"TemporalExpr.{name}" for name in _TIMES.split()),
        *(f"ListExpr.{name}" for name in _LISTS.split()),
        *(f"BinaryExpr.{name}" for name in _BYTES.split()),
        "AsStruct",
        "StructExpr.FieldByName",
    )
}

# Arguments, by position, that Polars would take from the whole column if they were columns.
LITERAL_ARGUMENTS: Mapping[str, tuple[int, ...]] = {
    "Replace": (1, 2),
    "ReplaceStrict": (1, 2),
    "StringExpr.ContainsAny": (1,),
    "StringExpr.ExtractMany": (1,),
    "StringExpr.FindMany": (1,),
    "StringExpr.ReplaceMany": (1, 2),
}

_FEATURE = "compute it as a feature with .agg(...)"
_RANDOM = "gives other values each time; push the random column with the events"
_AROUND = f"looks at the rows around it; {_FEATURE}"
_REASONS: Mapping[str, str] = {
    "Categorical": "depends on the categories seen so far; keep the string",
    "FillNullWithStrategy": "copies from other rows; give fill_null a value",
    "Hash": "changes between Polars versions; keep the column itself",
    "Random": _RANDOM,
    "ListExpr.Sample": _RANDOM,
    "SetSortedFlag": "promises something about all rows; leave it out",
    "StringExpr.ConcatVertical": f"joins all rows; use pl.concat_str for columns or {_FEATURE}",
    "StringExpr.JsonDecode": "parses all rows as one text; use str.json_path_match",
    "Cut": "makes a categorical; use pl.when(...).then(...)",
    "RepeatBy": "has no bound on its size; leave it out",
}
_PYTHON = "runs Python, which workers don't have; write it with Polars expressions"
_SELECTOR = "may stand for several columns; name one column with pl.col"
_NODES: Mapping[str, tuple[str, str]] = {
    "Agg": ("an aggregation", f"needs all rows; {_FEATURE}"),
    "AnonymousAgg": ("an aggregation", f"needs all rows; {_FEATURE}"),
    "AnonymousFunction": ("map_elements, map_batches or a plugin", _PYTHON),
    "Columns": ("pl.col of several names", _SELECTOR),
    "DtypeColumn": ("pl.col of a type", _SELECTOR),
    "Element": ("pl.element()", "means nothing outside a list; use list.get or list.contains"),
    "Eval": ("list.eval", "runs a column's logic inside a list; use list.get or list.contains"),
    "Exclude": ("pl.exclude", _SELECTOR),
    "Explode": (".explode()", "makes several rows of one; push one event per row"),
    "Filter": (".filter()", "drops values; use pl.when(...).then(...), or filter the stream"),
    "Gather": (".gather() or .get()", _AROUND),
    "IndexColumn": ("pl.nth", _SELECTOR),
    "KeepName": (".name.keep()", 'names a column; use .alias("name") at the end'),
    "Len": ("pl.len()", f"counts the rows of a batch; {_FEATURE}"),
    "Over": (".over(...)", f"needs all rows of a group; {_FEATURE}"),
    "RenameAlias": (".name.…", 'names a column; use .alias("name") at the end'),
    "Rolling": (".rolling(...)", f"needs the rows around it; {_FEATURE}"),
    "Selector": ("a column selector", _SELECTOR),
    "Slice": (".slice(), .head() or .tail()", _AROUND),
    "Sort": (".sort()", "needs all rows; leave it out: order never matters to a feature"),
    "SortBy": (".sort_by()", "needs all rows; leave it out: order never matters to a feature"),
    "StructEval": (".struct.with_fields()", "isn't supported; build it with pl.struct"),
    "Window": (".over(...)", f"needs all rows of a group; {_FEATURE}"),
    "Wildcard": ("pl.all()", _SELECTOR),
}
_LOOKS_AROUND = re.compile(
    r"(Cum|Ewm|Rolling|Shift|Diff|PctChange|Rank|Reverse|Interpolate|RLE|Arg|Unique|Value|Top|"
    r"Bottom|Gather|Hist|Peak|QCut|Mode|Drop|Reshape|Repeat|Extend|Index|Search|Skew|Kurtosis|"
    r"Boolean\.(Any|All|Is(Unique|Duplicated|First|Last|Sorted))|Backward|Forward|Null|Range|"
    r"Approx|Count|Entropy|Linear|Upper|Lower|Mean|Std|Var|Correlation|Cov|Bitwise\.(And|Or|Xor))"
)


def function_reason(path: str) -> str:
    """Return why a function that isn't in FUNCTIONS is refused, and the way out."""
    if path in _REASONS:
        return _REASONS[path]
    if _LOOKS_AROUND.match(path):
        return f"needs other rows; {_FEATURE}"
    return "isn't known to work row by row; write it with functions that do"


def node_reason(kind: str, detail: str = "") -> tuple[str, str]:
    """Return how users write a refused node, and why it is refused with the way out."""
    construct, reason = _NODES.get(kind, (kind, function_reason(kind)))
    if kind == "Agg" and detail:
        construct = f".{_snake(detail)}()"
    return construct, reason
