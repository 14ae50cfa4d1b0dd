"""The database: an async SQLAlchemy engine, its migrations, and one context manager for a unit of work.

SQLite in WAL mode inside the data folder unless a URL says otherwise. Nothing here knows what the tables mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidRequestError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from control.migrations import HEAD
from media.errors import HeadraceError

BUSY_TIMEOUT_MS = 5000
"""How long SQLite waits for another process (the command line beside the server) to finish its write."""


class DatabaseError(HeadraceError):
    """The database cannot be opened or used."""

    default_slug = "database_unavailable"


class DataFolderUnusable(HeadraceError):
    """The data folder cannot be made, or not be written."""

    default_slug = "data_folder_unusable"


def make_folder(data: Path) -> None:
    """The data folder, for its owner only, where it is missing. Raises `DataFolderUnusable`."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=data):
            pass
    except OSError as error:
        raise DataFolderUnusable(
            f"The data folder {data} cannot be written ({error.strerror}): give it to this user, or take another with "
            "--data or HEADRACE_DATA."
        ) from error


def default_url(data: Path) -> str:
    """The SQLite file of a data folder, as an SQLAlchemy URL."""
    return f"sqlite+aiosqlite:///{data.resolve() / 'headrace.db'}"


class Database:
    """An engine and its sessions. `await open()` before use, `await close()` at the end."""

    def __init__(self, url: str) -> None:
        """`url` is an SQLAlchemy URL of an async driver."""
        try:
            self._url = make_url(url)
        except ArgumentError as error:
            raise DatabaseError("database.url is no database URL: write e.g. postgresql+asyncpg://...") from error
        self._engine: AsyncEngine | None = None
        self._sessions: async_sessionmaker[AsyncSession] | None = None

    @classmethod
    def in_folder(cls, data: Path, url: str = "") -> Database:
        """The database of a data folder: `url` if given, else SQLite in the folder (made where missing)."""
        make_folder(data)
        return cls(url or default_url(data))

    @property
    def shown_url(self) -> str:
        """The URL without its password, for logs."""
        return self._url.render_as_string(hide_password=True)

    async def open(self) -> None:
        """Connect and bring the schema up to date. Raises `DatabaseError`."""
        try:
            self._engine = create_async_engine(self._url, pool_pre_ping=self._url.get_backend_name() != "sqlite")
        except (ModuleNotFoundError, InvalidRequestError, NoSuchModuleError) as error:
            driver = getattr(error, "name", None)
            hint = f"; its driver is not installed: pip install {driver}" if driver else ""
            raise DatabaseError(f"The database {self.shown_url} cannot be used: {error}{hint}.") from error
        if self._url.get_backend_name() == "sqlite":
            event.listen(self._engine.sync_engine, "connect", _tune_sqlite)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        try:
            await self._migrate(self._engine)
        except DatabaseError:
            await self.close()
            raise
        except (SQLAlchemyError, OSError) as error:
            await self.close()
            # Without SQLAlchemy's link to its manual, which explains nothing here.
            cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
            raise DatabaseError(f"The database {self.shown_url} cannot be opened: {cause}") from error

    async def close(self) -> None:
        """Give every connection back. Idempotent."""
        engine, self._engine, self._sessions = self._engine, None, None
        if engine is not None:
            await engine.dispose()

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed on leaving, rolled back on an exception."""
        if self._sessions is None:
            raise DatabaseError("The database is not open.")
        async with self._sessions() as session, session.begin():
            yield session

    async def _migrate(self, engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            found = await connection.run_sync(_revision)
        if found == HEAD:
            return
        if found is not None and found > HEAD:  # revisions are numbers of one width
            raise DatabaseError(
                f"The database {self.shown_url} was written by a newer Headrace (schema {found}, this one knows "
                f"{HEAD}): start that version again, or restore the copy from before the upgrade.",
                slug="database_newer",
            )
        with contextlib.ExitStack() as stack:
            if self._url.get_backend_name() == "sqlite" and self._url.database:
                await asyncio.to_thread(stack.enter_context, _locked(Path(self._url.database).parent))
            async with engine.begin() as connection:
                await connection.run_sync(_upgrade)


def _tune_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_TIMEOUT_MS}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def _upgrade(connection: Connection) -> None:
    from alembic import command  # costs a quarter of a second: only where there is something to migrate
    from alembic.config import Config

    if connection.dialect.name == "postgresql":  # several nodes may start at once; there is no common lock file
        connection.execute(text("SELECT pg_advisory_xact_lock(4846524143)"))
    config = Config()
    config.set_main_option("script_location", "control:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps two processes from migrating one file at the same time, whatever their data folders are."""
    with (folder / "database.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
