"""Scaled pictures keep the source's colours, whatever it says of them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from av.video.frame import VideoFrame

from transcode.encoder import TIME_BASE, Colour
from transcode.scale import Scaler, colour_of

GREEN = (120, 60, 70)
"""Far from grey: BT.709 taken for BT.601 moves its luma by more than ten."""


def flat(pixels: str = "yuv420p", matrix: int = 1, value_range: int = 1) -> VideoFrame:
    picture = VideoFrame(1280, 720, pixels)
    for plane, value in zip(picture.planes, GREEN, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    picture.colorspace, picture.color_range = matrix, value_range
    picture.pts, picture.time_base = 0, TIME_BASE
    return picture


def middle(picture: Any) -> tuple[int, ...]:
    return tuple(bytes(p)[p.line_size * (p.height // 2) + p.width // 2] for p in picture.planes)


@pytest.mark.parametrize("matrix", [1, 2, 5, 6, 9])
def test_values_stay_as_they_are_for_every_matrix(matrix: int) -> None:
    scaled = Scaler(640, 360, Fraction(1))(flat(matrix=matrix), Fraction(1))
    assert middle(scaled) == GREEN


def test_full_range_becomes_limited() -> None:
    scaled = Scaler(640, 360, Fraction(1))(flat(value_range=2), Fraction(1))
    luma = middle(scaled)[0]
    assert luma == pytest.approx(16 + GREEN[0] * 219 / 255, abs=1)


def test_thumbnails_are_converted_to_what_jpeg_means() -> None:
    scaled = Scaler(640, 360, Fraction(1), jpeg=True)(flat(), Fraction(1))
    same = Scaler(640, 360, Fraction(1), jpeg=True)(flat(matrix=6), Fraction(1))
    assert abs(middle(scaled)[0] - middle(same)[0]) > 3
    assert middle(same)[0] == pytest.approx((GREEN[0] - 16) * 255 / 219, abs=1)


def pq(nits: float) -> int:
    """10-bit limited-range luma of a grey of so many candela per square metre (SMPTE ST 2084)."""
    y = (nits / 10_000) ** 0.1593017578125
    return round(64 + 876 * ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375)


def test_hdr_becomes_sdr_with_its_greys_in_order_and_neither_black_nor_white_clipped() -> None:
    scaler, lumas = Scaler(640, 360, Fraction(1)), []
    for nits in (0, 1, 10, 50, 100, 203, 400, 1000):
        picture = VideoFrame(1280, 720, "yuv420p10le")
        for plane, value in zip(picture.planes, (pq(nits), 512, 512), strict=True):
            plane.update(value.to_bytes(2, "little") * (plane.buffer_size // 2))
        picture.colorspace, picture.color_primaries, picture.color_trc, picture.color_range = 9, 9, 16, 1
        picture.pts, picture.time_base = 0, TIME_BASE
        scaled = scaler(picture, Fraction(1))
        luma, u, v = middle(scaled)
        lumas.append(luma)
        assert abs(u - 128) <= 1
        assert abs(v - 128) <= 1
        assert (int(scaled.color_primaries), int(scaled.color_trc), int(scaled.colorspace)) == (1, 1, 1)
        assert colour_of(picture) == Colour(1, 1, 1)
    assert lumas[0] == 16
    assert lumas == sorted(set(lumas))
    assert 120 < lumas[5] < lumas[-1] <= 235, "reference white is a light grey, what is brighter still differs"
