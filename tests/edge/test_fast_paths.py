"""The short ways through the edge keep every promise of the long one: rights, revocation, counting, the log."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from edge_double import Edge, MakeEdge, ScriptedOrigin, Viewer, answer, held
from joserfc import jwt
from joserfc.jwk import OctKey

from edge.revocation import Revocations, fingerprint

KEY = OctKey.generate_key(256, {"kid": "k"})
KEPT = {"cache-control": "max-age=60"}
Settings = dict[str, Any]


def token(subject: str = "a", name: str = "one", seconds: float = 60, **claims: object) -> str:
    values = {"sub": subject, "exp": int(time.time() + seconds), "jti": name, **claims}
    return jwt.encode({"alg": "HS256", "kid": "k"}, values, KEY)


def revoked(*names: str) -> Revocations:
    return Revocations(frozenset(map(fingerprint, names)))


@pytest.fixture
def guarded(tmp_path: Path) -> Settings:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [KEY.as_dict(private=True)]}))
    return {"token_keys": keys, "token_required": True}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def statuses(viewer: Viewer, target: str, count: int = 4, **headers: str) -> list[int]:
    """Of the same bytes again and again on one connection: the memo of whole heads, if any, comes into play."""
    return [(await viewer.ask(target, **headers)).status for _ in range(count)]


async def test_a_granted_connection_is_short_and_a_revoked_one_is_refused(
    make_edge: MakeEdge, origin: ScriptedOrigin, guarded: Settings
) -> None:
    edge = await make_edge(**guarded)
    access = edge.worker.access
    assert access is not None
    origin.answers["/live/a/p"] = origin.answers["/live/b/p"] = answer(200, b"x", KEPT)
    viewer, other = await edge.connect(), await edge.connect()
    mine, another = f"/t/{token()}/live/a/p", f"/t/{token(name='two')}/live/a/p"
    asked: Counter[str] = Counter()
    refuse = access.refuse

    def counted(request: Any, address: str, *, trusted: bool) -> tuple[int, str] | None:
        asked[request.token] += 1
        return refuse(request, address, trusted=trusted)

    access.refuse = counted  # type: ignore[method-assign]
    assert await statuses(viewer, mine) == [200] * 4
    assert max(asked.values()) == 1, "looked at once, then granted"
    assert await statuses(other, another) == [200] * 4
    assert await statuses(viewer, "/live/a/p") == [401] * 4, "the grant is for the token, not for the connection"
    assert await statuses(viewer, f"/t/{token()}/live/b/p") == [403] * 4
    assert await statuses(viewer, mine) == [200] * 4
    access.revoke(revoked("one"))
    assert await statuses(viewer, mine) == [403] * 4
    assert await statuses(other, another) == [200] * 4
    assert edge.worker.stats.denied == 12


async def test_a_grant_ends_with_the_token(make_edge: MakeEdge, origin: ScriptedOrigin, guarded: Settings) -> None:
    edge = await make_edge(**guarded)
    origin.answers["/live/a/p"] = answer(200, b"x", KEPT)
    viewer = await edge.connect()
    assert edge.worker.access is not None
    tokens = edge.worker.access.tokens
    assert tokens is not None
    target = f"/t/{token(seconds=60)}/live/a/p"
    assert await statuses(viewer, target) == [200] * 4
    [peer] = edge.worker.server.connections
    assert peer.grant is not None
    assert peer.grant.until <= asyncio.get_running_loop().time() + 5
    tokens._wall = lambda: time.time() + 63
    peer.grant = None
    assert await statuses(viewer, target, 1) == [200], "within the leeway for clocks"
    assert peer.grant.until - asyncio.get_running_loop().time() < 3, "no longer than the token"


@pytest.mark.parametrize("crowd", [1, 20])
async def test_revoked_while_waiting(
    make_edge: MakeEdge, origin: ScriptedOrigin, guarded: Settings, tmp_path: Path, crowd: int
) -> None:
    log = tmp_path / "access.log"
    edge = await make_edge(**guarded, access_log=str(log))
    gate = asyncio.Event()
    origin.answers["/live/a/p"] = held(gate, answer(200, b"x", KEPT))
    viewers = [await edge.connect() for _ in range(crowd + 1)]
    for viewer in viewers[:-1]:
        viewer.send(f"/t/{token()}/live/a/p")
    viewers[-1].send(f"/t/{token(name='two')}/live/a/p")
    await edge.until(lambda: edge.worker.server.waiting == crowd + 1)
    assert edge.worker.access is not None
    edge.worker.access.revoke(revoked("one"))
    assert {(await viewer.reply()).status for viewer in viewers[:-1]} == {403}
    assert edge.worker.server.waiting == 1
    gate.set()
    assert (await viewers[-1].reply()).status == 200
    assert origin.asked == {"/live/a/p": 1}
    assert edge.worker.log is not None
    await edge.worker.log.flush()
    found = read(log)
    assert Counter((line["status"], line.get("reason")) for line in found) == {
        (403, "token_revoked"): crowd,
        (200, None): 1,
    }
    assert {line["path"] for line in found} == {"/live/a/p"}


async def test_a_body_under_way_is_finished(make_edge: MakeEdge, origin: ScriptedOrigin, guarded: Settings) -> None:
    edge = await make_edge(**guarded)
    gate = asyncio.Event()

    async def slowly(request: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await gate.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

    origin.answers["/live/a/s"] = slowly
    viewer = await edge.connect()
    viewer.send(f"/t/{token()}/live/a/s")
    assert (await viewer.head()).status == 200
    assert await viewer.chunk() == b"one"
    assert edge.worker.access is not None
    edge.worker.access.revoke(revoked("one"))
    gate.set()
    assert await viewer.chunk() == b"two"
    assert await viewer.chunk() == b""
    assert (await viewer.ask(f"/t/{token()}/live/a/s")).status == 403


async def test_rules_that_change_end_what_was_granted(
    make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[streams.a]\nsites = ["good.test"]\n')
    edge = await make_edge(access_rules=rules)
    origin.answers["/live/a/p"] = answer(200, b"x", KEPT)
    viewer = await edge.connect()
    assert await statuses(viewer, "/live/a/p", origin="https://good.test") == [200] * 4
    assert await statuses(viewer, "/live/a/p", origin="https://bad.test") == [403] * 4, "another page, the same socket"
    assert await statuses(viewer, "/live/a/p", origin="https://good.test") == [200] * 4
    rules.write_text('[all]\ndeny_addresses = ["127.0.0.1"]\n')
    os.utime(rules, ns=(1, 1))
    assert edge.worker.access is not None
    edge.worker.access.reload()
    assert await statuses(viewer, "/live/a/p", origin="https://good.test") == [403] * 4


@pytest.mark.parametrize("first", ["/live", "/%6cive", "/", "/watch/a", "/live/", "/x", "/live/b", "/livelier/a"])
async def test_what_needs_no_right_grants_none(
    make_edge: MakeEdge, origin: ScriptedOrigin, guarded: Settings, first: str
) -> None:
    """`/live` is no stream, so nobody is refused there; it used to count as leave for everything below it."""
    edge = await make_edge(**guarded)
    origin.answers["/live/a/p"] = answer(200, b"x", KEPT)
    assert (await edge.get(f"/t/{token()}/live/a/p")).status == 200
    viewer = await edge.connect()
    for _ in range(2):
        await viewer.ask(first)
        assert await statuses(viewer, "/live/a/p", 2) == [401] * 2
    assert edge.worker.stats.hit + edge.worker.stats.miss <= 1 + 2, "the granted one, and pages"


@pytest.mark.parametrize(
    "target",
    ["/t/x/t/y/live/a/p", "/t/x/%74/y/live/a/p", "//live/a/p", "/live//a/p", "/t/x//live/a/p", "/./t/x/t/y/live/a/p"],
)
async def test_no_spelling_gets_by_the_guard(
    make_edge: MakeEdge, origin: ScriptedOrigin, guarded: Settings, target: str
) -> None:
    """An edge or a server behind this one might read as a stream what is none here."""
    edge = await make_edge(**guarded)
    assert (await edge.get(target)).status == 400
    assert not origin.requests


async def test_a_woken_crowd_is_counted_and_written_down(
    make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    for settings in ({"access_log": str(log)}, {}):
        edge: Edge = await make_edge(**settings)
        gate = asyncio.Event()
        origin.answers["/live/a/p"] = held(gate, answer(200, b"x", KEPT))
        viewers = [await edge.connect() for _ in range(30)]
        for number, viewer in enumerate(viewers):
            viewer.send("/live/a/p", user_agent=f"player {number % 10}")
        await edge.until(lambda edge=edge: edge.worker.server.waiting == 30)
        gate.set()
        assert {(await viewer.reply()).status for viewer in viewers} == {200}
        stats = edge.worker.stats
        await edge.until(lambda stats=stats: stats.miss + stats.coalesced == 30)
        assert len(edge.worker.viewers.snapshot()["a"]) == 10
        if edge.worker.log is not None:
            await edge.worker.log.flush()
    found = read(log)
    assert Counter(line["result"] for line in found) == {"miss": 1, "coalesced": 29}
