"""The access log: what is in a line, what never is, samples, rotation, and a disk that fails."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from edge_double import Edge, MakeEdge, ScriptedOrigin, answer, held

from edge.access_log import BUFFER_BYTES, AccessLog, hide

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIiwiZXhwIjo5OTk5OTk5OTk5fQ.c2lnbmF0dXJl"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def lines(edge: Edge, path: Path) -> list[dict[str, Any]]:
    assert edge.worker.log is not None
    await edge.worker.log.flush()
    return read(path)


async def test_a_line_for_each_answer(make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    edge = await make_edge(access_log=str(path), trusted_proxies=("127.0.0.0/8",))
    gate = asyncio.Event()
    origin.answers["/live/a/p"] = held(gate, answer(200, b"12345", {"cache-control": "max-age=60"}))
    first, second = await edge.connect(), await edge.connect()
    first.send("/live/a/p?x=1", user_agent="one", x_forwarded_for="203.0.113.9")
    await edge.until(lambda: edge.worker.server.waiting == 1)
    second.send("/live/a/p")
    await edge.until(lambda: edge.worker.server.waiting == 2)
    gate.set()
    await first.reply()
    await second.reply()
    for _ in range(2):
        await second.ask("/live/a/p", referer="https://page.test/watch?secret=1#part")
    await second.ask("/live/a/p", "HEAD")
    await second.ask("/live/a/none")
    second.writer.write(b"what\r\n\r\n")
    assert (await second.reply()).status == 400
    found = await lines(edge, path)
    assert [(line.get("result"), line["status"]) for line in found] == [
        ("miss", 200), ("coalesced", 200), ("hit", 200), ("hit", 200), ("hit", 200), ("miss", 404), ("error", 400),
    ]  # fmt: skip
    one = found[0]
    assert (one["client"], one["method"], one["path"]) == ("203.0.113.9", "GET", "/live/a/p")
    assert (one["bytes"], one["agent"], one["protocol"]) == (5, "one", "HTTP/1.1")
    assert one["ttfb_ms"] == one["blocked_ms"] <= one["total_ms"]
    assert (found[2]["client"], found[2]["blocked_ms"]) == ("127.0.0.1", 0)
    assert found[2]["referer"] == "https://page.test/watch"
    assert (found[4]["method"], found[4]["bytes"]) == ("HEAD", 0)
    assert found[6]["reason"] == "bad_request_line"
    assert all(time.strptime(line["time"][:19], "%Y-%m-%dT%H:%M:%S") and line["time"].endswith("Z") for line in found)


async def test_no_token_gets_into_it(make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    edge = await make_edge(access_log=str(path))
    origin.answers["/live/a/p"] = answer(200, b"x", {"cache-control": "max-age=60"})
    await edge.get(f"/live/a/p?token={JWT}", authorization=f"Bearer {JWT}")
    await edge.get(f"/t/{JWT}/live/a/p", referer=f"https://edge.test/t/{JWT}/watch/a", user_agent=f"x {JWT}")
    await edge.get("/t/opaque-token/live/a/p", referer="https://edge.test/%74/opaque-token/watch/a?token=opaque-token")
    await edge.get("/live/a/t/deep")
    assert len(await lines(edge, path)) == 4
    text = path.read_text()
    assert "eyJ" not in text
    assert "opaque-token" not in text


def test_hide_leaves_the_rest() -> None:
    assert hide("/live/cat/seg-1.m4s") == "/live/cat/seg-1.m4s"
    assert hide("https://a.test/t/abc/watch/x") == "https://a.test/t/-/watch/x"


async def test_a_viewer_who_leaves_is_noted(make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    edge = await make_edge(access_log=str(path))
    gate = asyncio.Event()
    origin.answers["/live/a/p"] = held(gate, answer(200, b"x"))
    viewer = await edge.connect()
    viewer.send("/live/a/p")
    await edge.until(lambda: edge.worker.server.waiting == 1)
    await viewer.close()
    await edge.until(lambda: edge.worker.server.waiting == 0)
    await edge.until(lambda: not edge.worker.server.connections)
    [line] = await lines(edge, path)
    assert (line["status"], line["reason"], line["result"]) == (499, "viewer_left", "error")
    gate.set()


async def test_a_sample_of_hits_and_every_error(make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    edge = await make_edge(access_log=str(path), access_log_rate=0.2)
    origin.answers["/live/a/p"] = answer(200, b"x", {"cache-control": "max-age=60"})
    viewer = await edge.connect()
    for _ in range(500):
        assert (await viewer.ask("/live/a/p")).status == 200
    for _ in range(3):
        await viewer.ask("/live/a/none")
    found = await lines(edge, path)
    assert sum(line["status"] == 404 for line in found) == 3
    assert 50 < sum(line["status"] == 200 for line in found) < 160, "about a fifth of 500"
    assert edge.worker.stats.hit == 499 + 2


async def test_only_errors(make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    edge = await make_edge(access_log=str(path), access_log_rate=0)
    origin.answers["/live/a/p"] = answer(200, b"x", {"cache-control": "max-age=60"})
    viewer = await edge.connect()
    for target in ("/live/a/p", "/live/a/p", "/live/a/none"):
        await viewer.ask(target)
    assert [line["status"] for line in await lines(edge, path)] == [404]


def make(where: str) -> AccessLog:
    return AccessLog(where, 1.0, 1.0, time.monotonic, time.time)


async def test_rotation_needs_no_signal(tmp_path: Path) -> None:
    path, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    log = make(str(path))
    log.write({"n": 1})
    await log.flush()
    path.rename(moved)
    log.write({"n": 2})
    await log.flush()
    path.unlink()
    log.write({"n": 3})
    await log.close()
    assert json.loads(moved.read_text())["n"] == 1
    assert json.loads(path.read_text())["n"] == 3
    assert (log.lines, log.drops) == (3, 0)


async def test_what_finds_no_room_or_no_disk_is_counted(tmp_path: Path) -> None:
    log = make(str(tmp_path / "none" / "access.log"))
    log.write({"n": 1})
    await log.flush()
    assert (log.lines, log.drops) == (0, 1)
    big = {"text": "x" * (BUFFER_BYTES // 4)}
    for _ in range(5):
        log.write(big)
    assert log.drops == 3, "three of them have room"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
async def test_a_full_disk_costs_lines_alone() -> None:
    log = make("/dev/full")
    log.write({"n": 1})
    await log.flush()
    log.write({"n": 2})
    await log.close()
    assert (log.lines, log.drops) == (0, 2)


async def test_workers_lines_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    logs = [make(str(path)) for _ in range(3)]
    for number in range(2000):
        for log in logs:
            log.write({"n": number, "text": "y" * 100})
    await asyncio.gather(*(log.close() for log in logs))
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 6000
    assert os.stat(path).st_mode & 0o007 == 0
