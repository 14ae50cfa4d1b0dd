"""Frames of a WebRTC peer as units with a Track: configurations and keyframes are read from the bitstream.

Pure: bytes and times in, `Coded` units out, stamped on the session's common clock (`ingest.whip.lipsync`). RTP states
presentation times only; decoding times are the timeline's work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ingest.whip.lipsync import LipSync
from ingest.whip.rtp import Frame, Piece
from media.clock import VIDEO_TIMESCALE
from media.codecs import audio_track, normalise_video, opus, video_track
from media.codecs.nal import split_annexb
from media.errors import ProtocolError
from media.track import Codec, Kind, Track

VIDEO_ID = 0
AUDIO_ID = 100
MOST_CONCEALED = opus.CLOCK_HZ
"""A second; what is missing for longer is a hole."""
MOST_STAND_INS = 50
"""For one packet: a second of the usual 20 ms. With the shortest frames it would be 400, which is work to be had for
nothing."""


@dataclass(frozen=True, slots=True)
class Coded:
    """One access unit or audio frame, ready but for the stream's timeline."""

    track: Track
    pts: int
    """In `track.timescale`, on the session's common clock; it goes on past RTP's wraps."""
    duration: int
    """Audio: exact, from the packet; video: 0, not known before the next frame."""
    keyframe: bool
    data: bytes


class Video:
    """The video track: complete frames in, coded units out."""

    def __init__(self, codec: Codec, sync: LipSync, sets: Sequence[bytes] = ()) -> None:
        """`sets`: parameter sets that were told beforehand; those in the stream replace them."""
        self._codec = codec
        self._sync = sync
        self._config = b""
        self.track: Track | None = None
        self.waiting_for_key = True
        self.bad_frames = 0
        self.frames = 0
        self.keyframes = 0
        self.changes = 0
        if sets:
            with suppress(ProtocolError):
                self._configure(normalise_video(codec, sets).config)

    def frame(self, frame: Frame, now_us: int) -> Coded | None:
        """None where the frame cannot be used: before the first keyframe, or broken."""
        try:
            return self._frame(frame, now_us)
        except ProtocolError:
            self.bad_frames += 1
            self.waiting_for_key = True
            return None

    def _frame(self, frame: Frame, now_us: int) -> Coded | None:
        pts = self._sync.place(Kind.VIDEO, frame.timestamp, VIDEO_TIMESCALE, now_us)
        units = split_annexb(frame.data) if self._codec is Codec.H264 else [frame.data]
        unit = normalise_video(self._codec, units, self._config)
        self._configure(unit.config)
        if self._codec is Codec.VP8 and unit.keyframe:
            width, height = vp8_size(frame.data)
            if self.track is None or (self.track.width, self.track.height) != (width, height):
                self._set_track(video_track(VIDEO_ID, self._codec, b"", width=width, height=height))
        if not unit.data:
            return None
        if unit.keyframe and self.track is not None:
            self.waiting_for_key = False
        if self.waiting_for_key or self.track is None:
            self.waiting_for_key = True
            return None
        self.frames += 1
        self.keyframes += unit.keyframe
        return Coded(self.track, pts, 0, unit.keyframe, unit.data)

    def _configure(self, config: bytes | None) -> None:
        if config is not None:
            self._set_track(video_track(VIDEO_ID, self._codec, config))
            self._config = config

    def _set_track(self, track: Track) -> None:
        self.changes += self.track is not None
        self.track = track


class Audio:
    """The audio track: Opus packets in, coded units out.

    RTP tells to the sample what is missing (lost on the way, or not sent in silence); a frame that decoders conceal
    stands for each one.
    """

    def __init__(self, sync: LipSync, channels: int = 2) -> None:
        self._sync = sync
        head = opus.build_head(opus.OpusHead(channels=channels))
        self.track = audio_track(AUDIO_ID, Codec.OPUS, head)
        self.bad_frames = 0
        self.frames = 0
        self._due: int | None = None
        """RTP timestamp of the next packet, if none is missing."""

    def restart(self) -> None:
        """The track goes on with new, unrelated timestamps (another SSRC)."""
        self._due = None

    def packet(self, piece: Piece, now_us: int) -> list[Coded]:
        """The packet's unit, behind those for what is missing before it; none for a broken packet."""
        try:
            duration = opus.packet_duration(piece.data)
        except ProtocolError:
            self.bad_frames += 1
            return []
        pts = self._sync.place(Kind.AUDIO, piece.timestamp, opus.CLOCK_HZ, now_us)
        missing = (piece.timestamp - self._due + (1 << 31)) % (1 << 32) - (1 << 31) if self._due is not None else 0
        if missing >= 0 or missing < -MOST_CONCEALED:  # else it comes late, or again
            self._due = (piece.timestamp + duration) % (1 << 32)
        self.frames += 1
        return [*self._stand_ins(piece.data, pts, missing), Coded(self.track, pts, duration, True, piece.data)]

    def _stand_ins(self, following: bytes, end: int, missing: int) -> Iterator[Coded]:
        if not 0 < missing <= MOST_CONCEALED:
            return
        frame = opus.lost_frame(following, self.track.config)
        length = opus.packet_duration(frame)
        if missing // length > MOST_STAND_INS:
            return
        for pts in range(end - missing // length * length, end, length):
            yield Coded(self.track, pts, length, True, frame)


def vp8_size(frame: bytes) -> tuple[int, int]:
    """Width and height in pixels of a VP8 keyframe (RFC 6386 9.1). Raises `ProtocolError`."""
    if len(frame) < 10 or frame[0] & 1 or frame[3:6] != b"\x9d\x01\x2a":
        raise ProtocolError("This is not a VP8 keyframe.", slug="bad_vp8")
    width = int.from_bytes(frame[6:8], "little") & 0x3FFF
    height = int.from_bytes(frame[8:10], "little") & 0x3FFF
    if not width or not height:
        raise ProtocolError("A VP8 keyframe has no size.", slug="bad_vp8")
    return width, height
