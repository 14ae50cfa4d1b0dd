"""`headrace lint` over our own server, and over playlists that break the rules."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from live_server import Server, ended, wait_for

pytestmark = pytest.mark.e2e

SOURCE = (
    "-re", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30", "-f", "lavfi", "-i", "sine=sample_rate=48000",
    "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-b:v", "400k", "-maxrate", "400k",
    "-bufsize", "100k", "-g", "60", "-bf", "2", "-c:a", "aac", "-f", "flv",
)  # fmt: skip


def lint(url: str, seconds: int) -> tuple[int, dict]:
    done = subprocess.run(
        [sys.executable, "-m", "control.cli", "lint", url, "--seconds", str(seconds), "--json"],
        capture_output=True, text=True, timeout=seconds + 200,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def test_our_own_stream_keeps_every_rule_through_a_reconnect(shared_server: Server) -> None:
    made = shared_server.add("lint", ladder=[])
    url = f"{shared_server.edge}/live/lint/index.m3u8"
    results: list[tuple[int, dict]] = []
    worker = threading.Thread(target=lambda: results.append(lint(url, 18)))
    with ended(shared_server.push(made["urls"]["rtmp"], *SOURCE)) as first:
        shared_server.wait_on_air("lint")
        worker.start()
        shared_server.wait_on_air("lint")
        worker.join(8)
        first.kill()
        first.wait()
        with ended(shared_server.push(made["urls"]["rtmp"], *SOURCE)):
            worker.join()
    ((status, report),) = results
    assert (status, [v for v in report["violations"] if v["must"]]) == (0, [])
    assert report["parts"] > 30
    assert report["deltas"] > 5
    assert report["segments"] > 8


def test_renditions_that_come_and_go_with_the_ladder_are_followed(shared_server: Server) -> None:
    made = shared_server.add("ladders", ladder=["none"])
    url = f"{shared_server.edge}/live/ladders/index.m3u8"
    results: list[tuple[int, dict]] = []
    worker = threading.Thread(target=lambda: results.append(lint(url, 30)))
    larger = (argument.replace("320x180", "640x360") for argument in SOURCE)
    with ended(shared_server.push(made["urls"]["rtmp"], *larger)):
        shared_server.wait_on_air("ladders")
        worker.start()
        shared_server.cli("stream", "set", "ladders", "ladder=240p")
        wait_for(lambda: "240p" in shared_server.playlist("/live/ladders/index.m3u8"), 20, "the rung is there")
        shared_server.wait_on_air("ladders")
        worker.join(12)
        shared_server.cli("stream", "set", "ladders", "ladder=none")
        wait_for(lambda: "240p" not in shared_server.playlist("/live/ladders/index.m3u8"), 20, "the rung is gone")
        worker.join()
    ((status, report),) = results
    assert (status, [v for v in report["violations"] if v["must"]]) == (0, [])
    assert "240p/media.m3u8" in report["followed"]


@pytest.fixture
def broken() -> Iterator[str]:
    """A server of one playlist that never changes and breaks several rules."""
    text = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:1\n#EXTINF:3.9,\na.ts\n"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = text.encode() if self.path == "/x.m3u8" else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/x.m3u8"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_broken_rules_are_told_with_their_section(broken: str) -> None:
    status, report = lint(broken, 3)
    rules = {v["rule"] for v in report["violations"] if v["must"]}
    assert status == 1
    assert {"4.4.3.1", "APPLE 8.4", "6.2.2"} <= rules
