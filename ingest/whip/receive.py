"""What a session does with the media that arrives: aiortc's taps on one side, the publication on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aiortc import RTCRtpReceiver

from ingest.ports import Publication
from ingest.sample import UNWRAPPED_90K, Sample
from ingest.settings import LimitSettings
from ingest.timeline import Timeline
from ingest.whip.aiortc_hooks import Tap, tap_receiver
from ingest.whip.keyframes import Pacer
from ingest.whip.lipsync import LipSync
from ingest.whip.rtp import Frames, Jitter, Lateness, Nacks, Piece, Reorder
from ingest.whip.sdp import Offer
from ingest.whip.tracks import Audio, Coded, Video
from media.clock import VIDEO_TIMESCALE, rescale
from media.codecs import opus
from media.packet import Gap, Packet
from media.track import Codec, Kind

KEYFRAME_INTERVAL_US = 2_000_000
"""The grid of segments: facts of the design, one segment is 2 s."""
AUDIO_HOLE_US = 80_000
"""Audio waits this long for a packet out of order: four Opus frames, unheard in a stream of seconds."""
AUDIO_HELD = 64
REPORT_US = 1_000_000


class Receive:
    """The receiving side of one session."""

    def __init__(
        self, offer: Offer, publication: Publication, limits: LimitSettings, now_us: Callable[[], int]
    ) -> None:
        self._publication = publication
        self._now_us = now_us
        self._codecs = {line.kind: line.codec for line in offer.media}
        self._sync = LipSync()
        self._frames = Frames(max_frame_bytes=limits.max_message_bytes)
        self._nacks = Nacks()
        self._jitter = {Kind.VIDEO: Jitter(VIDEO_TIMESCALE), Kind.AUDIO: Jitter(opus.CLOCK_HZ)}
        self._audio_order = Reorder(AUDIO_HOLE_US, AUDIO_HELD)
        sets = next((line.parameter_sets for line in offer.media if line.codec is Codec.H264), ())
        self.video = Video(self._codecs.get(Kind.VIDEO, Codec.H264), self._sync, sets)
        self.audio = Audio(self._sync)
        self.pacer = Pacer(KEYFRAME_INTERVAL_US)
        self._lateness = Lateness()
        self._video_receiver: RTCRtpReceiver | None = None
        self._ssrc: dict[Kind, int] = {}
        self._heard_us: int | None = None
        self._reported_us = 0
        self._reported = (0, 0, 0)
        self._open = True
        self._timeline = Timeline(publication.origin, UNWRAPPED_90K, jump_limit_s=limits.max_timestamp_jump_s)
        self.packets = 0
        self.bytes = 0

    @property
    def ssrc(self) -> int:
        """One of the peer's SSRCs, 0 before the first packet."""
        return next(iter(self._ssrc.values()), 0)

    def tap(self, kind: Kind, receiver: RTCRtpReceiver) -> None:
        """Take this receiver's packets."""
        on_piece = self._video_piece if kind is Kind.VIDEO else self._audio_piece

        def on_report(ntp: int, timestamp: int) -> None:
            self._sync.report(kind, ntp, timestamp)

        tap_receiver(receiver, self._codecs[kind], Tap(on_piece, on_report, self._nacks, self._now_us))
        if kind is Kind.VIDEO:
            self._video_receiver = receiver

    def connected(self, now_us: int) -> None:
        """The transport stands: from now on silence counts."""
        self._heard_us = now_us

    def close(self) -> None:
        """The session is over: write what the timeline held back, and then nothing any more."""
        self._write(self._timeline.flush())
        self._open = False

    def silent_us(self, now_us: int) -> int:
        """Microseconds since the last media packet."""
        return now_us - self._heard_us if self._heard_us is not None else 0

    def keyframe_request(self, now_us: int, *, wanted: bool) -> tuple[RTCRtpReceiver, int] | None:
        """Whom to ask for a keyframe now: receiver and SSRC. `wanted`: the server wants one, whatever the grid."""
        ssrc = self._ssrc.get(Kind.VIDEO)
        if self._video_receiver is None or ssrc is None:
            return None
        urgent = self._frames.waiting_for_key or self.video.waiting_for_key
        if self.pacer.wants(now_us, urgent=urgent) or (wanted and self.pacer.ask(now_us)):
            return self._video_receiver, ssrc
        return None

    def report(self, now_us: int) -> None:
        """Tell the publication once a second what the connection is like."""
        if now_us - self._reported_us < REPORT_US:
            return
        self._reported_us = now_us
        lost = self._frames.order.lost + self._audio_order.lost
        now = self.packets + lost, lost, self._nacks.holes + self._audio_order.lost
        came, gone, holes = (after - before for after, before in zip(now, self._reported, strict=True))
        self._reported = now
        self._publication.report(
            loss_ratio=min(1.0, gone / came) if came > 0 else 0.0,
            link_loss_ratio=min(1.0, holes / came) if came > 0 else 0.0,
            network_jitter_ms=round(max(jitter.value_us for jitter in self._jitter.values()) / 1000, 1),
            unrecovered_packets=lost,
            retransmitted_packets=self._nacks.recovered,
            dropped_frames=self._frames.dropped_frames + self.video.bad_frames,
            keyframe_requests=self.pacer.requests,
            av_correction_ms=self._sync.offset_us / 1000,
            av_synchronised=float(self._sync.synchronised),
        )

    def counters(self) -> dict[str, int]:
        """What happened, for the log."""
        return {
            "packets": self.packets,
            "video_frames": self.video.frames,
            "keyframes": self.video.keyframes,
            "audio_frames": self.audio.frames,
            "lost_packets": self._frames.order.lost + self._audio_order.lost,
            "recovered_packets": self._nacks.recovered,
            "dropped_frames": self._frames.dropped_frames,
            "bad_frames": self.video.bad_frames + self.audio.bad_frames,
            "keyframe_requests": self.pacer.requests,
            "sender_reports": self._sync.reports,
            "arrival_error_us": self._sync.arrival_error_us,
        }

    def _video_piece(self, ssrc: int, piece: Piece) -> None:
        now_us = self._count(Kind.VIDEO, piece)
        if self._ssrc.setdefault(Kind.VIDEO, ssrc) != ssrc:
            self._ssrc[Kind.VIDEO] = ssrc
            self._frames.restart()
            self._sync.restart(Kind.VIDEO)
        for frame in self._frames.push(piece, now_us):
            coded = self.video.frame(frame, now_us)
            if coded is not None:
                stamp_us = rescale(coded.pts, VIDEO_TIMESCALE, 1_000_000)
                late_us, others_us = self._lateness.of(stamp_us, now_us)
                self.pacer.hasten(others_us)
                if coded.keyframe:
                    self.pacer.keyframe(now_us, late_us)
                self._emit(coded, now_us)

    def _audio_piece(self, ssrc: int, piece: Piece) -> None:
        now_us = self._count(Kind.AUDIO, piece)
        if self._ssrc.setdefault(Kind.AUDIO, ssrc) != ssrc:
            self._ssrc[Kind.AUDIO] = ssrc
            self._audio_order = Reorder(AUDIO_HOLE_US, AUDIO_HELD)
            self._sync.restart(Kind.AUDIO)
            self.audio.restart()
        for _, ordered in self._audio_order.push(piece, now_us):
            if ordered.data:
                for coded in self.audio.packet(ordered, now_us):
                    self._emit(coded, now_us)

    def _count(self, kind: Kind, piece: Piece) -> int:
        now_us = self._now_us()
        self._heard_us = now_us
        self.packets += 1
        self.bytes += len(piece.data)
        self._jitter[kind].add(piece.timestamp, now_us)
        return now_us

    def _emit(self, coded: Coded, now_us: int) -> None:
        scale = coded.track.timescale
        sample = Sample(
            track=coded.track,
            dts=None,
            pts=rescale(coded.pts, scale, VIDEO_TIMESCALE),
            data=coded.data,
            keyframe=coded.keyframe,
            duration_samples=coded.duration,
        )
        self._write(self._timeline.feed(sample, now_us / 1e6))

    def _write(self, items: Iterable[Packet | Gap]) -> None:
        if self._open:
            for item in items:
                self._publication.write(item)
