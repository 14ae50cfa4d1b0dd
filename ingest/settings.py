"""Settings of the way in: one frozen model per section of `headrace.toml`; each description is the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Section(BaseModel):
    """A section: unknown keys are refused, values never change after start."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LimitSettings(_Section):
    """`[limits]`: what a publisher may do. The defaults suit a server on the public internet."""

    handshake_timeout_s: float = Field(
        default=10.0,
        gt=0,
        description="Seconds from connecting until publishing has been asked for; then the peer is cut.",
    )
    idle_timeout_s: float = Field(
        default=15.0,
        gt=0,
        description="Seconds without a byte from a publisher after which the connection counts as lost.",
    )
    linger_s: float = Field(
        default=2.0,
        ge=0,
        description="Seconds that a refused publisher is given to read why, before the connection ends.",
    )
    drain_s: float = Field(
        default=5.0,
        ge=0,
        description="Seconds that a publisher asked to reconnect elsewhere may stay while the server drains.",
    )
    max_message_bytes: int = Field(
        default=8 * 1024 * 1024, ge=65_536, le=0xFFFFFF, description="Largest single message or access unit, in bytes."
    )
    max_partial_bytes: int = Field(
        default=16 * 1024 * 1024, ge=65_536, description="Bytes of unfinished messages that one connection may hold."
    )
    max_connections: int = Field(
        default=2_000, ge=1, description="Open connections of one listener, publishing or not."
    )
    max_connections_per_address: int = Field(
        default=64,
        ge=1,
        description="Open connections from one IP address (an IPv6 /64 counts as one) to one listener.",
    )
    max_publishers: int = Field(default=500, ge=1, description="Publishers on this node at once.")
    max_publishers_per_address: int = Field(
        default=32, ge=1, description="Publishers from one IP address (an IPv6 /64 counts as one) at once."
    )
    max_tracks: int = Field(default=16, ge=1, le=64, description="Tracks (audio and video together) of one publisher.")
    max_bitrate_bits: int = Field(
        default=60_000_000,
        ge=100_000,
        description="Bits per second over ten seconds; a warning first, then an end with a reason.",
    )
    bitrate_warning_s: float = Field(
        default=10.0, ge=0, description="Seconds over `max_bitrate_bits` that only warn, before the publisher is ended."
    )
    max_width: int = Field(default=3840, ge=16, description="Widest picture, in pixels (of the longer side).")
    max_height: int = Field(default=2160, ge=16, description="Highest picture, in pixels (of the shorter side).")
    max_frame_rate: float = Field(default=121.0, gt=0, description="Most frames per second.")
    max_keyframe_interval_s: float = Field(
        default=20.0, gt=0, description="Longest time between keyframes; beyond it the publisher is warned."
    )
    max_timestamp_jump_s: float = Field(
        default=3.0,
        gt=0,
        description="A timestamp that runs ahead of its arrival by more than this is a jump: the clock is set anew "
        "behind a discontinuity.",
    )


class RtmpSettings(_Section):
    """`[rtmp]`: the plain RTMP listener."""

    host: str = Field(default="", description="Address to listen on; empty for every address, IPv4 and IPv6.")
    port: int = Field(default=1935, ge=0, le=65_535, description="TCP port; 0 takes any free one.")
    enabled: bool = Field(default=True, description="Whether to listen at all.")
    app: str = Field(default="live", description="Application name in the URLs that are printed; any name is accepted.")
    reconnect_url: str = Field(
        default="",
        pattern=r"^(rtmps?://\S+)?$",
        description="Where encoders that understand a reconnect request (Enhanced RTMP v2) are sent when this server "
        "goes down in good order, e.g. `rtmp://other.example.org/live`; empty: back to this one.",
    )


class RtmpsSettings(RtmpSettings):
    """`[rtmps]`: the same over TLS."""

    port: int = Field(default=1936, ge=0, le=65_535, description="TCP port; 0 takes any free one.")
    certificate: Path | None = Field(
        default=None, description="PEM file with the certificate and its chain; unset: a local authority makes one."
    )
    private_key: Path | None = Field(
        default=None, description="PEM file with the private key of `certificate`; unset: it is in the same file."
    )


class SrtSettings(_Section):
    """`[srt]`: the SRT listener."""

    host: str = Field(default="", description="Address to listen on; empty for every address.")
    port: int = Field(default=8890, ge=0, le=65_535, description="UDP port; 0 takes any free one.")
    enabled: bool = Field(
        default=True, description="Whether to listen at all; without libsrt the server runs without it."
    )
    latency_ms: int = Field(
        default=200,
        ge=20,
        le=10_000,
        description="Least receive latency; the larger of the caller's and this one counts.",
    )
    peer_idle_timeout_s: float = Field(
        default=5.0,
        gt=0,
        description="Silence of the peer after which the connection is lost; libsrt takes about 5 s at least.",
    )
    library: str = Field(default="", description="Path of libsrt; empty to look in the usual places.")


class IceServer(_Section):
    """One STUN or TURN server that WHIP clients are told of."""

    urls: tuple[str, ...] = Field(min_length=1, description="`stun:` or `turn:` URLs.")
    username: str = Field(default="", description="TURN user name.")
    credential: str = Field(default="", description="TURN password.")
    credential_type: Literal["password"] = Field(default="password", description="The kind of `credential`.")


class WhipSettings(_Section):
    """`[whip]`: publishing over WebRTC; the HTTP part listens on `api.port`."""

    enabled: bool = Field(default=True, description="Whether `/whip` and `/publish` exist.")
    public_address: str = Field(
        default="",
        description="Address that clients reach this machine at, where it sits behind a NAT; empty: its own.",
    )
    addresses: tuple[str, ...] = Field(
        default=(), description="IP addresses of this machine to take media on; empty: all but loopback."
    )
    port_min: int = Field(default=0, ge=0, le=65_535, description="Lowest UDP port for media; 0: any.")
    port_max: int = Field(default=0, ge=0, le=65_535, description="Highest UDP port for media; 0: any.")
    ice_servers: tuple[IceServer, ...] = Field(
        default=(), description="STUN and TURN servers that clients are told of; the server itself needs none."
    )
    connect_timeout_s: float = Field(
        default=20.0, gt=0, description="Seconds that ICE and DTLS may take after the answer."
    )
    requests_per_minute: int = Field(
        default=240, ge=1, description="HTTP requests a minute from one address, trickled candidates included."
    )
    session_timeout_s: float = Field(
        default=15.0, gt=0, description="Seconds without media or consent after which a session counts as lost."
    )
    max_sessions: int = Field(default=200, ge=1, description="WebRTC sessions at once.")

    @model_validator(mode="after")
    def _range(self) -> Self:
        if bool(self.port_min) != bool(self.port_max) or self.port_max < self.port_min:
            raise ValueError("port_min and port_max are either both 0 or a range from low to high")
        return self
