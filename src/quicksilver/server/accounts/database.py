"""Opening the database: URL, SQLite's settings, the version of the tables, and errors in one sentence."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import create_engine, event, insert, inspect, select
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from quicksilver.errors import ConfigError, StorageError
from quicksilver.server.accounts.home import home
from quicksilver.server.accounts.tables import SCHEMA_VERSION, Base, SchemaRow


def open_database(url: str | None, timeout_s: float) -> Engine:
    """A pool of connections to a database with the tables of this version, which are made where there are none.

    Args:
        url: SQLAlchemy's form, such as ``postgresql+psycopg://user@host/name``; None is ``accounts.db`` in `home`.
        timeout_s: how long SQLite waits for another writer.

    Raises:
        ConfigError: the URL cannot be used.
        StorageError: the database cannot be opened, or another version of Quicksilver made it.
    """
    parsed = _parse(f"sqlite:///{home() / 'accounts.db'}" if url is None else url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if is_sqlite and parsed.database in (None, "", ":memory:"):
        raise ConfigError("a database in memory forgets what was used: give sqlite:///FILE")
    try:
        # A server may close connections that lie idle, so they are tried before use; a file does not.
        engine = create_engine(
            parsed, connect_args={"timeout": timeout_s} if is_sqlite else {}, pool_pre_ping=not is_sqlite
        )
    except ArgumentError as error:
        raise ConfigError(f"no database speaks {parsed.drivername}: {error}") from error
    except ImportError as error:
        raise ConfigError(f"{parsed.drivername} needs the Python package {error.name}: install it") from error
    if is_sqlite:
        event.listen(engine, "connect", _set_up_sqlite)
    with reporting(engine):
        if not inspect(engine).has_table(SchemaRow.__tablename__):
            _make_tables(engine, is_sqlite=is_sqlite)
        _check_version(engine)
    return engine


@contextmanager
def reporting(engine: Engine) -> Iterator[None]:
    """Turn what a database says into one sentence with its URL, without the password.

    Raises:
        StorageError: the database failed.
    """
    try:
        yield
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
        remedy = ": another program keeps it busy, try again" if "locked" in reason else ""
        raise StorageError(f"the database {engine.url.render_as_string()} fails: {reason}{remedy}") from error


def _parse(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError as error:
        # Without the URL itself, which may hold a password.
        raise ConfigError("the database's URL does not read: give one such as sqlite:///accounts.db") from error


def _set_up_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # Readers never wait for a writer, and a commit returns only when it is on the disk.
    for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {setting}")


def _make_tables(engine: Engine, *, is_sqlite: bool) -> None:
    with engine.begin() as connection:
        if is_sqlite:
            # Of several processes that meet a new file, the first makes the tables and the others find them.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        Base.metadata.create_all(connection)
        if connection.scalar(select(SchemaRow.version)) is None:
            connection.execute(insert(SchemaRow).values(version=SCHEMA_VERSION))


def _check_version(engine: Engine) -> None:
    with engine.connect() as connection:
        found = connection.scalar(select(SchemaRow.version))
    if found != SCHEMA_VERSION:
        raise StorageError(
            f"the database {engine.url.render_as_string()} has tables of version {found}, this Quicksilver reads "
            f"version {SCHEMA_VERSION}: use the Quicksilver that made it, or another database"
        )
