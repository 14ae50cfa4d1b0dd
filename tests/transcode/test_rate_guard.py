"""An encoder that oversteps its bitrate is kept to it, by leaving pictures out."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from media.track import Codec
from transcode import rung as module
from transcode.encoder import Coded
from transcode.plan import VideoEncode
from transcode.rung import Rung
from transcode.scale import colour_of
from transcode.shot import Shot

RATE = 400_000


class Wasteful:
    """A named substitute for libsvtav1: ten times the bits of its target."""

    def __init__(self, spec: VideoEncode, name: str, colour: Any) -> None:
        self.name = name
        self.track = None

    def encode(self, picture: Any, *, idr: bool) -> list[Coded]:
        return [Coded(picture.pts, idr, bytes(RATE * 10 // 25 // 8))]

    def flush(self) -> list[Coded]:
        return []


@pytest.mark.parametrize(("encoder", "guarded"), [("libsvtav1", True), ("h264_vaapi", True), ("libx264", False)])
def test_no_segment_is_far_over_its_target(
    kit: Any, monkeypatch: pytest.MonkeyPatch, encoder: str, guarded: bool
) -> None:
    monkeypatch.setattr(module, "Encoder", Wasteful)
    spec = VideoEncode("r", 0, Codec.AV1, (encoder,), 64, 36, RATE, 300, frame_rate=Fraction(25))
    out = kit.Collected()
    rung = Rung(spec, out)
    rung.start()
    for n, picture in enumerate(kit.pictures(6, Fraction(25), "64x36")):
        picture.pts = n * 3600
        rung.offer(Shot(picture, n * 3600, 3600, n % 50 == 0, Fraction(1), colour_of(picture)))
    rung.finish()
    rung.join()
    packets = out.packets["r"]
    for segment in range(3):
        mine = [p for p in packets if segment * 180_000 <= p.pts < (segment + 1) * 180_000]
        bits = 8 * sum(len(p.data) for p in mine)
        assert (bits <= 2 * RATE * 1.1) == guarded
        assert mine[0].pts == segment * 180_000
    out.assert_continuous("r")


@pytest.mark.parametrize("encoder", ["libsvtav1", "libx264"])
def test_the_time_without_a_publisher_belongs_to_no_picture(
    kit: Any, monkeypatch: pytest.MonkeyPatch, encoder: str
) -> None:
    monkeypatch.setattr(module, "Encoder", Wasteful)
    spec = VideoEncode("r", 0, Codec.AV1, (encoder,), 64, 36, RATE * 100, 300, frame_rate=Fraction(25))
    out = kit.Collected()
    rung = Rung(spec, out)
    rung.start()
    for n, picture in enumerate(kit.pictures(2, Fraction(25), "64x36")):
        pts = n * 3600 + (500_000 if n >= 25 else 0)
        picture.pts = pts
        anew = n == 25
        rung.offer(Shot(picture, pts, 3600, n % 25 == 0, Fraction(1), colour_of(picture), anew))
    rung.finish()
    rung.join()
    assert [p.duration for p in out.packets["r"]] == [3600] * 50
