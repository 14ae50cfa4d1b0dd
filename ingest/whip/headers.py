"""HTTP headers and status codes of WHIP, pure: RFC 9725, RFC 6750 (Bearer), RFC 8288 (Link), Fetch (CORS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ingest.settings import IceServer
from media.errors import HeadraceError, MediaError, Overloaded, ProtocolError, Refused

SDP = "application/sdp"
RETRY_AFTER_S = 5
NO_CACHE = {"Cache-Control": "no-store"}

CORS = {
    # Credentials travel in Authorization, which is no cookie: any page may ask, and none can do so unknowingly.
    "Access-Control-Allow-Origin": "*",
    # Without this list a page's script cannot see the session's URL.
    "Access-Control-Expose-Headers": "Location, ETag, Link, Retry-After, WWW-Authenticate, Allow, "
    "Accept-Post, Accept-Patch",
}
PREFLIGHT = {
    **CORS,
    "Access-Control-Allow-Methods": "POST, GET, HEAD, PATCH, DELETE, OPTIONS",
    # "*" never covers Authorization (Fetch 3.3.1).
    "Access-Control-Allow-Headers": "Authorization, Content-Type, If-Match",
    "Access-Control-Max-Age": "86400",
}

_UNAUTHORIZED = frozenset({"unknown_key", "no_key", "key_used", "token_replayed", "refused"})
_UNAUTHORIZED_PREFIXES = ("key_", "token_", "bad_token", "bad_key")
_CONFLICT = frozenset({"stream_in_use", "stream_taken", "already_publishing", "key_limit"})
_UNPROCESSABLE = frozenset({"unsupported_offer", "no_restart"})


def bearer(header: str | None) -> str:
    """The key of `Authorization: Bearer KEY`; empty if there is none."""
    scheme, _, key = (header or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def media_type(header: str | None) -> str:
    """The type of a Content-Type header, without parameters, in small letters."""
    return (header or "").split(";", 1)[0].strip().lower()


def status(error: HeadraceError) -> int:
    """The status code that tells this error."""
    slug = error.slug
    if isinstance(error, Overloaded):
        return 503
    if isinstance(error, Refused):
        if slug == "throttled":
            return 429
        if slug in _CONFLICT:
            return 409
        return 401 if slug in _UNAUTHORIZED or slug.startswith(_UNAUTHORIZED_PREFIXES) else 403
    if isinstance(error, MediaError) or slug in _UNPROCESSABLE:
        return 422
    return 400 if isinstance(error, ProtocolError) else 500


def for_status(code: int, slug: str) -> dict[str, str]:
    """Headers that a refusal needs. A key that was not accepted is told from one that was not sent (RFC 6750 3.1)."""
    if code == 401:
        error = "" if slug == "no_key" else ', error="invalid_token"'
        return {"WWW-Authenticate": f'Bearer realm="whip"{error}'}
    if code in (429, 503):
        return {"Retry-After": str(RETRY_AFTER_S)}
    return {}


def links(servers: Sequence[IceServer]) -> list[str]:
    """One Link value for each STUN or TURN URL (RFC 9725 4.6). OBS splits at commas and semicolons without regard to
    quotes, so a server whose credentials have one is told without its credentials being cut: it is left out."""
    found = []
    for server in servers:
        if any(mark in server.username + server.credential for mark in ',;"'):
            continue
        for url in server.urls:
            link = f'<{url}>; rel="ice-server"'
            if server.username:
                link += f'; username="{server.username}"; credential="{server.credential}"'
                link += f'; credential-type="{server.credential_type}"'
            found.append(link)
    return found


def if_match(header: str | None, etag: str) -> int:
    """What an If-Match header of a PATCH says: 0 the ETag itself, 1 any (restart), else a status code.

    RFC 9725's own example sends the star in quotes: both are taken.
    """
    if header is None:
        return 428
    values = {value.strip() for value in header.split(",")}
    if values & {"*", '"*"'}:
        return 1
    return 0 if etag in values else 412


def problem(code: int, slug: str, text: str) -> Mapping[str, str | int]:
    """The body of a refusal (RFC 9457)."""
    return {"type": "about:blank", "title": slug, "status": code, "detail": text, "slug": slug}
