"""A picture at the sizes of all rungs: each scaled once, from the next larger one, and nobody writes to another's."""

from __future__ import annotations

import threading
from fractions import Fraction
from typing import Any

import av
import pytest
from av.video.frame import PictureType, VideoFrame

from media.track import Codec
from transcode import shot as module
from transcode.encoder import TIME_BASE, Colour
from transcode.plan import VideoEncode
from transcode.scale import Scaler
from transcode.shot import Shot, Size, stack


def spec(name: str, width: int, height: int, divide: int = 1) -> VideoEncode:
    return VideoEncode(name, 0, Codec.H264, ("libx264",), width, height, 10**6, 300, divide=divide)


def shot(pts: int = 0) -> Shot:
    picture = VideoFrame(640, 360, "yuv420p")
    for plane, value in zip(picture.planes, (120, 60, 70), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    picture.pts, picture.time_base = pts, TIME_BASE
    return Shot(picture, pts, 3600, False, Fraction(1), Colour())


def test_each_size_is_scaled_from_the_smallest_that_is_as_large_and_shows_as_many_pictures() -> None:
    specs = [
        spec("360p", 640, 360),
        spec("1080p", 1920, 1080),
        spec("480p-av1", 854, 480),
        spec("480p", 854, 480),
        spec("720p", 1280, 720, divide=2),
        spec("240p", 426, 240, divide=2),
        spec("tall", 270, 480),
    ]
    sizes = [Size(s) for s in specs]
    stack(sizes)
    above = {s.spec.name: s.above.spec.name if s.above else None for s in sizes}
    assert above == {
        "1080p": None,
        "720p": "1080p",
        "480p-av1": "1080p",  # 720p is halved
        "480p": "480p-av1",
        "360p": "480p",
        "tall": "480p",
        "240p": "360p",
    }
    stack([s for s in sizes if s.spec.name != "480p-av1"])
    assert sizes[3].above is sizes[1], "a rung that is gone makes nothing for others"


def test_a_picture_is_scaled_once_for_each_size_whoever_asks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled: list[tuple[int, int]] = []

    class Counting(Scaler):
        def __call__(self, picture: VideoFrame, sample_aspect: Fraction) -> VideoFrame:
            made = super().__call__(picture, sample_aspect)
            scaled.append((picture.width, made.width))
            return made

    monkeypatch.setattr(module, "Scaler", Counting)
    sizes = [Size(spec("a", 320, 180)), Size(spec("b", 160, 90)), Size(spec("c", 160, 90)), Size(spec("d", 64, 36))]
    stack(sizes)
    shots = [shot(n * 3600) for n in range(20)]
    made: dict[str, list[Any]] = {}

    def ask(size: Size) -> None:
        made[size.spec.name] = [size.of(each) for each in shots]

    threads = [threading.Thread(target=ask, args=(size,)) for size in reversed(sizes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(scaled) == sorted([(640, 320), (320, 160), (160, 160), (160, 64)] * len(shots))
    for name, width in (("a", 320), ("b", 160), ("c", 160), ("d", 64)):
        assert [(p.width, p.pts) for p in made[name]] == [(width, each.pts) for each in shots]
        assert all(bytes(p.planes[0])[0] == 120 for p in made[name])


def test_rungs_of_one_size_share_pixels_and_nothing_else() -> None:
    sizes = [Size(spec("h264", 320, 180)), Size(spec("av1", 320, 180))]
    stack(sizes)
    picture = shot()
    one, other = sizes[0].of(picture), sizes[1].of(picture)
    one.pict_type = PictureType.I
    assert one.planes[0].buffer_ptr == other.planes[0].buffer_ptr
    assert other.pict_type != PictureType.I


def test_a_picture_that_cannot_be_scaled_spoils_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = shot(3600)

    class Failing(Scaler):
        def __call__(self, picture: VideoFrame, sample_aspect: Fraction) -> VideoFrame:
            if picture is broken.picture:
                raise av.FFmpegError(22, "broken")
            return super().__call__(picture, sample_aspect)

    monkeypatch.setattr(module, "Scaler", Failing)
    sizes = [Size(spec("a", 320, 180)), Size(spec("b", 160, 90))]
    stack(sizes)
    assert sizes[1].of(shot(0)).width == 160
    for size in sizes:
        with pytest.raises(av.FFmpegError):
            size.of(broken)
    assert sizes[1].of(shot(7200)).pts == 7200


def test_hdr_is_converted_once_and_every_size_is_tagged_alike() -> None:
    picture = VideoFrame(640, 360, "yuv420p10le")
    for plane, value in zip(picture.planes, (600, 512, 512), strict=True):
        plane.update(value.to_bytes(2, "little") * (plane.buffer_size // 2))
    picture.colorspace, picture.color_primaries, picture.color_trc, picture.color_range = 9, 9, 16, 1
    picture.pts, picture.time_base = 0, TIME_BASE
    hdr = Shot(picture, 0, 3600, True, Fraction(1), Colour(1, 1, 1))
    sizes = [Size(spec("a", 320, 180)), Size(spec("b", 160, 90))]
    stack(sizes)
    made = [size.of(hdr) for size in sizes]
    assert {p.format.name for p in made} == {"yuv420p"}
    assert {(int(p.colorspace), int(p.color_primaries), int(p.color_trc)) for p in made} == {(1, 1, 1)}
    lumas = [bytes(p.planes[0])[p.planes[0].line_size * 20 + 20] for p in made]
    assert abs(lumas[0] - lumas[1]) <= 1, "converted twice it would be darker"
