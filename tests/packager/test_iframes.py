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
