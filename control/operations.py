"""What the API answers and the command line prints about streams and keys: plain dictionaries, made in one place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from control.credentials import make_token
from control.keys import NewKey
from control.services import Services
from control.settings import Settings
from control.snapshot import MAX_TOKEN_LIFE_S, KeyRecord, StreamRecord
from control.streams import parse_settings
from control.urls import servers, stream_urls
from media.errors import Refused

Answer = dict[str, Any]

LONGEST_S = 100 * 365 * 86_400.0
"""The longest time that a key, a token or a grace may have; times are stored as whole milliseconds."""


def _time(value_ms: int | None) -> str | None:
    if value_ms is None:
        return None
    return datetime.fromtimestamp(value_ms // 1000, UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Operations:
    """Streams and keys, with answers ready for JSON. Every method raises `Refused` as the services do."""

    services: Services
    settings: Settings

    async def add_stream(self, name: str, playback_id: str, settings: Mapping[str, Any]) -> Answer:
        """`{"name", "playback_id", "key", "key_id", "urls", ...}`: the only time that the key is shown."""
        self._know_ladder(settings)
        stream = await self.services.streams.add(name, playback_id=playback_id, settings=settings)
        made = await self.services.keys.add(stream.id)
        return {**self._stream(stream), **self._made(stream, made)}

    async def streams(self) -> list[Answer]:
        """Every stream with its settings and the number of its keys."""
        return [self._stream(stream) for stream in self.services.streams.list()]

    async def stream(self, name: str) -> Answer:
        """One stream with its keys (ids and states)."""
        stream = self.services.streams.find(name)
        return {**self._stream(stream), "keys": await self.keys(name)}

    async def change_stream(self, name: str, settings: Mapping[str, Any]) -> Answer:
        """Change settings of a stream; None goes back to the default."""
        self._know_ladder(settings)
        return self._stream(await self.services.streams.change(name, settings))

    def _know_ladder(self, settings: Mapping[str, Any]) -> None:
        """Raises `Refused` for a ladder that does not exist: said here, it is not the next publisher who hears it."""
        names = settings.get("ladder")
        if isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(n, str) for n in names):
            from control.planning import ladder_of  # brings the packager along: not for every command

            ladder_of(parse_settings({"ladder": names}), self.settings.transcode)

    async def remove_stream(self, name: str) -> Answer:
        """Remove a stream and its keys."""
        await self.services.streams.remove(name)
        return {"name": name, "removed": True}

    async def keys(self, name: str) -> list[Answer]:
        """The keys of a stream, without the keys."""
        return [self._key(key) for key in self.services.keys.list(self.services.streams.find(name).id)]

    async def add_key(self, name: str, *, expires_s: float | None, once: bool, label: str, signing: bool) -> Answer:
        """`{"key", "key_id", "urls", ...}`."""
        stream = self.services.streams.find(name)
        made = await self.services.keys.add(stream.id, expires_s=expires_s, once=once, label=label, signing=signing)
        return {"name": stream.name, **self._made(stream, made)}

    async def rotate_key(self, name: str, *, grace_s: float) -> Answer:
        """A new key, as `add_key`; the old ones end after the grace time."""
        stream = self.services.streams.find(name)
        made = await self.services.keys.rotate(stream.id, grace_s=grace_s)
        return {"name": stream.name, "grace_s": grace_s, **self._made(stream, made)}

    async def revoke_key(self, key_id: str) -> Answer:
        """End a key at once."""
        return self._key(await self.services.keys.revoke(key_id))

    async def make_token(self, key_id: str, *, expires_s: float) -> Answer:
        """A publish token signed with a signing key: `{"token", "expires_at", "urls"}`."""
        if expires_s > MAX_TOKEN_LIFE_S:
            raise Refused("A publish token lives for seven days at most.", slug="token_lives_too_long")
        plain = self.services.keys.signing_key(key_id)
        stream = self.services.directory.snapshot.streams[self.services.keys.find(key_id).stream_id]
        expires = self.services.directory.now_ms() // 1000 + math.ceil(expires_s)
        token = make_token(key_id, plain, expires_s=expires)
        return {
            "token": token,
            "expires_at": _time(expires * 1000),
            "urls": stream_urls(self.settings, stream, token),
        }

    async def audit(self, name: str | None, limit: int) -> list[Answer]:
        """The audit trail, newest first; of a removed stream it is in the whole trail only."""
        stream_id = None if name is None else self.services.streams.find(name).id
        entries = await self.services.audit.entries(stream_id=stream_id, limit=limit)
        return [
            {"at": _time(entry["at_ms"]), **{k: v for k, v in entry.items() if k not in ("at_ms", "stream_id")}}
            for entry in entries
        ]

    def _stream(self, stream: StreamRecord) -> Answer:
        now_ms = self.services.directory.now_ms()
        keys = self.services.keys.list(stream.id)
        return {
            "name": stream.name,
            "playback_id": stream.playback_id,
            "created_at": _time(stream.created_ms),
            "settings": stream.settings.model_dump(mode="json"),
            "live_keys": sum(not key.end_slug(now_ms) for key in keys),
            "urls": stream_urls(self.settings, stream),
        }

    def _key(self, key: KeyRecord) -> Answer:
        return {
            "key_id": key.id,
            "state": key.state(self.services.directory.now_ms()),
            "once": key.once,
            "signing": key.signing,
            "label": key.label,
            "created_at": _time(key.created_ms),
            "expires_at": _time(key.expires_ms),
            "last_used_at": _time(key.last_used_ms),
        }

    def _made(self, stream: StreamRecord, made: NewKey) -> Answer:
        encrypted = stream.settings.srt_passphrase == "required" and not made.record.signing
        passphrase = made.srt_passphrase if encrypted else ""
        answer: Answer = {
            "key": made.key,
            "key_id": made.record.id,
            "once": made.record.once,
            "signing": made.record.signing,
            "expires_at": _time(made.record.expires_ms),
            "servers": servers(self.settings),
            "urls": stream_urls(self.settings, stream, "" if made.record.signing else made.key, passphrase),
        }
        if passphrase:
            answer["srt_passphrase"] = passphrase
        return answer


def seconds(text: str) -> float:
    """`90`, `90s`, `15m`, `2h`, `7d` in seconds. `Refused` (`bad_duration`) for anything else."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    if not (number.isascii() and number.replace(".", "", 1).isdigit()):
        raise Refused(f"{text!r} is no length of time: write 90s, 15m, 2h or 7d.", slug="bad_duration")
    found = float(number) * unit
    if found > LONGEST_S:
        raise Refused(f"{text!r} is longer than a hundred years.", slug="bad_duration")
    return found
