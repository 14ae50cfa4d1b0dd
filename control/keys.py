"""Keys: make, list, rotate, revoke; and the gate, `verify`, that every publisher passes.

Life of a key      from       to        by
live                          ending    rotate (expires after the grace time)
live, ending                  expired   its time
live, ending                  revoked   revoke
live (once)                   used      the first publication
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import and_, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from control.audit import Audit, Entry
from control.credentials import (
    MAX_CREDENTIAL_LENGTH,
    Token,
    hash_key,
    new_key,
    new_key_id,
    signing_key,
    srt_passphrase,
)
from control.models import Key, Nonce
from control.snapshot import NOT_ACCEPTED, KeyRecord, Match
from control.stream_settings import StreamSettings
from control.throttle import Throttle
from media.errors import Overloaded, Refused

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from control.database import Database
    from control.directory import Directory

NO_KEY = (
    "No stream key came: in OBS it goes into the field Stream Key; in a URL it stands behind the application, "
    "rtmp://HOST/live/KEY; over SRT in streamid=KEY; over WHIP it is the bearer token."
)
KEY_AS_APP = (
    "The stream key stands where the application belongs: the server is rtmp://HOST/live, and the key goes behind it, "
    "rtmp://HOST/live/KEY."
)
SRT_UNAUTHORIZED = 1401
SRT_OVERLOAD = 1402
"""libsrt access-control codes (SRT access control guidelines, `access_control.h`)."""

KEEP_DEAD_MS = 30 * 86400 * 1000
"""How long an ended key stays listed, and its refusal says why."""

MAX_KEYS_PER_STREAM = 1000
"""All of a stream's keys are held in memory. Beyond that ended ones go early."""


log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: the only time that anyone sees it."""

    key: str
    record: KeyRecord
    srt_passphrase: str
    """What belongs to it over SRT, where the stream requires encryption; empty for a signing key."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A publisher that may go on air."""

    stream_id: str
    stream_name: str
    playback_id: str
    key_id: str
    settings: StreamSettings
    expires_at: float | None
    """Unix time in seconds at which the key ends, as known now; `on_change` tells when it does."""
    resumed: bool = False
    """True for a spent single-use key that came back within its reconnect window."""


class Keys:
    """The keys of one database, and the gate."""

    def __init__(
        self,
        database: Database,
        directory: Directory,
        audit: Audit,
        *,
        secret: bytes,
        throttle: Throttle | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._directory = directory
        self._audit = audit
        self._secret = secret
        self._clock = clock
        self.throttle = throttle or Throttle()
        self.refusals: dict[str, int] = {}
        """How many attempts were refused, by slug."""
        self._uses: dict[str, int] = {}
        """When keys were last used (ms), by id, until `record_uses` writes it. As many as there are keys at most."""

    def list(self, stream_id: str) -> tuple[KeyRecord, ...]:
        """The keys of a stream, oldest first."""
        return tuple(key for key in self._directory.snapshot.keys.values() if key.stream_id == stream_id)

    def settings_of(self, stream_id: str) -> StreamSettings | None:
        """The settings of a stream as they are now; None if it is gone."""
        stream = self._directory.snapshot.streams.get(stream_id)
        return stream.settings if stream is not None else None

    def find(self, key_id: str) -> KeyRecord:
        """The key with that id; `Refused` (`unknown_key_id`) if there is none."""
        key = self._directory.snapshot.keys.get(key_id)
        if key is None:
            raise Refused(f"There is no key with the id {key_id!r}.", slug="unknown_key_id")
        return key

    async def add(
        self,
        stream_id: str,
        *,
        expires_s: float | None = None,
        once: bool = False,
        label: str = "",
        signing: bool = False,
    ) -> NewKey:
        """Make a key for a stream. `expires_s` counts from now."""
        too_old = self._want_room(stream_id)
        if expires_s is not None and expires_s <= 0:
            raise Refused("A key must expire in the future.", slug="bad_expiry")
        now_ms = self._directory.now_ms()
        key_id = new_key_id()
        plain = signing_key(self._secret, key_id) if signing else new_key()
        ends_ms = None if expires_s is None else now_ms + int(expires_s * 1000)
        row = _row(key_id, stream_id, plain, now_ms)
        row.signing, row.once, row.label, row.expires_ms = signing, once, label[:128], ends_ms
        async with self._directory.changing() as session:
            session.add(row)
            await _forget(session, now_ms, too_old)
        return self._made(key_id, plain)

    async def rotate(self, stream_id: str, *, grace_s: float = 60.0, plain: str | None = None) -> NewKey:
        """A new key; every other publishing key of the stream ends after `grace_s`. Signing keys stay.

        `plain`, made by `new_key`, is the new key where the caller had to know it first. One transaction: of several
        rotations at once, by whatever processes, the last one's key stays.
        """
        if grace_s < 0:
            raise Refused("The grace time cannot be negative.", slug="bad_expiry")
        too_old = self._want_room(stream_id)
        now_ms = self._directory.now_ms()
        key_id, plain = new_key_id(), plain or new_key()
        end_ms = now_ms + int(grace_s * 1000)
        later = or_(Key.expires_ms.is_(None), Key.expires_ms > end_ms)
        others = (Key.stream_id == stream_id, Key.id != key_id, Key.signing.is_(False), Key.revoked_ms.is_(None))
        async with self._directory.changing() as session:
            session.add(_row(key_id, stream_id, plain, now_ms))
            replaced = list(await session.scalars(select(Key.id).where(*others, later)))
            await session.execute(update(Key).where(Key.id.in_(replaced)).values(expires_ms=end_ms, rotated=True))
            await _forget(session, now_ms, too_old)
        made = self._made(key_id, plain)
        for old in replaced:
            self._note("rotated", old, reason=f"replaced by {key_id}")
        return made

    def _want_room(self, stream_id: str) -> Sequence[str]:
        """Ids of ended keys, the oldest first, that have to go for another key. Raises `Refused` (`too_many_keys`)
        where those that are live are too many."""
        there, now_ms = self.list(stream_id), self._directory.now_ms()
        ended = [key.id for key in there if key.end_slug(now_ms)]
        too_many = max(0, len(there) + 1 - MAX_KEYS_PER_STREAM)
        if too_many > len(ended):
            raise Refused(f"The stream has {MAX_KEYS_PER_STREAM} live keys already.", slug="too_many_keys")
        return ended[:too_many]

    def _made(self, key_id: str, plain: str) -> NewKey:
        self._note("created", key_id)
        record = self.find(key_id)
        return NewKey(plain, record, "" if record.signing else srt_passphrase(self._secret, plain))

    async def revoke(self, key_id: str) -> KeyRecord:
        """End a key at once."""
        self.find(key_id)
        async with self._directory.changing() as session:
            await session.execute(
                update(Key)
                .where(Key.id == key_id, Key.revoked_ms.is_(None))
                .values(revoked_ms=self._directory.now_ms())
            )
        self._note("revoked", key_id)
        return self.find(key_id)

    def signing_key(self, key_id: str) -> str:
        """The signing key of that id in plain, for making tokens; `Refused` for any other key."""
        if not self.find(key_id).signing:
            raise Refused(f"The key {key_id!r} is no signing key.", slug="not_a_signing_key")
        return signing_key(self._secret, key_id)

    async def verify(self, key: str, *, protocol: str, address: str, resumable: Collection[str] = ()) -> Grant:
        """Admit whoever holds `key` (a stream key or a publish token), or raise `Refused`.

        Slugs: `no_key`, `throttled`, `unknown_key`, `key_expired`, `key_revoked`, `key_used`, `malformed_token`,
        `token_expired`, `token_replayed`, `token_lives_too_long`. The text is the same for all but the first two.
        `Overloaded` where the database must be asked (single use) and cannot be.
        `resumable` are ids of keys whose broadcast waits for its publisher: a single-use key of those may return.
        """
        if not key:  # a slip of the user's, and nothing that could be guessed: neither throttled nor in the trail
            self.refusals["no_key"] = self.refusals.get("no_key", 0) + 1
            raise Refused(NO_KEY, slug="no_key")
        try:
            self._turn_away(address)
            match = self._check(key)
            resumed = await self._spend(match, resumable)
            match = self._check(key)  # it may have ended meanwhile, when there was no publisher yet to be told
        except Refused as refusal:
            self._refused(refusal, key, protocol, address)
            raise
        record = match.key
        self._note("used", record.id, protocol=protocol, address=address)
        return Grant(
            stream_id=match.stream.id,
            stream_name=match.stream.name,
            playback_id=match.stream.playback_id,
            key_id=record.id,
            settings=match.stream.settings,
            expires_at=None if record.expires_ms is None else record.expires_ms / 1000,
            resumed=resumed,
        )

    def srt_lookup(self, key: str, address: str = "") -> tuple[int, str]:
        """`(reject_code, passphrase)` for libsrt's handshake: in memory, from any thread. `verify` comes after."""
        try:
            self._turn_away(address)
            match = self._check(key)
        except Refused as refusal:
            self._refused(refusal, key, "srt", address)
            return (SRT_OVERLOAD if refusal.slug == "throttled" else SRT_UNAUTHORIZED), ""
        if match.stream.settings.srt_passphrase == "off":
            return 0, ""
        return 0, srt_passphrase(self._secret, key)

    def _turn_away(self, address: str) -> None:
        if address and self.throttle.blocked(address, self._clock()):
            raise Refused(
                f"Too many attempts with wrong keys came from the address {address}, perhaps not yours if you share it "
                "with others: wait a minute, then try again.",
                slug="throttled",
            )

    def _check(self, credential: str) -> Match:
        now_ms = self._directory.now_ms()
        return self._directory.snapshot.check(credential, secret=self._secret, now_ms=now_ms)

    async def _spend(self, match: Match, resumable: Collection[str]) -> bool:
        """Settle in the database what may happen once only. True if a spent key resumes its broadcast."""
        now_ms = self._directory.now_ms()
        try:
            if match.token is not None:
                await self._spend_nonce(match.token, now_ms)
            elif match.key.once and not await self._spend_key(match.key.id, now_ms):
                if match.key.id in resumable:
                    return True
                raise Refused(NOT_ACCEPTED, slug="key_used")
        except SQLAlchemyError as error:
            log.error("key_not_spent", key_id=match.key.id, error=str(error))
            raise Overloaded(
                "The server cannot settle the single use of this key at the moment: try again in a few seconds.",
                slug="database_unavailable",
            ) from error
        self._uses[match.key.id] = now_ms
        return False

    async def _spend_key(self, key_id: str, now_ms: int) -> bool:
        """True for the one publication that the single-use key is good for."""
        async with self._directory.changing() as session:
            spent = await session.execute(
                update(Key).where(Key.id == key_id, Key.used_ms.is_(None)).values(used_ms=now_ms)
            )
        return bool(spent.rowcount == 1)  # type: ignore[attr-defined]  # a CursorResult, typed as its base

    async def record_uses(self) -> None:
        """Write when keys were last used: behind the publishers' backs, for nobody on the way in waits for a disk."""
        uses, self._uses = self._uses, {}
        if not uses:
            return
        try:
            async with self._directory.changing() as session:
                for key_id, at_ms in uses.items():
                    await session.execute(
                        update(Key)
                        .where(Key.id == key_id)
                        .values(last_used_ms=at_ms, used_ms=func.coalesce(Key.used_ms, at_ms))
                    )
        except SQLAlchemyError as error:
            self._uses = uses | self._uses
            log.error("key_uses_not_recorded", keys=len(uses), error=str(error))

    async def _spend_nonce(self, token: Token, now_ms: int) -> None:
        try:
            async with self._database.session() as session:
                await session.execute(delete(Nonce).where(Nonce.expires_ms <= now_ms))
                session.add(Nonce(key_id=token.key_id, nonce=token.nonce, expires_ms=token.expires_s * 1000))
        except IntegrityError as error:
            raise Refused(NOT_ACCEPTED, slug="token_replayed") from error

    def _refused(self, refusal: Refused, credential: str, protocol: str, address: str) -> None:
        self.refusals[refusal.slug] = self.refusals.get(refusal.slug, 0) + 1
        if refusal.slug == "throttled":
            return  # counted; an entry for each would let a flood wash the trail away
        if address:
            self.throttle.refused(address, self._clock())
        snapshot = self._directory.snapshot
        key = snapshot.by_hash.get(hash_key(credential[: MAX_CREDENTIAL_LENGTH + 1]))
        stream = snapshot.streams.get(key.stream_id) if key else None
        self._audit.add(
            Entry(
                self._directory.now_ms(),
                "refused",
                refusal.slug,
                stream.id if stream else None,
                stream.name if stream else "",
                key.id if key else None,
                protocol,
                address,
            )
        )

    def _note(self, action: str, key_id: str, *, reason: str = "", protocol: str = "", address: str = "") -> None:
        key = self.find(key_id)
        entry = Entry(
            self._directory.now_ms(), action, reason, key.stream_id, key_id=key_id, protocol=protocol, address=address
        )
        name = self._directory.snapshot.streams[key.stream_id].name
        self._audit.add(replace(entry, stream_name=name))


def _row(key_id: str, stream_id: str, plain: str, now_ms: int) -> Key:
    return Key(
        id=key_id,
        stream_id=stream_id,
        hash=hash_key(plain),
        signing=False,
        once=False,
        label="",
        created_ms=now_ms,
        rotated=False,
    )


async def _forget(session: AsyncSession, now_ms: int, too_old: Sequence[str]) -> None:
    """Those keys, and all that ended, or were spent, long ago."""
    long_ago = now_ms - KEEP_DEAD_MS
    spent = and_(Key.once.is_(True), Key.used_ms < long_ago)
    dead = or_(Key.expires_ms < long_ago, Key.revoked_ms < long_ago, spent, Key.id.in_(too_old))
    await session.execute(delete(Key).where(dead))
