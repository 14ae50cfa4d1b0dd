"""A clip as packets, and a transcoder's job that is fed with them as the server does it; for bench scripts."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av

from media.codecs.tracks import video_track
from media.cut import Cut
from media.packet import Packet
from media.track import Codec
from transcode.job import Job

TICKS = 90_000
SEGMENT = 2 * TICKS


def packets_of(path: Path) -> list[Packet]:
    """The pictures of an MP4 file in H.264, in decoding order; the first is shown at 0."""
    packets: list[Packet] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = Fraction(stream.average_rate or 30)
        track = replace(video_track(0, Codec.H264, bytes(stream.codec_context.extradata or b"")), frame_rate=rate)
        for unit in container.demux(stream):
            if unit.pts is None or unit.dts is None or unit.time_base is None:
                continue
            pts, dts, duration = (round(t * unit.time_base * TICKS) for t in (unit.pts, unit.dts, unit.duration or 0))
            packets.append(Packet(track, pts, dts, duration, unit.is_keyframe, bytes(unit)))
    first = min(p.pts for p in packets)
    return [replace(p, pts=p.pts - first, dts=p.dts - first) for p in packets]


class Feed:
    """Into a job: packets, and a cut in front of the first keyframe of each `SEGMENT`."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._cut = -1

    def write(self, packet: Packet) -> None:
        while packet.pts >= (self._cut + 1) * SEGMENT and packet.keyframe:
            self._cut += 1
            self._job.write(Cut(self._cut, self._cut * SEGMENT, 0))
        self._job.write(packet)
