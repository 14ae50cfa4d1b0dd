"""Real pictures through a worker's pipeline: aligned IDRs, exact times, right pictures, whatever the source does."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest

from media.cut import Cut
from media.packet import Packet
from media.track import Codec
from transcode import rung as rung_module
from transcode.encoder import EncoderError
from transcode.ladder import PRESETS, Ladder, Rung
from transcode.messages import Mark
from transcode.pipeline import Pipeline
from transcode.plan import Plan
from transcode.planner import make_plan
from transcode.settings import TranscodeSettings

SETTINGS = TranscodeSettings(shed=False, x264_preset="ultrafast", thumbnails=False)
SMALL = Ladder("small", (Rung(120, 200_000, max_rate=Fraction(60)), Rung(90, 100_000, max_rate=Fraction(30))))


def small_plan(track: Any, *, passthrough: bool = True, ladder: Ladder = SMALL) -> Plan:
    return make_plan(track, None, ladder, passthrough=passthrough, hardware=None, settings=SETTINGS)


def first_at_or_after(times: list[int], pts: int) -> int:
    return next(t for t in times if t >= pts)


def times_of(rate: Fraction | None, count: int) -> list[int]:
    """Display times from 1 s on: exact for a rate, else a jittery, variable one with a hole."""
    if rate is not None:
        return [90_000 + round(n * 90_000 / rate) for n in range(count)]
    steps = [1500, 3000, 4500, 2250, 3017]
    times = [90_000]
    for n in range(count - 1):
        times.append(times[-1] + steps[n * 7 % 5] + (45_000 if n == 60 else 0))
    return times


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30_000, 1001), Fraction(60_000, 1001), None])
@pytest.mark.parametrize("b_frames", [0, 3])
def test_every_rung_has_its_idrs_at_the_first_picture_of_each_cut(
    kit: Any, rate: Fraction | None, b_frames: int
) -> None:
    count = int((rate or 30) * 5)
    source = kit.code_video(
        kit.pictures(5, rate or Fraction(30), "320x180")[:count],
        times_of(rate, count),
        gop=1000,  # the source has no IDR where the cuts are
        b_frames=b_frames,
        rate=rate,
    )
    cuts = kit.grid(source.times[0], source.times[-1])
    out = kit.transcode(small_plan(source.track, passthrough=False), kit.interleave(source.packets, cuts))
    expected = [first_at_or_after(source.times, cut.pts) for cut in cuts]
    assert sorted(out.packets) == ["120p", "90p", "source"]
    for name in out.packets:
        assert out.idrs(name) == expected
        out.assert_continuous(name)
    assert [p.pts for p in out.packets["source"]] == source.times
    assert out.values["late_cuts"] == 0
    assert out.values["decoder_errors"] == 0


def test_a_low_rung_gets_half_of_60_and_keeps_the_cut_picture(kit: Any) -> None:
    rate = Fraction(60)
    source = kit.code_video(kit.pictures(3, rate, "320x180"), times_of(rate, 180), rate=rate)
    # Cuts after an odd number of pictures, so that halving must start anew at each.
    cuts = kit.grid(source.times[0], source.times[-1], step_ticks=61 * 1500)
    out = kit.transcode(small_plan(source.track), kit.interleave(source.packets, cuts))
    assert out.idrs("90p") == out.idrs("120p") == [cut.pts for cut in cuts]
    assert len(out.packets["120p"]) == 180
    assert len(out.packets["90p"]) == 31 + 31 + 29
    assert {p.duration for p in out.packets["90p"]} == {3000, 1500}
    out.assert_continuous("90p")
    assert out.packets["90p"][0].track.frame_rate == 30


@pytest.mark.parametrize("codec", [Codec.H264, Codec.HEVC, Codec.AV1])
def test_pictures_are_those_of_the_source(kit: Any, clip: Any, codec: Codec) -> None:
    ladder = Ladder("one", (Rung(120, 400_000, codec),))
    out = kit.transcode(
        small_plan(clip.track, ladder=ladder), kit.interleave(clip.packets, kit.grid(clip.times[0], clip.times[-1]))
    )
    before = {f.pts: f for f in kit.decode_video(clip.packets)}
    after = kit.decode_video(out.packets["120p"])
    assert [f.pts for f in after] == sorted(before)
    assert after[0].width == 214
    assert min(kit.psnr(before[f.pts], f) for f in after[::7]) > 30
    assert all(kit.psnr(before[f.pts], before[clip.times[0]]) < 30 for f in after[30:60:7]), "the check can fail"
    assert out.packets["120p"][0].track.codec is codec


@pytest.mark.parametrize(
    ("encoder", "pixels", "options"),
    [
        ("libx264", "yuv420p10le", {"preset": "ultrafast"}),
        ("libx264", "yuv422p", {"preset": "ultrafast"}),
        ("libx264", "yuvj420p", {"preset": "ultrafast"}),
        ("libx264", "yuv420p", {"preset": "ultrafast", "x264-params": "tff=1:interlaced=1"}),
        ("libx265", "yuv420p", {"preset": "ultrafast", "x265-params": "log-level=none:bframes=2"}),
        ("libsvtav1", "yuv420p", {"preset": "12", "svtav1-params": "pred-struct=1:rc=2:lookahead=0"}),
    ],
    ids=["10-bit", "4:2:2", "full-range", "interlaced", "hevc", "av1"],
)
def test_every_kind_of_source_becomes_8_bit_progressive_420(
    kit: Any, encoder: str, pixels: str, options: dict[str, str]
) -> None:
    rate = Fraction(25)
    frames = kit.pictures(1, rate, "320x192", pixels)
    source = kit.code_video(frames, times_of(rate, 25), rate=rate, encoder=encoder, options=options, b_frames=0)
    plan = small_plan(source.track)
    out = kit.transcode(plan, kit.interleave(source.packets, kit.grid(source.times[0], source.times[-1])))
    passed = [r.name for r in plan.renditions if r.passthrough]
    assert passed == (["source"] if pixels == "yuvj420p" else [])
    after = kit.decode_video(out.packets["120p"])
    assert [f.pts for f in after] == source.times
    assert {f.format.name for f in after} == {"yuv420p"}
    reference = kit.pictures(1, rate, "320x192", "yuv420p")
    assert min(kit.psnr(a, b) for a, b in zip(reference[::5], after[::5], strict=True)) > 27


def test_a_new_resolution_and_shape_in_mid_stream_keeps_the_rungs(kit: Any) -> None:
    rate = Fraction(25)
    times = times_of(rate, 100)
    wide = kit.code_video(kit.pictures(2, rate, "320x180"), times[:50], rate=rate)
    tall = kit.code_video(kit.pictures(2, rate, "240x320"), times[50:], rate=rate)
    cuts = kit.grid(times[0], times[-1])
    out = kit.transcode(small_plan(wide.track), kit.interleave([*wide.packets, *tall.packets], cuts))
    packets = out.packets["120p"]
    assert [p.pts for p in packets] == times
    assert len({p.track for p in packets}) == 1
    last = kit.decode_video(packets)[-1]
    assert (last.width, last.height) == (214, 120)
    luma = bytes(last.planes[0])[60 * last.planes[0].line_size :][:214]
    assert max(luma[:50] + luma[-50:]) < 32  # bars
    assert max(luma[70:140]) > 100


def test_broken_packets_cost_pictures_and_nothing_else(kit: Any, clip: Any) -> None:
    packets: list[Packet] = []
    for n, packet in enumerate(clip.packets):
        if 60 <= n < 70:
            packet = replace(packet, data=bytes((n * 37 + i * 101) & 255 for i in range(len(packet.data))))
        if n == 75:
            packet = replace(packet, data=b"")
        packets.append(packet)
    cuts = kit.grid(clip.times[0], clip.times[-1])
    out = kit.transcode(small_plan(clip.track), kit.interleave(packets, cuts))
    assert out.values["decoder_errors"] > 0
    for name in ("120p", "90p"):
        out.assert_continuous(name)
        assert len(out.packets[name]) > 110
        assert len(out.idrs(name)) == len(cuts)
        assert out.packets[name][-1].pts == clip.times[-1]


def test_nothing_comes_before_the_first_cut(kit: Any, clip: Any) -> None:
    cuts = kit.grid(clip.times[60], clip.times[-1])
    out = kit.transcode(small_plan(clip.track), kit.interleave(clip.packets, cuts))
    assert [p.pts for p in out.packets["120p"]] == clip.times[60:]


def test_a_plan_changes_at_the_cut(kit: Any, clip: Any) -> None:
    from transcode.messages import Mark
    from transcode.pipeline import Pipeline

    cuts = kit.grid(clip.times[0], clip.times[-1])
    passed, encoded = small_plan(clip.track), small_plan(clip.track, passthrough=False)
    encoded = replace(encoded, video=tuple(v for v in encoded.video if v.name != "90p"))
    out = kit.Collected()
    pipeline = Pipeline(passed, out)
    for item in kit.interleave(clip.packets, cuts):
        if isinstance(item, Packet):
            pipeline.write(item)
            continue
        if item.index == 1:
            pipeline.change(encoded)
        pipeline.cut(Mark(item.index, item.pts))
    pipeline.close()
    second = cuts[1].pts
    assert [p.pts for p in out.packets["source"]] == [t for t in clip.times if t >= second]
    assert [p.pts for p in out.packets["90p"]] == [t for t in clip.times if t < second]
    assert out.packets["90p"][-1].duration == 3600
    assert [p.pts for p in out.packets["120p"]] == clip.times
    assert out.idrs("source") == [c.pts for c in cuts[1:]]


def test_an_encoder_that_cannot_be_opened_is_replaced_at_once(kit: Any, clip: Any) -> None:
    plan = small_plan(clip.track)
    plan = replace(plan, video=tuple(replace(v, encoders=("h264_none", "libx264")) for v in plan.video))
    out = kit.transcode(plan, kit.interleave(clip.packets, kit.grid(clip.times[0], clip.times[-1])))
    assert [p.pts for p in out.packets["120p"]] == clip.times
    assert out.encoders["120p"] == ["libx264"]
    assert "encoder_unusable" in {slug for slug, _ in out.notices}


def test_an_encoder_that_fails_in_mid_stream_is_replaced_at_the_next_cut(
    kit: Any, clip: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rung_module.Encoder

    class Failing(real):  # type: ignore[valid-type,misc]
        """A test substitute: `h264_substitute` is libx264 that fails at its 20th picture."""

        def __init__(self, spec: Any, name: str, colour: Any) -> None:
            super().__init__(spec, "libx264", colour)
            self.name = name
            self.left = 20 if name == "h264_substitute" else 1 << 30

        def encode(self, picture: Any, *, idr: bool) -> Any:
            self.left -= 1
            if self.left <= 0:
                raise EncoderError("the device fell off the bus")
            return super().encode(picture, idr=idr)

    monkeypatch.setattr(rung_module, "Encoder", Failing)
    plan = small_plan(clip.track)
    broken = replace(plan.video[0], encoders=("h264_substitute", "libx264"))
    plan = replace(plan, video=(broken, plan.video[1]))
    cuts = kit.grid(clip.times[0], clip.times[-1])
    out = kit.transcode(plan, kit.interleave(clip.packets, cuts))
    assert [p.pts for p in out.packets["120p"]] == clip.times[:19] + [t for t in clip.times if t >= cuts[1].pts]
    assert out.encoders["120p"] == ["h264_substitute", "libx264"]
    assert len({p.track for p in out.packets["120p"]}) == 1, "the same codec string and configuration"
    assert [p.pts for p in out.packets["90p"]] == clip.times
    assert ("encoder_failed") in {slug for slug, _ in out.notices}


def test_thumbnails_are_jpegs_of_the_source(kit: Any, clip: Any) -> None:
    plan = replace(small_plan(clip.track), thumbnail_track=0, thumbnail_height=90)
    out = kit.transcode(plan, kit.interleave(clip.packets, kit.grid(clip.times[0], clip.times[-1])))
    assert out.jpegs
    assert all(jpeg.startswith(b"\xff\xd8") and jpeg.endswith(b"\xff\xd9") for jpeg in out.jpegs)


def test_the_default_ladder_holds_its_bitrate(kit: Any) -> None:
    rate = Fraction(30)
    source = kit.code_video(kit.pictures(6, rate, "640x360"), times_of(rate, 180), rate=rate, b_frames=0)
    ladder = Ladder("one", (Rung(180, 150_000),))
    cuts = kit.grid(source.times[0], source.times[-1])
    out = kit.transcode(small_plan(source.track, ladder=ladder), kit.interleave(source.packets, cuts))
    edges = [c.pts for c in cuts] + [1 << 40]
    for start, end in pairwise(edges):
        bits = 8 * sum(len(p.data) for p in out.packets["180p"] if start <= p.pts < end)
        assert bits <= 150_000 * 2 * 1.2
    assert PRESETS["default"].rungs[0].bitrate == 6_000_000


def test_a_worker_that_is_behind_leaves_out_what_fewest_watch(kit: Any, clip: Any) -> None:
    settings = TranscodeSettings(x264_preset="ultrafast", shed=False)
    ladder = Ladder("two", (Rung(120, 200_000, value=1), Rung(90, 150_000, value=9)))
    plan = make_plan(clip.track, None, ladder, passthrough=True, hardware=None, settings=settings)
    out = kit.Collected()
    pipeline = Pipeline(plan, out)
    for item in kit.interleave(clip.packets, kit.grid(clip.times[0], clip.times[-1])):
        if isinstance(item, Cut):
            pipeline.cut(Mark(item.index, item.pts, item.discontinuity))
            pipeline.watched({"120p": 5, "90p": 2})
            for branch in pipeline._branches.values() if item.index == 1 else ():
                # Both rungs thin and one out, as of a machine that is too slow.
                branch._shedder.level = 3  # type: ignore[union-attr]
        else:
            pipeline.write(item)
    pipeline.close()
    assert 450_000 in out.idrs("120p")
    left = [p.pts for p in out.packets.get("90p", [])]
    assert max(left, default=0) < 450_000, "it is worth more, but fewer watch it"
