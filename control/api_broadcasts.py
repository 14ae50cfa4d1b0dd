"""`/v1/broadcasts` and `/v1/hardware`: the running server, looked at."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from control.api_answers import (
    BroadcastAnswer,
    EventAnswer,
    HardwareAnswer,
    OneBroadcast,
    StoppedBroadcast,
    says,
)
from control.ports import Node
from media.errors import Refused
from packager.events import MAX_MESSAGE

EVENT_S = 1.0
MAX_DEPTH = 64
"""Of JSON in a message; parsers give up somewhere, each elsewhere."""
_COMPACT = json.JSONEncoder(separators=(",", ":"), allow_nan=False)

Id = Annotated[str, Path(description="The broadcast's id, as the list of broadcasts shows it.")]
_EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested deeper than so many levels."""
    level = [value]
    for _ in range(levels + 1):
        within = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        if not within:
            return False
        level = [child for each in within for child in each]
    return True


class EventBody(BaseModel):
    """A timed event."""

    model_config = ConfigDict(extra="forbid")

    message: str | dict[str, Any] | list[Any] = Field(description="Text, or anything that is sent as JSON.")
    scheme: str = Field(
        default="", max_length=200, pattern=r"^[!-~]*$", description="URI that says what the message is; empty: ours."
    )
    value: str = Field(default="", max_length=200, pattern=r"^[ -~]*$", description="The scheme's own subdivision.")
    duration_s: float | None = Field(
        default=None, ge=0, le=86_400, description="How long it lasts, where that is known."
    )

    def data(self) -> bytes:
        """The message as bytes."""
        try:
            text = self.message if isinstance(self.message, str) else _COMPACT.encode(self.message)
            body = text.encode()
        except (ValueError, RecursionError) as error:
            raise Refused("The message is neither text nor JSON that others can read.", slug="bad_message") from error
        if _deeper(self.message, MAX_DEPTH):
            raise Refused(f"The message is nested deeper than {MAX_DEPTH} levels.", slug="bad_message")
        if len(body) > MAX_MESSAGE:
            raise Refused(f"The message has {len(body)} bytes, {MAX_MESSAGE} are allowed.", slug="message_too_long")
        return body


def broadcasts_router(node: Node) -> APIRouter:
    """The routes about broadcasts and hardware. The caller guards them with the admin token."""
    router = APIRouter(prefix="/v1")

    @router.get("/broadcasts", tags=["broadcasts"], **says(list[BroadcastAnswer]))
    async def broadcasts() -> list[Mapping[str, Any]]:
        """Broadcasts on air first, then the recent past, newest first."""
        return list(node.broadcasts())

    @router.get("/broadcasts/{broadcast_id}", tags=["broadcasts"], **says(OneBroadcast))
    async def broadcast(broadcast_id: Id) -> Mapping[str, Any]:
        """One broadcast: source, health with its history, renditions, transcoding."""
        return _found(node, broadcast_id)

    @router.get("/broadcasts/{broadcast_id}/events", tags=["broadcasts"], response_class=Response, responses=_EVENTS)
    async def events(broadcast_id: Id) -> StreamingResponse:
        """The broadcast once a second as server-sent events, until it ends."""
        _found(node, broadcast_id)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(node, broadcast_id), media_type="text/event-stream", headers=headers)

    @router.post("/broadcasts/{broadcast_id}/events", tags=["broadcasts"], status_code=201, **says(EventAnswer, 201))
    async def announce(broadcast_id: Id, event: EventBody) -> Mapping[str, Any]:
        """Put a timed event into the stream at this instant: players get it as EXT-X-DATERANGE and as `emsg`."""
        found = node.announce(
            broadcast_id, event.data(), scheme=event.scheme, value=event.value, duration_s=event.duration_s
        )
        if found is None:
            raise _unknown(broadcast_id)
        return found

    @router.post("/broadcasts/{broadcast_id}/stop", tags=["broadcasts"], **says(StoppedBroadcast))
    async def stop(broadcast_id: Id) -> dict[str, Any]:
        """End a broadcast; its publisher is told."""
        if not await node.stop_broadcast(broadcast_id):
            raise _unknown(broadcast_id)
        return {"id": broadcast_id, "stopped": True}

    @router.get("/hardware", tags=["server"], **says(HardwareAnswer))
    async def hardware() -> dict[str, Any]:
        """Encoders and devices, each tried on this machine; and the workers of other machines."""
        found = node.hardware()
        return {"probed": found is not None, **(found or {}), "workers": list(node.workers())}

    return router


async def _events(node: Node, broadcast_id: str) -> AsyncIterator[str]:
    """The history goes along once; after that each event carries the state alone."""
    first = True
    while (found := node.broadcast(broadcast_id)) is not None:
        shown = dict(found)
        if not first:
            shown.pop("history", None)
        first = False
        yield f"event: broadcast\ndata: {json.dumps(shown)}\n\n"
        if shown.get("ended") is not None:
            return
        await asyncio.sleep(EVENT_S)


def _found(node: Node, broadcast_id: str) -> Mapping[str, Any]:
    found = node.broadcast(broadcast_id)
    if found is None:
        raise _unknown(broadcast_id)
    return found


def _unknown(broadcast_id: str) -> Refused:
    return Refused(f"There is no broadcast {broadcast_id!r} on air.", slug="unknown_broadcast")
