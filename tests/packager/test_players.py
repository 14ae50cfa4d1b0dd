"""ffmpeg 5.1 and 9 play what the origin serves: every picture once, every time exact, sound and picture together."""

from __future__ import annotations

import asyncio
import shutil
from fractions import Fraction
from types import SimpleNamespace

import imageio_ffmpeg
import pytest

from media.track import Codec
from packager.presentation import Presentation
from packager.settings import PackagerSettings

FFMPEG = shutil.which("ffmpeg") or imageio_ffmpeg.get_ffmpeg_exe()
FFPROBE = shutil.which("ffprobe")
PLAYERS = sorted({FFMPEG, imageio_ffmpeg.get_ffmpeg_exe()})
needs_ffprobe = pytest.mark.skipif(FFPROBE is None, reason="ffprobe is not installed")


def packaged(studio: SimpleNamespace, *feeds: object) -> Presentation:
    presentation = Presentation("x", PackagerSettings())
    presentation.declare([feed.rendition for feed in feeds])
    studio.play(presentation, studio.script(feeds, studio.cuts_of(feeds[0])))
    return presentation


@pytest.mark.parametrize("player", PLAYERS, ids=lambda path: path.rsplit("/", 1)[-1][:12])
@pytest.mark.parametrize("file", ["index.m3u8", "manifest.mpd"])
@pytest.mark.parametrize(
    ("codec", "rate", "bframes"),
    [
        (Codec.H264, Fraction(30), 2),
        (Codec.H264, Fraction(30_000, 1001), 0),
        (Codec.H264, Fraction(25), 3),
        (Codec.HEVC, Fraction(30), 2),
        (Codec.AV1, Fraction(30), 0),
    ],
    ids=lambda value: str(getattr(value, "value", value)),
)
async def test_every_picture_once(
    studio: SimpleNamespace, player: str, file: str, codec: Codec, rate: Fraction, bframes: int
) -> None:
    shown = studio.video(codec=codec, rate=rate, seconds=6, bframes=bframes)
    presentation = packaged(studio, shown, studio.audio(seconds=6))
    async with studio.serve({"x": presentation}) as base:
        numbers, messages = await studio.decode_numbers(player, f"{base}/live/x/{file}")
    assert numbers == list(range(len(shown.packets)))
    # ffmpeg drops the sound that is not asked for in mid-read, and then says so.
    complaints = [line for line in messages.splitlines() if "Packet corrupt" not in line]
    assert complaints == []


@needs_ffprobe
@pytest.mark.parametrize("file", ["index.m3u8", "manifest.mpd"])
@pytest.mark.parametrize("sound", [Codec.AAC, Codec.OPUS])
async def test_times_are_exact_across_joins(studio: SimpleNamespace, file: str, sound: Codec) -> None:
    shown, heard = studio.video(seconds=6, bframes=2), studio.audio(seconds=6, codec=sound)
    presentation = packaged(studio, shown, heard)
    async with studio.serve({"x": presentation}) as base:
        url = f"{base}/live/x/{file}"
        seen = await asyncio.gather(studio.packet_times(FFPROBE, url, "v:0"), studio.packet_times(FFPROBE, url, "a:0"))
    for feed, times in zip((shown, heard), seen, strict=True):
        scale = feed.packets[0].track.timescale
        expected = sorted(p.pts + scale for p in feed.packets)
        got = sorted(times)
        assert len(got) == len(expected)
        assert max(abs(a - b / scale) for a, b in zip(got, expected, strict=True)) < 2e-6


@needs_ffprobe
async def test_mono_sound_at_44100_alone(studio: SimpleNamespace) -> None:
    heard = studio.audio(seconds=7, rate=44_100, channels=1)
    presentation = packaged(studio, heard)
    async with studio.serve({"x": presentation}) as base:
        for file in ("index.m3u8", "manifest.mpd"):
            times = await studio.packet_times(FFPROBE, f"{base}/live/x/{file}", "a:0")
            assert [round(t * 44_100) for t in times] == [44_100 + n * 1024 for n in range(len(heard.packets))]


async def test_pictures_alone(studio: SimpleNamespace) -> None:
    shown = studio.video(seconds=6)
    presentation = packaged(studio, shown)
    async with studio.serve({"x": presentation}) as base:
        for player in PLAYERS:
            for file in ("index.m3u8", "manifest.mpd"):
                numbers, messages = await studio.decode_numbers(player, f"{base}/live/x/{file}")
                assert (numbers, messages) == (list(range(180)), "")


@pytest.mark.parametrize("file", ["index.m3u8", "manifest.mpd"])
@pytest.mark.parametrize("player", PLAYERS, ids=lambda path: path.rsplit("/", 1)[-1][:12])
async def test_a_live_stream_while_it_is_made(studio: SimpleNamespace, file: str, player: str) -> None:
    """The player joins at the live edge and reads on until the broadcast ends: a run of pictures without a hole."""
    shown, heard = studio.video(seconds=9), studio.audio(seconds=9)
    presentation = Presentation("x", PackagerSettings())
    presentation.declare([shown.rendition, heard.rendition])
    events = studio.script([shown, heard], studio.cuts_of(shown))
    loop = asyncio.get_running_loop()

    async def publish(rate: float) -> None:
        begin = loop.time()
        for at, name, item in events:
            # The player runs in real time, so the encoder must too.
            await asyncio.sleep(max(0.0, begin + at / rate - loop.time()))
            studio.play(presentation, [(at, name, item)], end=False)
        presentation.end()

    async def watch(base: str) -> list[int]:
        while presentation.windows.get("source") is None or presentation.windows["source"].last_complete < 1:
            await presentation.wait("source", 10)
        # ffmpeg never notices that a DASH broadcast has ended: it is told when to stop.
        frames = None if file == "index.m3u8" else 120
        numbers, _ = await studio.decode_numbers(player, f"{base}/live/x/{file}", frames)
        return numbers

    async with studio.serve({"x": presentation}) as base:
        _, numbers = await asyncio.gather(publish(3), watch(base))
    assert len(numbers) >= 120
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert file != "index.m3u8" or numbers[-1] == 269
