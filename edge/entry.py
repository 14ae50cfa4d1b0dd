"""One stored response, with the bytes that go on the wire prepared once and shared by all viewers.

| until          | what is served                | and upstream                          |
|----------------|-------------------------------|---------------------------------------|
| `fresh_until`  | the entry, `X-Cache: HIT`     | nothing                               |
| `revalidate_until` | the entry, `STALE`        | one request behind the viewers' backs |
| `error_until`  | the entry, `STALE`, if upstream fails | one request that viewers wait for |
| after that     | what upstream answers         | one request, conditional if possible  |

Times are on the loop's clock.
"""

from __future__ import annotations

from edge import codings, freshness
from edge.h2 import frames, hpack
from edge.h2.frames import Flag, Kind
from edge.prepared import JOIN_BYTES, Prepared

Fields = tuple[tuple[bytes, bytes], ...]
Frames = tuple[bytes, bytes, bytes] | list[bytes | memoryview]
"""A HIT's HTTP/2 frames without the stream's number, which belongs between the pieces of a tuple (a small body), and
in a list at the places 2, 5, 8 and so on, which are empty."""

PACK_MIN_BYTES = 256
PACK_MAX_BYTES = 512 * 1024
"""Compressed on the loop, once per version: at this size a few milliseconds. Larger ones only by `pack`."""

OVERHEAD_BYTES = 1024
"""What an entry costs beside its body: headers, prepared bytes, dictionary slots."""

EXPOSED = b"Age, Date, ETag, Content-Length, Content-Range, X-Cache, Server-Timing"

REASONS = {
    200: b"OK",
    204: b"No Content",
    206: b"Partial Content",
    304: b"Not Modified",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    410: b"Gone",
    413: b"Content Too Large",
    414: b"URI Too Long",
    416: b"Range Not Satisfiable",
    417: b"Expectation Failed",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
    508: b"Loop Detected",
}


def server_timing(result: bytes, fetched_s: float) -> tuple[bytes, bytes]:
    """`Server-Timing` (W3C): where an answer came from, and what the origin took for those who waited for it."""
    took = b", origin;dur=%.1f" % (1000 * fetched_s) if result in (b"MISS", b"COALESCED") else b""
    return b"server-timing", b"cache;desc=" + result + took


def status_line(status: int) -> bytes:
    """The HTTP/1.1 status line with its CRLF."""
    return b"HTTP/1.1 %d %b\r\n" % (status, REASONS.get(status, b"Status"))


def head_bytes(status: int, *groups: Fields) -> bytes:
    """A whole HTTP/1.1 response head."""
    parts = [status_line(status)]
    for fields in groups:
        parts.extend(b"%b: %b\r\n" % field for field in fields)
    parts.append(b"\r\n")
    return b"".join(parts)


class Entry:
    """See the module. Everything but the times and the prepared bytes stays as it was made."""

    __slots__ = (
        "age",
        "answers",
        "blocks",
        "body",
        "error_until",
        "etag",
        "fetched_s",
        "fields",
        "frames",
        "fresh_until",
        "grace_until",
        "key",
        "last_modified",
        "made_at",
        "packed",
        "revalidate_until",
        "share",
        "squeezable",
        "status",
        "store",
        "used",
        "vary",
        "wire",
        "wire_until",
    )

    def __init__(self, key: str, status: int, fields: Fields, body: bytes, *, now: float, age: float = 0.0) -> None:
        self.key = key
        self.status = status
        self.fields = fields
        """End-to-end fields in the edge's order, without Age, X-Cache and Content-Length."""
        self.body = body
        self.made_at = now
        self.age = age
        self.fresh_until = self.revalidate_until = self.error_until = now
        self.fetched_s = 0.0
        """How long the origin took for it."""
        self.grace_until = 0.0
        """A failed revalidation is not tried again before this."""
        self.store = self.share = True
        self.vary: tuple[str, ...] = ()
        self.used = False
        self.packed: dict[str, Entry] = {}
        """Variants by content coding, each made on first use."""
        self.answers: dict[bytes, Prepared] = {}
        """The whole entry for other results than HIT, good as long as `wire`."""
        self.blocks: dict[bytes, bytes] = {}
        """HTTP/2 header blocks by result, good as long as `wire`."""
        self.frames: Frames | None = None
        self.wire: Prepared | None = None
        """A HIT on the whole entry."""
        self.wire_until = 0.0
        found = {name: value for name, value in fields if name in (b"etag", b"last-modified", b"content-type")}
        self.etag = found.get(b"etag", b"").decode("latin-1")
        self.last_modified = found.get(b"last-modified", b"").decode("latin-1")
        kind = found.get(b"content-type", b"").partition(b";")[0].strip().lower()
        self.squeezable = (
            kind.startswith(b"text/") or kind.endswith((b"mpegurl", b"xml", b"json", b"javascript"))
        ) and not any(name == b"content-encoding" for name, _ in fields)

    @property
    def size(self) -> int:
        """Bytes that it counts for in the cache's budget."""
        other = sum(len(variant.body) for variant in self.packed.values())
        joined = len(self.body) if len(self.body) <= JOIN_BYTES else 0
        return len(self.body) + joined + other + OVERHEAD_BYTES

    def keep(self, policy: freshness.Policy, stale_if_error_s: float, now: float) -> None:
        """Set how long it may be used from a response received at `now` (loop clock)."""
        self.store, self.share = policy.store, policy.share
        self.fresh_until = now + policy.lifetime_s - self.age
        self.revalidate_until = self.fresh_until + policy.while_revalidate_s
        if_error = stale_if_error_s if policy.if_error_s is None else policy.if_error_s
        self.error_until = self.fresh_until + if_error

    def renewed(self, fields: Fields, now: float, age: float) -> Entry:
        """The same bytes with the fields and the age of a newer answer about them (a 304); `keep` comes next."""
        fresh = Entry(self.key, self.status, fields, self.body, now=now, age=age)
        fresh.vary, fresh.fetched_s, fresh.used = self.vary, self.fetched_s, self.used
        for coding, variant in self.packed.items():
            fresh.pack(coding, variant.body)
        return fresh

    def current_age(self, now: float) -> int:
        """RFC 9111 4.2.3, in whole seconds."""
        return max(0, int(self.age + now - self.made_at))

    def variable_fields(self, now: float, result: bytes) -> Fields:
        """What differs from one answer to the next."""
        age = (b"age", b"%d" % self.current_age(now))
        return ((b"x-cache", result), age, server_timing(result, self.fetched_s))

    def head(self, now: float, result: bytes) -> bytes:
        """An HTTP/1.1 head for the whole body."""
        length = () if self.status in (204, 304) else ((b"content-length", b"%d" % len(self.body)),)
        return head_bytes(self.status, self.fields, self.variable_fields(now, result), length)

    def answer_for(self, now: float, result: bytes) -> Prepared:
        """The whole entry, made once for all who get the same within a second."""
        if now >= self.wire_until:
            self.prepare(now)
        found = self.answers.get(result)
        if found is None:
            found = self.answers[result] = Prepared(self.head(now, result), self.body)
        return found

    def block_for(self, now: float, result: bytes) -> bytes:
        """The HTTP/2 header block of the whole body, made once for all who get the same within a second."""
        if now >= self.wire_until:
            self.prepare(now)
        found = self.blocks.get(result)
        if found is None:
            length = () if self.status in (204, 304) else ((b"content-length", b"%d" % len(self.body)),)
            found = hpack.encode(self.status, self.fields, self.variable_fields(now, result), length)
            self.blocks[result] = found
        return found

    def prepare_frames(self, now: float) -> Frames | None:
        """Make `frames`: HEADERS and DATA. None where the fields are too long for one frame."""
        block = self.block_for(now, b"HIT")
        if len(block) > frames.DEFAULT_FRAME_BYTES:
            return None
        first = frames.start(len(block), Kind.HEADERS, Flag.END_HEADERS)
        size = len(self.body)
        found: Frames
        if size <= frames.DEFAULT_FRAME_BYTES:
            found = (first, block + frames.start(size, Kind.DATA, Flag.END_STREAM), self.body)
        else:
            found = [b"", first, b"", block]
            view = memoryview(self.body)
            for at in range(0, size, frames.DEFAULT_FRAME_BYTES):
                piece = view[at : at + frames.DEFAULT_FRAME_BYTES]
                last = at + len(piece) == size
                found += (frames.start(len(piece), Kind.DATA, Flag.END_STREAM if last else 0), b"", piece)
        self.frames = found
        return found

    def prepare(self, now: float) -> Prepared:
        """Make the answer of a HIT, good until the Age changes."""
        self.answers, self.blocks, self.frames = {}, {}, None
        self.wire = Prepared(self.head(now, b"HIT"), self.body)
        age = self.age + now - self.made_at
        self.wire_until = now + 1.0 - age % 1.0
        return self.wire

    def squeezed(self, coding: str) -> Entry:
        """The variant in `coding`, made on first use and kept with this version; self where it would not be smaller."""
        if not self.squeezable:
            return self
        variant = self.packed.get(coding)
        if variant is None:
            if not PACK_MIN_BYTES <= len(self.body) <= PACK_MAX_BYTES:
                self.squeezable = bool(self.packed)
                return self
            body = codings.compress(coding, self.body)
            if len(body) >= len(self.body):
                self.squeezable = False
                return self
            variant = self.pack(coding, body)
        self._sync(variant)
        return variant

    def pack(self, coding: str, body: bytes) -> Entry:
        """Keep `body`, made of this one's with `codings.compress`, as the variant in `coding`."""
        fields = tuple(
            (name, _tag(value, coding) if name == b"etag" else value)
            for name, value in self.fields
            if name != b"accept-ranges"
        )
        fields += ((b"content-encoding", coding.encode("ascii")),)
        self.packed[coding] = variant = Entry(self.key, self.status, fields, body, now=self.made_at, age=self.age)
        variant.fetched_s = self.fetched_s
        return variant

    def _sync(self, other: Entry) -> None:
        if other.made_at != self.made_at or other.fresh_until != self.fresh_until:
            other.wire_until = 0.0
        other.made_at, other.age = self.made_at, self.age
        other.fresh_until, other.revalidate_until = self.fresh_until, self.revalidate_until
        other.error_until, other.store, other.share = self.error_until, self.store, self.share


def _tag(tag: bytes, coding: str) -> bytes:
    return tag[:-1] + codings.TAGS[coding] + b'"' if tag.endswith(b'"') else tag


HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
    | {"proxy-authenticate", "proxy-authentication-info"}
)
_OURS = frozenset(
    {"age", "content-length", "via", "x-cache", "timing-allow-origin", "set-cookie", "alt-svc", "vary"}
    | {"access-control-allow-origin", "access-control-expose-headers", "access-control-allow-credentials"}
)


def viewer_fields(
    headers: dict[str, str], name: str, received_date: bytes, status: int = 200, vary: tuple[str, ...] = ()
) -> Fields:
    """The fields of an upstream response as viewers get them: ours added, those of the connection taken out."""
    dropped = {item.strip().lower() for item in headers.get("connection", "").split(",")}
    fields = [
        (key.encode("latin-1"), value.encode("latin-1"))
        for key, value in headers.items()
        if key not in HOP_BY_HOP and key not in _OURS and key not in dropped
    ]
    if "date" not in headers:
        fields.append((b"date", received_date))
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    names = list(vary)
    if content_type.startswith("text/") or content_type.endswith(("mpegurl", "xml", "json", "javascript")):
        names.append("accept-encoding")
    if names:
        fields.append((b"vary", ", ".join(names).encode("latin-1")))
    if "accept-ranges" not in headers and status == 200:
        fields.append((b"accept-ranges", b"bytes"))
    via = headers.get("via")
    fields.append((b"via", (f"{via}, " if via else "").encode("latin-1") + b"1.1 " + name.encode("ascii")))
    fields.extend(CORS)
    return tuple(fields)


CORS: Fields = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", EXPOSED),
    (b"timing-allow-origin", b"*"),
)
