"""The registry's tables, in any database; their names begin with `headwater_`."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

__all__ = [
    "SCHEMA_VERSION", "changes", "entities", "metadata", "namespaces", "plans", "schema",
    "services", "streams", "views",
]  # fmt: skip

SCHEMA_VERSION = 1

metadata = MetaData()


def _table(name: str, *columns: Column[object]) -> Table:
    return Table(f"headwater_{name}", metadata, *columns)


def _key(name: str, kind: type[String | Integer] = String) -> Column[object]:
    return Column(name, kind() if kind is Integer else String(255), primary_key=True)


def _text(name: str) -> Column[object]:
    return Column(name, Text, nullable=False)


def _us(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, BigInteger, nullable=nullable)


schema = _table("schema", Column("version", Integer, primary_key=True, autoincrement=False))

# `revision` counts what was written here; `number` is that of the plans topic it corresponds to,
# and `pending` says that it is written here and perhaps not there.
namespaces = _table(
    "namespaces",
    _key("namespace"),
    Column("revision", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("pending", Boolean, nullable=False),
)

# Everything that was ever applied, so that any of it can be applied again.
plans = _table(
    "plans",
    _key("namespace"),
    _key("revision", Integer),
    Column("document", LargeBinary, nullable=False),
    _us("at_us"),
    _text("author"),
)

views = _table(
    "views",
    _key("namespace"),
    _key("name"),
    _key("version", Integer),
    Column("fingerprint", String(64), nullable=False),
    _text("engine"),
    _text("stream"),
    _text("entity"),
    _text("owner"),
    _text("description"),
    Column("tags", JSON, nullable=False),
    Column("features", JSON, nullable=False),
    _text("logic"),
    _us("added_us"),
    _text("added_by"),
    _us("removed_us", nullable=True),
    Column("removed_by", Text),
)

# A row for each time a service was changed; the last one counts.
services = _table(
    "services",
    _key("namespace"),
    _key("name"),
    _key("number", Integer),
    Column("revision", String(64), nullable=False),
    Column("applied_in", Integer, nullable=False),  # the revision of the plan that has it
    Column("views", JSON, nullable=False),
    Column("features", JSON, nullable=False),
    _text("owner"),
    _text("description"),
    _text("logic"),
    _us("added_us"),
    _text("added_by"),
    _us("removed_us", nullable=True),
    Column("removed_by", Text),
)

streams = _table("streams", _key("namespace"), _key("name"), _text("logic"), _text("start"))

entities = _table(
    "entities",
    _key("namespace"),
    _key("name"),
    Column("keys", JSON, nullable=False),
    _text("description"),
)

changes = _table(
    "changes",
    _key("namespace"),
    _key("revision", Integer),
    _key("position", Integer),
    _us("at_us"),
    _text("author"),
    _text("kind"),
    _text("name"),
    _text("action"),
    _text("detail"),
)
