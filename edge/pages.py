"""The player's pages and their assets, read once from the package and served like any cached object.

Assets are named by their content (`/assets/player.1a2b3c4d.js`), so that they can be kept for ever and a new
version of the edge is a new address. The names are put into the pages when they are loaded.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from importlib import resources

from edge import codings
from edge.entry import Entry, viewer_fields

FOREVER = "public, max-age=31536000, immutable"
PAGE = "public, max-age=60"

_ASSETS = {
    "player.css": "player.css",
    "player.js": "player.js",
    "engines.js": "engines.js",
    "seek.js": "seek.js",
    "home.js": "home.js",
    "icon.svg": "icon.svg",
    "vendor/hls.min.js": "hls.min.js",
    "vendor/dash.all.min.js": "dash.all.min.js",
}
_KINDS = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}
_POLICY = (
    "default-src 'self'; img-src 'self' data:; media-src 'self' blob: data:; worker-src 'self' blob:; "
    "style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'"
)
_WATCH = re.compile(r"/watch/[^/]+\Z")


class Pages:
    """Entries by path; every `/watch/PLAYBACK` is the same page."""

    def __init__(self, entries: dict[str, Entry], watch: Entry) -> None:
        self._entries, self._watch = entries, watch

    def refresh(self, now: float) -> None:
        """Made here and now: move Date and Age on. Once in a while."""
        for entry in (*self._entries.values(), self._watch):
            for item in (entry, *entry.packed.values()):
                item.fields = tuple((k, _stamp() if k == b"date" else v) for k, v in item.fields)
                item.made_at, item.wire_until = now, 0.0

    def compress(self) -> list[tuple[Entry, str, bytes]]:
        """What `Entry.pack` takes, for everything in every coding. Takes a second: for a thread."""
        return [
            (entry, coding, codings.compress(coding, entry.body))
            for entry in (*self._entries.values(), self._watch)
            for coding in codings.LOOK_FOR
        ]

    def find(self, path: str) -> Entry | None:
        """The page or asset under `path`; None if the path is not one of ours."""
        found = self._entries.get(path)
        if found is None and path.startswith("/watch/") and _WATCH.match(path):
            return self._watch
        return found


def load(name: str, now: float) -> Pages:
    """Read the package's files. `name` goes into `Via`, `now` is the loop's clock."""
    folder = resources.files("edge") / "player"
    entries: dict[str, Entry] = {}
    names: dict[bytes, bytes] = {}
    for source, public in _ASSETS.items():
        body = folder.joinpath(*source.split("/")).read_bytes()
        stem, _, suffix = public.partition(".")
        path = f"/assets/{stem}.{hashlib.sha256(body).hexdigest()[:8]}.{suffix}"
        entries[path] = _entry(path, body, FOREVER, name, now)
        names[f"/assets/{public}".encode()] = path.encode()
    pages = {}
    for page in ("home.html", "watch.html"):
        body = folder.joinpath(page).read_bytes()
        for old, new in names.items():
            body = body.replace(old, new)
        pages[page] = _entry(page, body, PAGE, name, now)
    entries["/"] = pages["home.html"]
    return Pages(entries, pages["watch.html"])


def _entry(path: str, body: bytes, control: str, name: str, now: float) -> Entry:
    kind = _KINDS[path.rpartition(".")[2]]
    headers = {
        "content-type": f"{kind}; charset=utf-8" if kind.startswith("text/") else kind,
        "cache-control": control,
        "etag": f'"{hashlib.sha256(body).hexdigest()[:16]}"',
        "x-content-type-options": "nosniff",
    }
    if kind == "text/html":
        headers["content-security-policy"] = _POLICY
        # Our own rules on sites look at it; other sites never see the token that may be in it.
        headers["referrer-policy"] = "same-origin"
    entry = Entry(path, 200, viewer_fields(headers, name, _stamp()), body, now=now)
    entry.fresh_until = entry.revalidate_until = entry.error_until = math.inf
    return entry


def _stamp() -> bytes:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()).encode()
