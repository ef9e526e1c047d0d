"""The database behind a registry: how it is reached, its schema, and its failures in one line."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Engine, create_engine, event, insert, inspect, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from headwater.errors import ConfigError, StateError
from headwater.registry import tables
from headwater.registry.errors import ConflictError, RegistryUnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

__all__ = ["Database"]

_WAIT_S = 5
# Drivers we install: "postgresql://" alone would ask for one that we don't.
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
_EXTRAS = {"postgresql": "headwater[postgres]"}
# PostgreSQL's codes: a transaction that met another one, a table or row made by both.
_MET = {"40001", "40P01", "23505", "42P07", "42710"}


class Database:
    """Transactions on a registry's database; each sees one state of it, and writers take turns."""

    def __init__(self, url: str, *, wait_s: int = _WAIT_S) -> None:
        """Take note of the URL; ConfigError if it can't be one. Nothing is opened yet."""
        self._url = _parsed(url)
        self.name = self._url.render_as_string(hide_password=True)
        self._is_file = self._url.get_backend_name() == "sqlite"
        self._engine = _engine(self._url, self.name, wait_s)

    @property
    def is_there(self) -> bool:
        """Whether there is something to open; a server is assumed to be there."""
        path = self._url.database
        return not self._is_file or (path is not None and Path(path).is_file())

    @contextmanager
    def reading(self) -> Iterator[Connection | None]:
        """Open a transaction that reads; None where nothing was ever written."""
        if not self.is_there:
            yield None
            return
        with self._transaction("") as connection:
            yield connection if self._has_schema(connection) else None

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction that writes, the tables made if there are none.

        Raises ConflictError where another one wrote the same things at the same time.
        """
        with self._transaction("IMMEDIATE") as connection:
            if not self._has_schema(connection):
                tables.metadata.create_all(connection, checkfirst=False)
                connection.execute(insert(tables.schema).values(version=tables.SCHEMA_VERSION))
            yield connection

    def _has_schema(self, connection: Connection) -> bool:
        if not inspect(connection).has_table(tables.schema.name):
            return False
        version = connection.scalar(select(tables.schema.c.version))
        if version != tables.SCHEMA_VERSION:
            msg = (
                f"registry {self.name} has schema {version}, this version reads"
                f" {tables.SCHEMA_VERSION}; use the version that wrote it, or another registry.url"
            )
            raise StateError(msg)
        return True

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        try:
            with self._engine.execution_options(headwater_begin=begin).begin() as connection:
                yield connection
        except DBAPIError as error:
            raise self._told(error) from error

    def _told(self, error: DBAPIError) -> Exception:
        reason = " ".join(str(error.orig).split())
        if getattr(error.orig, "sqlstate", None) in _MET:
            return ConflictError(
                f"somebody else wrote to registry {self.name} at the same time; run it again"
            )
        if "locked" in reason:
            return RegistryUnreachableError(
                f"registry {self.name} is locked by another process; run it again when that has"
                " ended"
            )
        if self._is_file and "not a database" in reason:
            return StateError(
                f"registry {self.name} is no database of ours ({reason}); give another registry.url"
            )
        if self._is_file:
            cure = "see that its folder is there and can be written to, or give another"
        else:
            cure = "see that the server runs, and that user and password are right, or give another"
        return RegistryUnreachableError(
            f"registry {self.name} can't be used ({reason}); {cure} registry.url"
        )


def _parsed(url: str) -> URL:
    try:
        found = make_url(url)
    except ArgumentError:
        # Without the text: it may hold a password.
        msg = (
            "registry.url is no URL; write sqlite:///headwater-registry.db or postgresql://host/db"
        )
        raise ConfigError(msg) from None
    if found.get_backend_name() == "sqlite" and found.database in {None, "", ":memory:"}:
        msg = "registry.url names no file; write sqlite:///headwater-registry.db"
        raise ConfigError(msg)
    return found.set(drivername=_DRIVERS.get(found.drivername, found.drivername))


def _engine(url: URL, name: str, wait_s: int) -> Engine:
    backend = url.get_backend_name()
    options: dict[str, Any] = {"poolclass": NullPool}
    if backend == "sqlite":
        options["connect_args"] = {"timeout": wait_s}
    else:
        options["isolation_level"] = "SERIALIZABLE"
    if backend == "postgresql":
        options["connect_args"] = {"connect_timeout": wait_s}
    try:
        engine = create_engine(url, **options)
    except ImportError as error:
        extra = _EXTRAS.get(backend)
        cure = f"pip install '{extra}'" if extra else "install its driver"
        msg = f"registry {name}: {error}; {cure}"
        raise ConfigError(msg) from error
    except (NoSuchModuleError, ArgumentError) as error:
        msg = f"registry {name}: no such kind of database; write sqlite:///… or postgresql://…"
        raise ConfigError(msg) from error
    if backend == "sqlite":
        # https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#enabling-non-legacy-sqlite-transactional-modes-with-the-sqlite3-or-aiosqlite-driver
        event.listen(engine, "connect", _leave_transactions_to_us)
        event.listen(engine, "begin", _begin)
    return engine


def _leave_transactions_to_us(connection: Any, _record: object) -> None:  # noqa: ANN401
    connection.isolation_level = None


def _begin(connection: Connection) -> None:
    kind = connection.get_execution_options().get("headwater_begin", "")
    connection.exec_driver_sql(f"BEGIN {kind}".rstrip())
