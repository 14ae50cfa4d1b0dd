"""The dashboard in a browser: what an operator does there, and names that would like to be markup."""

from __future__ import annotations

import pytest
from live_server import Server
from playwright.sync_api import expect
from watching import chromium

pytestmark = pytest.mark.e2e

expect.set_options(timeout=30_000)
HOSTILE = "<img src=x onerror=document.title='taken'>"


def test_streams_and_keys_are_looked_after_in_the_dashboard(shared_server: Server) -> None:
    server = shared_server
    with chromium() as browser:
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(server.api)
        page.fill("#token", "no such token")
        page.click("#login button")
        expect(page.locator("#state")).to_contain_text("not the right one")
        page.fill("#token", (server.data / "admin-token").read_text().strip())
        page.click("#login button")
        page.fill("#name", "camera")
        page.click("#new button")
        expect(page.locator("#fresh code").first).to_contain_text("hr_")
        page.get_by_label("keys of camera").click()
        page.get_by_text("Rotate, 60 s grace").click()
        expect(page.locator("#keys tr")).to_have_count(3)
        page.locator("#keys").get_by_label("revoke ").first.click()
        expect(page.locator("#keys")).to_contain_text("revoked")
        assert sorted(key["state"] for key in server.cli("key", "list", "camera")) == ["live", "revoked"]

        row = {"id": HOSTILE, "stream": HOSTILE, "state": HOSTILE, "started": 1, "ended": None,
               "health": {"verdict": "poor", "reasons": [HOSTILE]}, "renditions": [{"name": HOSTILE}],
               "publisher": {"protocol": HOSTILE, "address": HOSTILE}}  # fmt: skip
        page.route("**/v1/broadcasts", lambda route: route.fulfill(json=[row]))
        expect(page.locator("#live li")).to_have_text(HOSTILE)
        assert page.locator("#live img").count() == 0
        assert page.title() == "Headrace"
        page.get_by_label("remove camera").click()
        expect(page.get_by_label("keys of camera")).to_have_count(0)
        expect(page.locator("#keys")).to_be_hidden()
    assert server.cli("stream", "list") == []
    assert errors == []
