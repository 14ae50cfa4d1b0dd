"""H.264, HEVC and AV1 configurations of real encoders, against what is known of the encodes and against libav."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import imageio_ffmpeg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from media import codecs
from media.codecs import av1, h264, hevc, nal
from media.codecs.vui import Colour
from media.errors import ProtocolError
from media.track import Codec

BT709 = Colour(1, 1, 1, False)
MakeClip = Callable[..., Any]


def record_of(clip: Any, codec: Codec) -> bytes:
    if codec is Codec.AV1:
        units = [clip.packets[0]]
    else:
        units = nal.split_annexb(clip.extradata) + nal.split_annexb(clip.packets[0])
    config = codecs.normalise_video(codec, units).config
    assert config is not None
    return config


def codec_of(shape: str) -> Codec:
    return Codec(shape.split("-")[0])


@pytest.mark.parametrize(
    ("shape", "string", "chroma", "depth", "reorder"),
    [
        ("h264", "avc1.42c00c", 1, 8, 0),
        ("h264-high", "avc1.64000c", 1, 8, 2),
        ("h264-422-10", "avc1.7a000c", 2, 10, 2),
        ("h264-hrd", "avc1.64000d", 1, 8, 2),
    ],
)
def test_h264(clip: MakeClip, shape: str, string: str, chroma: int, depth: int, reorder: int) -> None:
    record = record_of(clip(shape), Codec.H264)
    config = h264.parse_avcc(record)
    sps = h264.parse_sps(config.sps[0])
    assert (sps.width, sps.height, sps.frame_rate, sps.sample_aspect) == (318, 182, Fraction(25), Fraction(1))
    assert (sps.chroma_format, sps.bit_depth, sps.max_num_reorder, sps.colour) == (chroma, depth, reorder, BT709)
    assert not sps.interlaced
    assert h264.codec_string(record) == string
    assert h264.build_avcc(config.sps, config.pps) == record
    assert config.length_size == 4


def test_h264_fields(clip: MakeClip) -> None:
    made = clip("h264-fields", height=180)
    sps = h264.parse_sps(h264.parse_avcc(record_of(made, Codec.H264)).sps[0])
    assert (sps.width, sps.height, sps.interlaced, sps.frame_rate) == (318, 180, True, Fraction(25))


@pytest.mark.parametrize(
    ("shape", "string", "depth"), [("hevc", "hvc1.1.6.L60.90", 8), ("hevc-10", "hvc1.2.4.L60.90", 10)]
)
def test_hevc(clip: MakeClip, shape: str, string: str, depth: int) -> None:
    record = record_of(clip(shape), Codec.HEVC)
    config = hevc.parse_hvcc(record)
    sps = hevc.parse_sps(config.sps[0])
    assert (sps.width, sps.height, sps.frame_rate, sps.colour) == (318, 182, Fraction(25), BT709)
    assert (sps.bit_depth, sps.bit_depth_chroma, sps.chroma_format) == (depth, depth, 1)
    assert (config.bit_depth, config.chroma_format, config.length_size) == (depth, 1, 4)
    assert hevc.codec_string(record) == string
    assert hevc.build_hvcc(config.vps, config.sps, config.pps) == record


def test_hevc_codec_string_of_the_standard() -> None:
    """The example of ISO/IEC 14496-15 E.3, and one with a profile space and high tier."""
    record = bytearray(23)
    record[0:2] = b"\x01\x01"
    record[2:6] = 0x60000000.to_bytes(4, "big")
    record[6], record[12] = 0xB0, 93
    assert hevc.codec_string(bytes(record)) == "hvc1.1.6.L93.B0"
    record[1] = 0x40 | 0x20 | 4
    record[2:6] = 0x08000000.to_bytes(4, "big")
    record[6:12] = bytes((0, 0x10, 0, 0, 0, 0))
    assert hevc.codec_string(bytes(record)) == "hvc1.A4.10.H93.0.10"


@pytest.mark.parametrize(("shape", "string", "depth"), [("av1", "av01.0.00M.08", 8), ("av1-10", "av01.0.00M.10", 10)])
def test_av1(clip: MakeClip, shape: str, string: str, depth: int) -> None:
    record = record_of(clip(shape), Codec.AV1)
    config = av1.parse_av1c(record)
    assert config.sequence is not None
    assert (config.sequence.width, config.sequence.height, config.sequence.colour) == (318, 182, BT709)
    assert config.sequence.bit_depth == config.bit_depth == depth
    assert av1.codec_string(record) == string
    sequence = av1.sequence_obu(config.obus)
    assert sequence is not None
    assert av1.build_av1c(sequence) == record


def test_av1_long_codec_string(clip: MakeClip) -> None:
    """Where a default does not hold, everything is told: here HDR10 (AV1 in ISOBMFF section 5)."""
    record = record_of(clip("av1-10"), Codec.AV1)
    sequence = av1.parse_av1c(record).sequence
    assert sequence is not None
    # color_description_present and 1, 1, 1: in the bits right behind high_bitdepth and mono_chrome.
    marked = f"{int.from_bytes(record, 'big'):0{8 * len(record)}b}"
    at = marked.rindex("1" + "00000001" * 3) + 1
    changed = marked[:at] + f"{9:08b}{16:08b}{9:08b}" + marked[at + 24 :]
    hdr = int(changed, 2).to_bytes(len(record), "big")
    assert av1.codec_string(hdr) == "av01.0.00M.10.0.110.09.16.09.0"


@pytest.mark.parametrize("shape", ["h264-high", "h264-422-10", "hevc", "hevc-10", "av1", "av1-10"])
def test_records_agree_with_those_of_libav(clip: MakeClip, shape: str) -> None:
    """libav writes the record into an mp4 file; ours must say the same, and where it leaves no freedom be the same."""
    made, codec = clip(shape), codec_of(shape)
    kind, box = {Codec.H264: ("h264", b"avcC"), Codec.HEVC: ("hevc", b"hvcC"), Codec.AV1: ("obu", b"av1C")}[codec]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", kind, "-i", "pipe:0", "-c", "copy", "-f", "mp4"]
    command += ["-movflags", "frag_keyframe+delay_moov", "pipe:1"]
    raw = b"".join((b"" if codec is Codec.AV1 else made.extradata, *made.packets))
    file = subprocess.run(command, input=raw, capture_output=True, check=True, timeout=60).stdout
    at = file.index(box)
    theirs = file[at + 4 : at - 4 + int.from_bytes(file[at - 4 : at], "big")]
    ours = record_of(made, codec)
    if codec is Codec.H264:
        assert ours == theirs
    elif codec is Codec.HEVC:
        # Apart: whether an SEI array is added, and parallelismType, which may be told or left open.
        mine, other = hevc.parse_hvcc(ours), hevc.parse_hvcc(theirs)
        assert mine == other
        assert ours[:13] == theirs[:13]
        assert ours[16:19] == theirs[16:19]
    else:
        assert ours[:4] == theirs[:4]
        assert av1.codec_string(ours) == av1.codec_string(theirs)


@pytest.mark.parametrize("shape", ["h264", "h264-high", "h264-422-10", "hevc", "av1", "av1-10"])
def test_keyframes_are_those_of_the_encoder(clip: MakeClip, shape: str) -> None:
    made, codec = clip(shape), codec_of(shape)
    record = record_of(made, codec)
    for data, keyframe in zip(made.packets, made.keyframes, strict=True):
        units = [data] if codec is Codec.AV1 else nal.split_annexb(data)
        unit = codecs.normalise_video(codec, units, record)
        assert (unit.keyframe, unit.config) == (keyframe, None)


def test_open_gop_of_hevc_is_no_keyframe(clip: MakeClip) -> None:
    """x265 opens its GOPs unless told: then a CRA starts one, and the RASL pictures behind it need earlier ones."""
    made = clip("hevc-open", width=192, height=128)
    units = [nal.split_annexb(packet) for packet in made.packets]
    assert hevc.is_idr(units[0])
    later = [unit for unit in units[1:] if hevc.is_irap(unit)]
    assert later
    assert not any(hevc.is_idr(unit) for unit in later)
    assert any(hevc.is_rasl(unit) for unit in units)


def test_the_normal_form_decodes(clip: MakeClip) -> None:
    """What `normalise_video` puts out is what libav decodes with the record as extradata."""
    for shape, decoder in (("h264-high", "h264"), ("hevc", "hevc"), ("av1", "libdav1d")):
        made, codec = clip(shape), codec_of(shape)
        record = record_of(made, codec)
        context = av.CodecContext.create(decoder, "r")
        context.extradata = record
        frames = []
        for data in made.packets:
            units = [data] if codec is Codec.AV1 else nal.split_annexb(data)
            frames += context.decode(av.Packet(codecs.normalise_video(codec, units, record).data))
        frames += context.decode(None)
        assert [(frame.width, frame.height) for frame in frames] == [(318, 182)] * 9


def test_h264_sets_move_out_of_band(clip: MakeClip) -> None:
    small, large = clip("h264", width=160, height=96), clip("h264")
    sets = nal.split_annexb(small.extradata)
    sps, pps = (next(u for u in sets if h264.nal_type(u) == kind) for kind in (h264.SPS, h264.PPS))
    picture = next(u for u in nal.split_annexb(small.packets[0]) if h264.nal_type(u) == h264.IDR)
    first = codecs.normalise_video(Codec.H264, [b"\x09\x10", sps, pps, picture, b"\x0c\xff\x80"])
    assert first.data == nal.join_lengths([picture])
    assert first.keyframe
    assert first.config == h264.build_avcc([sps], [pps])
    again = codecs.normalise_video(Codec.H264, [sps, pps, picture], first.config)
    assert again == first._replace(config=None)
    other = nal.split_annexb(large.extradata)
    changed = codecs.normalise_video(Codec.H264, other, first.config)
    assert changed.data == b""
    assert changed.config is not None
    assert codecs.video_track(0, Codec.H264, changed.config).width == 318
    only_sps = codecs.normalise_video(Codec.H264, [sps])
    assert only_sps.config is None


def test_sets_with_other_ids_are_kept() -> None:
    """A second PPS does not push out the first."""
    sps = bytes.fromhex("6742c00cda05067a9a6a020202800000030080000019078a1550")
    first, second = b"\x68\xce\x0f\xc8", b"\x68\x5c\x0f\xc8"
    assert (h264.set_id(first), h264.set_id(second)) == (0, 1)
    record = codecs.normalise_video(Codec.H264, [sps, first]).config
    assert record
    both = codecs.normalise_video(Codec.H264, [second], record).config
    assert both
    assert set(h264.parse_avcc(both).pps) == {first, second}


def test_oversized_sets_are_refused() -> None:
    with pytest.raises(ProtocolError):
        codecs.normalise_video(Codec.H264, [b"\x67" + b"\x42" * 5000, b"\x68\xce\x0f\xc8"])


def test_records_with_short_lengths_are_brought_to_four(clip: MakeClip) -> None:
    record = record_of(clip("h264"), Codec.H264)
    short = record[:4] + b"\xfd" + record[5:]
    assert h264.parse_avcc(short).length_size == 2
    assert codecs.four_byte_lengths(Codec.H264, short) == record


def test_tracks(clip: MakeClip) -> None:
    for shape in ("h264-high", "hevc", "av1"):
        codec = codec_of(shape)
        track = codecs.video_track(3, codec, record_of(clip(shape), codec), frame_rate=Fraction(50), name="Main")
        assert (track.id, track.width, track.height, track.timescale, track.name) == (3, 318, 182, 90_000, "Main")
        # AV1 of this encoder does not tell its rate, so the hint counts; the others do.
        assert track.frame_rate == (50 if codec is Codec.AV1 else 25)
        assert codecs.codec_string(track)
        assert codecs.codec_string(replace(track, codec=Codec.VP8)) == "vp8"
    with pytest.raises(ProtocolError):
        codecs.video_track(0, Codec.H264, b"\1\x42\xc0\x0c\xff\xe0\0")
    with pytest.raises(ProtocolError):
        codecs.video_track(0, Codec.AAC, b"")


def test_vp8_keyframe_bit() -> None:
    assert codecs.normalise_video(Codec.VP8, [b"\x10\x02\0\x9d\x01\x2a"]).keyframe
    assert not codecs.normalise_video(Codec.VP8, [b"\x11\x02\0"]).keyframe


def test_av1_obus_are_cleaned() -> None:
    delimiter, padding, frame = b"\x12\0", b"\x7a\x01\x80", b"\x30\x10\x20"
    unit = codecs.normalise_video(Codec.AV1, [delimiter + padding + frame])
    assert unit.data == b"\x32\x02\x10\x20"
    assert not unit.keyframe


def readers() -> list[Callable[[bytes], object]]:
    return [
        h264.parse_avcc,
        h264.parse_sps,
        h264.codec_string,
        lambda data: h264.parse_sps(b"\x67" + data),
        lambda data: h264.set_id(b"\x68" + data),
        hevc.parse_hvcc,
        hevc.codec_string,
        lambda data: hevc.parse_sps(b"\x42\x01" + data),
        lambda data: hevc.set_id(b"\x44\x01" + data),
        av1.parse_av1c,
        av1.codec_string,
        av1.is_keyframe,
        av1.clean,
        av1.parse_sequence_header,
        nal.split_annexb,
        nal.split_lengths,
        lambda data: codecs.video_track(0, Codec.H264, data),
        lambda data: codecs.video_track(0, Codec.HEVC, data),
        lambda data: codecs.video_track(0, Codec.AV1, data),
        lambda data: codecs.normalise_video(Codec.AV1, [data]),
        lambda data: codecs.normalise_video(Codec.VP8, [data]),
        lambda data: codecs.normalise_video(Codec.H264, data.split(b"\0\0\1")),
        lambda data: codecs.normalise_video(Codec.HEVC, data.split(b"\0\0\1")),
        lambda data: codecs.normalise_video(Codec.H264, [b"\x67" + data, b"\x68\xce"], data),
        lambda data: codecs.normalise_video(Codec.HEVC, [b"\x40\1" + data, b"\x42\1" + data, b"\x44\1\xc0"], data),
    ]


@given(st.binary(max_size=200))
def test_noise_raises_protocol_error_only(data: bytes) -> None:
    for read in readers():
        try:
            read(data)
        except ProtocolError:
            continue


@given(st.sampled_from(["h264-422-10", "h264-hrd", "hevc-10", "av1"]), st.data())
def test_damaged_records_raise_protocol_error_only(clip: MakeClip, shape: str, data: st.DataObject) -> None:
    record = bytearray(record_of(clip(shape), codec_of(shape)))
    for _ in range(data.draw(st.integers(1, 4))):
        record[data.draw(st.integers(0, len(record) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(record[: data.draw(st.integers(0, len(record)))])
    for read in readers():
        for damaged in (bytes(record), cut, cut[9:]):
            try:
                read(damaged)
            except ProtocolError:
                continue


@pytest.mark.parametrize("shape", ["h264-high", "hevc-10", "av1"])
def test_every_cut_of_a_record_is_refused(clip: MakeClip, shape: str) -> None:
    """The invalid twins: no proper beginning of a record makes a track. Junk behind it changes nothing."""
    codec = codec_of(shape)
    record = record_of(clip(shape), codec)
    track = codecs.video_track(0, codec, record)
    needed = len(record) - (4 if codec is Codec.H264 else 0)  # the tail behind the sets may be missing
    for size in range(5 if codec is Codec.AV1 else 0, needed):
        with pytest.raises(ProtocolError):
            codecs.video_track(0, codec, record[:size])
    if codec is not Codec.AV1:
        longer = codecs.video_track(0, codec, record + b"junk")
        assert (longer.width, longer.height) == (track.width, track.height)
