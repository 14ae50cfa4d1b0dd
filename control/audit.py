"""The audit trail: what happened to keys, written in batches and never waiting.

Entries wait in a bounded queue that `flush` empties. When it is full the oldest entry is dropped and counted:
a flood of refused attempts must not stop a publisher, nor fill the disk (`MAX_ROWS`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import structlog
from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import SQLAlchemyError

from control.database import Database
from control.models import AuditEntry

MAX_WAITING = 1000
"""Entries in memory before the oldest is dropped; at one flush per second, more than a thousand per second."""

MAX_ROWS = 100_000
"""Rows kept in the database; the oldest go first. About 20 MB."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the trail."""

    at_ms: int
    action: str
    """`created`, `used`, `refused`, `rotated`, `revoked`, `expired`, `stream_added`, `stream_removed`."""
    reason: str = ""
    stream_id: str | None = None
    stream_name: str = ""
    key_id: str | None = None
    protocol: str = ""
    address: str = ""


class Audit:
    """The trail of one database. `add` may be called from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[Entry] = deque(maxlen=MAX_WAITING)
        self._written = 0
        self.dropped = 0
        """Entries lost to a full queue or a failing database."""

    def add(self, entry: Entry) -> None:
        """Queue one entry."""
        if len(self._waiting) == MAX_WAITING:
            self.dropped += 1
        self._waiting.append(entry)

    async def flush(self) -> None:
        """Write what waits. A database that fails costs the entries, not the caller."""
        batch: list[Entry] = []
        while self._waiting:
            batch.append(self._waiting.popleft())
        if not batch:
            return
        try:
            async with self._database.session() as session:
                await session.execute(insert(AuditEntry), [asdict(entry) for entry in batch])
                self._written += len(batch)
                if self._written >= MAX_ROWS // 100:
                    self._written = 0
                    newest = await session.scalar(select(func.max(AuditEntry.id)))
                    await session.execute(delete(AuditEntry).where(AuditEntry.id <= (newest or 0) - MAX_ROWS))
        except SQLAlchemyError as error:
            self.dropped += len(batch)
            log.error("audit_not_written", entries=len(batch), error=str(error))

    async def entries(self, *, stream_id: str | None = None, limit: int = 100) -> list[Mapping[str, Any]]:
        """The newest entries first, those of one stream or all."""
        await self.flush()
        query = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
        if stream_id is not None:
            query = query.where(AuditEntry.stream_id == stream_id)
        async with self._database.session() as session:
            rows = (await session.scalars(query)).all()
        names = list(Entry.__dataclass_fields__)
        return [{name: getattr(row, name) for name in names} for row in rows]
