"""The audio of a worker: decode, bring to 48 kHz stereo (or as the plan says), encode AAC-LC, pts exact to the sample.

What is missing is filled with silence, what comes twice is cut, and a slow drift between the timestamps and the
samples is worked off by resampling (libswresample's `async`). A discontinuity starts anew at its own time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from fractions import Fraction
from typing import cast

import av
import structlog
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.filter import Graph
from av.packet import Packet as AvPacket

from media.clock import VIDEO_TIMESCALE, rescale
from media.packet import Gap, Packet
from media.track import Codec, Kind, Track
from transcode.inbox import Inbox, Turn
from transcode.output import Output
from transcode.plan import AudioEncode, Plan

log = structlog.get_logger(__name__)

FRAME_SAMPLES = 1024
"""Of AAC-LC."""
MAX_SILENCE_S = 1
"""A hole longer than this is not filled: the encoder starts anew behind it."""
MAX_WAVER_MS = 15
"""Between the samples counted and the time that the resampler tells; more is a hole in the time."""
_DECODERS = {Codec.AAC: "aac", Codec.OPUS: "libopus"}
MONO_UP = ("mono", "stereo")
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


class AudioLine:
    """Decoded frames of one source in, packets of one rendition out."""

    def __init__(self, spec: AudioEncode, output: Output, not_before: int) -> None:
        """`not_before`: no packet starts before this, in samples: what an earlier line has put out already."""
        self.spec = spec
        self.end = not_before
        self._output = output
        self._next: int | None = None
        self._graph: Graph | None = None
        self._source: tuple[int, str, str] | None = None
        layout = _LAYOUTS.get(spec.channels, "stereo")
        context = av.CodecContext.create("aac", "w")
        assert isinstance(context, AudioCodecContext)
        context.sample_rate = spec.sample_rate
        context.layout = layout
        context.format = "fltp"
        context.bit_rate = spec.bitrate
        context.time_base = Fraction(1, spec.sample_rate)
        context.flags |= Flags.global_header.value
        context.open()
        self._encoder = context
        self._layout = layout
        self._track = Track(
            id=spec.track_id,
            kind=Kind.AUDIO,
            codec=Codec.AAC,
            timescale=spec.sample_rate,
            config=bytes(context.extradata or b""),
            sample_rate=spec.sample_rate,
            channels=spec.channels,
            bitrate=spec.bitrate,
        )

    def feed(self, frame: AudioFrame) -> None:
        """One decoded frame, pts in its own sample rate."""
        shape = (frame.sample_rate, frame.layout.name, frame.format.name)
        if self._graph is None or shape != self._source:
            if self._graph is not None:
                self._drain()
            self._graph, self._source = self._open(frame), shape
        self._graph.push(frame)
        self._pull()

    def finish(self) -> None:
        """Hand over what is held; the line is of no use after that."""
        if self._graph is not None:
            self._drain()
            self._emit(self._encoder.encode(None))

    def _open(self, frame: AudioFrame) -> Graph:
        rate = self.spec.sample_rate
        graph = Graph()
        # libswresample spreads one channel over two at 3 dB less each, as of two loudspeakers; but who hears mono as it
        # was passed on hears it in full on both.
        spread = [graph.add("pan", "stereo|c0=c0|c1=c0")] if (frame.layout.name, self._layout) == MONO_UP else []
        graph.link_nodes(
            graph.add_abuffer(
                sample_rate=frame.sample_rate,
                format=frame.format.name,
                layout=frame.layout.name,
                time_base=Fraction(1, frame.sample_rate),
            ),
            *spread,
            # Up to 5 ms of jitter is left alone; up to 12 ms is worked off by at most 1 % of speed; more, a lost
            # frame and above, is filled with silence or cut.
            graph.add("aresample", f"{rate}:async={rate // 100}:min_comp=0.005:min_hard_comp=0.012"),
            graph.add("aformat", f"sample_fmts=fltp:channel_layouts={self._layout}:sample_rates={rate}"),
            graph.add("abuffersink"),
        ).configure()
        graph.set_audio_frame_size(FRAME_SAMPLES)
        return graph

    def _drain(self) -> None:
        assert self._graph is not None
        self._graph.push(None)
        self._pull()
        self._graph = None

    def _pull(self) -> None:
        assert self._graph is not None
        while True:
            try:
                frame = self._graph.pull()
            except (BlockingIOError, av.EOFError):
                return
            assert isinstance(frame, AudioFrame)
            rate = self.spec.sample_rate
            if frame.pts is not None and frame.time_base is not None:
                told = round(frame.pts * frame.time_base * rate)
                # What the filter tells wavers by some samples around what it fills and stretches. The samples
                # themselves are without a hole, so they are counted.
                if self._next is None or told - self._next > rate * MAX_WAVER_MS // 1000:
                    self._next = told
            if self._next is None:
                continue
            frame.pts, frame.time_base = self._next, Fraction(1, rate)
            self._next += frame.samples
            self._emit(self._encoder.encode(frame))

    def _emit(self, units: Iterable[AvPacket[AudioStream]]) -> None:
        # libav's encoder labels a packet with the time of the sound that a decoder puts out for it, so its first
        # packet, the priming, lies 1024 samples before the first sample. Nobody needs that one in a live stream.
        for unit in units:
            if unit.pts is None or unit.pts < self.end:
                continue
            self.end = unit.pts + FRAME_SAMPLES
            packet = Packet(self._track, unit.pts, unit.pts, FRAME_SAMPLES, True, bytes(unit))
            self._output.made(self.spec.name, packet, "aac")


class AudioBranch(threading.Thread):
    """Everything that is made of one source audio track."""

    def __init__(self, track_id: int, plan: Plan, output: Output) -> None:
        super().__init__(name=f"audio-{track_id}", daemon=True)
        self.inbox = Inbox()
        self.units = 0
        self.errors = 0
        self._track_id = track_id
        self._plan = plan
        self._output = output
        self._turns: deque[Turn] = deque()
        self._live = False
        self._track: Track | None = None
        self._decoder: AudioCodecContext | None = None
        self._lines: dict[str, AudioLine] = {}
        self._ends: dict[str, int] = {}
        self._expected: int | None = None

    def values(self) -> dict[str, float | str]:
        """Figures for `Progress`."""
        return {"audio_decoder_errors": self.errors}

    def run(self) -> None:
        while (item := self.inbox.get()) is not None:
            match item:
                case Packet():
                    self._packet(item)
                    self.units += 1
                case Turn():
                    self._turns.append(item)
                case Gap():
                    pass  # the hole shows in the timestamps
        self._finish_lines()

    def _packet(self, packet: Packet) -> None:
        if self._decoder is None or self._track != packet.track:
            self._track = packet.track
            self._decoder = _open_decoder(packet.track)
        if not packet.data:
            self.errors += 1  # libav would take it for the end of the stream
            return
        unit = cast("AvPacket[AudioStream]", AvPacket(packet.data))
        unit.pts = unit.dts = packet.pts
        unit.time_base = Fraction(1, packet.track.timescale)
        try:
            frames = self._decoder.decode(unit)
        except av.FFmpegError as error:
            self.errors += 1
            if self.errors & (self.errors - 1) == 0:
                log.warning("audio_decoder_error", errors=self.errors, error=str(error))
            return
        pts = packet.pts
        if frames and packet.duration:
            # A decoder that starts leaves out what its encoder put in front (Opus: the pre-skip, RFC 7845 4.2).
            first = rescale(sum(f.samples for f in frames), frames[0].sample_rate, packet.track.timescale)
            pts += max(0, packet.duration - first)
        for frame in frames:
            frame.pts = rescale(pts, packet.track.timescale, frame.sample_rate)
            frame.time_base = Fraction(1, frame.sample_rate)
            pts += rescale(frame.samples, frame.sample_rate, packet.track.timescale)
            self._show(frame)

    def _show(self, frame: AudioFrame) -> None:
        assert frame.pts is not None
        rate = frame.sample_rate
        middle = rescale(2 * frame.pts + frame.samples, 2 * rate, VIDEO_TIMESCALE)
        anew = False
        while self._turns and middle >= self._turns[0].mark.pts:
            turn = self._turns.popleft()
            anew |= turn.mark.discontinuity or not self._live
            self._live = True
            if turn.plan is not None:
                self._plan = turn.plan
                self._arrange()
        if not self._live:
            return
        start = rescale(frame.pts, rate, VIDEO_TIMESCALE)
        if anew or (self._expected is not None and start - self._expected > MAX_SILENCE_S * VIDEO_TIMESCALE):
            self._finish_lines()
            self._arrange()
        self._expected = rescale(frame.pts + frame.samples, rate, VIDEO_TIMESCALE)
        for line in self._lines.values():
            line.feed(frame)

    def _arrange(self) -> None:
        wanted = {s.name: s for s in self._plan.audio if s.track_id == self._track_id}
        for name, line in list(self._lines.items()):
            if wanted.get(name) != line.spec:
                line.finish()
                self._ends[name] = self._lines.pop(name).end
        for name, spec in wanted.items():
            if name not in self._lines:
                self._lines[name] = AudioLine(spec, self._output, self._ends.get(name, 0))

    def _finish_lines(self) -> None:
        for name, line in self._lines.items():
            line.finish()
            self._ends[name] = line.end
        self._lines.clear()


def _open_decoder(track: Track) -> AudioCodecContext:
    context = av.CodecContext.create(_DECODERS[track.codec], "r")
    assert isinstance(context, AudioCodecContext)
    context.sample_rate = track.sample_rate or track.timescale
    if track.channels:
        context.layout = _LAYOUTS.get(track.channels, "stereo")
    if track.config:
        context.extradata = track.config
    return context
