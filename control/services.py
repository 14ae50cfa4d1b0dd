"""Streams, keys and the audit trail of one data folder, opened together: what CLI, API and node compose with."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from control.audit import Audit
from control.credentials import new_key
from control.database import Database
from control.directory import Directory
from control.keys import Keys
from control.models import Stream
from control.secret_files import drafted, server_secret
from control.snapshot import StreamRecord
from control.streams import Streams
from media.errors import Refused

POLL_S = 1.0
"""How often changes made by another process are looked for, and the audit trail is written."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """The services. Made by `open_services`."""

    data: Path
    database: Database
    directory: Directory
    audit: Audit
    streams: Streams
    keys: Keys

    async def run(self) -> None:
        """Keep the snapshot fresh, end keys on time, rotate by schedule, write the trail. Until cancelled."""
        while True:
            try:
                await self._whole(self.tick())
            except SQLAlchemyError as error:
                log.error("database_failed", error=str(error))
            except Exception:  # a fault of ours with one stream must not let the keys of all others live on
                log.exception("keys_not_watched")
            due_ms = self.directory.snapshot.next_expiry_ms(self.directory.now_ms())
            wait_s = POLL_S if due_ms is None else (due_ms - self.directory.now_ms()) / 1000
            await asyncio.sleep(min(POLL_S, max(0.01, wait_s)))

    @staticmethod
    async def _whole(round_: Coroutine[Any, Any, None]) -> None:
        """Let a round finish even when we are cancelled in it: the driver's thread answers to this loop."""
        task = asyncio.ensure_future(round_)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            raise

    async def tick(self) -> None:
        """One round of `run`."""
        await self.directory.refresh()
        for stream in self.streams.list():
            if self._rotation_is_due(stream):
                try:
                    await self._rotate(stream)
                except Refused as refusal:
                    log.error("rotation_refused", stream=stream.name, text=refusal.text)
        await self.keys.record_uses()
        await self.audit.flush()

    def _rotation_is_due(self, stream: StreamRecord) -> bool:
        every_s = stream.settings.rotate_every_s
        last_ms = stream.rotated_ms or stream.created_ms
        return every_s is not None and self.directory.now_ms() >= last_ms + every_s * 1000

    async def _rotate(self, stream: StreamRecord) -> None:
        """Rotate by schedule. Of several nodes on one database, the one whose update hits does it."""
        async with self.directory.changing() as session:
            won = await session.execute(
                update(Stream)
                .where(Stream.id == stream.id, Stream.rotated_ms == stream.rotated_ms)
                .values(rotated_ms=self.directory.now_ms())
            )
        if won.rowcount != 1:  # type: ignore[attr-defined]  # a CursorResult, typed as its base
            return
        assert stream.settings.rotate_file is not None, "StreamSettings demands it beside rotate_every_s"
        path, plain = self.data / stream.settings.rotate_file, new_key()
        with contextlib.ExitStack() as stack:
            try:
                await asyncio.to_thread(stack.enter_context, drafted(path, plain + "\n"))
            except (OSError, ValueError) as error:
                # A key that nobody receives would lock everyone out: the old ones stay.
                log.error("rotation_not_written", stream=stream.name, file=str(path), error=str(error))
                return
            await self.keys.rotate(stream.id, grace_s=stream.settings.rotate_grace_s, plain=plain)


@contextlib.asynccontextmanager
async def open_services(
    data: Path,
    *,
    database_url: str = "",
    wall: Callable[[], float] = time.time,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Services]:
    """Open the database of a data folder (made where missing) and read it once. Raises `DatabaseError`.

    `wall` is Unix time in seconds, `clock` any monotonic one. The caller runs `Services.run` in a task of its own
    where changes of others matter.
    """
    database = Database.in_folder(data, database_url)
    await database.open()
    try:
        audit = Audit(database)
        directory = Directory(database, audit, wall=wall)
        await directory.refresh()
        keys = Keys(database, directory, audit, secret=server_secret(data), clock=clock)
        services = Services(data, database, directory, audit, Streams(directory, audit), keys)
        try:
            yield services
        finally:
            await keys.record_uses()
            await audit.flush()
    finally:
        await database.close()
