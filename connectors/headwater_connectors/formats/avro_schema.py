"""Writers' schemas, rebuilt so that no bytes can make the decoder run away.

fastavro takes a record at its word: it recurses in C until the process ends, makes as many values
of no bytes as a count says, and takes index -1 of a union for its last branch. So its reader is
handed a schema of the same meaning in which each of these is a dead end:

- Names are replaced by what they stand for, `DEPTH_MAX` levels deep; deeper there is a dead end.
- Unions and symbols are dictionaries by index: what isn't there isn't found.
- What repeats, or sits in a union, has at most `VALUES_PER_BYTE_MAX` values for each byte it takes;
  anything else is a dead end. So the values of a record are bounded by its bytes.

A dead end is a type name that fastavro can't find. Logical types are left to us: as numbers they
stay in columns, and can't overflow Python's dates.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastavro.schema import SchemaParseException, UnknownType, parse_schema

from headwater_connectors.formats.schema_registry import UnusableSchemaError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headwater_connectors.formats.decoded import Reason
    from headwater_connectors.formats.schema_registry import SchemaTexts

__all__ = ["Guard", "WriterSchema", "dead_end", "dead_end_of", "read_writer_schema", "type_text"]

# A level is a record, a union, an array or a map. fastavro needs about 1 KB of C stack for each.
DEPTH_MAX: Final = 48
NODES_MAX: Final = 50_000
VALUES_MAX: Final = 10_000
VALUES_PER_BYTE_MAX: Final = 8
JSON_DEPTH_MAX: Final = 200

# The fewest bytes that a value of each type takes.
PRIMITIVES: Final[Mapping[str, int]] = {
    "null": 0,
    "boolean": 1,
    "int": 1,
    "long": 1,
    "float": 4,
    "double": 8,
    "bytes": 1,
    "string": 1,
}
COMPLEX: Final = frozenset({"array", "enum", "error", "fixed", "map", "record"})
# Defaults and aliases belong to a reader's schema; a writer's may hold wrong ones and still mean
# the same bytes.
NOT_ABOUT_BYTES: Final = frozenset({"aliases", "default", "doc", "order"})

DEAD_END: Final = "\0"


class WriterSchema(NamedTuple):
    """A record's fields, parsed, and what the names in them stand for."""

    fields: list[dict[str, Any]]
    named: Mapping[str, Any]


class Part(NamedTuple):
    """A rebuilt schema: the values read for it at least, and the bytes they take at least."""

    schema: Any
    values: int
    bytes_min: int


def dead_end(reason: Reason, message: str) -> Part:
    """Return a schema that can't be read, and says why."""
    return Part(f"{DEAD_END}{reason}{DEAD_END}{message}", 1, 0)


def dead_end_of(error: KeyError) -> tuple[str, str] | None:
    """Return the reason and message of the dead end that fastavro ran into, if it was one."""
    name = error.args[0] if error.args else None
    if not isinstance(name, str) or not name.startswith(DEAD_END):
        return None
    _, reason, message = name.split(DEAD_END, 2)
    return reason, message


def read_writer_schema(texts: SchemaTexts) -> WriterSchema:
    """Parse a record's schema; UnusableSchemaError for anything that is none."""
    named: dict[str, Any] = {}
    parsed: Any = None
    for text in texts:
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UnusableSchemaError(f"it is not JSON ({error})") from None
        plain = _plain(raw, 0)
        try:
            parsed = parse_schema(plain, named, _write_hint=False)
        except UnknownType as error:
            raise UnusableSchemaError(f'it names the unknown type "{error.name}"') from None
        except (SchemaParseException, LookupError, TypeError, ValueError, AttributeError) as error:
            raise UnusableSchemaError(f"it is no Avro schema ({error})") from None
    parsed = named.get(parsed, parsed) if isinstance(parsed, str) else parsed
    if not isinstance(parsed, dict) or parsed.get("type") not in {"record", "error"}:
        raise UnusableSchemaError(f"it is {type_text(parsed)}; what a stream reads is a record")
    return WriterSchema(parsed["fields"], named)


def _plain(node: Any, depth: int) -> Any:  # noqa: ANN401 - any JSON
    """Return a schema's JSON without what says nothing about bytes."""
    if depth > JSON_DEPTH_MAX:
        raise UnusableSchemaError(f"it nests deeper than {JSON_DEPTH_MAX} levels")
    if isinstance(node, list):
        return [_plain(one, depth + 1) for one in node]
    if not isinstance(node, dict):
        return node
    kind = node.get("type")
    # Java takes {"type": {"type": "long", ...}} and {"type": "a.Name"} for what is inside.
    is_field = "name" in node and not (isinstance(kind, str) and kind in COMPLEX)
    if not is_field and (
        isinstance(kind, dict | list)
        or (isinstance(kind, str) and kind not in COMPLEX and kind not in PRIMITIVES)
    ):
        return _plain(kind, depth + 1)
    return {
        key: _plain(value, depth + 1) for key, value in node.items() if key not in NOT_ABOUT_BYTES
    }


def type_text(node: Any) -> str:  # noqa: ANN401 - any parsed schema
    """Return a type as a message names it."""
    if isinstance(node, list):
        return "a union"
    if not isinstance(node, dict):
        return str(node)
    kind = str(node.get("type"))
    logical = node.get("logicalType")
    return f"{kind} ({logical})" if isinstance(logical, str) else kind


class Guard:
    """Rebuilds the parts of one writer's schema."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._known: dict[tuple[str, int], Part] = {}
        self._nodes = 0

    def resolved(self, node: Any) -> Any:  # noqa: ANN401 - any parsed schema
        """Return what a name stands for, and anything else as it is."""
        return self._named.get(node, node) if isinstance(node, str) else node

    def record(self, fields: list[tuple[str, Part]]) -> dict[str, Any]:
        """Return the schema of a whole record for fastavro's reader."""
        values = sum(part.values for _, part in fields)
        if values > VALUES_MAX:
            raise UnusableSchemaError(f"a record of it has more than {VALUES_MAX} values")
        return {
            "type": "record",
            "name": "record",
            "fields": [{"name": name, "type": part.schema} for name, part in fields],
            # What parse_schema leaves on its results, so that the reader takes this as it is.
            "__fastavro_parsed": True,
            "__named_schemas": {},
        }

    def union(self, parts: list[Part]) -> Part:
        """Return the union of some parts."""
        branches = {index: self._bounded(part, 1).schema for index, part in enumerate(parts)}
        return Part({"type": "union", **branches}, 1, 1)

    def part(self, node: Any, depth: int = 1) -> Part:  # noqa: ANN401 - any parsed schema
        """Return a part of the writer's schema, rebuilt."""
        if depth > DEPTH_MAX:
            return dead_end("not_avro", f"the record nests deeper than {DEPTH_MAX} levels")
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise UnusableSchemaError(f"it has more than {NODES_MAX} parts")
        if isinstance(node, list):
            return self.union([self.part(branch, depth + 1) for branch in node])
        kind = node["type"] if isinstance(node, dict) else node
        if kind in PRIMITIVES:
            return Part(kind, 1, PRIMITIVES[kind])
        if isinstance(node, dict):
            return self._complex(kind, node, depth)
        # Shared by all who name it at this depth: the parts of a tree don't double level by level.
        key = (node, depth)
        if key not in self._known:
            self._known[key] = self.part(self._named[node], depth)
        return self._known[key]

    def _complex(self, kind: str, node: dict[str, Any], depth: int) -> Part:
        match kind:
            case "array":
                items = self._bounded(self.part(node["items"], depth + 1), 0)
                return Part({"type": "array", "items": items.schema}, 1, 1)
            case "map":
                # A key takes a byte at least.
                values = self._bounded(self.part(node["values"], depth + 1), 1)
                return Part({"type": "map", "values": values.schema}, 1, 1)
            case "enum":
                symbols = dict(enumerate(node["symbols"]))
                return Part({"type": "enum", "name": node["name"], "symbols": symbols}, 1, 1)
            case "fixed":
                size = node["size"]
                if not isinstance(size, int) or size < 0:
                    raise UnusableSchemaError(f"a fixed type has size {size!r}")
                return Part({"type": "fixed", "name": node["name"], "size": size}, 1, size)
            case _:
                return self._record(node, depth)

    def _record(self, node: dict[str, Any], depth: int) -> Part:
        parts = [(one["name"], self.part(one["type"], depth + 1)) for one in node["fields"]]
        fields = [{"name": name, "type": part.schema} for name, part in parts]
        return Part(
            {"type": "record", "name": node["name"], "fields": fields},
            1 + sum(part.values for _, part in parts),
            sum(part.bytes_min for _, part in parts),
        )

    def _bounded(self, part: Part, more_bytes: int) -> Part:
        is_dead_end = isinstance(part.schema, str) and part.schema.startswith(DEAD_END)
        if is_dead_end or part.values <= VALUES_PER_BYTE_MAX * (part.bytes_min + more_bytes):
            return part
        return dead_end("not_avro", "the record repeats values that take next to no bytes")
