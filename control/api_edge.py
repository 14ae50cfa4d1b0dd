"""`/v1/edge` and `/v1/viewers`: the edge replaced, purged, and tokens withdrawn."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from control import viewer_news, viewer_tokens
from control.ports import Node
from media.errors import Refused


class StreamBody(BaseModel):
    """A stream as viewers know it."""

    model_config = ConfigDict(extra="forbid")

    playback_id: str = Field(pattern=r"^[A-Za-z0-9._~-]{1,128}$", description="The stream's playback id.")


class RevokeBody(BaseModel):
    """Either of the two."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(default="", max_length=4096, description="A viewer token, or its `jti`.")
    playback_id: str = Field(default="", max_length=128, description="All tokens of this stream made before now.")


def edge_router(node: Node, data: Path) -> APIRouter:
    """The routes. `data` is where the list for edges lies."""
    router = APIRouter(tags=["edge"])

    @router.post("/v1/edge/reload")
    async def reload() -> dict[str, Any]:
        """Replace all workers of this machine's edge, one after another; no request is dropped."""
        return {"workers": await node.reload_edge()}

    @router.post("/v1/edge/purge")
    async def purge(body: StreamBody) -> dict[str, Any]:
        """Forget everything of a stream: at once on this machine, within seconds on other edges."""
        await asyncio.to_thread(viewer_news.purge, data, body.playback_id)
        return {"objects": await node.purge_edge(body.playback_id)}

    @router.post("/v1/viewers/revoke")
    async def revoke(body: RevokeBody) -> dict[str, Any]:
        """Make viewer tokens void, within seconds on every edge."""
        if bool(body.token) == bool(body.playback_id):
            raise Refused("Name a token, or a playback id.", slug="bad_request")
        await asyncio.to_thread(withdraw, data, body.token, body.playback_id)
        return {"revoked": True}

    return router


def withdraw(data: Path, token: str, playback_id: str) -> None:
    """Revoke one token, or a stream's. Raises `Refused`."""
    if token:
        viewer_news.revoke_token(data, *viewer_tokens.read(token))
    else:
        viewer_news.revoke_stream(data, playback_id)
