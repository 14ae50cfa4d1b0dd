"""I-frame playlists: each byte range holds one whole picture, and the origin answers ranges."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from types import SimpleNamespace

import av
import pytest

from packager import render
from packager.cmaf import read
from packager.hls import lint, parse
from packager.presentation import Presentation
from packager.settings import PackagerSettings


@pytest.fixture(scope="module")
def shown(studio: SimpleNamespace) -> Presentation:
    feeds = [studio.video(seconds=9, bframes=2), studio.audio(seconds=9)]
    presentation = Presentation("x", PackagerSettings())
    presentation.declare([feed.rendition for feed in feeds])
    studio.play(presentation, studio.script(feeds, studio.cuts_of(feeds[0])), end=False)
    return presentation


def fetch(url: str, wanted: str = "") -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Range": wanted} if wanted else {})) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


async def test_each_range_is_one_picture(studio: SimpleNamespace, shown: Presentation) -> None:
    top = parse.parse(render.multivariant(shown))
    assert isinstance(top, parse.Multivariant)
    ((said),) = top.iframes
    assert said["RESOLUTION"] == "192x64"
    async with studio.serve({"x": shown}) as base:
        _, body = await asyncio.to_thread(fetch, f"{base}/live/x/{said['URI']}")
        found = parse.parse(body)
        assert isinstance(found, parse.MediaPlaylist)
        assert found.iframes_only
        assert [v for v in lint.check(found) if v.must] == []
        assert len(found.complete) == 4
        init = next(iter(shown.shelves["source"].inits.values())).data
        for segment in found.complete:
            length, offset = map(int, segment.byterange.split("@"))
            url = f"{base}/live/x/source/{segment.uri}"
            status, piece = await asyncio.to_thread(fetch, url, f"bytes={offset}-{offset + length - 1}")
            assert (status, len(piece)) == (206, length)
            moof = next(box for box in read.boxes(piece[:-1] + piece[-1:] + bytes(10**6)) if box.kind == b"mdat")
            samples = read._moof(piece, next(b for b in read.boxes(piece[: moof.at]) if b.kind == b"moof"), (0, 0, 0))[
                1
            ]
            assert length == moof.body + samples[0].size
            decoder = av.CodecContext.create("h264", "r")
            decoder.extradata = shown.track("source").config  # type: ignore[union-attr]
            pictures = decoder.decode(av.Packet(piece[moof.body :])) + decoder.decode(None)
            assert len(pictures) == 1
            assert float(segment.duration) * int(said["BANDWIDTH"]) >= length * 8 * 0.99
            assert len(init) > 100


async def test_the_origin_answers_ranges(studio: SimpleNamespace, shown: Presentation) -> None:
    async with studio.serve({"x": shown}) as base:
        url = f"{base}/live/x/source/seg-{shown.epoch}-1.m4s"
        _, whole = await asyncio.to_thread(fetch, url)
        for wanted, status, body in (
            ("bytes=0-9", 206, whole[:10]),
            ("bytes=100-", 206, whole[100:]),
            ("bytes=-7", 206, whole[-7:]),
            (f"bytes=5-{len(whole) * 2}", 206, whole[5:]),
            ("bytes=9-3", 200, whole),
            (f"bytes={len(whole)}-", 416, b""),
            ("bytes=0-1,4-5", 200, whole),
            ("items=0-1", 200, whole),
        ):
            assert await asyncio.to_thread(fetch, url, wanted) == (status, body), wanted


async def test_it_blocks_and_skips_as_the_others_do(studio: SimpleNamespace) -> None:
    """RFC 8216bis 6.2.4: every playlist has the same EXT-X-SERVER-CONTROL; 6.2.5.2: so `_HLS_msn` counts here, too."""
    feed = studio.video(seconds=34, options={"crf": "40"})
    shown = Presentation("x", PackagerSettings(window_segments=12))
    shown.declare([feed.rendition])
    events = studio.script([feed], studio.cuts_of(feed))
    studio.play(shown, [e for e in events if e[0] < 30.5], end=False)
    async with studio.serve({"x": shown}) as base:
        url = f"{base}/live/x/source/iframes.m3u8"
        _, body = await asyncio.to_thread(fetch, url)
        full = parse.parse(body)
        assert isinstance(full, parse.MediaPlaylist)
        assert lint.check(full) == []
        media = parse.parse(render.media_playlist(shown, shown.windows["source"], delta=False))
        assert isinstance(media, parse.MediaPlaylist)
        assert lint.compare({"media": media, "iframes": full}) == []
        _, body = await asyncio.to_thread(fetch, f"{url}?_HLS_skip=YES")
        delta = parse.parse(body)
        assert isinstance(delta, parse.MediaPlaylist)
        assert delta.skipped == 6
        merged, violations = lint.merge(delta, full)
        assert violations == []
        assert merged is not None
        assert lint.follow(full, merged) == []
        last = full.segments[-1].msn
        waiting = asyncio.create_task(asyncio.to_thread(fetch, f"{url}?_HLS_msn={last + 1}&_HLS_part=1"))
        while not shown._waiters:  # noqa: ASYNC110 - the origin waits for nobody to say so
            await asyncio.sleep(0)
        assert not waiting.done()
        studio.play(shown, [e for e in events if e[0] >= 30.5], end=False)
        status, body = await waiting
        found = parse.parse(body)
        assert isinstance(found, parse.MediaPlaylist)
        assert (status, found.segments[-1].msn) == (200, last + 1)
        assert (await asyncio.to_thread(fetch, f"{url}?_HLS_msn={last + 9}"))[0] == 400
        shown.end()
        assert b"SERVER-CONTROL" not in (await asyncio.to_thread(fetch, f"{url}?_HLS_msn={last + 9}"))[1]
