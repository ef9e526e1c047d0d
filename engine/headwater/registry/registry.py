"""The registry: what was applied to each namespace, in a SQL database."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from sqlalchemy import Table, and_, insert, select, update

from headwater.registry import tables
from headwater.registry.database import Database
from headwater.registry.errors import ConflictError
from headwater.registry.records import (
    ChangeRecord,
    EntityRecord,
    Registered,
    ServiceRecord,
    StreamRecord,
    ViewRecord,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Connection

    from headwater.registry.changes import Change

__all__ = ["Registry"]

_Record: TypeAlias = ViewRecord | ServiceRecord | StreamRecord | EntityRecord
_R = TypeVar("_R")

_SILENT = frozenset(("unchanged", "kept"))


class Registry:
    """Versions of definitions, their owners and their history; safe for several at once.

    Every namespace has a revision: who writes names the one that was read, and of two that write
    at once one gets a ConflictError.
    """

    def __init__(self, url: str, *, wait_s: int = 5) -> None:
        """Use the database at a URL, waiting so long for its lock. Nothing is opened yet."""
        self._database = Database(url, wait_s=wait_s)

    @property
    def name(self) -> str:
        """Its URL, without the password."""
        return self._database.name

    @property
    def is_there(self) -> bool:
        """Whether there is a database, or should be one."""
        return self._database.is_there

    def read(self, namespace: str) -> Registered:
        """Return what is registered; nothing for a namespace where nothing was applied."""
        with self._database.reading() as connection:
            if connection is None:
                return Registered(namespace=namespace)
            return _read(connection, namespace)

    def history(self, namespace: str) -> list[ChangeRecord]:
        """Return the change log, oldest first."""
        with self._database.reading() as connection:
            if connection is None:
                return []
            return _records(connection, tables.changes, namespace, ChangeRecord)

    def services(self, namespace: str, name: str) -> list[ServiceRecord]:
        """Return a service as it was after each change of it, oldest first."""
        with self._database.reading() as connection:
            if connection is None:
                return []
            found = _records(connection, tables.services, namespace, ServiceRecord)
        return [one for one in found if one.name == name]

    def document(self, namespace: str, revision: int) -> bytes | None:
        """Return what was applied in a revision, so that any of it can be applied again."""
        with self._database.reading() as connection:
            return None if connection is None else _document(connection, namespace, revision)

    def write(
        self,
        known: Registered,
        wanted: Registered,
        changes: Sequence[Change],
        *,
        author: str,
        at_us: int,
    ) -> None:
        """Put what is wanted in the place of what was read.

        Raises ConflictError if somebody else has written since.
        """
        assert wanted.revision == known.revision + 1
        assert wanted.document is not None
        namespace = known.namespace
        stamp = {"namespace": namespace, "revision": wanted.revision}
        by = {"at_us": at_us, "author": author}
        told = (one for one in changes if one.action not in _SILENT)
        with self._database.writing() as connection:
            self._advance(connection, known, wanted)
            connection.execute(insert(tables.plans).values(document=wanted.document, **stamp, **by))
            for position, one in enumerate(told):
                detail = "\n".join([one.sentence, *one.details])
                what = {"kind": one.kind, "name": one.name, "action": one.action}
                connection.execute(
                    insert(tables.changes).values(
                        position=position, detail=detail, **what, **stamp, **by
                    )
                )
            for table, before, after in (
                (tables.views, known.views, wanted.views),
                (tables.services, known.services, wanted.services),
                (tables.streams, known.streams, wanted.streams),
                (tables.entities, known.entities, wanted.entities),
            ):
                _put(connection, table, namespace, before, after)

    def confirm(self, namespace: str, revision: int, number: int) -> None:
        """Note that a revision is in the plans topic; nothing happens if a newer one is here."""
        table = tables.namespaces
        with self._database.writing() as connection:
            connection.execute(
                update(table)
                .where(table.c.namespace == namespace, table.c.revision == revision)
                .values(number=number, pending=False)
            )

    def _advance(self, connection: Connection, known: Registered, wanted: Registered) -> None:
        table = tables.namespaces
        here = table.c.namespace == known.namespace
        if (connection.scalar(select(table.c.revision).where(here)) or 0) != known.revision:
            msg = (
                f'somebody else applied to namespace "{known.namespace}" at the same time (registry'
                f" {self.name}); run it again: it shows what is left to change"
            )
            raise ConflictError(msg)
        values = {
            "revision": wanted.revision,
            "number": wanted.number,
            "pending": wanted.pending,
        }
        if known.revision == 0:
            connection.execute(insert(table).values(namespace=known.namespace, **values))
        else:
            connection.execute(update(table).where(here).values(**values))


def _put(
    connection: Connection,
    table: Table,
    namespace: str,
    before: Mapping[str, _Record],
    after: Mapping[str, _Record],
) -> None:
    """Write the records that differ; one with a key of its own is a new row."""
    keys = [column.name for column in table.primary_key if column.name != "namespace"]
    for name, record in after.items():
        known = before.get(name)
        if known == record:
            continue
        values = asdict(record)
        where = [table.c[key] == values[key] for key in keys]
        if known is None or any(getattr(known, key) != values[key] for key in keys):
            connection.execute(insert(table).values(namespace=namespace, **values))
        else:
            here = and_(table.c.namespace == namespace, *where)
            connection.execute(update(table).where(here).values(**values))


def _read(connection: Connection, namespace: str) -> Registered:
    head = next(iter(_rows(connection, tables.namespaces, namespace)), None)
    if head is None:
        return Registered(namespace=namespace)
    views = _records(connection, tables.views, namespace, ViewRecord)
    services = _records(connection, tables.services, namespace, ServiceRecord)
    streams = _records(connection, tables.streams, namespace, StreamRecord)
    entities = _records(connection, tables.entities, namespace, EntityRecord)
    return Registered(
        **head,
        document=_document(connection, namespace, head["revision"]),
        views={one.id: one for one in views},
        # In the order of their numbers: the last row of a service is the one that counts.
        services={one.name: one for one in services},
        streams={one.name: one for one in streams},
        entities={one.name: one for one in entities},
    )


def _document(connection: Connection, namespace: str, revision: int) -> bytes | None:
    table = tables.plans
    where = and_(table.c.namespace == namespace, table.c.revision == revision)
    found = connection.scalar(select(table.c.document).where(where))
    return None if found is None else bytes(found)


def _rows(connection: Connection, table: Table, namespace: str) -> list[dict[str, Any]]:
    """Return a namespace's rows by their keys; lists come back as the tuples they were."""
    found = connection.execute(
        select(table).where(table.c.namespace == namespace).order_by(*table.primary_key)
    )
    return [
        {name: tuple(v) if isinstance(v, list) else v for name, v in row._asdict().items()}
        for row in found
    ]


def _records(
    connection: Connection, table: Table, namespace: str, record: Callable[..., _R]
) -> list[_R]:
    made = []
    for row in _rows(connection, table, namespace):
        del row["namespace"]
        made.append(record(**row))
    return made
