"""The vendored players are the files that their manifest names, and the pages use what is there."""

from __future__ import annotations

import hashlib
import json
import re
from importlib import resources

from edge import pages

FOLDER = resources.files("edge") / "player"


def test_vendored_files_match_their_sums_and_have_licences() -> None:
    manifest = json.loads((FOLDER / "vendor" / "manifest.json").read_text())
    assert {item["file"] for item in manifest} == {"hls.min.js", "dash.all.min.js"}
    for item in manifest:
        data = (FOLDER / "vendor" / item["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == item["sha256"]
        assert item["version"].encode() in data
        assert (FOLDER / "vendor" / item["licence_file"]).is_file()


def test_every_asset_that_a_page_names_exists() -> None:
    found = pages.load("edge", 0.0)
    for path in ("/", "/watch/some-name"):
        page = found.find(path)
        assert page is not None
        named = re.findall(rb'"(/assets/[^"]+)"', page.body)
        assert len(named) >= 3
        for name in named:
            asset = found.find(name.decode())
            assert asset is not None, name
            assert asset.body
    assert found.find("/watch/") is None
    assert found.find("/watch/a/b") is None


def test_pages_are_packed_beforehand_however_large() -> None:
    found = pages.load("edge", 0.0)
    for entry, coding, body in found.compress():
        entry.pack(coding, body)
        assert len(body) < len(entry.body) or len(entry.body) < 512, entry.key
        assert entry.squeezed(coding).body is body
