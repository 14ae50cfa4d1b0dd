"""The API's answers as models, for its documentation: clients are generated from it.

Nothing is validated by them when it is answered; tests hold real answers against them, and they allow no other field.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from control.stream_settings import StreamSettings


def says(model: Any, status: int = 200) -> dict[str, Any]:
    """Arguments of a route: `model` documents what it answers with `status`."""
    return {"response_model": None, "responses": {status: {"model": model}}}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


# ---- streams and keys ---------------------------------------------------------------------------------------------


class Servers(_Model):
    """What goes into an encoder's field for the server, of the protocols that are switched on."""

    rtmp: str = ""
    rtmps: str = ""
    srt: str = ""
    whip: str = ""


class Urls(Servers):
    """Complete URLs, with the key where it was just made and `KEY` elsewhere; WHIP has it in a header."""

    watch: str = Field(description="The watch page.")
    hls: str
    dash: str


class StreamAnswer(_Model):
    """A stream."""

    name: str
    playback_id: str = Field(description="What viewers see in the URL.")
    created_at: str
    settings: StreamSettings
    live_keys: int = Field(description="Keys that may publish now.")
    urls: Urls


class KeyAnswer(_Model):
    """A key; the key itself is stored nowhere."""

    key_id: str
    state: Literal["live", "ending", "used", "expired", "rotated", "revoked"]
    once: bool
    signing: bool
    label: str
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class OneStream(StreamAnswer):
    """A stream with its keys."""

    keys: list[KeyAnswer]


class _Made(_Model):
    key: str = Field(description="Shown here and never again.")
    key_id: str
    once: bool
    signing: bool
    expires_at: str | None
    servers: Servers
    srt_passphrase: str = Field(default="", description="Where the stream requires encrypted SRT.")


class AddedStream(StreamAnswer, _Made):
    """A stream and its first key."""


class AddedKey(_Made):
    """A further key."""

    name: str
    urls: Urls


class RotatedKey(AddedKey):
    """A new key; the old ones end after the grace time."""

    grace_s: float


class TokenAnswer(_Model):
    """A publish token."""

    token: str
    expires_at: str
    urls: Urls


class RemovedStream(_Model):
    """A stream that was removed."""

    name: str
    removed: Literal[True]


class AuditAnswer(_Model):
    """Something that happened to a key."""

    at: str
    action: str
    reason: str
    stream_name: str
    key_id: str | None
    protocol: str
    address: str


# ---- broadcasts ---------------------------------------------------------------------------------------------------


class Publisher(_Model):
    """Who publishes."""

    protocol: str
    address: str
    agent: str = Field(description="What the encoder calls itself.")
    key_id: str


class Picture(_Model):
    """A video track."""

    codec: str
    width: int
    height: int
    frame_rate: float | None


class Sound(_Model):
    """An audio track."""

    codec: str
    sample_rate: int
    channels: int
    language: str
    name: str


class PictureTrack(Picture):
    """A video track among others."""

    id: int
    kind: Literal["video"]


class SoundTrack(Sound):
    """An audio track among others."""

    id: int
    kind: Literal["audio"]


class Health(_Model):
    """How well the source is, in words for whoever streams."""

    verdict: Literal["excellent", "acceptable", "poor", "unknown"]
    reasons: list[str]


class Source(BaseModel):
    """The last second of the source; and, as further fields, what its protocol knows (loss, round trip, and so on)."""

    bitrate_bits: int
    video_bitrate_bits: int
    audio_bitrate_bits: int
    frame_rate: float
    keyframe_interval_s: float
    keyframe_spread_s: float
    keyframe_age_s: float
    av_offset_ms: float = Field(description="How much later than its sound a picture arrives.")
    jitter_ms: float
    delay_ms: float = Field(description="How much later than at its best the source arrives now.")
    gaps: int
    bytes: int
    lost: int
    sent_again: int


class RenditionAnswer(_Model):
    """What viewers can choose."""

    name: str
    codec: str
    passthrough: bool
    width: int
    height: int
    bitrate_bits: int
    encoder: str = Field(description="Empty where nothing is encoded.")
    language: str = ""
    label: str = ""
    default: bool = False


class BroadcastAnswer(_Model):
    """A broadcast as it is now."""

    id: str
    stream: str
    state: Literal["starting", "live", "interrupted", "ended"]
    started: float = Field(description="Seconds since 1970.")
    ended: float | None
    end_reason: str
    publisher: Publisher | None
    sessions: int = Field(description="How often a publisher came.")
    video: Picture | None
    audio: Sound | None
    tracks: list[PictureTrack | SoundTrack]
    source: Source | None
    health: Health
    renditions: list[RenditionAnswer]
    plan: list[str] = Field(description="What is encoded and why, in words.")
    left_out: list[str] = Field(description="Renditions that there is no room for.")
    decoder: str
    cutting: Literal["keyframes", "grid"]
    dropped_packets: int
    viewers: dict[str, int] = Field(description="By rendition.")
    transcode: dict[str, float | str] = Field(description="Of the transcoder: speed, latency, drops and so on.")
    packager: dict[str, int] = Field(description="Counters of the packager.")
    notices: list[str] = Field(description="What happened, in words, newest last.")


class OneBroadcast(BroadcastAnswer):
    """A broadcast with the last ten minutes of its source."""

    history: list[dict[str, Any]] = Field(description="A sample a second, with its `time` and `verdict`.")


class EventAnswer(_Model):
    """A timed event that was put into the stream."""

    id: str
    start: str
    scheme: str


class StoppedBroadcast(_Model):
    """A broadcast that was ended."""

    id: str
    stopped: Literal[True]


# ---- the machine --------------------------------------------------------------------------------------------------


class Device(_Model):
    """Something that encodes or decodes."""

    id: str
    label: str


class Trial(_Model):
    """An encoder, decoder or scaler that was tried on a device."""

    name: str
    kind: Literal["encode", "decode", "scale"]
    codec: str
    device: str
    works: bool
    pixels_per_s: int = Field(description="Of the CPU: in one CPU second.")
    sessions: int = Field(description="How many could be open at once; 0 where nothing but speed limits them.")
    reason: str = Field(description="Why it does not work.")


class DeviceLoad(Device):
    """A device, what is booked on it, and how it fares."""

    load: float
    load_limit: float
    sessions: int
    sessions_limit: int = Field(description="0 for none.")
    jobs: int
    failures: int
    left_out_s: float
    reason: str


class Worker(_Model):
    """A worker of another machine."""

    machine: str
    address: str
    pid: int
    state: str
    stream: str
    cpus: int
    encoders: dict[str, list[str]]


class HardwareAnswer(_Model):
    """Encoders and devices."""

    probed: bool
    workers: list[Worker]
    cpus: int = 0
    devices: list[Device] = []
    trials: list[Trial] = []
    placement: list[DeviceLoad] = []
