"""A recording gatekeeper, a WHIP server on a free port, and a small coded clip to publish."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator
from fractions import Fraction
from typing import Any

import av
import pytest
import uvicorn
from fastapi import FastAPI

from ingest.settings import WhipSettings
from ingest.whip.endpoint import WhipEndpoint
from ingest.whip.router import whip_router
from media.errors import HeadraceError
from media.packet import Gap, Packet
from media.track import Kind


class Publication:
    """Records what a session does to it."""

    stream = "test"
    id = "broadcast-1"

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self.gaps: list[Gap] = []
        self.reports: dict[str, Any] = {}
        self.closed: tuple[Any, str] | None = None
        self.ended = asyncio.Event()
        self.stop: Any = None
        self.keyframe: Any = None
        self.changed = asyncio.Condition()

    def origin(self) -> int:
        return 90_000

    def write(self, item: Packet | Gap) -> None:
        assert self.closed is None
        if isinstance(item, Packet):
            self.packets.append(item)
        else:
            self.gaps.append(item)

    def report(self, **values: Any) -> None:
        self.reports |= values

    def on_stop(self, callback: Any) -> None:
        self.stop = callback

    def on_keyframe_wanted(self, callback: Any) -> None:
        self.keyframe = callback

    def close(self, reason: Any, text: str = "") -> None:
        assert self.closed is None
        self.closed = (reason, text)
        self.ended.set()

    def of(self, kind: Kind) -> list[Packet]:
        return [packet for packet in self.packets if packet.track.kind is kind]

    async def until(self, condition: Any, timeout_s: float = 60.0) -> None:
        """Polls: what is waited for comes from a network, not from an event of ours."""
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.02)


class Gate:
    """Admits every key but those it is told to refuse."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.publications: list[Publication] = []
        self.refusal: HeadraceError | None = None

    async def admit(self, request: Any) -> Publication:
        self.requests.append(request)
        if self.refusal is not None:
            raise self.refusal
        self.publications.append(Publication())
        return self.publications[-1]

    def srt_handshake(self, key: str, address: str) -> Any:
        raise NotImplementedError


class Server:
    """A real HTTP server with the WHIP routes."""

    def __init__(self, endpoint: WhipEndpoint, gate: Gate, port: int) -> None:
        self.endpoint = endpoint
        self.gate = gate
        self.url = f"http://127.0.0.1:{port}"


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def server(gate: Gate) -> AsyncIterator[Server]:
    endpoint = WhipEndpoint(WhipSettings(session_timeout_s=5), gate)
    await endpoint.start()
    app = FastAPI()
    app.include_router(whip_router(endpoint))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    web = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    task = asyncio.create_task(web.serve([listener]))
    while not web.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield Server(endpoint, gate, listener.getsockname()[1])
    finally:
        await endpoint.stop()
        web.should_exit = True
        await task
        listener.close()


@pytest.fixture(scope="session")
def clip() -> dict[str, list[av.Packet]]:
    """Two seconds of H.264 (160x96, 25 fps, one IDR in a second, no B-frames) and of Opus (20 ms)."""
    video: Any = av.CodecContext.create("libx264", "w")
    video.width, video.height, video.pix_fmt = 160, 96, "yuv420p"
    video.time_base, video.framerate = Fraction(1, 25), Fraction(25)
    video.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "25", "bf": "0", "x264-params": "scenecut=0"}
    pictures = []
    for number in range(50):
        frame = av.VideoFrame(160, 96, "yuv420p")
        draw = random.Random(number)
        for plane in frame.planes:
            plane.update(draw.randbytes(plane.buffer_size))
        frame.pts = number
        pictures += video.encode(frame)
    pictures += video.encode(None)
    audio: Any = av.CodecContext.create("libopus", "w")
    audio.sample_rate, audio.layout, audio.format = 48_000, "stereo", "s16"
    sounds = []
    for number in range(100):
        sound = av.AudioFrame("s16", "stereo", 960)
        sound.planes[0].update(bytes(sound.planes[0].buffer_size))
        sound.sample_rate, sound.pts, sound.time_base = 48_000, number * 960, Fraction(1, 48_000)
        sounds += audio.encode(sound)
    return {"video": pictures, "audio": sounds}


@pytest.fixture
def now_us() -> Any:
    return lambda: time.monotonic_ns() // 1000
