"""How long a response may be used, and how old it is (RFC 9111 4, 5; RFC 5861). Pure arithmetic on headers.

Age: RFC 9111 4.2.3 adds the whole time that a request took to the response's age. A blocking playlist request
waits for seconds by design and is then answered with something brand new, so that rule would tell players
that the live edge lies seconds back. Here the time on the way is what the origin's Date shows, and never more
than the request took; a wrong clock at either end can thus not spoil it either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

CACHEABLE_BY_DEFAULT = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
"""RFC 9110 15.1, without 206: the edge only ever asks for whole objects."""
UNDERSTOOD = CACHEABLE_BY_DEFAULT | {201, 202, 302, 303, 307, 400, 401, 403, 408, 421, 429, 500, 502, 503, 504}
"""For `must-understand` (RFC 9111 5.2.2.3): codes that ask nothing of a cache which this one does not do."""

LOOP = 508
"""Loop Detected (RFC 5842 7.2): says something of the way that one request came, and nothing of the object. A viewer
may invent such a way (`Via`, `CDN-Loop`)."""

_MEMBER = re.compile(r'([a-z*][a-z0-9_.*-]*)(?:=([-A-Za-z0-9+/=:?*._%"]+))?(?:;[^,]*)?\Z')


@dataclass(frozen=True, slots=True)
class Policy:
    """What the response's headers allow, for a shared cache. Times in seconds."""

    store: bool
    """May be kept for later requests."""
    share: bool
    """May be given to others who asked at the same time."""
    lifetime_s: float
    while_revalidate_s: float
    if_error_s: float | None
    """None where the response does not say; 0 where it forbids."""


def directives(value: str) -> dict[str, str]:
    """`Cache-Control` as lower-case names and unquoted values; of repeated names the first counts."""
    found: dict[str, str] = {}
    for item in value.split(","):
        name, _, argument = item.strip().partition("=")
        if name:
            found.setdefault(name.strip().lower(), argument.strip().strip('"'))
    return found


def targeted(value: str) -> dict[str, str] | None:
    """`CDN-Cache-Control` (RFC 9213), a dictionary of RFC 8941; None where it is empty or cannot be read."""
    found: dict[str, str] = {}
    for item in value.split(","):
        match = _MEMBER.match(item.strip(" \t"))
        if match is None or (match[1] in ("max-age", "s-maxage") and seconds(match[2]) is None):
            return None
        found[match[1]] = match[2] or ""
    return found


def seconds(value: str | None) -> float | None:
    """A delta-seconds (RFC 9111 1.2.2); None for anything else."""
    if value is None or not (value.isascii() and value.isdigit()):
        return None
    return float(min(int(value[:12]), 2**31))


def date(value: str | None) -> float | None:
    """An HTTP date as Unix seconds; None if absent or broken."""
    if not value:
        return None
    try:
        found = parsedate_to_datetime(value)
        # The form of asctime names no zone, and is UTC like the others (RFC 9110 5.6.7).
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, IndexError, TypeError):
        return None


def policy(
    status: int, headers: dict[str, str], negative_s: float, *, received: float = 0.0, authorized: bool = False
) -> Policy:
    """What may be done with a response that came at `received` (Unix seconds). `headers` have lower-case names.

    `authorized`: the origin was told the viewer's `Authorization`, so that the answer may be for that viewer alone.
    """
    control = directives(headers.get("cache-control", ""))
    if (ours := targeted(headers.get("cdn-cache-control", ""))) is not None:
        # What it says to caches of our kind replaces the general fields (RFC 9213 2.2).
        control, headers = ours, {name: value for name, value in headers.items() if name != "expires"}
    error = status >= 400
    private = "private" in control
    no_store = "no-store" in control
    if "must-understand" in control:
        no_store = status not in UNDERSTOOD
    if authorized and not control.keys() & {"public", "must-revalidate", "s-maxage"}:
        private = True  # RFC 9111 3.5
    lifetime = _lifetime(control, headers, received)
    explicit = lifetime is not None
    if lifetime is None:
        lifetime = negative_s if error else 0.0
    if "no-cache" in control:
        lifetime = 0.0
    store = not private and not no_store and (explicit or error or status in CACHEABLE_BY_DEFAULT)
    if status == LOOP:
        return Policy(False, False, 0.0, 0.0, 0.0)
    if status >= 500 and not private and not store:
        # A failing origin that forbids storing would be asked anew by every viewer at its worst moment.
        store, lifetime = negative_s > 0, negative_s
    every = "*" in (item.strip() for item in headers.get("vary", "").split(","))
    if every:
        store = False  # RFC 9111 4.1: no other request matches
    must = "must-revalidate" in control or "proxy-revalidate" in control or "s-maxage" in control
    must = must or "no-cache" in control
    if_error = seconds(control.get("stale-if-error"))
    while_revalidate = seconds(control.get("stale-while-revalidate")) or 0.0
    if if_error is None and must:
        if_error = 0.0
    share = (error and not private) or not (private or no_store or every)
    return Policy(store, share, lifetime, while_revalidate, if_error)


def _lifetime(control: dict[str, str], headers: dict[str, str], received: float) -> float | None:
    """RFC 9111 4.2.1; None where the response gives no lifetime. A broken one counts as 0."""
    for name in ("s-maxage", "max-age"):
        if name in control:
            return seconds(control[name]) or 0.0
    if "expires" in headers:
        expires = date(headers["expires"])
        made = date(headers.get("date"))
        if made is None:
            made = received  # RFC 9110 6.6.1
        return max(0.0, expires - made) if expires is not None else 0.0
    return None


def initial_age(headers: dict[str, str], received: float, delay_s: float) -> float:
    """Age of a response at `received` (Unix seconds) that took `delay_s` from request to head."""
    stated = seconds(headers.get("age", "").split(",")[0].strip()) or 0.0
    made = date(headers.get("date"))
    if made is None:
        return stated
    # Date has whole seconds, so compare whole seconds: else it looks up to a second old at birth.
    apparent = max(0.0, int(received) - made)
    return stated + min(max(0.0, apparent - stated), delay_s)
