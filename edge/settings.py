"""Settings of the edge: one frozen model, handed to every worker as JSON. Holds paths of secrets, never secrets."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from edge.upstream import Choice


class EdgeSettings(BaseModel):
    """How an edge listens, what it keeps, and what it asks of viewers and of its upstream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(True, description="Whether `headrace serve` starts an edge on this machine.")
    host: str = Field("0.0.0.0", description="Address to listen on; `::` listens on IPv6 and IPv4.")
    port: int = Field(8080, ge=0, le=65535, description="TCP port for plain HTTP; 0 lets the system choose.")
    tls_port: int = Field(8443, ge=0, le=65535, description="TCP port for HTTPS, used when a certificate is set.")
    certificate: Path | None = Field(None, description="PEM chain for HTTPS, reloaded when the file changes.")
    private_key: Path | None = Field(
        None, description="PEM private key of the certificate; unset: it is in the same file."
    )
    workers: int | None = Field(None, ge=1, le=256, description="Worker processes; by default one per core.")
    warm_spare: bool = Field(
        True, description="Whether a process waits to take the place of a worker that dies; it costs about 35 MB."
    )
    name: str = Field(
        "headrace",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Name in `Via`. Edges that stand behind each other need different names: a loop is known by it.",
    )

    memory_bytes: int = Field(256 * 2**20, ge=2**20, description="Bytes of cached objects in each worker.")
    text_share: float = Field(
        0.125, gt=0, lt=1, description="Part of the memory kept for playlists and other text: media never push it out."
    )
    max_object_bytes: int = Field(64 * 2**20, ge=2**16, description="Largest object; a larger one is answered 502.")
    max_objects: int = Field(100_000, ge=100, description="Most objects held by a worker.")
    query_keys: tuple[str, ...] = Field(
        ("_HLS_msn", "_HLS_part", "_HLS_skip"),
        description="Query parameters that make a different object. All others are dropped before the origin is asked.",
    )
    forward_headers: tuple[str, ...] = Field(
        (), description="Request headers handed to the origin (lower case; `*` for all end-to-end ones)."
    )
    negative_s: float = Field(1.0, ge=0, le=60, description="How long an error without a lifetime of its own is kept.")
    stale_if_error_s: float = Field(
        5.0,
        ge=0,
        description="How long past its lifetime an object may stand in for a failing origin that says nothing.",
    )

    max_connections: int = Field(20_000, ge=1, description="Open viewer connections per worker; more get 503.")
    max_connections_per_address: int = Field(
        0, ge=0, description="Open connections per address (IPv6: per /64) and worker; more get 429. 0: no limit."
    )
    requests_per_s_per_address: float = Field(
        0,
        ge=0,
        description="Requests per second per address (IPv6: per /64) and worker, over a burst of ten seconds. "
        "0: no limit.",
    )
    max_head_bytes: int = Field(16_384, ge=512, le=2**20, description="Largest request head; a larger one gets 431.")
    max_target_bytes: int = Field(4096, ge=64, le=2**16, description="Longest request target; a longer one gets 414.")
    head_timeout_s: float = Field(10.0, gt=0, description="Time for a viewer to send one whole request head.")
    idle_timeout_s: float = Field(75.0, gt=0, description="How long a silent connection is kept open.")
    stall_timeout_s: float = Field(15.0, gt=0, description="A viewer who takes nothing for so long is cut.")
    send_timeout_s: float = Field(120.0, gt=0, description="A viewer whose buffer is never empty for so long is cut.")
    drain_s: float = Field(10.0, ge=0, description="Time for open responses to end after SIGTERM.")
    trusted_proxies: tuple[str, ...] = Field(
        (), description="Networks (CIDR) of proxies that are believed when they say who a viewer is."
    )
    client_header: str = Field(
        "x-forwarded-for",
        pattern=r"^[a-z0-9-]{1,64}$",
        description="Header in which trusted proxies name the viewer: `x-forwarded-for`, `forwarded` (RFC 7239), or a "
        "CDN's own such as `cf-connecting-ip`. Only this one is believed: others may be the viewer's invention.",
    )
    proxy_protocol: bool = Field(
        False,
        description="Whether connections from trusted proxies begin with a PROXY header (version 1 or 2, in front of "
        "TLS too). Each of theirs must then have one, and nobody else's.",
    )

    upstream_connections: int = Field(
        1024, ge=1, description="Most connections to the origin per worker; each blocked playlist request holds one."
    )
    upstream_queue: int = Field(4096, ge=0, description="Fetches that may wait for a connection; more get 503.")
    upstream_choice: Choice = Field(
        Choice.FIRST,
        description="Of several upstreams: `first` asks them in their order; `spread` gives each stream an order of "
        "its own, the same in every edge, so that few shields hold it.",
    )
    health_interval_s: float = Field(
        2.0, ge=0, description="How often each of several upstreams is checked, give or take a quarter. 0: never."
    )
    health_timeout_s: float = Field(2.0, gt=0, description="Time for an upstream to answer a check.")
    health_path: str = Field(
        "/access/news.json",
        pattern=r"^/[\x21-\x7e]*$",
        description="What is asked of an upstream; any answer below 500 is a good one.",
    )
    health_failures: int = Field(2, ge=1, description="Failed checks in a row that make an upstream the last choice.")
    health_successes: int = Field(2, ge=1, description="Good checks in a row that make it a good choice again.")
    connect_timeout_s: float = Field(3.0, gt=0, description="Time to connect to the origin.")
    first_byte_timeout_s: float = Field(
        30.0, gt=0, description="Time for the origin to answer, longer than any blocking reload."
    )
    body_timeout_s: float = Field(15.0, gt=0, description="Longest silence of the origin within a body.")

    token_keys: Path | None = Field(
        None, description="JSON Web Key Set of viewer token keys (HS256, ES256, EdDSA), reloaded when the file changes."
    )
    token_required: bool = Field(False, description="Whether every stream wants a viewer token.")
    token_ipv4_bits: int = Field(
        32, ge=8, le=32, description="Bits of an IPv4 address that count where a token is bound to one (claim `ip`)."
    )
    token_ipv6_bits: int = Field(
        64, ge=16, le=128, description="The same for IPv6, where devices change the last 64 bits by themselves."
    )
    access_rules: Path | None = Field(
        None,
        description="TOML file of rules by address, country and embedding site; see `docs/viewers.md`. Read again when "
        "it changes.",
    )
    country_header: str = Field(
        "cf-ipcountry",
        pattern=r"^[a-z0-9-]{1,64}$",
        description="Header in which a trusted proxy (a CDN) names the viewer's country.",
    )
    country_addresses: Path | None = Field(
        None, description="File with `NETWORK,COUNTRY` a line, for viewers whose country no proxy names."
    )
    access_log: str = Field(
        "",
        description="File for a line of JSON per answer, without tokens; `stderr`; empty: none. It may be moved away "
        "(logrotate) at any time: a new one is made within a second.",
    )
    access_log_rate: float = Field(
        1.0, ge=0, le=1, description="Part of the answers that are logged. Logged ones cost more than others."
    )
    access_log_error_rate: float = Field(1.0, ge=0, le=1, description="Part of the errors (400 and up) logged.")

    viewer_window_s: float = Field(15.0, gt=0, description="A viewer counts for so long after the last request.")
