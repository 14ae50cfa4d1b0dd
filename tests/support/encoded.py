"""What libav's encoders make, as ingest would hand it on: tracks with real configurations, and a small H.264 clip."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av

from media.codecs import audio_track, h264, nal, video_track
from media.packet import Packet
from media.track import Codec, Track

RATE = 25
STEP = 90_000 // RATE


def avc_track(track_id: int = 0, width: int = 640, height: int = 368) -> Track:
    """The track of an H.264 stream at `RATE`, of which nothing is encoded."""
    return _track(_x264(width, height), track_id)


def aac_track(track_id: int = 100, rate: int = 48_000, language: str = "und") -> Track:
    """The track of an AAC stream in stereo, of which nothing is encoded."""
    encoder: Any = av.CodecContext.create("aac", "w")
    encoder.sample_rate, encoder.layout, encoder.format = rate, "stereo", "fltp"
    encoder.flags |= av.codec.context.Flags.global_header
    encoder.open()
    return audio_track(track_id, Codec.AAC, bytes(encoder.extradata), language=language)


def avc_clip(frames: int, gop: int) -> list[Packet]:
    """So many pictures of H.264 at `RATE`, from 0 on, without B-frames; every `gop`-th is an IDR."""
    encoder = _x264(640, 368, gop)
    track = _track(encoder, 0)
    coded = []
    for number in range(frames):
        picture = av.VideoFrame(640, 368, "yuv420p")
        for plane in picture.planes:
            plane.update(bytes([number % 200 + 20]) * plane.buffer_size)
        picture.pts = number
        coded += encoder.encode(picture)
    coded += encoder.encode(None)
    return [
        Packet(track, p.pts * STEP, p.pts * STEP, STEP, p.is_keyframe,
               b"".join(len(n).to_bytes(4, "big") + n for n in nal.split_annexb(bytes(p))))
        for p in coded
    ]  # fmt: skip


def _x264(width: int, height: int, gop: int = 2 * RATE) -> Any:
    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate, encoder.gop_size = Fraction(1, RATE), Fraction(RATE), gop
    encoder.max_b_frames = 0
    encoder.options = {"preset": "ultrafast", "x264-params": "scenecut=0"}
    encoder.flags |= av.codec.context.Flags.global_header
    encoder.open()
    return encoder


def _track(encoder: Any, track_id: int) -> Track:
    nals = nal.split_annexb(bytes(encoder.extradata))
    sps, pps = ([n for n in nals if h264.nal_type(n) == kind] for kind in (7, 8))
    return video_track(track_id, Codec.H264, h264.build_avcc(sps, pps), frame_rate=Fraction(RATE))
