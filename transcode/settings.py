"""Settings of the package: the section `[transcode]`. What they mean for a plan is in `plan`, for workers in `pool`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

CodecName = Literal["h264", "hevc", "av1"]


class RungSettings(BaseModel):
    """`[[transcode.ladders.rungs]]`: one encoded rendition under the source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(
        ge=64,
        le=4320,
        description="Short side of the picture in pixels: 720 is 1280x720 of a 16:9 source, 720x1280 of a 9:16 one. "
        "A rung that is not under the source is left out.",
    )
    bitrate: int = Field(
        ge=50_000, le=100_000_000, description="Target in bits per second; half as many again above 33 fps."
    )
    codec: CodecName = Field(default="h264", description="`h264`, `hevc` or `av1`.")
    frame_rate: float = Field(
        default=30.0,
        ge=1,
        le=240,
        description="Most frames per second; of a faster source every second frame (or more) is left out.",
    )
    value: int = Field(
        default=0, ge=0, le=1000, description="What it is worth when CPU is short: the lowest is shed first."
    )


class LadderSettings(BaseModel):
    """`[[transcode.ladders]]`: a ladder of your own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        pattern="^[a-z][a-z0-9_-]{0,31}$", description="What it is called in `ladder`, here and of a stream."
    )
    rungs: tuple[RungSettings, ...] = Field(default=(), max_length=16, description="The rungs, from top to bottom.")
    passthrough: tuple[CodecName, ...] = Field(
        default=("h264",), description="Codecs of a source that are offered as they are published."
    )
    source_codec: CodecName = Field(
        default="h264", description="What `source` is encoded to where it cannot be passed through."
    )

    @model_validator(mode="after")
    def _each_rung_once(self) -> Self:
        rungs = [(rung.height, rung.codec) for rung in self.rungs]
        if len(set(rungs)) < len(rungs):
            raise ValueError("two rungs have the same height and codec")
        return self


class TranscodeSettings(BaseModel):
    """Everything an operator may say about the ladder, the encoders and the worker processes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(
        default=True,
        description="Make a ladder at all. Off: only what needs no encoder is offered, as it was published.",
    )
    ladder: str = Field(
        default="default",
        description="Name of the ladder: default, mobile, economy, modern, hevc, archive, none, or one of your own.",
    )
    ladders: tuple[LadderSettings, ...] = Field(
        default=(),
        description="Ladders of your own, each a table `[[transcode.ladders]]` with `name`, `passthrough`, "
        "`source_codec`, and for each rung a table `[[transcode.ladders.rungs]]` with `height`, `bitrate`, `codec`, "
        "`frame_rate`, `value`. One with the name of a preset takes its place.",
    )
    passthrough: bool = Field(
        default=True,
        description="Offer the publisher's own video as the rendition `source` where it can be used as it is. "
        "Off: the top rendition is always encoded.",
    )
    max_source_height: int = Field(
        default=1080,
        ge=240,
        le=4320,
        description="Short side in pixels of the rendition `source` where it has to be encoded; passed through it "
        "keeps its own size.",
    )
    encoders: tuple[str, ...] = Field(
        default=(),
        description="Encoders to prefer, best first, by their libav names (for example h264_nvenc). Those that do "
        "not work on this machine are passed over; the CPU encoders are always the last resort.",
    )
    hardware: bool = Field(
        default=True, description="Use hardware encoders that were tried and found to work, before the CPU's."
    )
    x264_preset: str = Field(
        default="veryfast",
        pattern="^(ultrafast|superfast|veryfast|faster|fast|medium|slow|slower)$",
        description="Speed against quality of H.264 on the CPU; each step slower costs 20 to 60 % more CPU.",
    )
    x265_preset: str = Field(
        default="superfast",
        pattern="^(ultrafast|superfast|veryfast|faster|fast|medium|slow|slower)$",
        description="Speed against quality of H.265 on the CPU.",
    )
    svtav1_preset: int = Field(
        default=11, ge=6, le=13, description="Speed against quality of AV1 on the CPU; 13 is the fastest."
    )
    lookahead_frames: int = Field(
        default=0,
        ge=0,
        le=60,
        description="Frames that x264 looks ahead. Better quality at the same bitrate, and as many frames of latency.",
    )
    buffer_ms: int = Field(
        default=300,
        ge=100,
        le=4000,
        description="Size of the rate-control buffer (VBV) in milliseconds of the target bitrate. Smaller keeps every "
        "segment nearer to its target; larger lets hard scenes look better. AV1 has 1000 at least.",
    )
    audio_bitrate: int = Field(
        default=128_000, ge=32_000, le=512_000, description="Bits per second of audio that has to be encoded."
    )
    thumbnails: bool = Field(
        default=True,
        description="Make a JPEG of the picture about every two seconds, for the player and dashboard. Streams of "
        "which nothing is encoded share one process for it, which runs while there are any (about 70 MB).",
    )
    thumbnail_height: int = Field(default=360, ge=90, le=1080, description="Height of the JPEG in pixels.")
    warm_spare: bool = Field(
        default=True,
        description="Keep one worker process started and waiting, so that a new stream or a crash need not wait for "
        "Python and libav to load (about 0.3 s and 40 MB).",
    )
    queue_s: float = Field(
        default=6.0,
        ge=1.0,
        le=60.0,
        description="Media time, in seconds, that may wait for a worker. When it is full what waits is dropped and the "
        "renditions go on, with a discontinuity, at the next cut.",
    )
    queue_bytes: int = Field(
        default=32 * 1024 * 1024, ge=1024 * 1024, description="Bytes that may wait for a worker; the same policy."
    )
    shed: bool = Field(
        default=True,
        description="Let a worker that falls behind halve the frame rate of low-value rungs, then leave them out, "
        "until it has caught up. The rendition `source` and the audio are never touched.",
    )
    shed_after_s: float = Field(default=0.7, ge=0.1, le=10.0, description="Seconds behind real time before shedding.")
    stall_timeout_s: float = Field(
        default=4.0,
        ge=1.0,
        le=60.0,
        description="A worker that has work and makes no progress for so many seconds is killed and replaced.",
    )
    drain_timeout_s: float = Field(
        default=5.0, ge=0.1, le=60.0, description="Seconds that a worker gets to finish what it has at the end."
    )
    crashes: int = Field(
        default=3,
        ge=1,
        le=100,
        description="A job whose workers die so many times within `crash_window_s` is given up: what is passed through "
        "stays on air alone. The rest is tried again after a minute, then after twice as long each time.",
    )
    crash_window_s: float = Field(default=60.0, ge=1.0, description="See `crashes`.")
    memory_bytes: int = Field(
        default=2 * 1024 * 1024 * 1024,
        ge=128 * 1024 * 1024,
        description="Resident memory of one worker; one that grows past it says so and is replaced.",
    )
    nice: int = Field(
        default=5, ge=0, le=19, description="How far workers stand back for the core and the edge (Unix nice level)."
    )
    rungs: Literal["always", "watched"] = Field(
        default="always",
        description="Which rungs are encoded: `always` all of them; `watched` those that somebody asks for. A rung "
        "that is asked for starts with its last few segments. A stream may have its own setting.",
    )
    rungs_pinned: Literal["none", "lowest"] = Field(
        default="none",
        description="With `watched`: `lowest` encodes the lowest rung too while anybody watches anything of the "
        "stream, so that a player in need finds it at once instead of within two seconds. It costs a decoder.",
    )
    rungs_linger_s: float = Field(
        default=15.0, ge=4.0, le=3600.0, description="How long a watched rung is encoded after the last request for it."
    )
    admission: float = Field(
        default=0.9,
        ge=0.0,
        le=4.0,
        description="How far each device, the CPU among them, may be booked, as a share of what was measured when the "
        "server started (some CPU seconds, in the background). A broadcast for which there is no room is taken with "
        "fewer rungs, or as it is published; the rest follows when there is room. 0: no limit, nothing is measured.",
    )
    threads: int = Field(
        default=0, ge=0, le=64, description="Threads for one H.264 or H.265 encoder on the CPU; 0 lets us choose."
    )

    @property
    def presets(self) -> dict[str, str]:
        """Of the CPU's encoders, by libav name."""
        return {"libx264": self.x264_preset, "libx265": self.x265_preset, "libsvtav1": str(self.svtav1_preset)}
