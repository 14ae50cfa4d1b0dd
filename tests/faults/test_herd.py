"""Five hundred viewers at once: what the edge asks of the origin does not depend on how many they are."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator

import pytest
from live_server import Server, ended, running, wait_for
from small_source import small
from until import until

pytestmark = pytest.mark.e2e

VIEWERS = 500
ROUNDS = 8
"""Blocked playlist requests of each viewer, one part each."""


@pytest.fixture(scope="module")
def one_edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one edge worker, so that every request of the crowd meets the same cache."""
    data = tmp_path_factory.mktemp("headrace") / "data"
    with running(data, edge__workers="1", edge__requests_per_s_per_address="0") as server:
        yield server


class Viewer:
    """A player by hand: playlist, the part at its end, then blocked playlist and hinted part in turn."""

    def __init__(self, server: Server, name: str, asked: Counter[str]) -> None:
        self._port = server.ports["edge"]
        self._base = f"/live/{name}/source/"
        self._asked = asked
        self.statuses: Counter[int] = Counter()
        self.connected = False

    async def run(self, start: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self.connected = True
        try:
            await start.wait()
            playlist = await self._get(reader, writer, "media.m3u8")
            for _ in range(ROUNDS):
                hint = re.search(r'PRELOAD-HINT:TYPE=PART,URI="(part-\w+-(\d+)\.(\d+)\.m4s)"', playlist)
                assert hint is not None, playlist[-300:]
                query = f"media.m3u8?_HLS_msn={hint[2]}&_HLS_part={hint[3]}"
                playlist = await self._get(reader, writer, query)
                parts = re.findall(r'#EXT-X-PART:.*?URI="([^"]+)"', playlist)
                await self._get(reader, writer, parts[-1])
            await self._get(reader, writer, re.findall(r"^seg-\S+", playlist, re.MULTILINE)[-1])
        finally:
            writer.close()

    async def _get(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> str:
        self._asked[path] += 1
        writer.write(f"GET {self._base}{path} HTTP/1.1\r\nHost: edge\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        self.statuses[int(head.split(b" ", 2)[1])] += 1
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length is not None:
            return (await reader.readexactly(int(length[1]))).decode("latin-1")
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):  # chunked: a segment that is still being made
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        return body.decode("latin-1")


def metric(server: Server, name: str) -> int:
    token = (server.data / "admin-token").read_text().strip()
    text = server.get(f"{server.api}/metrics", Authorization=f"Bearer {token}").decode()
    found = re.search(rf"^{name} (\d+)", text, re.MULTILINE)
    assert found is not None, name
    return int(found[1])


def test_the_origin_is_asked_once_for_each_object(one_edge: Server) -> None:
    server, name = one_edge, "herd"
    url = server.add(name)["urls"]["rtmp"]
    with ended(server.push(url, *small())):
        server.wait_on_air(name)
        path = f"/live/{name}/source/media.m3u8"
        wait_for(lambda: "\nseg-" in server.playlist(path), 15, "a segment is whole")
        asked: Counter[str] = Counter()
        viewers = [Viewer(server, name, asked) for _ in range(VIEWERS)]

        async def run() -> None:
            start = asyncio.Event()
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                for viewer in viewers:
                    group.create_task(viewer.run(start))
                await until(lambda: all(viewer.connected for viewer in viewers))
                start.set()

        before = metric(server, "headrace_edge_upstream_requests_total")
        asyncio.run(run())
        upstream = metric(server, "headrace_edge_upstream_requests_total") - before
    statuses = sum((v.statuses for v in viewers), Counter[int]())
    print(f"{sum(asked.values())} requests, {len(asked)} objects, {upstream} asked of the origin, {dict(statuses)}")
    assert set(statuses) == {200}
    # A playlist that is not blocked lives for a second: the first request of the crowd may fall into two of them.
    assert len(asked) <= upstream + 1
    assert upstream <= len(asked) + 1
