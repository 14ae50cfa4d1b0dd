"""One connection after another request: what was remembered of the first never shows in the answer to the second."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from edge_double import Edge, MakeEdge, ScriptedOrigin, Viewer, answer

KEPT = {"cache-control": "max-age=600", "etag": '"v"'}
PLAYLIST = b"#EXTM3U\n" + b"#EXTINF:2,\nseg\n" * 60
CHANGING = {"age", "date", "server-timing", "x-cache", "connection"}


@dataclass(frozen=True)
class Ask:
    """What to ask, as bytes that no library would mend."""

    line: bytes
    fields: tuple[bytes, ...]

    def __bytes__(self) -> bytes:
        return b"\r\n".join([self.line, b"Host: edge.test", *self.fields, b"", b""])

    @property
    def bodyless(self) -> bool:
        return self.line.startswith(b"HEAD")


LINES = [
    *(b"GET /live/a/p.m3u8 HTTP/1.1", b"GET /live/a/p.m3u8 HTTP/1.1", b"GET /live/a/s HTTP/1.1"),
    *(b"HEAD /live/a/p.m3u8 HTTP/1.1", b"GET /live/a/s HTTP/1.0", b"OPTIONS /live/a/s HTTP/1.1"),
    *(b"GET /live/a/varied HTTP/1.1", b"GET /live/a/absent HTTP/1.1", b"GET http://x/live/a/s?_HLS_msn=1 HTTP/1.1"),
    *(b"GET /live/a/p.m3u8?_HLS_msn=2 HTTP/1.1", b"GET /live/a/s?cmcd=1 HTTP/1.1"),
]
FIELDS = [
    *(b"Accept-Encoding: gzip", b"Accept-Encoding: br", b"Accept-Encoding: gzip;q=0", b"Range: bytes=1-3"),
    *(b'If-None-Match: "v"', b"If-None-Match: *", b"Connection: keep-alive", b"X-Kind: one", b"X-Kind: two"),
    *(b"X-Forwarded-For: 10.0.0.1", b"User-Agent: player", b"Authorization: Basic eDp5", b"Range: bytes=9999-"),
]


def asks(count: int) -> list[Ask]:
    """Few kinds, so that they repeat: what comes again takes the short path."""
    chance = random.Random(7)
    kinds = [Ask(line, (field,)) for line in LINES[:3] for field in FIELDS]
    kinds += [Ask(chance.choice(LINES), tuple(chance.sample(FIELDS, chance.choice((0, 0, 1, 2))))) for _ in range(30)]
    kinds = [kind for kind in kinds if len({field.partition(b":")[0] for field in kind.fields}) == len(kind.fields)]
    return [chance.choice(kinds) for _ in range(count)]


async def told(viewer: Viewer, ask: Ask) -> tuple[int, dict[str, str], bytes, bool]:
    """Status, lasting fields, body, and whether the connection goes on."""
    viewer.writer.write(bytes(ask))
    found = await viewer.reply(bodyless=ask.bodyless)
    fields = {name: value for name, value in found.headers.items() if name not in CHANGING}
    return found.status, fields, found.body, found.headers.get("connection") != "close"


@pytest.fixture
async def stocked(make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path) -> Edge:
    edge = await make_edge(
        access_log=str(tmp_path / "log"), access_log_rate=0.5, forward_headers=("x-kind",), negative_s=60
    )
    kind = "application/vnd.apple.mpegurl"
    for target in ("/live/a/p.m3u8", "/live/a/p.m3u8?_HLS_msn=2"):
        origin.answers[target] = answer(200, PLAYLIST + target.encode(), {**KEPT, "content-type": kind})
    for target in ("/live/a/s", "/live/a/s?_HLS_msn=1"):
        origin.answers[target] = answer(200, bytes(20_000) + target.encode(), KEPT)

    async def varied(request: object, writer: asyncio.StreamWriter) -> None:
        said = request.headers.get("x-kind", "none")  # type: ignore[attr-defined]
        await answer(200, said.encode(), {**KEPT, "vary": "x-kind"})(request, writer)  # type: ignore[arg-type]

    origin.answers["/live/a/varied"] = varied
    return edge


@pytest.mark.parametrize("ahead", [1, 5])
async def test_answers_are_those_of_a_fresh_connection(stocked: Edge, ahead: int) -> None:
    """Hundreds of requests on one connection (one by one, and several ahead), each against a connection of its own."""
    rounds = asks(400)
    alone = {}
    for ask in set(rounds):
        viewer = await stocked.connect()
        alone[ask] = await told(viewer, ask)
        await viewer.close()
    before = stocked.worker.stats.hit
    viewer = await stocked.connect()
    while rounds:
        some, rounds = rounds[:ahead], rounds[ahead:]
        viewer.writer.write(b"".join(map(bytes, some)))
        for ask in some:
            found = await viewer.reply(bodyless=ask.bodyless)
            fields = {name: value for name, value in found.headers.items() if name not in CHANGING}
            assert (found.status, fields, found.body) == alone[ask][:3], ask
            if found.headers.get("connection") == "close":
                assert await viewer.reader.read() == b"", "nothing is answered after the last answer"
                await viewer.close()
                viewer = await stocked.connect()
                break
    assert stocked.worker.stats.hit > before + 100


async def test_every_answer_is_in_the_log_and_in_the_counters(
    make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    edge = await make_edge(access_log=str(log), access_log_rate=1.0)
    origin.answers["/live/a/s"] = answer(200, b"x", KEPT)
    viewer = await edge.connect()
    for number in range(60):
        assert (await viewer.ask("/live/a/s", user_agent=str(number % 2))).status == 200
    viewer.writer.write(b"GET /live/a/s HTTP/1.1\r\nHost: x\r\n\r\n" * 40)
    for _ in range(40):
        await viewer.reply()
    assert edge.worker.log is not None
    await edge.worker.log.flush()
    assert len(log.read_text().splitlines()) == 100
    assert edge.worker.stats.hit + edge.worker.stats.miss == 100


async def test_a_sampled_log_takes_its_part_of_the_short_path(
    make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    edge = await make_edge(access_log=str(log), access_log_rate=0.25)
    origin.answers["/live/a/s"] = answer(200, b"x", KEPT)
    viewer = await edge.connect()
    for _ in range(400):
        await viewer.ask("/live/a/s")
    assert edge.worker.log is not None
    await edge.worker.log.flush()
    assert 55 < len(log.read_text().splitlines()) < 155, "a hundred, give or take five deviations"


ALLOWED, DENIED = "192.0.2.1", "192.0.2.66"


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("x-forwarded-for", "{}"),
        ("forwarded", "for={}"),
        ("cf-connecting-ip", "{}"),
    ],
)
async def test_who_asks_may_change_from_one_request_to_the_next(
    make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path, header: str, says: str
) -> None:
    """A proxy puts many viewers on one connection to us."""
    rules, log = tmp_path / "rules.toml", tmp_path / "log"
    rules.write_text(f'[all]\ndeny_addresses = ["{DENIED}"]\n')
    edge = await make_edge(
        access_rules=rules, trusted_proxies=("127.0.0.0/8",), client_header=header, access_log=str(log)
    )
    origin.answers["/live/a/p"] = answer(200, b"x", KEPT)
    viewer = await edge.connect()
    field = header.replace("-", "_")
    for address in [ALLOWED, ALLOWED, DENIED, ALLOWED, DENIED, DENIED] * 4:
        reply = await viewer.ask("/live/a/p", **{field: says.format(address)})
        assert reply.status == (200 if address == ALLOWED else 403)
    assert edge.worker.stats.denied == 12
    assert len(edge.worker.viewers.snapshot()["a"]) == 1, "who was refused is no viewer"
    assert edge.worker.log is not None
    await edge.worker.log.flush()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert Counter((line["client"], line["status"]) for line in lines) == {(ALLOWED, 200): 12, (DENIED, 403): 12}


@pytest.mark.parametrize("header", ["x-forwarded-for", "cf-connecting-ip"])
async def test_viewers_and_rates_behind_one_connection_are_each_ones_own(
    make_edge: MakeEdge, origin: ScriptedOrigin, header: str
) -> None:
    origin.answers["/live/a/p"] = answer(200, b"x", KEPT)
    proxy = {"trusted_proxies": ("127.0.0.0/8",), "client_header": header}
    field = header.replace("-", "_")
    edge = await make_edge(**proxy)
    viewer = await edge.connect()
    for number in [*range(20), *range(20)]:
        await viewer.ask("/live/a/p", **{field: f"192.0.2.{number}"})
    assert len(edge.worker.viewers.snapshot()["a"]) == 20
    strict = await make_edge(**proxy, requests_per_s_per_address=0.2)  # two at once, then one in five seconds
    viewer = await strict.connect()
    asked = [(await viewer.ask("/live/a/p", **{field: f"192.0.2.{n}"})).status for n in [1, 1, 1, 2, 2, 2, 1]]
    assert asked == [200, 200, 429, 200, 200, 429, 429]


async def test_an_invented_header_of_an_untrusted_peer_changes_nothing(
    make_edge: MakeEdge, origin: ScriptedOrigin
) -> None:
    edge = await make_edge(requests_per_s_per_address=0.3)
    origin.answers["/live/a/p"] = answer(200, b"x", KEPT)
    viewer = await edge.connect()
    asked = [(await viewer.ask("/live/a/p", x_forwarded_for=f"192.0.2.{n}")).status for n in range(5)]
    assert asked == [200, 200, 200, 429, 429]
    assert len(edge.worker.viewers.snapshot()["a"]) == 1


async def test_behind_proxy_protocol_each_connection_has_its_own_address(
    make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(f'[all]\ndeny_addresses = ["{DENIED}"]\n')
    edge = await make_edge(access_rules=rules, trusted_proxies=("127.0.0.0/8",), proxy_protocol=True)
    origin.answers["/live/a/p"] = answer(200, b"x", KEPT)
    viewers = []
    for address in (ALLOWED, DENIED):
        viewer = await edge.connect()
        viewer.writer.write(f"PROXY TCP4 {address} 127.0.0.1 4711 80\r\n".encode())
        viewers.append(viewer)
    for _ in range(4):
        assert [(await viewer.ask("/live/a/p")).status for viewer in viewers] == [200, 403]
    assert (await viewers[1].ask("/live/a/p", x_forwarded_for=ALLOWED)).status == 403, "not a proxy's word any more"


async def test_nothing_is_read_after_the_last_request(make_edge: MakeEdge, origin: ScriptedOrigin) -> None:
    """A connection that said `close` (or HTTP/1.0) gets one answer, also where more was sent with it, or after it."""
    edge = await make_edge()
    origin.answers["/live/a/s"] = answer(200, b"x", KEPT)
    plain = b"GET /live/a/s HTTP/1.1\r\nHost: x\r\n\r\n"
    for last in (
        b"GET /live/a/s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /live/a/s HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Close\r\n\r\n",
        b"GET /live/a/s HTTP/1.0\r\n\r\n",
        b"GET /live/a/s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ):
        for together in (True, False):
            loop = asyncio.get_running_loop()
            with socket.socket() as raw:
                raw.setblocking(False)
                await loop.sock_connect(raw, ("127.0.0.1", edge.worker.port))
                await loop.sock_sendall(raw, plain * 3)
                for piece in (last + plain * 3,) if together else (last, plain, plain):
                    await loop.sock_sendall(raw, piece)
                    await asyncio.sleep(0)
                found = b""
                async with asyncio.timeout(60):
                    while piece := await loop.sock_recv(raw, 65536):
                        found += piece
            assert found.count(b"HTTP/1.1 ") == 4, (last, together)
            assert found.count(b"connection: close\r\n") == 1
