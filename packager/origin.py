"""The origin: a raw ASGI application over presentations. All that a player may ask below /live, and nothing else.

It carries the semantics (blocking reload, hints, lifetimes, errors) so that any HTTP cache can carry the load.

| path below /live/PLAYBACK | answer |
|---|---|
| index.m3u8 | multivariant playlist |
| RENDITION/media.m3u8 | media playlist; `_HLS_*` directives |
| RENDITION/iframes.m3u8 | I pictures alone, as byte ranges of the segments |
| RENDITION/init-E-N.mp4 | CMAF header |
| RENDITION/seg-E-MSN.m4s | whole segment; while it is being made, chunk by chunk |
| RENDITION/part-E-MSN.INDEX.m4s | LL-HLS part; the hinted one waits until it is whole |
| manifest.mpd, time | DASH, and its clock |
| patch-E-PUBLISHED.mpp | what has changed since the MPD of that publishTime |
| thumbnail.jpg | newest picture |
| storyboard.vtt, tile-E-MSN.jpg | pictures of the window, for the seek bar |
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from media.errors import ProtocolError
from media.track import Kind
from packager import render, replies
from packager.hls import blocking
from packager.hls.text import instant
from packager.model import Segment
from packager.ports import Directory
from packager.presentation import Presentation
from packager.replies import Reply

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

WAIT_TARGETS = 3
"""A request that is not satisfied within so many target durations is answered 503 (RFC 8216bis 6.2.5.2)."""

_PATH = re.compile(r"/live/([A-Za-z0-9._~-]{1,128})/(?:([a-z0-9_-]{1,64})/)?([A-Za-z0-9._-]{1,128})")
_SEGMENT = re.compile(r"seg-([0-9a-z]+)-(\d{1,12})\.m4s")
_PATCH = re.compile(r"patch-([0-9a-z]+)-(\d{1,15})\.mpp")
_TILE = re.compile(r"tile-([0-9a-z]+)-(\d{1,12})\.jpg")
_PART = re.compile(r"part-([0-9a-z]+)-(\d{1,12})\.(\d{1,6})\.m4s")


class Origin:
    """ASGI application; run it with one process, on the loop that the presentations live on."""

    def __init__(self, directory: Directory, wall_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._directory = directory
        self._wall_us = wall_us
        self.requests: dict[int, int] = {}
        """Replies by status, for metrics."""
        self.waiting = 0
        """Requests that are blocked now."""
        self._closing: asyncio.Future[None] | None = None

    def close(self) -> None:
        """Answer everybody who waits, with 503, and let nobody wait any more: the server is going down."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_future()
        if not self._closing.done():
            self._closing.set_result(None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        method = scope["method"]
        if method == "OPTIONS":
            allow = (
                (b"access-control-allow-methods", b"GET, HEAD, OPTIONS"),
                (b"access-control-allow-headers", b"*"),
            )
            await self._send(send, Reply(204, replies.TEXT, "public, max-age=3600", extra=allow), scope)
            return
        if method not in ("GET", "HEAD"):
            await self._send(send, replies.error(405, "Only GET and HEAD.", (b"allow", b"GET, HEAD, OPTIONS")), scope)
            return
        answer = await self._answer(scope["path"], scope["query_string"])
        if isinstance(answer, Reply):
            await self._send(send, answer, scope)
        else:
            await self._stream(send, *answer, head=method == "HEAD")

    async def _answer(self, path: str, query: bytes) -> Reply | tuple[Presentation, str, int]:
        """A whole reply, or (presentation, rendition, msn) of a segment to stream."""
        match = _PATH.fullmatch(path)
        if match is None:
            return replies.not_found("There is nothing here.")
        playback_id, rendition, file = match.groups()
        presentation = self._directory.presentation(playback_id)
        if presentation is None:
            return replies.not_found("This stream is not on air.")
        if rendition is None:
            if file in ("index.m3u8", "manifest.mpd"):
                presentation.on_demand("")
                if not await self._start(presentation):
                    return replies.not_found("The stream has not started yet.")
            if (tile := _TILE.fullmatch(file)) is not None and tile[1] == presentation.epoch:
                return await self._tile(presentation, int(tile[2]))
            return self._top(presentation, file)
        if rendition not in presentation.shelves:
            return replies.not_found("There is no such rendition.")
        presentation.on_demand(rendition)
        if file == "media.m3u8":
            return await self._playlist(presentation, rendition, query)
        if file == "iframes.m3u8" and presentation.shelves[rendition].rendition.kind is Kind.VIDEO:
            return await self._playlist(presentation, rendition, query, pictures=True)
        if (part := _PART.fullmatch(file)) is not None:
            epoch, msn, index = part.groups()
            if epoch == presentation.epoch:
                return await self._part(presentation, rendition, int(msn), int(index))
        elif (segment := _SEGMENT.fullmatch(file)) is not None:
            epoch, msn = segment.groups()
            if epoch == presentation.epoch:
                return await self._segment(presentation, rendition, int(msn))
        elif (init := presentation.shelves[rendition].inits.get(file)) is not None:
            return replies.media((init.data,), _media_type(presentation, rendition), file)
        return replies.not_found("This is not, or no longer, available.")

    def _top(self, presentation: Presentation, file: str) -> Reply:
        if file == "time":
            return Reply(200, replies.TEXT, "no-store", (instant(self._wall_us()).encode(),))
        if not presentation.ready:
            return replies.not_found("The stream has not started yet.")
        if file == "index.m3u8":
            body = render.multivariant(presentation)
            return replies.fresh(body, replies.PLAYLIST, _etag(presentation, "i"), presentation.settings.segment_s)
        if file == "manifest.mpd":
            body = render.mpd(presentation)
            return replies.fresh(body, replies.MPD, _etag(presentation, "d"), presentation.settings.segment_s)
        if (patch := _PATCH.fullmatch(file)) is not None and patch[1] == presentation.epoch:
            return self._patch(presentation, int(patch[2]))
        if file == "storyboard.vtt":
            body = render.storyboard(presentation)
            return replies.fresh(body, replies.VTT, _etag(presentation, "b"), presentation.settings.segment_s)
        if file == "thumbnail.jpg" and presentation.thumbnail is not None:
            body = presentation.thumbnail
            return replies.fresh(body, replies.JPEG, "", presentation.settings.segment_s)
        return replies.not_found("There is nothing here.")

    def _patch(self, presentation: Presentation, published_ms: int) -> Reply:
        """What has changed since that MPD."""
        body, target_s = render.mpd_patch(presentation, published_ms), presentation.settings.segment_s
        return replies.fresh(body, replies.PATCH, _etag(presentation, f"d{published_ms}"), target_s)

    async def _playlist(self, presentation: Presentation, name: str, query: bytes, *, pictures: bool = False) -> Reply:
        """The rendition's playlist, or that of its I pictures, which has whole segments only."""
        try:
            pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=64)
            directives = blocking.parse(pairs)
            if pictures:
                directives = replace(directives, part=None)
        except (ProtocolError, ValueError) as refusal:
            return replies.error(400, str(refusal) or "The query is malformed.")
        target_s = presentation.settings.segment_s
        deadline = time.monotonic() + WAIT_TARGETS * target_s
        while True:
            window = presentation.windows.get(name)
            if window is None and presentation.sleeps(name):
                if not await self._wait(presentation, name, deadline):
                    return replies.too_late("The rendition does not start.")
                continue
            if window is None:
                return replies.not_found("This rendition has not started yet.")
            match blocking.judge(directives, window):
                case blocking.Answer.NOW:
                    break
                case blocking.Answer.BAD:
                    return replies.error(400, "_HLS_msn or _HLS_part is too far ahead.")
            if not await self._wait(presentation, name, deadline):
                return replies.too_late("The stream does not go on.")
        if pictures:
            body = render.iframe_playlist(presentation, window, delta=directives.skip)
            etag = _etag(presentation, f"{name}-{'j' if directives.skip else 'i'}")
            return replies.playlist(body, etag, target_s, blocking=directives.blocking)
        body = render.media_playlist(presentation, window, delta=directives.skip, skip_ranges=directives.skip_ranges)
        etag = _etag(presentation, f"{name}-{'v' if directives.skip_ranges else 's' if directives.skip else 'm'}")
        return replies.playlist(body, etag, target_s, blocking=directives.blocking)

    async def _part(self, presentation: Presentation, name: str, msn: int, index: int) -> Reply:
        """A part; the hinted one is waited for, and sent only when whole (RFC 8216bis 6.2.6)."""
        shelf = presentation.shelves[name]
        deadline = time.monotonic() + WAIT_TARGETS * presentation.settings.segment_s
        while (part := shelf.part(msn, index)) is None:
            window = presentation.windows.get(name)
            waking = window is None and presentation.sleeps(name)
            if not waking and (
                window is None or window.ended or not _expected(window.next_part, window.current, msn, index)
            ):
                return replies.not_found("This part is not, or no longer, available.")
            if not await self._wait(presentation, name, deadline):
                return replies.too_late("The part does not come.")
        if part.gap:
            return replies.not_found("Nothing came for this part.")
        return replies.media(
            (part.data,), _media_type(presentation, name), f"{presentation.epoch}-{name}-{msn}-{index}"
        )

    async def _segment(self, presentation: Presentation, name: str, msn: int) -> Reply | tuple[Presentation, str, int]:
        shelf = presentation.shelves[name]
        deadline = time.monotonic() + WAIT_TARGETS * presentation.settings.segment_s
        while True:
            segment = shelf.segment(msn)
            if segment is not None and segment.complete:
                if segment.gap:
                    return replies.not_found("Nothing came for this segment.")
                if segment.stored:
                    return await self._from_disk(presentation, name, msn)
                body = tuple(part.data for part in segment.parts if part.data)
                return replies.media(body, _media_type(presentation, name), f"{presentation.epoch}-{name}-{msn}")
            if segment is not None and segment.parts:
                return presentation, name, msn
            window = presentation.windows.get(name)
            coming = window is not None and not window.ended and (segment is not None or msn == window.next_part[0])
            coming = coming or (window is None and presentation.sleeps(name))
            if not coming:
                return replies.not_found("This segment is not, or no longer, available.")
            if not await self._wait(presentation, name, deadline):
                return replies.too_late("The segment does not come.")

    async def _tile(self, presentation: Presentation, msn: int) -> Reply:
        tile = presentation.storyboard.find(msn)
        if tile is None:
            return replies.not_found("There is no such picture, or no longer.")
        try:
            body = tile.data or await asyncio.to_thread(presentation.tile_path(tile.msn).read_bytes)
        except OSError:
            return replies.not_found("This picture is no longer available.")
        return replies.media((body,), replies.JPEG, f"{presentation.epoch}-tile-{tile.msn}")

    async def _from_disk(self, presentation: Presentation, name: str, msn: int) -> Reply:
        path = presentation.stored(name, msn)
        try:
            body = await asyncio.to_thread(path.read_bytes)
        except OSError:
            return replies.not_found("This segment is no longer available.")
        return replies.media((body,), _media_type(presentation, name), f"{presentation.epoch}-{name}-{msn}")

    async def _stream(self, send: Send, presentation: Presentation, name: str, msn: int, *, head: bool) -> None:
        """The segment that is being made, one chunk a write (low-latency DASH)."""
        reply = replies.media((), _media_type(presentation, name), f"{presentation.epoch}-{name}-{msn}")
        await send({"type": "http.response.start", "status": 200, "headers": reply.headers(with_length=False)})
        self._count(200)
        shelf = presentation.shelves[name]
        sent = 0
        while not head:
            segment = shelf.segment(msn)
            if segment is None:
                return  # gone from memory; left unfinished, so that nobody keeps the torso
            for part in segment.parts[sent:]:
                if part.gap:
                    continue
                await send({"type": "http.response.body", "body": part.data, "more_body": True})
            sent = len(segment.parts)
            newest = shelf.segment(msn)
            if newest is not segment:
                continue
            if segment.complete:
                break
            deadline = time.monotonic() + WAIT_TARGETS * presentation.settings.segment_s
            if not await self._wait(presentation, name, deadline):
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, presentation: Presentation) -> bool:
        """Wait for a stream that is about to start: a 404 now would stay in caches for a second after it has."""
        deadline = time.monotonic() + WAIT_TARGETS * presentation.settings.segment_s
        while not presentation.ready:
            name = next(iter(presentation.shelves), "")
            if presentation.ended or not await self._wait(presentation, name, deadline):
                return presentation.ready
        return True

    async def _wait(self, presentation: Presentation, name: str, deadline: float) -> bool:
        left = deadline - time.monotonic()
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_future()
        if left <= 0 or self._closing.done():
            return False
        self.waiting += 1
        try:
            return await presentation.wait(name, left, self._closing)
        finally:
            self.waiting -= 1

    async def _send(self, send: Send, reply: Reply, scope: Scope) -> None:
        if reply.etag and reply.status == 200 and _matches(scope, reply.etag):
            reply = Reply(304, reply.media_type, reply.cache, (), reply.etag)
        if reply.status == 200 and reply.immutable:
            reply = replies.ranged(reply, _header(scope, b"range"))
        self._count(reply.status)
        bare = reply.status in (204, 304)
        await send(
            {
                "type": "http.response.start",
                "status": reply.status,
                "headers": reply.headers(with_length=not bare),
            }
        )
        body = () if bare or scope["method"] == "HEAD" else reply.body
        for piece in body[:-1]:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": body[-1] if body else b"", "more_body": False})

    def _count(self, status: int) -> None:
        self.requests[status] = self.requests.get(status, 0) + 1


def _expected(hint: tuple[int, int], current: Segment | None, msn: int, index: int) -> bool:
    """Whether a part may come under this name: it is hinted, or the next of the open segment."""
    return (msn, index) == hint or (current is not None and (msn, index) == (current.msn, len(current.parts)))


def _etag(presentation: Presentation, what: str) -> str:
    return f"{presentation.epoch}-{presentation.version}-{what}"


def _media_type(presentation: Presentation, name: str) -> str:
    return replies.AUDIO if presentation.shelves[name].rendition.kind is Kind.AUDIO else replies.VIDEO


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _matches(scope: Scope, etag: str) -> bool:
    for key, value in scope["headers"]:
        if key == b"if-none-match":
            tags = [tag.strip().removeprefix("W/") for tag in value.decode("latin-1").split(",")]
            return "*" in tags or f'"{etag}"' in tags
    return False


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return
