"""What the database says about streams and keys, held in memory: immutable, whole, and cheap to ask.

`Snapshot.check` decides about a key without any I/O, so that it may run in libsrt's handshake callback.
`changes` compares two snapshots: whoever changed the database, in this process or another, the news are the same.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from control.credentials import (
    MAX_CREDENTIAL_LENGTH,
    Token,
    hash_key,
    parse_token,
    signing_key,
    token_is_signed,
)
from control.stream_settings import StreamSettings
from media.errors import ProtocolError, Refused

NOT_ACCEPTED = "This stream key is not accepted. It may be mistyped, expired or replaced: ask for a new one."
"""The one text for every refused key: a stranger learns nothing from it. The slug tells operators more."""

MAX_TOKEN_LIFE_S = 7 * 24 * 3600
"""A publish token that expires later than this is refused: its nonce would have to be kept too long."""


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """One stream."""

    id: str
    name: str
    playback_id: str
    settings: StreamSettings
    created_ms: int
    rotated_ms: int = 0


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key, without the key."""

    id: str
    stream_id: str
    hash: bytes
    signing: bool
    once: bool
    label: str
    created_ms: int
    expires_ms: int | None
    revoked_ms: int | None
    rotated: bool
    used_ms: int | None
    last_used_ms: int | None

    def end_slug(self, now_ms: int) -> str:
        """Why the key is not live: `key_revoked`, `key_expired`; empty while it is."""
        if self.revoked_ms is not None and self.revoked_ms <= now_ms:
            return "key_revoked"
        if self.expires_ms is not None and self.expires_ms <= now_ms:
            return "key_expired"
        return ""

    def state(self, now_ms: int) -> str:
        """For people: `live`, `used`, `expired`, `revoked`, and `ending` for one that a rotation replaced."""
        slug = self.end_slug(now_ms)
        if slug:
            return "rotated" if self.rotated and slug == "key_expired" else slug.removeprefix("key_")
        if self.once and self.used_ms is not None:
            return "used"
        return "ending" if self.rotated else "live"


class ChangeKind(Enum):
    STREAM_ADDED = "stream_added"
    STREAM_CHANGED = "stream_changed"
    STREAM_REMOVED = "stream_removed"
    KEY_ADDED = "key_added"
    KEY_ENDED = "key_ended"


@dataclass(frozen=True, slots=True)
class Change:
    """One piece of news. Whoever publishes with an ended key, or to a removed stream, must go."""

    kind: ChangeKind
    stream_id: str
    stream_name: str
    key_id: str = ""
    reason: str = ""
    """For `KEY_ENDED`: `key_revoked`, `key_expired` or `key_rotated`; for `STREAM_REMOVED`: `stream_removed`."""
    playback_id: str = ""
    """Of a stream that changed or was removed."""


@dataclass(frozen=True, slots=True)
class Match:
    """A key or token that is good as far as memory knows; single use is settled in the database."""

    stream: StreamRecord
    key: KeyRecord
    token: Token | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every stream and key at one moment."""

    revision: int = -1
    streams: Mapping[str, StreamRecord] = field(default_factory=lambda: MappingProxyType({}))
    """By id."""
    keys: Mapping[str, KeyRecord] = field(default_factory=lambda: MappingProxyType({}))
    """By id."""
    by_hash: Mapping[bytes, KeyRecord] = field(default_factory=lambda: MappingProxyType({}))

    def check(self, credential: str, *, secret: bytes, now_ms: int) -> Match:
        """The stream and key that `credential` (stream key or publish token) stands for; `Refused` if none."""
        if not credential or len(credential) > MAX_CREDENTIAL_LENGTH:
            raise Refused(NOT_ACCEPTED, slug="unknown_key")
        try:
            token = parse_token(credential)
        except ProtocolError as error:
            raise Refused(NOT_ACCEPTED, slug=error.slug) from error
        if token is not None:
            return self._check_token(token, secret=secret, now_ms=now_ms)
        digest = hash_key(credential)
        key = self.by_hash.get(digest)
        if key is None or key.signing or not hmac.compare_digest(key.hash, digest):
            raise Refused(NOT_ACCEPTED, slug="unknown_key")
        return self._match(key, now_ms)

    def _check_token(self, token: Token, *, secret: bytes, now_ms: int) -> Match:
        key = self.keys.get(token.key_id)
        signed = token_is_signed(token, signing_key(secret, token.key_id))
        if key is None or not key.signing or not signed:
            raise Refused(NOT_ACCEPTED, slug="unknown_key")
        if token.expires_s * 1000 <= now_ms:
            raise Refused(NOT_ACCEPTED, slug="token_expired")
        if token.expires_s * 1000 > now_ms + MAX_TOKEN_LIFE_S * 1000:
            raise Refused(NOT_ACCEPTED, slug="token_lives_too_long")
        match = self._match(key, now_ms)
        return Match(match.stream, match.key, token)

    def _match(self, key: KeyRecord, now_ms: int) -> Match:
        slug = key.end_slug(now_ms)
        if slug:
            raise Refused(NOT_ACCEPTED, slug=slug)
        return Match(self.streams[key.stream_id], key)

    def next_expiry_ms(self, now_ms: int) -> int | None:
        """When the next live key will expire; None if none will."""
        return min(
            (k.expires_ms for k in self.keys.values() if k.expires_ms is not None and not k.end_slug(now_ms)),
            default=None,
        )


def changes(old: Snapshot, new: Snapshot, *, old_ms: int, new_ms: int) -> Iterator[Change]:
    """The news between `old`, seen at `old_ms`, and `new`, seen at `new_ms`. Expiry in between counts."""
    for stream in new.streams.values():
        before = old.streams.get(stream.id)
        if before is None:
            yield Change(ChangeKind.STREAM_ADDED, stream.id, stream.name)
        elif before.settings != stream.settings:
            yield Change(ChangeKind.STREAM_CHANGED, stream.id, stream.name, playback_id=stream.playback_id)
    for stream in old.streams.values():
        if stream.id not in new.streams:
            kind, reason = ChangeKind.STREAM_REMOVED, "stream_removed"
            yield Change(kind, stream.id, stream.name, reason=reason, playback_id=stream.playback_id)
    for key in new.keys.values():
        before_key = old.keys.get(key.id)
        was_live = before_key is not None and not before_key.end_slug(old_ms)
        slug = key.end_slug(new_ms)
        name = new.streams[key.stream_id].name
        if before_key is None and not slug:
            yield Change(ChangeKind.KEY_ADDED, key.stream_id, name, key.id)
        elif was_live and slug:
            reason = "key_rotated" if key.rotated and slug == "key_expired" else slug
            yield Change(ChangeKind.KEY_ENDED, key.stream_id, name, key.id, reason)
