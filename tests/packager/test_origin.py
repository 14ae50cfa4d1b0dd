"""What the origin answers: statuses, lifetimes, what waits and what does not, and bytes that agree with each other."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from until import settled

from media.cut import Cut
from packager.hls import lint, parse
from packager.origin import Origin
from packager.presentation import Presentation
from packager.settings import PackagerSettings


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    whole: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


class Client:
    """Speaks ASGI to an origin, without sockets."""

    def __init__(self, *presentations: Presentation) -> None:
        known = {p.playback_id: p for p in presentations}
        self.origin = Origin(SimpleNamespace(presentation=known.get))

    async def get(
        self, target: str, method: str = "GET", headers: dict[str, str] | None = None, into: Answer | None = None
    ) -> Answer:
        answer = into or Answer()
        path, _, query = target.partition("?")

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            else:
                answer.pieces += [message["body"]] if message["body"] else []
                answer.whole = not message["more_body"]

        async def receive() -> Any:
            raise AssertionError("the origin reads no request body")

        scope = {
            "type": "http", "method": method, "path": path, "query_string": query.encode(),
            "headers": [(k.encode(), v.encode()) for k, v in (headers or {}).items()],
        }  # fmt: skip
        await self.origin(scope, receive, send)
        return answer


class Stage:
    """A live presentation that stands still at a chosen second."""

    def __init__(self, studio: SimpleNamespace, seconds: float, **settings: Any) -> None:
        feeds = studio.long
        self._events = studio.script(feeds, studio.cuts_of(feeds[0]))
        self._play = studio.play
        self.clock = studio.Clock()
        self.shown = Presentation("x", PackagerSettings(**settings), clock=self.clock, wall_us=self.clock.wall_us)
        self.shown.declare([feed.rendition for feed in feeds])
        self.epoch = self.shown.epoch
        self.client = Client(self.shown)
        self.until(seconds)

    def until(self, seconds: float) -> None:
        ripe = [e for e in self._events if e[0] <= seconds]
        self._events = self._events[len(ripe) :]
        self._play(self.shown, ripe, self.clock, end=False)

    async def get(self, file: str, **more: Any) -> Answer:
        return await self.client.get(f"/live/x/{file}", **more)


@pytest.fixture(scope="module")
def long_stage(studio: SimpleNamespace) -> Stage:
    """At 25.1 s: segments 0 to 11 are complete, and of number 12 parts 0 and 1."""
    return Stage(studio, 25.12)


async def test_lifetimes_and_types(long_stage: Stage) -> None:
    stage = long_stage
    playlist = await stage.get("source/media.m3u8")
    assert playlist.headers["content-type"] == "application/vnd.apple.mpegurl"
    assert playlist.headers["cache-control"] == "public, max-age=1"
    blocking = await stage.get("source/media.m3u8?_HLS_msn=12&_HLS_part=1")
    assert (blocking.status, blocking.headers["cache-control"]) == (200, "public, max-age=12")
    segment = await stage.get(f"source/seg-{stage.epoch}-11.m4s")
    assert segment.headers["cache-control"] == "public, max-age=3600, immutable"
    assert segment.headers["content-type"] == "video/mp4"
    assert int(segment.headers["content-length"]) == len(segment.body)
    sound = await stage.get(f"audio/init-{stage.epoch}-0.mp4")
    assert (sound.status, sound.headers["content-type"]) == (200, "audio/mp4")
    clock = await stage.get("time")
    assert clock.headers["cache-control"] == "no-store"
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", clock.body)
    manifest = await stage.get("manifest.mpd")
    assert (manifest.headers["content-type"], manifest.headers["cache-control"]) == (
        "application/dash+xml",
        "public, max-age=1",
    )
    for path in ("/", "/live/y/index.m3u8", "/live/x/nothing.m3u8", "/live/x/1080p/media.m3u8", "/live/x/../x/time"):
        missing = await stage.client.get(path)
        assert (missing.status, missing.headers["cache-control"]) == (404, "public, max-age=1")


async def test_methods_and_validators(long_stage: Stage) -> None:
    full = await long_stage.get("source/media.m3u8")
    head = await long_stage.get("source/media.m3u8", method="HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(full.body)))
    same = await long_stage.get("source/media.m3u8", headers={"if-none-match": f"W/{full.headers['etag']}"})
    assert (same.status, same.body) == (304, b"")
    other = await long_stage.get("source/media.m3u8", headers={"if-none-match": '"other"'})
    assert other.status == 200
    refused = await long_stage.get("source/media.m3u8", method="POST")
    assert refused.status == 405
    assert len(refused.body) == int(refused.headers["content-length"]) > 0
    assert (await long_stage.get("source/media.m3u8", method="OPTIONS")).status == 204


@pytest.mark.parametrize(
    "query",
    [
        "_HLS_part=0", "_HLS_msn=x", "_HLS_msn=-1", "_HLS_msn=1.5", "_HLS_msn=", "_HLS_msn=12&_HLS_part=x",
        "_HLS_msn=12&_HLS_msn=12", "_HLS_skip=NO", "_HLS_msn=14", "_HLS_msn=12&_HLS_part=8",
        "_HLS_msn=99999999999999999999",
        "_HLS_msn=%D9%A1",
    ],
)  # fmt: skip
async def test_bad_directives(long_stage: Stage, query: str) -> None:
    answer = await long_stage.get(f"source/media.m3u8?{query}")
    assert (answer.status, answer.headers["cache-control"]) == (400, "public, max-age=1")


@pytest.mark.parametrize(
    "query",
    [
        "", "token=abc", "_HLS_msn=0", "_HLS_msn=11", "_HLS_msn=3&_HLS_part=1", "_HLS_msn=12&_HLS_part=1",
        "_HLS_msn=11&_HLS_part=3", "_HLS_msn=11&_HLS_part=4",
    ],
)  # fmt: skip
async def test_what_is_there_is_answered_at_once(long_stage: Stage, query: str) -> None:
    answer = await long_stage.get(f"source/media.m3u8?{query}")
    assert answer.status == 200
    assert f"part-{long_stage.epoch}-12.1.m4s" in answer.body.decode()


async def test_delta(long_stage: Stage) -> None:
    full = parse.parse((await long_stage.get("source/media.m3u8")).body)
    delta = parse.parse((await long_stage.get("source/media.m3u8?_HLS_skip=YES")).body)
    assert isinstance(full, parse.MediaPlaylist)
    assert isinstance(delta, parse.MediaPlaylist)
    assert (full.skipped, delta.skipped) == (0, 6)
    merged, violations = lint.merge(delta, full)
    assert violations == []
    assert merged is not None
    assert merged.segments == full.segments


async def test_waits_for_a_part_and_for_a_segment(studio: SimpleNamespace) -> None:
    stage = Stage(studio, 9.1)
    asked = {
        "4.2": asyncio.ensure_future(stage.get("source/media.m3u8?_HLS_msn=4&_HLS_part=2")),
        "3.9": asyncio.ensure_future(stage.get("audio/media.m3u8?_HLS_msn=4&_HLS_part=2&_HLS_skip=YES")),
        "4": asyncio.ensure_future(stage.get("source/media.m3u8?_HLS_msn=4")),
        "5": asyncio.ensure_future(stage.get("source/media.m3u8?_HLS_msn=4&_HLS_part=4")),
        "part": asyncio.ensure_future(stage.get(f"source/part-{stage.epoch}-4.2.m4s")),
    }
    await settled()
    assert stage.client.origin.waiting == 5
    stage.until(9.58)
    await settled()
    assert {name for name, task in asked.items() if task.done()} == {"4.2", "3.9", "part"}
    assert f"part-{stage.epoch}-4.2.m4s" in asked["4.2"].result().body.decode()
    assert asked["part"].result().body == stage.shown.shelves["source"].part(4, 2).data
    stage.until(10.12)
    await settled()
    assert {name for name, task in asked.items() if not task.done()} == {"5"}
    stage.until(10.62)
    await settled()
    assert all(task.done() and task.result().status == 200 for task in asked.values())
    assert stage.client.origin.waiting == 0


async def test_the_end_releases_whoever_waits(studio: SimpleNamespace) -> None:
    stage = Stage(studio, 9.1)
    playlist = asyncio.ensure_future(stage.get("source/media.m3u8?_HLS_msn=5"))
    part = asyncio.ensure_future(stage.get(f"source/part-{stage.epoch}-4.3.m4s"))
    hinted = asyncio.ensure_future(stage.get(f"source/part-{stage.epoch}-4.2.m4s"))
    await settled()
    stage.shown.end()
    await settled()
    assert b"#EXT-X-ENDLIST" in playlist.result().body
    assert part.result().status == 404
    assert hinted.result().status == 200  # what there was of it
    ignored = await stage.get("source/media.m3u8?_HLS_msn=999&_HLS_skip=YES")
    assert ignored.status == 200
    assert b"SKIP" not in ignored.body
    static = await stage.get("manifest.mpd")
    assert b'type="static"' in static.body


async def test_nobody_waits_longer_than_three_targets(studio: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packager.origin.WAIT_TARGETS", 0.01)
    stage = Stage(studio, 9.1)
    for file in ("source/media.m3u8?_HLS_msn=4", f"source/part-{stage.epoch}-4.2.m4s"):
        answer = await stage.get(file)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.headers["cache-control"] == "public, max-age=0", (
            "a cache would answer 503 to a part that is there"
        )


async def test_a_segment_streams_while_it_is_made(studio: SimpleNamespace) -> None:
    stage = Stage(studio, 9.1)
    answer, early = Answer(), Answer()
    task = asyncio.ensure_future(stage.get(f"source/seg-{stage.epoch}-4.m4s", into=answer))
    await settled()
    assert (answer.status, len(answer.pieces), answer.whole) == (200, 2, False)
    assert "content-length" not in answer.headers
    stage.until(9.58)
    await settled()
    assert len(answer.pieces) == 3
    stage.until(10.02)
    following = asyncio.ensure_future(stage.get(f"source/seg-{stage.epoch}-5.m4s", into=early))
    await settled()
    assert early.status == 0
    stage.until(12.2)
    await task
    await following
    again = await stage.get(f"source/seg-{stage.epoch}-4.m4s")
    assert answer.whole
    assert answer.body == again.body
    assert early.body == (await stage.get(f"source/seg-{stage.epoch}-5.m4s")).body


async def test_what_is_not_hinted_is_not_waited_for(long_stage: Stage) -> None:
    for file in ("part-{e}-12.3.m4s", "part-{e}-13.0.m4s", "seg-{e}-13.m4s", "part-{e}x-12.0.m4s", "init-{e}-1.mp4"):
        assert (await long_stage.get("source/" + file.format(e=long_stage.epoch))).status == 404


async def test_a_segment_is_its_parts(long_stage: Stage) -> None:
    listed = parse.parse((await long_stage.get("source/media.m3u8")).body)
    assert isinstance(listed, parse.MediaPlaylist)
    for segment in listed.segments:
        parts = [(await long_stage.get(f"source/{part.uri}")).body for part in segment.parts]
        if segment.uri and parts:
            assert (await long_stage.get(f"source/{segment.uri}")).body == b"".join(parts)


async def test_bytes_stay_as_long_as_the_rules_ask(studio: SimpleNamespace) -> None:
    stage = Stage(studio, 17.1, window_segments=6)
    window = stage.shown.windows["source"]
    assert [s.msn for s in window.segments] == [2, 3, 4, 5, 6, 7]
    assert (await stage.get(f"source/seg-{stage.epoch}-0.m4s")).status == 200
    stage.until(29.9)
    # 0 left the playlist at 14 s and stays for its own 2 s and the 14 s of the longest playlist, parts included.
    assert (await stage.get(f"source/seg-{stage.epoch}-0.m4s")).status == 200
    stage.until(32.2)
    assert (await stage.get(f"source/seg-{stage.epoch}-0.m4s")).status == 404
    assert (await stage.get(f"source/part-{stage.epoch}-0.0.m4s")).status == 404
    assert (await stage.get(f"source/seg-{stage.epoch}-3.m4s")).status == 200


async def test_memory_is_bounded(studio: SimpleNamespace) -> None:
    bound = 1024 * 1024
    filler = studio.long[0]
    tight = Presentation("x", PackagerSettings(memory_bytes=bound))
    tight.declare([filler.rendition])
    big = filler.packets[0]
    for n in range(60):
        tight.cut(Cut(n, n * 180_000, studio.WALL_US + n * 2_000_000))
        for k in range(4):
            at = n * 180_000 + k * 45_000
            tight.write("source", replace(big, pts=at, dts=at, duration=45_000, keyframe=k == 0, data=bytes(30_000)))
    assert tight.size_bytes <= bound
    assert tight.evicted_early > 0
    assert len(tight.windows["source"].segments) >= 6


def test_memory_takes_the_oldest_of_all_renditions_alike(studio: SimpleNamespace) -> None:
    filler = studio.long[0]
    tight = Presentation("x", PackagerSettings(memory_bytes=1024 * 1024))
    names = ("source", "small")
    tight.declare([replace(filler.rendition, name=name) for name in names])
    for n in range(60):
        tight.cut(Cut(n, n * 180_000, studio.WALL_US + n * 2_000_000))
        for k in range(4):
            at = n * 180_000 + k * 45_000
            shot = replace(filler.packets[0], pts=at, dts=at, duration=45_000, keyframe=k == 0)
            tight.write("source", replace(shot, data=bytes(30_000)))
            tight.write("small", replace(shot, data=bytes(1000)))
        first = {window.segments[0].msn for window in tight.windows.values() if window.segments}
        assert len(first) <= 1, "a picture without its other sizes is of no use"
    assert tight.evicted_early > 0


async def test_nothing_before_the_first_part(studio: SimpleNamespace) -> None:
    stage = Stage(studio, 0.2)
    early = [asyncio.ensure_future(stage.get(file)) for file in ("index.m3u8", "manifest.mpd")]
    await settled()
    assert (await stage.get("source/media.m3u8?_HLS_msn=0")).status == 404
    assert stage.client.origin.waiting == 2, "a 404 now would stay in caches for a second after the start"
    stage.until(0.7)
    assert [(await answer).status for answer in early] == [200, 200]
    thumbnail = await stage.get("thumbnail.jpg")
    assert thumbnail.status == 404
    stage.shown.thumbnail = b"jpeg"
    thumbnail = await stage.get("thumbnail.jpg")
    assert (thumbnail.status, thumbnail.body, thumbnail.headers["content-type"]) == (200, b"jpeg", "image/jpeg")


async def test_a_stream_that_does_not_start_is_not_found(
    studio: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(studio, 0.2)
    asked = asyncio.ensure_future(stage.get("index.m3u8"))
    await settled()
    stage.shown.end()
    answer = await asked
    assert answer.status == 200, "what there was is shown"
    monkeypatch.setattr("packager.origin.WAIT_TARGETS", 0.01)
    assert (await Stage(studio, 0.2).get("index.m3u8")).status == 404


async def test_a_closing_origin_releases_everybody(studio: SimpleNamespace) -> None:
    stage = Stage(studio, 9.1)
    waiting = asyncio.ensure_future(stage.get("source/media.m3u8?_HLS_msn=4"))
    await settled()
    assert not waiting.done()
    stage.client.origin.close()
    assert (await waiting).status == 503
    assert (await stage.get("source/media.m3u8?_HLS_msn=4")).status == 503
    assert (await stage.get("source/media.m3u8")).status == 200
