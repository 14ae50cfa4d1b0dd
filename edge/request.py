"""One HTTP/1.x request head: bytes in, a `Request` out. Sans-IO, stateless, strict.

Nothing that two servers might read differently gets through: no bare LF, no folded lines, no blanks before a
colon, no second Host, no body. The edge answers GET, HEAD and OPTIONS, none of which needs a body, so that a
request ends at its empty line and there is no second framing to smuggle by (RFC 9112 11.2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from edge import codings, ranges, target
from media.errors import ProtocolError

_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([\x21-\x7e]+) HTTP/(\d)\.(\d)\Z")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)\Z")
_HOST = re.compile(r"[A-Za-z0-9\-._~%!$&'()*+,;=:\[\]]*\Z")
_LONELY = re.compile(rb"(?<!\r)\n|\r(?!\n)(?!\Z)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_START = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{0,32}( [\x21-\x7e]*( .*)?)?\Z", re.DOTALL)

Lines = dict[bytes, tuple[str, str]]
"""Header lines that were read before, without their ends, as name and value: most come again and again."""
MAX_LINES = 4096
"""A fuller `Lines` is emptied: names and values of unusual viewers only pass through."""
MAX_LINE_BYTES = 512
"""Longer lines (cookies) are not remembered."""

MAX_FIELDS = 100
"""Header lines per request: browsers send about twenty."""


class Bad(ProtocolError):
    """A request that is answered with `status` and the end of the connection."""

    def __init__(self, status: int, text: str, slug: str) -> None:
        super().__init__(text, slug=slug)
        self.status = status


@dataclass(slots=True, eq=False)
class Request:
    """One request, without anything of its connection, so that equal heads share one `Request`."""

    method: str
    key: str
    """Normalised path and query: the cache key."""
    path: str
    token: str = ""
    """Viewer token from the query or from `Authorization: Bearer`; empty without."""
    headers: dict[str, str] = field(default_factory=dict)
    """Lower-case names; repeated fields joined by a comma."""
    http10: bool = False
    keep_alive: bool = True
    coding: str = ""
    """The content coding that the viewer takes best for text: `br`, `gzip`, or empty."""
    range: ranges.Range | None = None
    ordinary: bool = False
    """A GET on a lasting connection without range or condition."""
    plain: bool = False
    """An ordinary one without a token: what the short path can answer. With one it can for whom has a `Grant`."""

    @property
    def head_only(self) -> bool:
        return self.method == "HEAD"


def find_end(buffer: bytes, limit: int) -> int:
    """Length of the first head in `buffer`, its empty line included; 0 while it is not complete.

    Raises Bad as soon as the bytes cannot become a request, without waiting for the end.
    """
    end = buffer.find(b"\r\n\r\n", 0, limit + 4)
    if end >= 0:
        return end + 4
    if len(buffer) > limit:
        raise Bad(431, "The request head is too large.", "head_too_large")
    line, ended, _ = buffer.partition(b"\r\n")
    if _LONELY.search(buffer) or not (_LINE.match(line) if ended else _START.match(line)):
        raise Bad(400, "This is not an HTTP/1.1 request.", "not_http")
    return 0


@dataclass(slots=True, eq=False)
class Fields:
    """The header lines of a request, read once for all requests of a player: they differ in the target only."""

    headers: dict[str, str]
    lasting: bool
    """HTTP/1.1 without `Connection: close`."""
    coding: str
    range: ranges.Range | None
    bearer: str
    ordinary: bool
    """Nothing in it that the short path does not understand."""
    block: bytes | None = None
    """The very bytes, where they may be compared with those of the next request; see `edge.heads`."""
    tail: bytes = b""
    """The end of the request line and `block`."""


_SPECIAL = frozenset({"if-none-match", "if-modified-since", "if-range", "via", "upgrade", "range"}) | {
    *("x-forwarded-for", "forwarded", "cdn-loop")
}


MATTERS = _SPECIAL | {"connection", "transfer-encoding", "content-length", "expect", "authorization"}
"""Every field that `check` and `fields` look at, but Host and Accept-Encoding: others only have to be well-formed."""


def parse(head: bytes, query_keys: frozenset[str], max_target: int = 4096) -> Request:
    """Read one whole head as found by `find_end`. Raises Bad, or ProtocolError for an unusable target."""
    line, _, block = head.partition(b"\r\n")
    method, raw_target, http10 = parse_line(line, max_target)
    return build(method, target.parse(raw_target, query_keys), parse_fields(block, http10), http10)


def parse_line(line: bytes, max_target: int) -> tuple[str, str, bool]:
    """Method, target and whether it is HTTP/1.0, of a request line without its end. Raises Bad."""
    match = _LINE.match(line)
    if match is None:
        raise Bad(400, "The request line is broken.", "bad_request_line")
    method = match[1].decode("ascii")
    if match[3] != b"1" or match[4] not in b"01":
        raise Bad(505, "Only HTTP/1.0 and HTTP/1.1 are spoken here.", "bad_version")
    if len(match[2]) > max_target:
        raise Bad(414, "The request target is too long.", "target_too_long")
    if method not in ("GET", "HEAD", "OPTIONS"):
        raise Bad(405, "Only GET, HEAD and OPTIONS are answered here.", "bad_method")
    raw_target = match[2].decode("ascii")
    if raw_target == "*" and method == "OPTIONS":
        raw_target = "/"
    return method, raw_target, match[4] == b"0"


def parse_fields(block: bytes, http10: bool, lines: Lines | None = None) -> Fields:
    """Read all header lines; `block` ends with the empty line. `lines` is used and added to. Raises Bad."""
    headers = _fields(block, {} if lines is None else lines)
    check(headers, http10)
    return fields(headers, http10)


def fields(headers: dict[str, str], http10: bool) -> Fields:
    """What header fields mean for the answer; shared by all versions of HTTP."""
    connection = headers.get("connection", "").lower()
    keep_alive = "keep-alive" in connection if http10 else "close" not in connection
    authorization = headers.get("authorization", "")
    bearer = authorization[7:].strip() if authorization[:7].lower() == "bearer " else ""
    return Fields(
        headers=headers,
        lasting=keep_alive,
        coding=codings.choose(headers.get("accept-encoding", "")),
        range=ranges.parse(headers["range"]) if "range" in headers else None,
        bearer=bearer,
        ordinary=keep_alive and not http10 and not bearer and _SPECIAL.isdisjoint(headers),
    )


def build(method: str, where: target.Target, said: Fields, http10: bool) -> Request:
    """A `Request` from its parsed pieces; shared by all versions of HTTP."""
    get = method == "GET"
    token = where.token or said.bearer
    return Request(
        method=method,
        key=where.key,
        path=where.path,
        token=token,
        headers=said.headers,
        http10=http10,
        keep_alive=said.lasting,
        coding=said.coding,
        range=said.range if get else None,
        ordinary=get and said.ordinary,
        plain=get and said.ordinary and not token,
    )


def _fields(block: bytes, known: Lines) -> dict[str, str]:
    if block[-4:] != b"\r\n\r\n":
        if block == b"\r\n":
            return {}
        raise Bad(400, "A header line is broken.", "bad_field")
    raw_lines = block[:-4].split(b"\r\n")
    if len(raw_lines) > MAX_FIELDS:
        raise Bad(431, "The request has too many header lines.", "too_many_fields")
    headers: dict[str, str] = {}
    for raw in raw_lines:
        found = known.get(raw)
        if found is None:
            found = _field(raw, known)
        name, value = found
        if name in headers:
            if name in ("host", "content-length", "transfer-encoding", "authorization"):
                raise Bad(400, f"The field {name} is there twice.", "repeated_field")
            headers[name] += ", " + value
        else:
            headers[name] = value
    return headers


def field_line(raw: bytes) -> tuple[str, str]:
    """Lower-case name and value of a header line without its end. Raises Bad."""
    match = _FIELD.match(raw)
    if match is None:
        raise Bad(400, "A header line is broken.", "bad_field")
    return match[1].decode("ascii").lower(), match[2].rstrip(b" \t").decode("latin-1")


def is_host(value: str) -> bool:
    """Whether this may be the value of Host."""
    return _HOST.match(value) is not None


def _field(raw: bytes, known: Lines) -> tuple[str, str]:
    found = field_line(raw)
    if len(raw) <= MAX_LINE_BYTES and found[0] not in ("authorization", "cookie"):
        if len(known) >= MAX_LINES:
            known.clear()
        known[raw] = found
    return found


def check(headers: dict[str, str], http10: bool) -> None:
    """Refuse bodies, expectations and a Host that is missing or broken. Raises Bad."""
    if "transfer-encoding" in headers:
        raise Bad(400, "A request with a body is not taken here.", "unwanted_body")
    length = headers.get("content-length")
    if length is not None:
        if not (length.isascii() and length.isdigit()):
            raise Bad(400, "Content-Length is not a number.", "bad_length")
        if length.strip("0"):
            raise Bad(413, "A request with a body is not taken here.", "unwanted_body")
    if "expect" in headers:
        raise Bad(417, "No body is expected here.", "bad_expect")
    host = headers.get("host")
    if host is None:
        if not http10:
            raise Bad(400, "The field Host is missing.", "missing_host")
    elif not is_host(host):
        raise Bad(400, "The field Host is broken.", "bad_host")
