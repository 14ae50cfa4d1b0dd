"""Tokens made, withdrawn and purges announced: on this machine's edge, and on one that stands alone."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from until import until

from control import viewer_news, viewer_tokens
from control.api_edge import withdraw
from control.http import HttpServer, listen_tcp
from control.viewer_news import Board, Follower, News
from edge.revocation import fingerprint
from edge.settings import EdgeSettings
from edge.supervisor import EdgePool
from media.errors import Refused


async def small_origin(scope: dict, receive: object, send: object) -> None:  # type: ignore[type-arg]
    headers = [(b"cache-control", b"max-age=60"), (b"content-length", b"1")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b"x"})  # type: ignore[operator]


def status(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, str(answer.headers["x-cache"])
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode().split()[1]


async def test_an_edge_elsewhere_hears_of_revoked_tokens_and_of_purges(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    viewer_tokens.rotate(keys, 0)
    board = Board(tmp_path)
    sock = listen_tcp("127.0.0.1", 0, "origin")
    server = HttpServer(board.in_front_of(small_origin), [sock])
    origin = f"http://127.0.0.1:{sock.getsockname()[1]}"
    settings = EdgeSettings(host="127.0.0.1", port=0, workers=2, token_keys=keys, token_required=True)
    pool = EdgePool(settings, origin)
    one = viewer_tokens.make(keys, "a", 60, [])
    other = viewer_tokens.make(keys, "a", 60, ["127.0.0.1"])
    async with asyncio.TaskGroup() as group:
        running = group.create_task(server.run())
        await server.started()
        await pool.start()
        following = group.create_task(Follower(pool, [origin]).run())
        try:

            async def ask(token: str) -> tuple[int, str]:
                return await asyncio.to_thread(status, f"http://127.0.0.1:{pool.port}/t/{token}/live/a/p")

            async def answers(token: str, code: int) -> None:
                await board.look(None)
                async with asyncio.timeout(60):
                    while {(await ask(token))[0] for _ in range(8)} != {code}:  # noqa: ASYNC110 (another process)
                        await asyncio.sleep(0.05)

            await answers(one["token"], 200)
            withdraw(tmp_path, one["token"], "")
            await answers(one["token"], 403)
            assert await ask(one["token"]) == (403, "token_revoked")
            assert (await ask(other["token"]))[0] == 200
            os.kill(pool.pids[0], 9)
            await until(lambda: pool.restarts and len(pool._controls) == 2)
            assert {await ask(one["token"]) for _ in range(8)} == {(403, "token_revoked")}, "the new worker knows too"
            for _ in range(8):
                await ask(other["token"])
            viewer_news.purge(tmp_path, "a")
            await board.look(None)
            async with asyncio.timeout(60):
                while (await ask(other["token"]))[1] != "MISS":  # noqa: ASYNC110 (another process)
                    await asyncio.sleep(0.02)
            withdraw(tmp_path, "", "a")
            await answers(other["token"], 403)
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
            await pool.stop()
            server.stop()
            await running


def test_rotation_overlaps(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    with pytest.raises(Refused, match="viewer rotate"):
        viewer_tokens.make(keys, "a", 60, [])
    first = viewer_tokens.rotate(keys, 100)
    assert (first["old_keys"], first["old_keys_end"]) == (0, None)
    second = viewer_tokens.rotate(keys, 100)
    found = json.loads(keys.read_text())["keys"]
    assert [key["kid"] for key in found] == [second["kid"], first["kid"]]
    assert "exp" not in found[0]
    assert found[1]["exp"] == second["old_keys_end"]
    assert keys.stat().st_mode & 0o077 == 0
    viewer_tokens.rotate(keys, 1000)
    assert json.loads(keys.read_text())["keys"][2]["exp"] == second["old_keys_end"], "an end never moves away"


def test_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    viewer_news.revoke_token(tmp_path, "old", time.time() - 1)
    viewer_news.revoke_token(tmp_path, "one")
    viewer_news.revoke_stream(tmp_path, "secret-name")
    viewer_news.purge(tmp_path, "secret-name")
    news = viewer_news.read(tmp_path)
    assert set(news.tokens) == {fingerprint("one")}, "what has ended by itself is forgotten"
    assert list(news.purges.values()) == list(news.streams) == [fingerprint("secret-name")]
    assert "secret-name" not in (tmp_path / viewer_news.FILE).read_text()
    monkeypatch.setattr(viewer_news, "LIMIT", 2)
    with pytest.raises(Refused, match="rotate"):
        viewer_news.revoke_token(tmp_path, "more")
    (tmp_path / viewer_news.FILE).write_text("{")
    with pytest.raises(Refused, match="broken"):
        viewer_news.read(tmp_path)


def test_what_is_revoked(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    viewer_tokens.rotate(keys, 0)
    made = viewer_tokens.make(keys, "a", 60, [])
    assert viewer_tokens.read(made["token"]) == (made["jti"], made["expires_at"])
    assert viewer_tokens.read("some-id") == ("some-id", None)
    for broken in ("a.b.c", "a.e30.c", "a.W10.c"):
        with pytest.raises(Refused):
            viewer_tokens.read(broken)


def token_with(payload: bytes) -> str:
    return f"e30.{base64.urlsafe_b64encode(payload).decode().rstrip('=')}.c"


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 3000,
        b'{"jti":' + b"[" * 2900,
        b'{"jti":"\\ud800","exp":1}',
        b'{"jti":"x\xff"}',
        b'{"jti":5}',
        b"\xff" * 9,
    ],
)
def test_a_token_that_nobody_made_is_refused_in_words(payload: bytes) -> None:
    with pytest.raises(Refused):
        viewer_tokens.read(token_with(payload))


@pytest.mark.parametrize("end", [b"9" * 400, b"1e999", b"-1e999", b"NaN", b"true", b'"soon"', b"-5"])
def test_a_token_with_an_odd_end_is_revoked_and_the_list_stays_whole(tmp_path: Path, end: bytes) -> None:
    viewer_news.revoke_token(tmp_path, "before")
    withdraw(tmp_path, token_with(b'{"jti":"odd","exp":' + end + b"}"), "")
    withdraw(tmp_path, "after", "")
    assert {fingerprint("before"), fingerprint("after")} <= set(viewer_news.read(tmp_path).tokens)


def test_of_many_at_once_none_is_lost(tmp_path: Path) -> None:
    """The API takes requests side by side, and the command line writes beside it."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(partial(viewer_news.revoke_token, tmp_path), map(str, range(40))))
    assert set(viewer_news.read(tmp_path).tokens) == {fingerprint(str(number)) for number in range(40)}


def test_a_full_list_has_room_again_when_tokens_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer_news, "LIMIT", 2)
    now = time.time()
    ended = News(tokens={"a": now - 1}, streams={"b": now - viewer_news.TOKENS_S - 1})
    (tmp_path / viewer_news.FILE).write_text(ended.model_dump_json())
    viewer_news.revoke_token(tmp_path, "one")
    viewer_news.revoke_stream(tmp_path, "two")
    with pytest.raises(Refused, match="rotate"):
        viewer_news.revoke_token(tmp_path, "three")
    viewer_news.revoke_token(tmp_path, "one")
    viewer_news.purge(tmp_path, "two")
    assert set(viewer_news.read(tmp_path).tokens) == {fingerprint("one")}


async def test_a_long_list_is_heard_to_its_end(tmp_path: Path) -> None:
    """An answer comes in as many pieces as the network likes."""
    board = Board(tmp_path)
    board.news = News(tokens={f"{number:024x}": 2e9 for number in range(20_000)})
    sock = listen_tcp("127.0.0.1", 0, "origin")
    server = HttpServer(board.in_front_of(small_origin), [sock])
    heard: asyncio.Future[News] = asyncio.get_running_loop().create_future()

    class Listener(Follower):
        async def hear(self, news: News) -> None:
            heard.set_result(news)

    async with asyncio.TaskGroup() as group:
        running = group.create_task(server.run())
        await server.started()
        listener = Listener(EdgePool(EdgeSettings(), "unix:/none"), [f"http://127.0.0.1:{sock.getsockname()[1]}"])
        following = group.create_task(listener.run())
        try:
            async with asyncio.timeout(10):
                assert len((await heard).tokens) == 20_000
        finally:
            following.cancel()
            server.stop()
            await running


@pytest.mark.parametrize(
    "address", ["", "localhost", "192.0.2.300", "192.0.2.0/40", "2001:db8::/x", "\ud800"], ids=range(6)
)
def test_a_link_for_an_address_that_is_none_is_not_made(tmp_path: Path, address: str) -> None:
    keys = tmp_path / "keys.json"
    viewer_tokens.rotate(keys, 0)
    with pytest.raises(Refused, match="address"):
        viewer_tokens.make(keys, "a", 60, ["192.0.2.1", address])
    assert viewer_tokens.make(keys, "a", 60, ["192.0.2.1", "2001:db8::/32", "10.1.2.3/8"])["token"]
