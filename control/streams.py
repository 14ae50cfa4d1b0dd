"""Streams: add, find, change, remove. Keys are in `control.keys`."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from sqlalchemy import delete, update
from sqlalchemy.exc import IntegrityError

from control.audit import Audit, Entry
from control.directory import Directory
from control.models import Key, Stream
from control.snapshot import StreamRecord
from control.stream_settings import StreamSettings
from media.errors import Refused

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Streams:
    """The streams of one database."""

    def __init__(self, directory: Directory, audit: Audit) -> None:
        self._directory = directory
        self._audit = audit

    def list(self) -> tuple[StreamRecord, ...]:
        """Every stream, by name."""
        return tuple(self._directory.snapshot.streams.values())

    def find(self, name: str) -> StreamRecord:
        """The stream called `name`; `Refused` (`unknown_stream`) if there is none."""
        for stream in self._directory.snapshot.streams.values():
            if stream.name == name:
                return stream
        raise Refused(f"There is no stream called {name!r}.", slug="unknown_stream")

    def by_playback_id(self, playback_id: str) -> StreamRecord | None:
        """The stream that viewers know as `playback_id`."""
        for stream in self._directory.snapshot.streams.values():
            if stream.playback_id == playback_id:
                return stream
        return None

    async def add(
        self, name: str, *, playback_id: str = "", settings: Mapping[str, Any] | StreamSettings | None = None
    ) -> StreamRecord:
        """Make a stream. `Refused` with `bad_name`, `bad_setting` or `stream_exists`."""
        playback_id = playback_id or name
        for what, value in (("stream name", name), ("playback id", playback_id)):
            if not _NAME.fullmatch(value):
                raise Refused(
                    f"The {what} {value!r} cannot be used: letters, digits, - and _, at most 64, "
                    "a letter or digit first.",
                    slug="bad_name",
                )
        parsed = settings if isinstance(settings, StreamSettings) else parse_settings(settings or {})
        stream = Stream(
            id="s" + secrets.token_hex(8),
            name=name,
            playback_id=playback_id,
            settings=parsed.model_dump(mode="json", exclude_unset=True),
            created_ms=self._directory.now_ms(),
            rotated_ms=0,
        )
        try:
            async with self._directory.changing() as session:
                session.add(stream)
        except IntegrityError as error:
            raise Refused(
                f"A stream with the name {name!r} or the playback id {playback_id!r} exists already.",
                slug="stream_exists",
            ) from error
        self._audit.add(Entry(stream.created_ms, "stream_added", "", stream.id, name))
        return self.find(name)

    async def change(self, name: str, settings: Mapping[str, Any]) -> StreamRecord:
        """Merge `settings` into those of the stream; a value None goes back to the default."""
        stream = self.find(name)
        merged = {**stream.settings.model_dump(mode="json", exclude_unset=True), **settings}
        parsed = parse_settings({key: value for key, value in merged.items() if value is not None})
        async with self._directory.changing() as session:
            await session.execute(
                update(Stream)
                .where(Stream.id == stream.id)
                .values(settings=parsed.model_dump(mode="json", exclude_unset=True))
            )
        return self.find(name)

    async def remove(self, name: str) -> None:
        """Remove a stream and its keys; a live broadcast of it ends, and its recording goes with it."""
        stream = self.find(name)
        async with self._directory.changing() as session:
            await session.execute(delete(Key).where(Key.stream_id == stream.id))
            await session.execute(delete(Stream).where(Stream.id == stream.id))
        self._audit.add(Entry(self._directory.now_ms(), "stream_removed", "", stream.id, name))


def parse_settings(values: Mapping[str, Any]) -> StreamSettings:
    """Settings of a stream from loose values (`Refused` with `bad_setting`, in words)."""
    try:
        return StreamSettings.model_validate(dict(values))
    except ValidationError as error:
        known = ", ".join(StreamSettings.model_fields)
        lines = []
        for item in error.errors():
            field = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                lines.append(f"there is no stream setting {field!r} (there are: {known})")
            else:
                lines.append(f"{field}: {item['msg']}" if field else item["msg"])
        raise Refused("; ".join(lines), slug="bad_setting") from error
