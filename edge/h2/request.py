"""From a header block to the same `Request` that HTTP/1.1 makes, with memos as in `edge.heads` (RFC 9113 8.3).

Pseudo fields come first, so that a block falls into them and the rest; a player changes only the path from one
request to the next. The memo of rests, and that of targets, make the distinct path cheap too.
"""

from __future__ import annotations

import re

from edge import request
from edge.h2.hpack import Decoder, Field
from edge.heads import MAX_HEAD_BYTES, Memo, Targets
from edge.request import MAX_FIELDS, Bad, Fields, Request
from media.errors import ProtocolError

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+\Z")
_VALUE = re.compile(rb"(?![\t ])[\t\x20-\x7e\x80-\xff]*(?<![\t ])\Z")
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
_UNWANTED = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})


class Malformed(ProtocolError):
    """A request that is no request (RFC 9113 8.1.1): its stream is reset."""


class Reader:
    """One per worker. `read` is on the short path."""

    def __init__(self, query_keys: frozenset[str], max_target: int, max_head: int) -> None:
        self._max_target, self._max_head = max_target, max_head
        self._whole: Memo[bytes, Request] = Memo()
        self._rests: Memo[bytes, Fields] = Memo()
        self._targets = Targets(query_keys)

    def read(self, decoder: Decoder, block: bytes) -> Request:
        """Raises Broken where the connection ends, Malformed, Bad, or ProtocolError for an unusable target."""
        if not decoder.stateless:
            found = decoder.decode(block, self._max_head)
            count = next((i for i, field in enumerate(found) if field[0][:1] != b":"), len(found))
            pseudo = _pseudo(found[:count])
            said = _fields(found[count:], pseudo.get(b":authority"))
            return self._build(pseudo, said)
        asked = self._whole[block]
        if asked is not None:
            return asked
        at = 0
        first: list[Field] = []
        while at < len(block):
            field, after = decoder.field(block, at)
            if field is not None:
                if field[0][:1] != b":" or len(first) == len(_PSEUDO):
                    break
                first.append(field)
            at = after
        pseudo = _pseudo(first)
        authority, rest = pseudo.get(b":authority"), block[at:]
        key = (authority or b"") + b"\n" + rest
        known = self._rests[key]
        if known is None:
            known = _fields(decoder.decode(rest, self._max_head), authority)
            if len(key) <= MAX_HEAD_BYTES and not known.bearer:
                self._rests.put(key, known)
        asked = self._build(pseudo, known)
        if asked.plain and len(block) <= MAX_HEAD_BYTES:
            self._whole.put(block, asked)
        return asked

    def _build(self, pseudo: dict[bytes, bytes], said: Fields) -> Request:
        method, raw = pseudo[b":method"], pseudo[b":path"]
        if method not in (b"GET", b"HEAD", b"OPTIONS"):
            raise Bad(405, "Only GET, HEAD and OPTIONS are answered here.", "bad_method")
        if len(raw) > self._max_target:
            raise Bad(414, "The request target is too long.", "target_too_long")
        text = raw.decode("latin-1")
        where = self._targets.find("/" if text == "*" and method == b"OPTIONS" else text)
        return request.build(method.decode("ascii"), where, said, False)


def _pseudo(fields: list[Field]) -> dict[bytes, bytes]:
    found = dict(fields)
    if len(found) != len(fields) or not _PSEUDO.issuperset(found):
        raise Malformed("A pseudo field is unknown or there twice.", slug="malformed")
    if not found.get(b":path") or b":method" not in found or found.get(b":scheme") not in (b"http", b"https"):
        raise Malformed("A pseudo field is missing.", slug="malformed")
    return found


def _fields(fields: list[Field], authority: bytes | None) -> Fields:
    if len(fields) > MAX_FIELDS:
        raise Bad(431, "The request has too many header lines.", "too_many_fields")
    headers: dict[str, str] = {}
    for name, value in fields:
        if _NAME.match(name) is None or _VALUE.match(value) is None or name in _UNWANTED:
            raise Malformed("A field's name or value is not allowed.", slug="malformed")
        if name == b"te" and value != b"trailers":
            raise Malformed("TE says more than trailers.", slug="malformed")
        key, text = name.decode("ascii"), value.decode("latin-1")
        if key not in headers:
            headers[key] = text
        elif key in ("host", "content-length", "authorization"):
            raise Malformed("A field is there twice.", slug="malformed")
        else:
            headers[key] += ("; " if key == "cookie" else ", ") + text
    if authority is not None:
        host = authority.decode("latin-1")
        if headers.setdefault("host", host) != host:
            raise Malformed("Host is not the authority.", slug="malformed")
    request.check(headers, False)
    return request.fields(headers, False)
