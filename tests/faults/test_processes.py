"""Our own processes stall, die, or are told to go; the disk is full. The stream goes on; nothing is left behind."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from live_server import Server, ended, new_server, running, wait_for
from small_source import small

pytestmark = pytest.mark.e2e


def processes(server: Server, module: bytes) -> list[int]:
    """Children of the server that run a module of ours."""
    found = []
    for pid in server.children():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if module in words and b"-m" in words:
            found.append(pid)
    return found


def grows(server: Server, path: str, seconds: float) -> float:
    """Seconds until the playlist lists another whole segment."""

    def last() -> int:
        return server.playlist(path).count("\n#EXTINF") + _first(server.playlist(path))

    began, at = time.monotonic(), last()
    wait_for(lambda: last() > at, seconds, f"{path} goes on")
    return time.monotonic() - began


def _first(text: str) -> int:
    return next((int(x.partition(":")[2]) for x in text.splitlines() if x.startswith("#EXT-X-MEDIA-SEQUENCE")), 0)


def test_a_worker_that_stands_still_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path / "data", transcode__stall_timeout_s="2") as server:
        url = server.add("stall", ladder=["240p"])["urls"]["rtmp"]
        with ended(server.push(url, *small("480x270"))):
            text = server.wait_on_air("stall")
            rung = next(x for x in text.splitlines() if x.endswith("media.m3u8") and "source" not in x)
            path = f"/live/stall/{rung}"
            wait_for(lambda: "#EXTINF" in server.playlist(path), 15, "the rung is on air")
            found = next(b for b in server.admin("/v1/broadcasts") if b["stream"] == "stall")
            pid = int(found["transcode"]["worker_pid"])
            os.kill(pid, signal.SIGSTOP)
            wait_for(lambda: "stalled for" in server.text(), 10, "the stall is seen")
            wait_for(lambda: not _alive(pid), 5, "the worker is gone")
            print("rung grew within", round(grows(server, path, 15), 1), "s of its replacement")
            assert "source" in server.playlist("/live/stall/index.m3u8")


def test_an_edge_worker_killed_under_its_viewers_is_replaced(server: Server) -> None:
    url = server.add("edges")["urls"]["rtmp"]
    with ended(server.push(url, *small())):
        server.wait_on_air("edges")
        before = processes(server, b"edge")
        assert before
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        path = "/live/edges/source/media.m3u8"
        wait_for(lambda: server.playlist(path), 10, "the edge serves again")
        print("all edge workers killed: served again after", round(time.monotonic() - began, 1), "s")
        grows(server, path, 12)
        wait_for(lambda: len(processes(server, b"edge")) == len(before), 5, "as many as before")


def test_a_database_that_cannot_be_written_stops_no_stream(server: Server) -> None:
    made = server.add("full")
    path = "/live/full/source/media.m3u8"
    with ended(server.push(made["urls"]["rtmp"], *small())) as first:
        server.wait_on_air("full")
        lock = sqlite3.connect(server.data / "headrace.db", isolation_level=None)
        try:
            lock.execute("PRAGMA max_page_count = 1")
            lock.execute("BEGIN IMMEDIATE")  # whoever wants to write waits, and then fails, as on a full disk
            grows(server, path, 10)
            assert server.status(f"{server.api}/healthz") == 200
            first.kill()
            first.wait()
            began = time.monotonic()
            with ended(server.push(made["urls"]["rtmp"], *small())):
                wait_for(lambda: server.admin("/v1/broadcasts")[0]["sessions"] == 2, 15, "the key is good without disk")
                print("let in after", round(time.monotonic() - began, 1), "s")
                grows(server, path, 12)
                print("on air after", round(time.monotonic() - began, 1), "s")
                refused = subprocess.run(
                    [*_cli(server), "stream", "add", "another", "--data", str(server.data)],
                    env=server.environment, capture_output=True, text=True, timeout=120, check=False,
                )  # fmt: skip
                print("another stream refused after", round(time.monotonic() - began, 1), "s:", refused.stderr[:300])
                assert refused.returncode != 0
                assert "database cannot be used" in refused.stderr + refused.stdout
                assert "Traceback" not in refused.stderr + refused.stdout
        finally:
            lock.close()
        assert server.cli("stream", "add", "another")["name"] == "another"


def test_ctrl_c_for_the_whole_process_group_ends_cleanly(tmp_path: Path) -> None:
    server = new_server(tmp_path / "data")
    server.data.mkdir(parents=True)
    setsid = server.environment | {"PYTHONUNBUFFERED": "1"}
    with server.log.open("ab") as out:
        server.process = subprocess.Popen(
            [*_cli(server), "serve", "--data", str(server.data)],
            env=setsid, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(lambda: server.status(f"{server.api}/readyz") == 200, 30, "the server is ready")
        url = server.add("bye")["urls"]["rtmp"]
        with ended(server.push(url, *small())):
            server.wait_on_air("bye")
            children = server.children()
            assert len(children) >= 2
            began = time.monotonic()
            os.killpg(server.process.pid, signal.SIGINT)
            assert server.process.wait(60) == 0
            print("ended within", round(time.monotonic() - began, 1), "s")
        wait_for(lambda: not [pid for pid in children if _alive(pid)], 3, "no process is left")
        text = server.text()
        assert "edge_worker_died" not in text
        assert "worker_lost" not in text
        assert "Traceback" not in text
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def _cli(server: Server) -> list[str]:
    import sys

    return [sys.executable, "-m", "control.cli"]


def _alive(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
