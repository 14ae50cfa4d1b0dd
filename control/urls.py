"""The addresses that people paste: where to push, where to watch. A guess of this machine's name where none is set."""

from __future__ import annotations

import ipaddress
import socket

from control.settings import Settings
from control.snapshot import StreamRecord


def guess_host() -> str:
    """An address of this machine that others in its network can reach, or `localhost`. Sends nothing."""
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))  # UDP: only asks the routing table
                found = str(probe.getsockname()[0])
        except OSError:
            continue
        if not ipaddress.ip_address(found).is_unspecified:
            return found
    return "localhost"


def public_host(settings: Settings) -> str:
    """The host part of every URL that is printed."""
    if settings.api.public_host:
        return settings.api.public_host
    bound = settings.edge.host
    return bound if bound not in ("", "0.0.0.0", "::") else guess_host()


def servers(settings: Settings) -> dict[str, str]:
    """Where to push, for each protocol that is switched on, without key: `rtmp`, `rtmps`, `srt`, `whip`."""
    host = bracketed(public_host(settings))
    found: dict[str, str] = {}
    if settings.rtmp.enabled:
        found["rtmp"] = f"rtmp://{host}:{settings.rtmp.port}/{settings.rtmp.app}"
    if settings.rtmps.enabled:
        found["rtmps"] = f"rtmps://{host}:{settings.rtmps.port}/{settings.rtmps.app}"
    if settings.srt.enabled:
        found["srt"] = f"srt://{host}:{settings.srt.port}"
    if settings.whip.enabled and settings.api.enabled:
        whip_host = host if settings.api.host not in ("127.0.0.1", "::1", "localhost") else "localhost"
        found["whip"] = f"http://{whip_host}:{settings.api.port}/whip"
    return found


def stream_urls(settings: Settings, stream: StreamRecord, key: str = "", passphrase: str = "") -> dict[str, str]:
    """`rtmp`, `rtmps`, `srt`, `whip` (complete with `key` where given), `watch`, `hls`, `dash`.

    WHIP carries its key in a header, so its URL never has it. `passphrase` goes into the SRT URL."""
    found = servers(settings)
    shown = key or "KEY"
    for protocol in ("rtmp", "rtmps"):
        if protocol in found:
            found[protocol] += f"/{shown}"
    if "srt" in found:
        found["srt"] += f"?streamid={shown}" + (f"&passphrase={passphrase}" if passphrase else "")
    view = viewers(settings)
    found["watch"] = f"{view}/watch/{stream.playback_id}"
    found["hls"] = f"{view}/live/{stream.playback_id}/index.m3u8"
    found["dash"] = f"{view}/live/{stream.playback_id}/manifest.mpd"
    return found


def viewers(settings: Settings) -> str:
    """Base URL of the edge."""
    host = bracketed(public_host(settings))
    if settings.edge.certificate is not None:
        return f"https://{host}:{settings.edge.tls_port}"
    return f"http://{host}:{settings.edge.port}"


def bracketed(host: str) -> str:
    """An IPv6 address in brackets, everything else as it is."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
