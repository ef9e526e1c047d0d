"""Formats: how the values of a stream's records carry its columns."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias
from urllib.parse import urlsplit

from headwater.errors import DefinitionError, did_you_mean

if TYPE_CHECKING:
    import os
    from collections.abc import Container, Sequence

    import polars as pl

__all__ = ["Avro", "Format", "Json", "avro", "format_of"]

_AVRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Json:
    """One JSON object per record."""

    name: ClassVar[str] = "json"

    def check(self, schema: Mapping[str, pl.DataType], where: str) -> None:
        """Accept any columns."""

    def options(self) -> dict[str, Any]:
        """Return what the codec is told: nothing."""
        return {}

    def canonical(self, columns: Container[str]) -> str:  # noqa: ARG002 - of any columns
        """Return what of the format decides about these columns, as canonical text."""
        return self.name

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Avro:
    """One Avro record per record; see `avro`.

    `schema` is the writer's schema as canonical JSON, empty where a registry has it; `registry` is
    a URL, empty for the deployment's own. `aliases` are pairs of a column and its former names.
    """

    schema: str
    registry: str
    framing: str
    aliases: tuple[tuple[str, tuple[str, ...]], ...]
    name: ClassVar[str] = "avro"

    def check(self, schema: Mapping[str, pl.DataType], where: str) -> None:
        """Raise DefinitionError for a column that no record can have."""
        aliases = dict(self.aliases)
        for column in aliases:
            if column not in schema:
                msg = f'{where}, aliases: no column "{column}".{did_you_mean(column, schema)}'
                raise DefinitionError(msg)
        fields = _field_names(self.schema) if self.schema else None
        for column in schema:
            names = (column, *aliases.get(column, ()))
            if fields is not None and not fields.intersection(names):
                msg = (
                    f'{where}: the Avro schema has no field "{column}".'
                    f"{did_you_mean(column, fields)} Leave the column out, or give the field's name"
                    " in aliases="
                )
                raise DefinitionError(msg)
            if not any(_AVRO_NAME.fullmatch(name) for name in names):
                msg = (
                    f'{where}: no field of Avro can be called "{column}"; rename the column and'
                    " give the field's name in aliases="
                )
                raise DefinitionError(msg)

    def options(self) -> dict[str, Any]:
        """Return what the codec is told, as plain data."""
        return {
            "schema": self.schema,
            "registry": self.registry,
            "framing": self.framing,
            "aliases": {column: list(names) for column, names in self.aliases},
        }

    def canonical(self, columns: Container[str]) -> str:
        """Return what of the format decides about these columns: not where schemas are found."""
        parts = [self.name]
        if self.schema:
            parts.append(f"({self.framing} {json.dumps(self.schema)})")
        parts += [
            f"(alias {' '.join(json.dumps(name) for name in (column, *names))})"
            for column, names in self.aliases
            if column in columns
        ]
        return f"({' '.join(parts)})" if len(parts) > 1 else parts[0]

    def __str__(self) -> str:
        if self.schema:
            framed = "framed" if self.framing == "confluent" else "bare"
            return f"avro ({framed}, one schema)"
        return f"avro (schemas from {self.registry or 'the schema registry'})"


Format: TypeAlias = Json | Avro

_BY_NAME: dict[str, Format] = {
    "avro": Avro("", "", "confluent", ()),
    "json": Json(),
}


def avro(
    *,
    schema: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    registry: str | None = None,
    framing: Literal["bare", "confluent"] | None = None,
    aliases: Mapping[str, str | Sequence[str]] | None = None,
) -> Avro:
    """Return the Avro format, whose records name their writer's schema or all follow one.

    Without `schema`, records have Confluent's framing (a zero byte and a schema id in front), and
    schemas come from the registry at a URL, by default HEADWATER_SCHEMA_REGISTRY__URL. With
    `schema`, a file (.avsc, read here and now) or the schema itself, no registry is asked: every
    record follows it, alone in the value (`framing="bare"`, the default) or behind a frame whose id
    is passed over (`framing="confluent"`). `aliases` gives a column's former or other field names.
    Raises DefinitionError for a schema that can't be read and a URL that can't be a registry's.
    """
    if schema is not None and registry is not None:
        msg = (
            "hw.avro: schema= says what all records follow, registry= where each one's schema is;"
            " give one of them"
        )
        raise DefinitionError(msg)
    if framing not in (None, "bare", "confluent"):
        msg = f'hw.avro: framing {framing!r} is neither "bare" nor "confluent"'
        raise DefinitionError(msg)
    if schema is None and framing == "bare":
        msg = "hw.avro: a bare record doesn't name its schema; give it with schema="
        raise DefinitionError(msg)
    return Avro(
        schema="" if schema is None else _schema_text(schema),
        registry="" if registry is None else _checked_url(registry),
        framing=framing or ("confluent" if schema is None else "bare"),
        aliases=_aliases(aliases or {}),
    )


def format_of(found: str | Format, where: str) -> Format:
    """Return the format of a name, or the format itself."""
    if isinstance(found, Json | Avro):
        return found
    if found not in _BY_NAME:
        msg = (
            f'{where}: format "{found}" is not one of {", ".join(sorted(_BY_NAME))}.'
            f"{did_you_mean(str(found), _BY_NAME)}"
        )
        raise DefinitionError(msg)
    return _BY_NAME[found]


def _aliases(
    aliases: Mapping[str, str | Sequence[str]],
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple(
        (column, (names,) if isinstance(names, str) else tuple(names))
        for column, names in sorted(aliases.items())
    )


def _schema_text(schema: str | os.PathLike[str] | Mapping[str, Any]) -> str:
    """Return a schema as canonical JSON: a plan holds it, workers need no file."""
    if isinstance(schema, Mapping):
        where, found = "hw.avro, schema=", schema
    else:
        path = Path(schema)
        where = f"hw.avro, schema {path}"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            msg = f"{where}: {error.strerror or error} (looked for {path.absolute()})"
            raise DefinitionError(msg) from error
        except (ValueError, RecursionError) as error:
            msg = f"{where}: not JSON ({error}); an .avsc file holds one schema"
            raise DefinitionError(msg) from error
    if not isinstance(found, Mapping) or found.get("type") != "record" or not _is_fields(found):
        msg = f'{where}: the schema is no record; it begins with {{"type": "record", "fields": ...'
        raise DefinitionError(msg)
    try:
        return json.dumps(_without_docs(found), sort_keys=True, separators=(",", ":"))
    except (TypeError, RecursionError) as error:
        msg = f"{where}: not plain data ({error})"
        raise DefinitionError(msg) from error


def _is_fields(schema: Mapping[str, Any]) -> bool:
    fields = schema.get("fields")
    return isinstance(fields, list) and all(
        isinstance(one, Mapping) and isinstance(one.get("name"), str) for one in fields
    )


def _without_docs(node: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(node, Mapping):
        return {key: _without_docs(value) for key, value in node.items() if key != "doc"}
    if isinstance(node, list | tuple):
        return [_without_docs(one) for one in node]
    return node


def _field_names(schema: str) -> set[str]:
    return {one["name"] for one in json.loads(schema)["fields"]}


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        usable = False
    # The URL is not repeated: it may hold the password that the second message is about.
    if not usable or parts.query or parts.fragment:
        msg = "hw.avro, registry=: not a URL; write http://host:8081 or https://host"
        raise DefinitionError(msg)
    if parts.username or parts.password:
        msg = (
            "hw.avro, registry=: a definition holds no password; leave it out of the URL and set"
            " HEADWATER_SCHEMA_REGISTRY__BASIC_AUTH"
        )
        raise DefinitionError(msg)
    return url.rstrip("/")
