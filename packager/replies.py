"""HTTP replies as values, with the cache lifetimes that RFC 8216bis B.1 and a coalescing cache ask for.

| what | lifetime |
|---|---|
| playlist that was asked for with `_HLS_msn` | 6 target durations |
| playlist without, MPD | half a target duration |
| init, segment, part | an hour: the name never comes to mean anything else |
| error | a second: what is not there may come |
| time | none |
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

PLAYLIST = "application/vnd.apple.mpegurl"
MPD = "application/dash+xml"
PATCH = "application/dash-patch+xml"
VIDEO = "video/mp4"
AUDIO = "audio/mp4"
JPEG = "image/jpeg"
VTT = "text/vtt"
TEXT = "text/plain; charset=utf-8"

MEDIA_S = 3600
ERROR_S = 1

_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")

CORS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"age, date, etag, content-length"),
)


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, what kind of body, how long it may be kept, and the body in pieces that are sent as they are."""

    status: int
    media_type: str
    cache: str
    body: tuple[bytes, ...] = ()
    etag: str = ""
    extra: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def immutable(self) -> bool:
        """Whether the bytes under this name never change, so that ranges of them mean something."""
        return self.cache.endswith("immutable")

    @property
    def size(self) -> int:
        return sum(map(len, self.body))

    def headers(self, *, with_length: bool = True) -> list[tuple[bytes, bytes]]:
        """ASGI headers."""
        found = [(b"content-type", self.media_type.encode()), (b"cache-control", self.cache.encode()), *CORS]
        if self.etag:
            found.append((b"etag", f'"{self.etag}"'.encode()))
        if with_length:
            found.append((b"content-length", str(self.size).encode()))
        return [*found, *self.extra]


def playlist(body: bytes, etag: str, target_s: int, *, blocking: bool) -> Reply:
    """A media playlist."""
    lifetime = 6 * target_s if blocking else max(1, target_s // 2)
    return Reply(200, PLAYLIST, f"public, max-age={lifetime}", (body,), etag)


def fresh(body: bytes, media_type: str, etag: str, target_s: int) -> Reply:
    """Something that changes about once a segment."""
    return Reply(200, media_type, f"public, max-age={max(1, target_s // 2)}", (body,), etag)


def media(body: tuple[bytes, ...], media_type: str, etag: str) -> Reply:
    """Bytes that never change under their name."""
    return Reply(200, media_type, f"public, max-age={MEDIA_S}, immutable", body, etag)


def ranged(whole: Reply, wanted: str) -> Reply:
    """The one range of `whole` that a Range header asks for (RFC 9110 14): 206, or 416; the whole for any other."""
    match = _RANGE.fullmatch(wanted.strip())
    if match is None or match.groups() == ("", ""):
        return whole
    first, last = match.groups()
    size = whole.size
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last), size - 1) if first and last else size - 1
    if first and last and int(last) < start:
        return whole  # a broken range counts as none
    if start >= size or (not first and int(last) == 0):
        return error(416, "There are not so many bytes.", (b"content-range", f"bytes */{size}".encode()))
    body = b"".join(whole.body)[start : end + 1]
    said = (b"content-range", f"bytes {start}-{end}/{size}".encode())
    return replace(whole, status=206, body=(body,), extra=(*whole.extra, said))


def error(status: int, text: str, *extra: tuple[bytes, bytes]) -> Reply:
    """A refusal with a sentence for people."""
    return Reply(status, TEXT, f"public, max-age={ERROR_S}", (text.encode() + b"\n",), extra=extra)


def not_found(text: str) -> Reply:
    return error(404, text)


def too_late(text: str) -> Reply:
    """Waited for as long as the rules allow. Not to be kept: what did not come may be there, and listed, at once."""
    return replace(error(503, text, (b"retry-after", b"1")), cache="public, max-age=0")
