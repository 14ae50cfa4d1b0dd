"""Which rungs stand under a source, and their shapes."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.track import Codec, Kind, Track
from transcode.ladder import PRESETS, Ladder, Rung, divisor, fit


def source(width: int, height: int, rate: Fraction | None = Fraction(30), aspect: Fraction = Fraction(1)) -> Track:
    return Track(0, Kind.VIDEO, Codec.H264, 90_000, width=width, height=height, frame_rate=rate, sample_aspect=aspect)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1920, 1080), [("720p", 1280, 720), ("480p", 854, 480), ("360p", 640, 360)]),
        ((3840, 2160), [("1080p", 1920, 1080), ("720p", 1280, 720), ("480p", 854, 480), ("360p", 640, 360)]),
        ((1280, 720), [("480p", 854, 480), ("360p", 640, 360)]),
        ((1080, 1920), [("720p", 720, 1280), ("480p", 480, 854), ("360p", 360, 640)]),
        ((720, 576), [("480p", 600, 480), ("360p", 450, 360)]),
        ((768, 432), [("360p", 640, 360)]),
        ((640, 360), []),
        ((0, 0), []),
    ],
)
def test_only_rungs_under_the_source(size: tuple[int, int], expected: list[tuple[str, int, int]]) -> None:
    assert [(r.name, r.width, r.height) for r in fit(PRESETS["default"], source(*size))] == expected


@pytest.mark.parametrize(
    ("rate", "rates"),
    [
        (Fraction(60), [60, 30, 30]),
        (Fraction(50), [50, 25, 25]),
        (Fraction(60_000, 1001), [Fraction(60_000, 1001), Fraction(30_000, 1001), Fraction(30_000, 1001)]),
        (Fraction(30), [30, 30, 30]),
        (Fraction(24_000, 1001), [Fraction(24_000, 1001)] * 3),
        (Fraction(120), [60, 30, 30]),
        (None, [None, None, None]),
    ],
)
def test_60_stays_on_top_and_is_halved_below(rate: Fraction | None, rates: list[Fraction | None]) -> None:
    fitted = fit(PRESETS["default"], source(1920, 1080, rate))
    assert [r.frame_rate for r in fitted] == rates
    assert [r.bitrate for r in fitted] == [4_500_000 if rates[0] and rates[0] > 33 else 3_000_000, 1_200_000, 600_000]


def test_pixels_keep_their_shape() -> None:
    fitted = fit(PRESETS["default"], source(720, 576, aspect=Fraction(64, 45)))
    assert {r.sample_aspect for r in fitted} == {Fraction(64, 45)}


def test_a_second_codec_is_named() -> None:
    names = [r.name for r in fit(PRESETS["modern"], source(1280, 720))]
    assert names == ["480p", "480p-h264", "360p", "360p-h264"]


@given(
    st.integers(2, 8000),
    st.integers(2, 8000),
    st.sampled_from(sorted(PRESETS)),
    st.none() | st.fractions(Fraction(1), Fraction(300)),
)
def test_any_source_fits(width: int, height: int, name: str, rate: Fraction | None) -> None:
    for rung in fit(PRESETS[name], source(width, height, rate)):
        assert rung.width % 2 == rung.height % 2 == 0
        assert min(rung.width, rung.height) < min(width, height)
        assert (rung.width > rung.height) == (width > height) or abs(rung.width - rung.height) <= 2 or width == height
        if min(width, height) > 400:
            assert rung.width / rung.height == pytest.approx(width / height, rel=0.02)
        assert rung.frame_rate is None or rung.frame_rate <= rung.max_rate * Fraction(11, 10)


@given(st.fractions(Fraction(1), Fraction(1000)), st.fractions(Fraction(10), Fraction(60)))
def test_divisor_is_the_smallest_that_is_enough(rate: Fraction, top: Fraction) -> None:
    divide = divisor(rate, top)
    assert rate / divide <= top * Fraction(11, 10)
    assert divide == 1 or rate / (divide - 1) > top * Fraction(11, 10)


def test_presets_descend() -> None:
    for ladder in PRESETS.values():
        heights = [r.height for r in ladder.rungs]
        assert heights == sorted(heights, reverse=True)
    assert fit(Ladder("own", (Rung(100, 1),)), source(320, 180))[0].width == 178
