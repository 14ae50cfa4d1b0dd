"""`/v1/streams`, `/v1/keys` and `/v1/audit`: the operations of `control.operations` over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from control.api_answers import (
    AddedKey,
    AddedStream,
    AuditAnswer,
    KeyAnswer,
    OneStream,
    RemovedStream,
    RotatedKey,
    StreamAnswer,
    TokenAnswer,
    says,
)
from control.operations import LONGEST_S, Operations
from control.stream_settings import NO_CONTROLS

Answer = dict[str, Any]

Name = Annotated[str, Path(description="The stream's name.")]
KeyId = Annotated[str, Path(description="The key's id, as the list of keys shows it.")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewStream(_Body):
    """A stream to add."""

    name: str = Field(description="Letters, digits, - and _; at most 64.")
    playback_id: str = Field(default="", description="What viewers see in the URL; by default the name.")
    settings: dict[str, Any] = Field(default={}, description="Settings of the stream, see docs/settings.md.")


class StreamChange(_Body):
    """Settings of a stream to change."""

    settings: dict[str, Any] = Field(description="Only what changes; null goes back to the default.")


class NewKey(_Body):
    """A key to add."""

    expires_s: float | None = Field(default=None, gt=0, le=LONGEST_S, description="Lifetime in seconds from now.")
    once: bool = Field(default=False, description="Good for one publication only.")
    label: str = Field(default="", max_length=128, pattern=NO_CONTROLS, description="A note for yourself.")
    signing: bool = Field(default=False, description="A key that signs publish tokens and cannot publish itself.")


class Rotation(_Body):
    """A rotation of a stream's keys."""

    grace_s: float = Field(default=60.0, ge=0, le=LONGEST_S, description="How long the old keys live on.")


class NewToken(_Body):
    """A publish token to make."""

    expires_s: float = Field(default=600.0, gt=0, le=LONGEST_S, description="Until when it may start a publication.")


def streams_router(operations: Operations) -> APIRouter:
    """The routes of streams and keys. The caller guards them with the admin token."""
    router = APIRouter(prefix="/v1")
    _add_streams(router, operations)
    _add_keys(router, operations)

    @router.get("/audit", tags=["keys"], **says(list[AuditAnswer]))
    async def audit(
        name: Annotated[str | None, Query(description="Only of this stream.")] = None,
        limit: Annotated[int, Query(ge=1, le=10_000, description="The newest so many.")] = 100,
    ) -> list[Answer]:
        """What happened to keys, newest first: made, used, refused, rotated, revoked, expired."""
        return await operations.audit(name, limit)

    return router


def _add_streams(router: APIRouter, operations: Operations) -> None:
    @router.get("/streams", tags=["streams"], **says(list[StreamAnswer]))
    async def streams() -> list[Answer]:
        """Every stream."""
        return await operations.streams()

    @router.post("/streams", tags=["streams"], status_code=201, **says(AddedStream, 201))
    async def add_stream(body: NewStream) -> Answer:
        """Make a stream and its first key. The answer is the only time that the key is shown."""
        return await operations.add_stream(body.name, body.playback_id, body.settings)

    @router.get("/streams/{name}", tags=["streams"], **says(OneStream))
    async def stream(name: Name) -> Answer:
        """One stream with its settings, URLs and keys (never the keys themselves)."""
        return await operations.stream(name)

    @router.patch("/streams/{name}", tags=["streams"], **says(StreamAnswer))
    async def change_stream(name: Name, body: StreamChange) -> Answer:
        """Change settings. Ladder, audio tracks, reconnect and rewind window hold on air too, the rest from the
        stream's next publication on."""
        return await operations.change_stream(name, body.settings)

    @router.delete("/streams/{name}", tags=["streams"], **says(RemovedStream))
    async def remove_stream(name: Name) -> Answer:
        """Remove a stream, its keys and its recording; whoever publishes to it is sent away."""
        return await operations.remove_stream(name)


def _add_keys(router: APIRouter, operations: Operations) -> None:
    @router.get("/streams/{name}/keys", tags=["keys"], **says(list[KeyAnswer]))
    async def keys(name: Name) -> list[Answer]:
        """The keys of a stream by id and state; the keys themselves are stored nowhere."""
        return await operations.keys(name)

    @router.post("/streams/{name}/keys", tags=["keys"], status_code=201, **says(AddedKey, 201))
    async def add_key(name: Name, body: NewKey) -> Answer:
        """Make a further key. The answer is the only time that it is shown."""
        return await operations.add_key(
            name, expires_s=body.expires_s, once=body.once, label=body.label, signing=body.signing
        )

    @router.post("/streams/{name}/keys/rotate", tags=["keys"], status_code=201, **says(RotatedKey, 201))
    async def rotate_key(name: Name, body: Rotation | None = None) -> Answer:
        """Make a new key; the old ones, and what still publishes with them, end after the grace time."""
        return await operations.rotate_key(name, grace_s=(body or Rotation()).grace_s)

    @router.post("/keys/{key_id}/revoke", tags=["keys"], **says(KeyAnswer))
    async def revoke_key(key_id: KeyId) -> Answer:
        """End a key, and what publishes with it, at once."""
        return await operations.revoke_key(key_id)

    @router.post("/keys/{key_id}/token", tags=["keys"], status_code=201, **says(TokenAnswer, 201))
    async def make_token(key_id: KeyId, body: NewToken | None = None) -> Answer:
        """Make a publish token with a signing key: good once, in place of a stream key."""
        return await operations.make_token(key_id, expires_s=(body or NewToken()).expires_s)
