"""`headrace edge` as a process: it serves from an origin, shows its metrics, and leaves cleanly."""

from __future__ import annotations

import http.server
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
from ports import free_port

pytestmark = pytest.mark.timeout(60)


class _Origin(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Cache-Control", "max-age=60")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        body: bytes = answer.read()
    return body


def test_an_edge_on_its_own(tmp_path: Path) -> None:
    metrics_port = free_port()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Origin) as origin:
        threading.Thread(target=origin.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{origin.server_port}"
        command = [sys.executable, "-m", "control.cli", "edge", "--origin", url, "--port", "0"]
        command += ["--metrics-port", str(metrics_port), "--set", "edge.workers=1", "--set", "edge.host=127.0.0.1"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE")}
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=log)
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            match = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert match is not None, line
            for _ in range(3):
                assert get(f"{match[0]}/live/a/720p/1.m4s") == b"/live/a/720p/1.m4s"
            assert b'"ok"' in get(f"http://127.0.0.1:{metrics_port}/healthz")
            metrics = get(f"http://127.0.0.1:{metrics_port}/metrics").decode()
            assert 'headrace_edge_requests_total{result="hit"} 2' in metrics
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
            origin.shutdown()


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "control.cli", "edge", "--origin", "http://127.0.0.1:1", "--port", port]
        command += ["--set", "edge.host=127.0.0.1"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert port in done.stderr
    assert "Traceback" not in done.stderr
