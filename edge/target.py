"""From a request target to the one path and query that it stands for. Pure; no caching, no routing.

Whatever can be read in two ways (encoded or doubled slashes, backslashes, NUL, paths above the root) is refused, so
that cache, token check and origin always speak of the same object.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from media.errors import ProtocolError

_PATH = re.compile(r"/[A-Za-z0-9\-._~!$&'()*+,;=:@/%]*\Z")
_QUERY = re.compile(r"[\x21\x22\x24-\x7e]*\Z")
_ABSOLUTE = re.compile(r"https?://([A-Za-z0-9\-._~:\[\]]+)(?=[/?]|\Z)", re.IGNORECASE)
_PERCENT = re.compile(r"%(.{0,2})")
_HEX = re.compile(r"[0-9A-Fa-f]{2}\Z")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


@dataclass(frozen=True, slots=True)
class Target:
    """A normalised request target."""

    path: str
    """Starts with a slash; unreserved characters decoded, others in upper-case hex (RFC 3986 6.2.2)."""
    query: str
    """The parameters that count, sorted by name; empty without any."""
    token: str
    """From the `token` parameter or a path that starts with `/t/TOKEN/`; not part of the key, never sent upstream."""

    @property
    def key(self) -> str:
        """Path and query together: the cache key, and the target asked of the origin."""
        return f"{self.path}?{self.query}" if self.query else self.path


def parse(raw: str, query_keys: frozenset[str]) -> Target:
    """Normalise an origin-form or absolute-form target. Raises ProtocolError."""
    if not raw.startswith("/"):
        match = _ABSOLUTE.match(raw)
        if match is None:
            raise ProtocolError("The request target is neither a path nor an http URL.", slug="bad_target")
        raw = raw[match.end() :]
        if not raw.startswith("/"):
            raw = "/" + raw
    raw_path, _, raw_query = raw.partition("?")
    path = _path(raw_path)
    query, token = _query(raw_query, query_keys)
    if path.startswith("/t/"):
        # The token travels in the path, so that relative URLs in playlists keep it.
        in_path, slash, rest = path[3:].partition("/")
        if not in_path or not slash:
            raise ProtocolError("The path holds a token, but nothing behind it.", slug="bad_path")
        path, token = "/" + rest, in_path
        if path.startswith("/t/"):
            # Here it would be no stream's path and want no token; an edge behind us would read it as one.
            raise ProtocolError("The path holds two tokens.", slug="bad_path")
    return Target(path, query, token)


def _path(raw: str) -> str:
    if _PATH.match(raw) is None:
        raise ProtocolError("The path holds characters that must be percent-encoded.", slug="bad_path")
    if "%" in raw:
        raw = _PERCENT.sub(_decode, raw)
    if "/." in raw:
        raw = _remove_dots(raw)
    if "//" in raw:
        raise ProtocolError("The path holds an empty segment.", slug="bad_path")  # some servers merge slashes
    return raw


def _decode(match: re.Match[str]) -> str:
    digits = match[1]
    if _HEX.match(digits) is None:
        raise ProtocolError("The path holds a broken percent-encoding.", slug="bad_path")
    char = chr(int(digits, 16))
    if char in _UNRESERVED:
        return char
    if char in "/\\" or char < " " or char == "\x7f":
        raise ProtocolError("The path holds an encoded separator or control character.", slug="bad_path")
    return "%" + digits.upper()


def _remove_dots(path: str) -> str:
    """RFC 3986 5.2.4, except that a path above the root is refused instead of clipped."""
    out: list[str] = []
    parts = path.split("/")[1:]
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "..":
            if not out:
                raise ProtocolError("The path leads above the root.", slug="bad_path")
            out.pop()
        elif part != ".":
            out.append(part)
            continue
        if last:
            out.append("")
    return "/" + "/".join(out)


def _query(raw: str, keys: frozenset[str]) -> tuple[str, str]:
    if not raw:
        return "", ""
    if _QUERY.match(raw) is None:
        raise ProtocolError("The query holds characters that must be percent-encoded.", slug="bad_query")
    kept: dict[str, str] = {}
    token = ""
    for pair in raw.split("&"):
        name, _, value = pair.partition("=")
        if "%" in name:
            name = _PERCENT.sub(_decode_query, name)
        if name == "token":
            token = token or value
        elif name in keys:
            if "%" in value:
                value = _PERCENT.sub(_decode_query, value)
            if kept.setdefault(name, value) != value:
                raise ProtocolError(f"The parameter {name} is there twice.", slug="bad_query")
    return "&".join(f"{name}={kept[name]}" for name in sorted(kept)), token


def _decode_query(match: re.Match[str]) -> str:
    digits = match[1]
    if _HEX.match(digits) is None:
        raise ProtocolError("The query holds a broken percent-encoding.", slug="bad_query")
    char = chr(int(digits, 16))
    return char if char in _UNRESERVED else "%" + digits.upper()
