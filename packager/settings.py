"""Settings of the packager and of the origin, with what each is for."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class PackagerSettings(BaseModel):
    """Sizes and times of what viewers are given. Applies to broadcasts that start after a change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    segment_s: int = Field(2, ge=1, le=10, description="Nominal segment length in seconds; also EXT-X-TARGETDURATION.")
    part_s: float = Field(
        0.5,
        ge=0.1,
        le=2.0,
        description="Wanted length of an LL-HLS part in seconds; rounded to a whole number of video frames.",
    )
    window_segments: int = Field(
        15,
        ge=6,
        le=43_200,
        description="Complete segments that a playlist lists; the sliding window that viewers can rewind.",
    )
    align_wait_s: float = Field(
        0.7,
        ge=0.0,
        le=5.0,
        description="How long a finished part waits for the same part of the other renditions before it is published.",
    )
    start_wait_s: float = Field(
        2.0,
        ge=0.0,
        le=20.0,
        description="How long the first rendition that is ready waits at the start for those that are not.",
    )
    audio_wait_s: float = Field(
        1.0,
        ge=0.0,
        le=5.0,
        description="Seconds of audio held at most until it is known where the video's next segment starts.",
    )
    memory_bytes: int = Field(
        512 * 1024 * 1024,
        ge=1024 * 1024,
        description="Bound on the media bytes kept for one stream; beyond it old segments go early, counted.",
    )
    dvr_stream_bytes: int = Field(
        20 * 1024**3, ge=0, description="Disk that one stream's rewind window may take; the oldest segments go first."
    )
    dvr_node_bytes: int = Field(
        100 * 1024**3, ge=0, description="Disk that the rewind windows of all streams of this node may take together."
    )
    dvr_min_free_bytes: int = Field(
        1024**3,
        ge=0,
        description="Disk that is left free in any case; below it segments stay in memory alone, with an alarm.",
    )
    dvr_folder: Path | None = Field(
        None, description="Folder of segments for rewinding and replay; unset: `dvr` in the data folder."
    )
    latency_target_s: float = Field(
        3.0, ge=1.0, le=30.0, description="Latency that the DASH manifest asks players to hold, in seconds."
    )


class OriginSettings(BaseModel):
    """Where edges and CDNs fetch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address that the origin listens on.")
    port: int = Field(8082, ge=0, le=65_535, description="TCP port of the origin; 0 takes a free one.")
    enabled: bool = Field(True, description="Whether the origin listens on TCP.")
    unix_socket: Path | None = Field(None, description="Path of a Unix socket for this machine's own edge.")
