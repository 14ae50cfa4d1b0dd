"""The current snapshot of streams and keys, kept fresh, and the news about it for whoever listens.

Every write goes through `changing()`, which raises the revision and refreshes. `refresh` also notices writes of
other processes. The snapshot is replaced whole: a thread that reads it sees the old or the new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from types import MappingProxyType
from typing import TYPE_CHECKING

import structlog
from pydantic import ValidationError
from sqlalchemy import select, update

from control.models import Key, Revision, Stream
from control.snapshot import Change, ChangeKind, KeyRecord, Snapshot, StreamRecord, changes
from control.stream_settings import StreamSettings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from control.audit import Audit
    from control.database import Database

from control.audit import Entry

log = structlog.get_logger(__name__)


class Directory:
    """Holds the snapshot. Used on one event loop; `snapshot` may be read from any thread."""

    def __init__(self, database: Database, audit: Audit, *, wall: Callable[[], float] = time.time) -> None:
        self._database = database
        self._audit = audit
        self._wall = wall
        self._seen_ms = 0
        self._callbacks: list[Callable[[Change], None]] = []
        self._looking = asyncio.Lock()
        """Of two that look at once, the one that began first might end last, and bring old news."""
        self.snapshot = Snapshot()

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, by the clock that was handed in."""
        return int(self._wall() * 1000)

    def on_change(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Call `callback(change)` on the event loop for every piece of news; returns what ends that."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    @contextlib.asynccontextmanager
    async def changing(self) -> AsyncIterator[AsyncSession]:
        """One transaction that changes streams or keys; afterwards the snapshot is fresh and the news are out."""
        async with self._database.session() as session:
            # First, so that SQLite takes the write lock at once instead of failing to upgrade a read.
            await session.execute(update(Revision).values(number=Revision.number + 1))
            yield session
        await self.refresh()

    async def refresh(self) -> None:
        """Read the database if it changed, and tell what is new, expiry included."""
        async with self._looking:
            await self._refresh()

    async def _refresh(self) -> None:
        async with self._database.session() as session:
            revision = await session.scalar(select(Revision.number)) or 0
            new = self.snapshot if revision == self.snapshot.revision else await _load(session, revision)
        first = self.snapshot.revision < 0
        old, self.snapshot = self.snapshot, new
        old_ms, self._seen_ms = self._seen_ms, self.now_ms()
        if first:
            return
        for change in changes(old, new, old_ms=old_ms, new_ms=self._seen_ms):
            self._tell(change)

    def _tell(self, change: Change) -> None:
        if change.kind is ChangeKind.KEY_ENDED and change.reason != "key_revoked":
            self._audit.add(
                Entry(self._seen_ms, "expired", change.reason, change.stream_id, change.stream_name, change.key_id)
            )
        log.info(change.kind.value, stream=change.stream_name, key_id=change.key_id, reason=change.reason)
        for callback in tuple(self._callbacks):
            callback(change)


async def _load(session: AsyncSession, revision: int) -> Snapshot:
    streams = {row.id: _stream(row) for row in await session.scalars(select(Stream).order_by(Stream.name))}
    keys = {
        row.id: _key(row)
        for row in await session.scalars(select(Key).order_by(Key.created_ms, Key.id))
        if row.stream_id in streams
    }
    return Snapshot(
        revision,
        MappingProxyType(streams),
        MappingProxyType(keys),
        MappingProxyType({key.hash: key for key in keys.values()}),
    )


def _stream(row: Stream) -> StreamRecord:
    try:
        settings = StreamSettings.model_validate(row.settings)
    except ValidationError as error:  # written by a newer version: the stream must work all the same
        log.warning("stream_settings_ignored", stream=row.name, errors=error.error_count())
        settings = StreamSettings()
    return StreamRecord(row.id, row.name, row.playback_id, settings, row.created_ms, row.rotated_ms)


def _key(row: Key) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        stream_id=row.stream_id,
        hash=row.hash,
        signing=row.signing,
        once=row.once,
        label=row.label,
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
        revoked_ms=row.revoked_ms,
        rotated=row.rotated,
        used_ms=row.used_ms,
        last_used_ms=row.last_used_ms,
    )
