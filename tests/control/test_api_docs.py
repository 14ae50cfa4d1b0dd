"""The API's documentation page asks nobody but this server, and its vendored files are those of the manifest."""

from __future__ import annotations

import hashlib
import json
import re
from importlib import resources

import httpx2
from fastapi import FastAPI

from control.api_docs import docs_router

FOLDER = resources.files("control") / "vendor"


async def test_the_page_and_all_that_it_loads_come_from_here() -> None:
    app = FastAPI(docs_url=None)
    app.include_router(docs_router("Headrace", "/openapi.json", "default-src 'self'"))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://api") as client:
        page = await client.get("/docs")
        assert page.headers["content-security-policy"] == "default-src 'self'"
        assert "//" not in re.sub(r"<!--.*?-->", "", page.text)
        named = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
        assert set(named) == {"/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"}
        for name in [*named, "/openapi.json"]:
            assert (await client.get(name)).status_code == 200


def test_vendored_files_match_their_sums_and_have_a_licence() -> None:
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    assert {item["file"] for item in manifest} == {"swagger-ui-bundle.js", "swagger-ui.css"}
    for item in manifest:
        data = (FOLDER / item["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == item["sha256"]
        assert (FOLDER / item["licence_file"]).is_file()
