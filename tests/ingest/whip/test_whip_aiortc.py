"""Published by aiortc over a real socket, without encoding: what was sent is what comes out."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from fractions import Fraction
from itertools import pairwise
from statistics import median
from typing import Any

import av
import httpx2
import pytest
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCRtpSender, RTCSessionDescription

from ingest.ports import EndReason
from media.codecs import normalise_video
from media.codecs.nal import split_annexb
from media.track import Codec, Kind

KEY = {"Authorization": "Bearer key", "Content-Type": "application/sdp"}


class Replay(MediaStreamTrack):
    """Sends coded packets (or pictures) in real time, in a loop."""

    def __init__(self, kind: str, items: list[Any], period: Fraction) -> None:
        super().__init__()
        self.kind = kind
        self._items = items
        self._period = period
        self._start: float | None = None
        self.sent = 0

    async def recv(self) -> Any:
        if self._start is None:
            self._start = time.monotonic()
        await asyncio.sleep(max(0.0, self._start + float(self.sent * self._period) - time.monotonic()))
        source = self._items[self.sent % len(self._items)]
        item = av.Packet(bytes(source)) if isinstance(source, av.Packet) else source
        scale = 90_000 if self.kind == "video" else 48_000
        item.pts = int(self.sent * self._period * scale)
        item.time_base = Fraction(1, scale)
        self.sent += 1
        return item


class OnRequest(Replay):
    """The first item is a keyframe and the second none: the first is sent after each request, and at the start."""

    wanted = True
    requests = 0

    def request(self) -> None:
        self.wanted = True
        self.requests += 1

    async def recv(self) -> Any:
        both, self._items = self._items, self._items[:1] if self.wanted else self._items[1:]
        self.wanted = False
        try:
            return await super().recv()
        finally:
            self._items = both


@asynccontextmanager
async def publishing(url: str, tracks: list[Replay], codec: str = "video/H264") -> AsyncIterator[tuple[Any, str]]:
    """A client on air; gives the peer connection and the session's URL."""
    pc = RTCPeerConnection()
    try:
        for track in tracks:
            transceiver = pc.addTransceiver(track, "sendonly")
            if track.kind == "video":
                known = RTCRtpSender.getCapabilities("video").codecs
                transceiver.setCodecPreferences([one for one in known if one.mimeType in (codec, "video/rtx")])
        await pc.setLocalDescription(await pc.createOffer())
        async with httpx2.AsyncClient() as http:
            made = await http.post(f"{url}/whip", content=pc.localDescription.sdp, headers=KEY)
        assert made.status_code == 201, made.text
        await pc.setRemoteDescription(RTCSessionDescription(made.text, "answer"))
        yield pc, url + made.headers["location"]
    finally:
        await pc.close()


def spoil(pc: Any, send: Callable[[Callable[[bytes], Awaitable[None]], bytes], Awaitable[None]]) -> None:
    """Put a bad network between the client's DTLS and its socket."""
    transport = pc.getTransceivers()[0].sender.transport.transport
    original = transport._send
    transport._send = lambda data: send(original, data)


def pictures(clip: dict[str, list[av.Packet]]) -> list[bytes]:
    return [normalise_video(Codec.H264, split_annexb(bytes(packet))).data for packet in clip["video"]]


def assert_a_run_of(received: list[bytes], clip: list[bytes]) -> None:
    """The received pictures follow each other just as in the looped clip, and begin with a keyframe."""
    start = clip.index(received[0])
    assert start % 25 == 0
    assert received == [clip[(start + at) % len(clip)] for at in range(len(received))]


def grey(width: int = 96, height: int = 64) -> av.VideoFrame:
    """An even picture: an encoder finds no reason of its own for a keyframe."""
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane in frame.planes:
        plane.update(b"\x80" * plane.buffer_size)
    return frame


def both(clip: dict[str, list[av.Packet]]) -> list[Replay]:
    return [Replay("video", clip["video"], Fraction(1, 25)), Replay("audio", clip["audio"], Fraction(1, 50))]


async def test_every_picture_and_sound_arrives_as_it_was_sent(server: Any, gate: Any, clip: Any) -> None:
    tracks = both(clip)
    async with publishing(server.url, tracks) as (_, session):
        publication = gate.publications[0]
        await publication.until(lambda: len(publication.of(Kind.VIDEO)) >= 75)
        async with httpx2.AsyncClient() as http:
            assert (await http.delete(session, headers=KEY)).status_code == 200
    video, audio = publication.of(Kind.VIDEO), publication.of(Kind.AUDIO)
    assert_a_run_of([packet.data for packet in video], pictures(clip))
    track = video[0].track
    assert (track.codec, track.width, track.height, track.timescale) == (Codec.H264, 160, 96, 90_000)
    assert [packet.keyframe for packet in video[:50]] == ([True] + [False] * 24) * 2
    for before, after in pairwise(video):
        assert after.dts == before.dts + before.duration
    steps = [after.pts - before.pts for before, after in pairwise(video)]
    assert abs(median(steps) - 3600) <= 1, "where the machine stood still, the clock was drawn to the arrivals"
    assert {packet.duration for packet in audio} == {960}
    assert min(video[0].pts, audio[0].pts * 15 // 8) >= 90_000, "the stream's timeline, from the origin on"
    assert abs(video[-1].pts / 90_000 - audio[-1].pts / 48_000) < 0.1
    assert publication.closed == (EndReason.FINISHED, "")
    assert not publication.gaps


async def test_loss_is_repaired_by_retransmission(server: Any, gate: Any, clip: Any) -> None:
    draw = random.Random(3)

    async def lossy(original: Callable[[bytes], Awaitable[None]], data: bytes) -> None:
        if data[0] < 128 or draw.random() > 0.05:
            await original(data)

    async with publishing(server.url, both(clip)) as (pc, _):
        spoil(pc, lossy)
        publication = gate.publications[0]
        await publication.until(lambda: len(publication.of(Kind.VIDEO)) >= 100)
        (session,) = server.endpoint.sessions.values()
        counters = session.receive.counters()
    assert_a_run_of([packet.data for packet in publication.of(Kind.VIDEO)], pictures(clip))
    assert counters["recovered_packets"] > 10
    assert counters["dropped_frames"] == 0


async def test_vp8_where_the_peer_offers_nothing_else(server: Any, gate: Any) -> None:
    frames = [grey() for _ in range(2)]
    async with publishing(server.url, [Replay("video", frames, Fraction(1, 20))], "video/VP8"):
        publication = gate.publications[0]
        await publication.until(lambda: len(publication.of(Kind.VIDEO)) >= 20)
    packet = publication.of(Kind.VIDEO)[0]
    assert (packet.track.codec, packet.track.width, packet.track.height) == (Codec.VP8, 96, 64)
    assert (packet.track.config, packet.keyframe) == (b"", True)
    assert packet.data[3:6] == b"\x9d\x01\x2a"


async def test_keyframes_are_asked_for_on_the_grid_and_when_wanted(server: Any, gate: Any, clip: Any) -> None:
    """An encoder without keyframes of its own: it makes one when it is asked, and counts."""
    track = OnRequest("video", clip["video"][:2], Fraction(1, 25))
    async with publishing(server.url, [track]) as (pc, _):
        pc.getSenders()[0]._send_keyframe = track.request
        publication = gate.publications[0]
        await publication.until(lambda: sum(packet.keyframe for packet in publication.of(Kind.VIDEO)) >= 3)
        count = len(publication.of(Kind.VIDEO))
        await publication.until(lambda: len(publication.of(Kind.VIDEO)) >= count + 15)
        publication.keyframe()
        await publication.until(lambda: sum(packet.keyframe for packet in publication.of(Kind.VIDEO)) >= 4)
    keys = [packet.pts / 90_000 for packet in publication.of(Kind.VIDEO) if packet.keyframe]
    # How long requests and answers take is the machine's; when they are made is what test_whip_clock proves.
    assert 1.5 < keys[2] - keys[1] < 4
    assert keys[3] - keys[2] < 1.9, "before the grid would have asked"
    assert track.requests < len(publication.of(Kind.VIDEO)) / 4


@pytest.mark.parametrize("kind", ["video", "audio"])
async def test_one_track_alone(server: Any, gate: Any, clip: Any, kind: str) -> None:
    tracks = [track for track in both(clip) if track.kind == kind]
    async with publishing(server.url, tracks):
        publication = gate.publications[0]
        await publication.until(lambda: len(publication.packets) >= 30)
    assert {packet.track.kind.value for packet in publication.packets} == {kind}
    assert publication.packets[0].pts / publication.packets[0].track.timescale == 1.0, "at the origin"


async def test_another_size_in_mid_stream_is_another_track(server: Any, gate: Any) -> None:
    track = Replay("video", [grey()], Fraction(1, 25))
    async with publishing(server.url, [track]):
        publication = gate.publications[0]
        await publication.until(lambda: len(publication.of(Kind.VIDEO)) >= 10)
        track._items = [grey(160, 96)]
        await publication.until(lambda: publication.packets[-1].track.width == 160)
        count = len(publication.packets)
        await publication.until(lambda: len(publication.packets) >= count + 5)
    sizes = [(packet.track.width, packet.track.height) for packet in publication.of(Kind.VIDEO)]
    change = sizes.index((160, 96))
    assert set(sizes[:change]) == {(96, 64)}
    assert set(sizes[change:]) == {(160, 96)}
    assert publication.of(Kind.VIDEO)[change].keyframe
    assert [gap.reason for gap in publication.gaps] == ["config_change"]
    times = [packet.dts for packet in publication.of(Kind.VIDEO)]
    assert times == sorted(set(times))


async def test_a_client_that_closes_without_delete_is_lost(server: Any, gate: Any, clip: Any) -> None:
    async with publishing(server.url, both(clip)):
        publication = gate.publications[0]
        await publication.until(lambda: publication.packets)
    async with asyncio.timeout(30):
        await publication.ended.wait()
    assert publication.closed[0] is EndReason.LOST
    assert publication.reports == {} or publication.reports["loss_ratio"] == 0


async def test_a_cut_cable_is_noticed(server: Any, gate: Any, clip: Any) -> None:
    async def cut(original: Any, data: bytes) -> None:
        return

    async with publishing(server.url, both(clip)) as (pc, _):
        publication = gate.publications[0]
        await publication.until(lambda: publication.packets)
        spoil(pc, cut)
        async with asyncio.timeout(60):
            await publication.ended.wait()
        assert publication.closed[0] is EndReason.LOST
        assert "No media" in publication.closed[1]
