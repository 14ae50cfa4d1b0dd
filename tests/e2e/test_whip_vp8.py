"""A browser that offers nothing but VP8: it cannot stand in CMAF, so every rung is encoded, and viewers get H.264."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from fractions import Fraction

import av
import httpx2
import pytest
from aiortc import RTCPeerConnection, RTCRtpSender, RTCSessionDescription, VideoStreamTrack
from live_server import Server, wait_for

pytestmark = pytest.mark.e2e


class Grey(VideoStreamTrack):
    """320x240 in real time, each picture a little brighter."""

    async def recv(self) -> av.VideoFrame:
        pts, base = await self.next_timestamp()
        frame = av.VideoFrame(320, 240, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes((pts // 3000 % 200,)) * plane.buffer_size)
        frame.pts, frame.time_base = pts, Fraction(base)
        return frame


async def publish(url: str, key: str, stop: threading.Event) -> None:
    pc = RTCPeerConnection()
    try:
        transceiver = pc.addTransceiver(Grey(), "sendonly")
        known = RTCRtpSender.getCapabilities("video").codecs
        transceiver.setCodecPreferences([one for one in known if one.mimeType in ("video/VP8", "video/rtx")])
        await pc.setLocalDescription(await pc.createOffer())
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/sdp"}
        async with httpx2.AsyncClient() as http:
            made = await http.post(url, content=pc.localDescription.sdp, headers=headers)
            assert made.status_code == 201, made.text
            await pc.setRemoteDescription(RTCSessionDescription(made.text, "answer"))
            await asyncio.to_thread(stop.wait)
            await http.delete(httpx2.URL(url).join(made.headers["location"]), headers=headers)
    finally:
        await pc.close()


@pytest.fixture
def on_air(server: Server) -> Iterator[Server]:
    key = server.add("vp8")["key"]
    stop = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(publish(f"{server.api}/whip", key, stop)))
    thread.start()
    try:
        yield server
    finally:
        stop.set()
        thread.join()


def test_viewers_get_what_every_player_knows(on_air: Server) -> None:
    server = on_air
    text = server.wait_on_air("vp8", 30)
    assert 'CODECS="avc1.' in text
    assert "vp08" not in text
    uri = next(line for line in text.splitlines() if line and not line.startswith("#"))
    wait_for(lambda: server.playlist(f"/live/vp8/{uri}").count("#EXTINF") >= 2, 20, "segments come")
    found = next(b for b in server.admin("/v1/broadcasts") if b["stream"] == "vp8")
    assert found["state"] == "live"
