"""From the parts of messages to samples: keeps each track's configuration, and lets no broken frame through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction

from ingest.rtmp import flv
from ingest.rtmp.amf0 import Value, members, number, text
from ingest.rtmp.flv import Part, Sort
from ingest.sample import Sample
from media.codecs import audio_track, four_byte_lengths, h264, hevc, normalise_video, opus, video_track
from media.codecs.nal import split_lengths
from media.errors import MediaError, ProtocolError
from media.track import Codec, Track

VIDEO = {"avc1": Codec.H264, "hvc1": Codec.HEVC, "av01": Codec.AV1}
AUDIO = {"mp4a": Codec.AAC, "Opus": Codec.OPUS}
FIRST_AUDIO_ID = 100
_VIDEO_NAMES = {
    "legacy-2": "Sorenson H.263",
    "legacy-4": "VP6",
    "legacy-5": "VP6",
    "vp08": "VP8",
    "vp09": "VP9",
    "vvc1": "VVC",
}
_AUDIO_NAMES = {
    "legacy-0": "PCM",
    "legacy-1": "ADPCM",
    "legacy-2": "MP3",
    "legacy-3": "PCM",
    "legacy-4": "Nellymoser",
    "legacy-5": "Nellymoser",
    "legacy-6": "Nellymoser",
    "legacy-7": "G.711 A-law",
    "legacy-8": "G.711 mu-law",
    "legacy-11": "Speex",
    "legacy-14": "MP3",
    ".mp3": "MP3",
    "fLaC": "FLAC",
    "ac-3": "AC-3",
    "ec-3": "E-AC-3",
}
"""What encoders call those codecs that we do not take: the ids of FLV 10.1 annex E.4, and FourCCs of [ERTMP]."""
_MAX_NAME = 64
_MAX_KILOBITS = 1_000_000
_MOST_IGNORED = 16
"""Codecs of further tracks that are remembered, and told: a hostile message could name new ones for ever."""
_MOST_BROKEN = 200
"""Broken messages in a row after which the stream is called unusable; single ones are dropped."""


class Hints:
    """What onMetaData claims. Never trusted over the bitstream."""

    def __init__(self, values: Mapping[str, Value] | None = None) -> None:
        values = values or {}
        self.frame_rate = snap(number(values.get("framerate")))
        self.video_bitrate = _bitrate(values.get("videodatarate"))
        self.audio_bitrate = _bitrate(values.get("audiodatarate"))
        self.encoder = text(values.get("encoder"))[:100]
        self._top = values
        self._audio = members(values.get("audioTrackIdInfoMap"))

    def language(self, track: int) -> str:
        """Language tag of an audio track, where a valid one is told."""
        tag = self._told(track, "language", "lang")
        return tag if 2 <= len(tag) <= 35 and tag.replace("-", "").isalnum() and tag.isascii() else "und"

    def name(self, track: int) -> str:
        """Label of an audio track, printable."""
        return "".join(char for char in self._told(track, "name", "title") if char.isprintable())[:_MAX_NAME]

    def _told(self, track: int, *names: str) -> str:
        """The map describes further tracks; track 0 is described at the top ([ERTMP] v2, Enhancing onMetaData).

        It names no property for languages, so the words that are in use are taken. At the top only `language` can
        mean the sound: a title there is the title of all.
        """
        found = members(self._audio.get(str(track)))
        told = next((text(found[name]) for name in names if text(found.get(name))), "")
        return told or (text(self._top.get("language")) if track == 0 and "language" in names else "")


def _bitrate(value: Value) -> int:
    """Bits per second from the kilobits that onMetaData tells; 0 for what cannot be a rate."""
    kilobits = number(value)
    return int(1000 * kilobits) if 0 < kilobits <= _MAX_KILOBITS else 0


def snap(rate: float) -> Fraction | None:
    """The rate that a rounded number stands for: 29.97 is 30000/1001. None for what cannot be a frame rate."""
    if not 0.1 <= rate <= 300:
        return None
    ntsc = Fraction(round(rate * 1.001) * 1000, 1001)
    for exact in (Fraction(round(rate)), Fraction(round(rate * 2), 2), ntsc):
        if exact and abs(float(exact) - rate) < 0.006:
            return exact
    return Fraction(rate).limit_denominator(1000)


class _Video:
    def __init__(self, track_id: int, codec: Codec) -> None:
        self.id = track_id
        self.codec = codec
        self.header = b""
        self.config = b""
        self.length_size = 4
        self.track: Track | None = None

    def configure(self, record: bytes, hints: Hints) -> None:
        if record == self.header:
            return  # repeated, as some encoders do with every keyframe
        if self.codec is Codec.H264:
            length_size = h264.parse_avcc(record).length_size
        elif self.codec is Codec.HEVC:
            length_size = hevc.parse_hvcc(record).length_size
        else:
            length_size = 4
        self.length_size, self.header = length_size, record
        self.adopt(four_byte_lengths(self.codec, record), hints)

    def adopt(self, config: bytes, hints: Hints) -> None:
        if config == self.config:
            return
        self.config = config
        try:
            self.track = video_track(
                self.id, self.codec, config, frame_rate=hints.frame_rate, bitrate=hints.video_bitrate
            )
        except ProtocolError as error:
            if error.slug != "no_sps":
                raise
            self.config = b""  # the parameter sets will come in band

    def frame(self, part: Part, timestamp: int, hints: Hints) -> Sample | None:
        pieces = [part.body] if self.codec is Codec.AV1 else split_lengths(part.body, self.length_size)
        unit = normalise_video(self.codec, pieces, self.config)
        if unit.config is not None:
            self.adopt(unit.config, hints)
        if self.track is None or not unit.data:
            return None
        return Sample(self.track, timestamp, unit.data, unit.keyframe, cts=part.cts, offset_ns=part.offset_ns)


class _Audio:
    def __init__(self, track_id: int, codec: Codec) -> None:
        self.id = track_id
        self.codec = codec
        self.config = b""
        self.channels = 0
        self.track: Track | None = None

    def configure(self, config: bytes, hints: Hints) -> None:
        if self.codec is Codec.OPUS and not config:
            return  # the channel layout follows, or the first packet tells
        if config != self.config:
            number = self.id - FIRST_AUDIO_ID
            track = audio_track(
                self.id, self.codec, config, language=hints.language(number), bitrate=hints.audio_bitrate
            )
            self.track = replace(track, name=hints.name(number))
            self.config = config

    def layout(self, body: bytes, hints: Hints) -> None:
        """MultichannelConfig: order, channel count. More than stereo needs a mapping that only OpusHead has."""
        if self.codec is Codec.OPUS and self.track is None and len(body) >= 2 and body[1] in (1, 2):
            self.configure(opus.build_head(opus.OpusHead(body[1])), hints)

    def frame(self, part: Part, timestamp: int, hints: Hints) -> Sample | None:
        if self.track is None and self.codec is Codec.OPUS and part.body:
            channels = 2 if part.body[0] & 4 else 1  # RFC 6716 3.1: the s bit
            self.configure(opus.build_head(opus.OpusHead(channels)), hints)
        if self.track is None:
            return None
        return Sample(self.track, timestamp, part.body, offset_ns=part.offset_ns)


class Tracks:
    """All tracks of one publisher."""

    def __init__(self, max_tracks: int) -> None:
        self._max = max_tracks
        self._tracks: dict[int, _Video | _Audio] = {}
        self._row = 0
        self.hints = Hints()
        self.broken = 0
        """Messages dropped because they could not be read."""
        self.ignored: set[str] = set()
        """Codecs (FourCC) of further tracks that are not taken."""
        self.refusal = ""
        """What of the stream cannot be used, for the publisher; empty where all can."""

    def metadata(self, values: Mapping[str, Value]) -> None:
        """Take over what onMetaData claims; it counts for tracks that begin later."""
        self.hints = Hints(values)

    def video(self, timestamp: int, body: bytes) -> list[Sample]:
        """Samples of a video message. Raises `MediaError` where the publisher's media cannot be used at all."""
        return self._guarded(flv.video(body), timestamp, is_video=True)

    def audio(self, timestamp: int, body: bytes) -> list[Sample]:
        """Samples of an audio message. Raises `MediaError` likewise."""
        return self._guarded(flv.audio(body), timestamp, is_video=False)

    def _guarded(self, parts: Iterable[Part], timestamp: int, *, is_video: bool) -> list[Sample]:
        samples: list[Sample] = []
        try:
            samples.extend(self._samples(parts, timestamp, is_video))
            self._row = 0 if samples else self._row
        except ProtocolError as error:
            self.broken += 1
            self._row += 1
            if self._row > _MOST_BROKEN:
                raise MediaError(f"Nothing of the stream can be read: {error.text}") from error
        return samples

    def _samples(self, parts: Iterable[Part], timestamp: int, is_video: bool) -> Iterator[Sample]:
        for part in parts:
            track = self._track(part, is_video)
            if track is None:
                continue
            if part.sort is Sort.CONFIG:
                self._configure(track, part.body)
            elif part.sort is Sort.FRAME:
                sample = track.frame(part, timestamp, self.hints)
                if sample is not None:
                    yield sample
            elif isinstance(track, _Audio):
                track.layout(part.body, self.hints)

    def _track(self, part: Part, is_video: bool) -> _Video | _Audio | None:
        ident = part.track if is_video else FIRST_AUDIO_ID + part.track
        codec = (VIDEO if is_video else AUDIO).get(part.codec)
        if codec is None or part.track >= FIRST_AUDIO_ID:
            if part.track == 0:
                kind, wanted = ("video", "H.264, HEVC or AV1") if is_video else ("audio", "AAC or Opus")
                name = (_VIDEO_NAMES if is_video else _AUDIO_NAMES).get(part.codec, part.codec)
                raise MediaError(f"The {kind} codec {name!r} is not supported: set the encoder to {wanted}.")
            self._ignore(part.codec)
            return None
        track = self._tracks.get(ident)
        if track is None or track.codec is not codec:
            if track is None and len(self._tracks) >= self._max:
                self._ignore(part.codec)
                return None
            track = self._tracks[ident] = _Video(ident, codec) if is_video else _Audio(ident, codec)
        return track

    def _configure(self, track: _Video | _Audio, body: bytes) -> None:
        try:
            track.configure(body, self.hints)
        except ProtocolError as error:
            # It is sent once, and without it no frame of the track is taken.
            self.refusal = error.text
            raise

    def _ignore(self, codec: str) -> None:
        name = codec if codec.isascii() and codec.isprintable() else codec.encode("latin-1").hex()
        if len(self.ignored) < _MOST_IGNORED:
            self.ignored.add(name)
            self.refusal = f"A further track has the codec {name}, or is one too many: it is not used."
