"""The storyboard: tiles with the window, in memory and on disk, as WebVTT."""

from __future__ import annotations

import asyncio
import itertools
import re
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from media.cut import Cut
from packager import render
from packager.archive import Archive
from packager.presentation import Presentation
from packager.settings import PackagerSettings
from packager.storyboard import MAX_BYTES, MAX_TILES, Storyboard, jpeg_size

NS = {"d": "urn:mpeg:dash:schema:mpd:2011"}
HEAD = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffc0001108005a00a003012200021101031101")
"""Up to the frame header of a picture of 160 x 90."""


def show(studio: SimpleNamespace, shown: Presentation, events: Sequence) -> None:
    """Play; after each cut comes a picture that carries its number."""
    for at, name, item in events:
        studio.play(shown, [(at, name, item)], end=False)
        if isinstance(item, Cut):
            shown.picture(HEAD + item.index.to_bytes(2, "big"))


def cues(text: str) -> list[tuple[float, float, int]]:
    """(start, end, number) of each cue."""
    found = []
    for block in text.split("\n\n"):
        match = re.search(r"(\d+):(\d+):([\d.]+) --> (\d+):(\d+):([\d.]+)\ntile-\w+-(\d+)\.jpg#xywh=0,0,160,90", block)
        if match:
            a, b, c, d, e, f, number = match.groups()
            start, end = (int(h) * 3600 + int(m) * 60 + float(s) for h, m, s in ((a, b, c), (d, e, f)))
            found.append((start, end, int(number)))
    return found


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: bytes = answer.read()
        return body


async def test_the_window_has_its_pictures_live_and_afterwards(studio: SimpleNamespace) -> None:
    shown = Presentation("x", PackagerSettings(window_segments=6))
    feeds = studio.long
    shown.declare([feed.rendition for feed in feeds])
    show(studio, shown, studio.script(feeds, studio.cuts_of(feeds[0])))
    async with studio.serve({"x": shown}) as base:
        text = (await asyncio.to_thread(get, f"{base}/live/x/storyboard.vtt")).decode()
        window = shown.windows["source"]
        assert text.startswith("WEBVTT\n")
        listed = cues(text)
        assert [n for *_, n in listed] == [s.msn for s in window.segments]
        assert [start for start, *_ in listed] == pytest.approx([2.0 * s.msn for s in window.segments])
        assert all(end == pytest.approx(start + 2) for start, end, _ in listed)
        for *_, number in listed:
            tile = await asyncio.to_thread(get, f"{base}/live/x/tile-{shown.epoch}-{number}.jpg")
            assert int.from_bytes(tile[-2:], "big") == number
        shown.end()
        ended = cues((await asyncio.to_thread(get, f"{base}/live/x/storyboard.vtt")).decode())
        assert (ended[0][0], len(ended)) == (0.0, len(shown.windows["source"].segments))


async def test_tiles_of_a_rewind_window_are_on_disk(studio: SimpleNamespace, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    archive = Archive(
        tmp_path, loop.call_soon_threadsafe, node_bytes=10**9, stream_bytes=10**9, min_free_bytes=0
    )  # fmt: skip
    shown = Presentation("x", PackagerSettings(window_segments=6), archive=archive, dvr_window_s=3600)
    feeds = studio.long
    shown.declare([feed.rendition for feed in feeds])
    show(studio, shown, studio.script(feeds, studio.cuts_of(feeds[0])))
    written = loop.create_future()
    archive.put(lambda: None, lambda good: written.set_result(good))
    await written
    assert not any(tile.data for tile in shown.storyboard.tiles)
    async with studio.serve({"x": shown}) as base:
        number = shown.storyboard.tiles[0].msn
        tile = await asyncio.to_thread(get, f"{base}/live/x/tile-{shown.epoch}-{number}.jpg")
    assert int.from_bytes(tile[-2:], "big") == number
    await asyncio.to_thread(archive.close)


def test_a_storyboard_without_pictures_is_empty(studio: SimpleNamespace) -> None:
    shown = Presentation("x", PackagerSettings(window_segments=6))
    feeds = studio.long
    shown.declare([feed.rendition for feed in feeds])
    studio.play(shown, studio.script(feeds, studio.cuts_of(feeds[0])), end=False)
    assert render.storyboard(shown) == b"WEBVTT\n"


def test_a_storyboard_is_bounded() -> None:
    board = Storyboard(10_800)
    for msn in range(30_000):
        board.add(msn, HEAD)
    numbers = [tile.msn for tile in board.tiles]
    assert len(numbers) <= MAX_TILES + 1
    assert {b - a for a, b in itertools.pairwise(numbers)} == {15}
    big = Storyboard(15)
    for msn in range(100):
        big.add(msn, HEAD + bytes(1024 * 1024))
    assert sum(len(tile.data) for tile in big.tiles) <= MAX_BYTES
    assert big.tiles[-1].msn == 99


@pytest.mark.parametrize(
    "bad", [b"", b"\xff\xd8", b"\xff\xd8\xff", HEAD[:26], b"GIF89a" + bytes(40), HEAD[:6] + b"\xff" * 9]
)
def test_what_is_no_picture_is_no_tile(bad: bytes) -> None:
    assert jpeg_size(bad) is None
    assert Storyboard(15).add(0, bad) is None


def test_it_is_a_track_of_the_mpd_from_the_period_on_in_which_there_are_pictures(studio: SimpleNamespace) -> None:
    shown = Presentation("x", PackagerSettings(window_segments=30))
    feeds = studio.long
    shown.declare([feed.rendition for feed in feeds])
    offered: dict[str, bool] = {}
    for event in studio.script(feeds, studio.cuts_of(feeds[0])):
        if isinstance(event[2], Cut) and event[2].index > 1:
            show(studio, shown, [event])
        else:
            studio.play(shown, [event], end=False)
        if not shown.ready or not isinstance(event[2], Cut):
            continue
        for period in ET.fromstring(render.mpd(shown)).iterfind("d:Period", NS):
            pictured = period.find("d:AdaptationSet[@mimeType='image/jpeg']", NS) is not None
            assert offered.setdefault(period.attrib["id"], pictured) is pictured
    assert list(offered.values()) == [False, True]
    for end in (lambda: None, shown.end):
        end()
        period = ET.fromstring(render.mpd(shown)).findall("d:Period", NS)[-1]
        track = period.find("d:AdaptationSet[@mimeType='image/jpeg']/d:Representation", NS)
        assert track is not None
        assert (track.attrib["width"], track.attrib["height"]) == ("160", "90")
        template = track.find("d:SegmentTemplate", NS)
        assert template is not None
        video = period.find("d:AdaptationSet[@contentType='video']/d:Representation/d:SegmentTemplate", NS)
        assert video is not None
        for same in ("timescale", "presentationTimeOffset", "startNumber"):
            assert template.attrib[same] == video.attrib[same]
        number = int(template.attrib["startNumber"])
        assert template.attrib["media"] == f"tile-{shown.epoch}-$Number$.jpg"
        for entry in template.iterfind("d:SegmentTimeline/d:S", NS):
            for _ in range(int(entry.get("r", 0)) + 1):
                tile = shown.storyboard.find(number)
                assert tile is not None
                assert tile.msn == number
                number += 1
        assert number - 1 == shown.windows["source"].last_part[0]


def test_one_tile_stands_for_the_segments_up_to_the_next() -> None:
    board = Storyboard(3 * MAX_TILES)
    for msn in range(20):
        board.add(msn, HEAD)
    assert [tile.msn for tile in board.tiles] == [0, 3, 6, 9, 12, 15, 18]
    found = [board.find(msn) for msn in (0, 2, 3, 17, 18)]
    assert [tile.msn if tile else None for tile in found] == [0, 0, 3, 15, 18]
    assert board.find(19) is None  # which may yet get one of its own
