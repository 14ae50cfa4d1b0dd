"""What comes out of a worker's sound: channels, levels of a mix-down (ITU-R BS.775-3), time; as a decoder hears it."""

from __future__ import annotations

import array
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import pytest
from av.codec.context import Flags

from media.codecs.tracks import audio_track
from media.cut import Cut
from media.packet import Packet
from media.track import Codec
from transcode.plan import AudioEncode, Plan
from transcode.pool import Pool
from transcode.settings import TranscodeSettings

RATE = 48_000
PLAN = Plan(audio=(AudioEncode("audio", 100, 192_000),))
SURROUND = ["FL", "FR", "FC", "LFE", "BL", "BR"]
LEVEL = 0.25
"""Of the tone, of full scale."""


def coded(
    channels: list[str], sounding: set[str], *, encoder: str = "aac", rate: int = RATE, tone_hz: int = 400
) -> list[Packet]:
    """A second and a half of a tone in some of the channels, silence in the others."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(channels)]
    context: Any = av.CodecContext.create(encoder, "w")
    context.sample_rate, context.layout, context.time_base = rate, layout, Fraction(1, rate)
    context.format, context.bit_rate = "fltp" if encoder == "aac" else "flt", 64_000 * len(channels)
    context.flags |= Flags.global_header.value
    context.open()
    size = context.frame_size
    units: list[Any] = []
    for first in range(0, rate * 3 // 2 - size + 1, size):
        tone = [LEVEL * math.sin(2 * math.pi * tone_hz * n / rate) for n in range(first, first + size)]
        lanes = [tone if name in sounding else [0.0] * size for name in channels]
        frame = av.AudioFrame(format=context.format.name, layout=layout, samples=size)
        if context.format.is_planar:
            for plane, lane in zip(frame.planes, lanes, strict=True):
                plane.update(array.array("f", lane).tobytes())
        else:
            frame.planes[0].update(array.array("f", [s for each in zip(*lanes, strict=True) for s in each]).tobytes())
        frame.sample_rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
        units += context.encode(frame)
    units += context.encode(None)
    codec = Codec.AAC if encoder == "aac" else Codec.OPUS
    track = audio_track(100, codec, bytes(context.extradata))
    scale = Fraction(track.timescale, rate)
    return [
        Packet(track, int(u.pts * scale), int(u.pts * scale), int(size * scale), True, bytes(u))
        for u in units
        if u.pts >= 0
    ]


def heard(packets: list[Packet]) -> list[float]:
    """Level of each channel in the middle, as a share of the tone's."""
    context: Any = av.CodecContext.create("aac", "r")
    context.extradata = packets[0].track.config
    lanes: list[list[float]] = [[], []]
    for packet in packets:
        for frame in context.decode(av.Packet(packet.data)):
            assert frame.layout.name == "stereo"
            for lane, plane in zip(lanes, frame.planes, strict=True):
                lane += memoryview(plane).cast("f")[: frame.samples]
    middle = [lane[len(lane) // 3 : 2 * len(lane) // 3] for lane in lanes]
    return [math.sqrt(2 * sum(s * s for s in lane) / len(lane)) / LEVEL for lane in middle]


HALF = math.sqrt(0.5)


@pytest.mark.parametrize(
    ("sounding", "left", "right"),
    [
        ({"FL"}, 1, 0),
        ({"FR"}, 0, 1),
        ({"FC"}, HALF, HALF),
        ({"BL"}, HALF, 0),
        ({"BR"}, 0, HALF),
        ({"FL", "FR", "FC"}, 1 + HALF, 1 + HALF),
    ],
)
def test_a_mix_of_surround_has_the_levels_of_bs_775(kit: Any, sounding: set[str], left: float, right: float) -> None:
    out = kit.transcode(PLAN, kit.interleave(coded(SURROUND, sounding), [Cut(0, 0, 0)]))
    assert heard(out.packets["audio"]) == pytest.approx([left, right], abs=0.04)


def test_the_low_frequency_channel_is_left_out_of_a_mix(kit: Any) -> None:
    out = kit.transcode(PLAN, kit.interleave(coded(SURROUND, {"LFE"}, tone_hz=60), [Cut(0, 0, 0)]))
    assert heard(out.packets["audio"]) == pytest.approx([0, 0], abs=0.04)


@pytest.mark.parametrize("encoder", ["aac", "libopus"])
def test_mono_sounds_as_loud_on_both_sides(kit: Any, encoder: str) -> None:
    out = kit.transcode(PLAN, kit.interleave(coded(["FC"], {"FC"}, encoder=encoder), [Cut(0, 0, 0)]))
    assert heard(out.packets["audio"]) == pytest.approx([1, 1], abs=0.04)


async def test_surround_in_opus_comes_out_of_a_real_worker_as_stereo(kit: Any) -> None:
    sink, pool = kit.Collected(), Pool(TranscodeSettings(warm_spare=False, nice=0))
    await pool.start()
    try:
        job = await pool.open(PLAN, sink, name="s")
        for item in kit.interleave(coded(SURROUND, {"FL", "FC"}, encoder="libopus"), [Cut(0, 0, 0)]):
            job.write(item)
        await job.close(drain=True)
    finally:
        await pool.stop()
    sink.assert_continuous("audio")
    assert heard(sink.packets["audio"]) == pytest.approx([1 + HALF, HALF], abs=0.06)


def test_another_sample_rate_in_mid_stream_breaks_neither_sound_nor_time(kit: Any) -> None:
    before = coded(["FL", "FR"], {"FL", "FR"}, rate=44_100)
    end = before[-1].pts + before[-1].duration
    after = [
        replace(p, pts=p.pts + (at := round(end * 48_000 / 44_100)), dts=p.dts + at)
        for p in coded(["FL", "FR"], {"FL", "FR"})
    ]
    out = kit.transcode(PLAN, kit.interleave([*before, *after], [Cut(0, 0, 0)]))
    packets = out.packets["audio"]
    out.assert_continuous("audio")
    assert {p.track.sample_rate for p in packets} == {48_000}
    assert len({p.track for p in packets}) == 1
    told = (after[-1].pts + after[-1].duration) / 48_000
    assert (packets[-1].pts + packets[-1].duration) / 48_000 == pytest.approx(told, abs=0.03)
    assert heard(packets) == pytest.approx([1, 1], abs=0.06), "without a hole where the rate changes"


def test_sound_that_comes_late_begins_at_its_own_time(kit: Any) -> None:
    late = [replace(p, pts=p.pts + 5 * RATE, dts=p.dts + 5 * RATE) for p in coded(["FL", "FR"], {"FL"})]
    cuts = [Cut(n, n * 180_000, 0) for n in range(3)]
    out = kit.transcode(PLAN, [*cuts, *late])
    assert out.packets["audio"][0].pts / RATE == pytest.approx(5, abs=0.025)
    assert heard(out.packets["audio"]) == pytest.approx([1, 0], abs=0.04)
