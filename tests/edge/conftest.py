"""Fixtures: a scripted origin, and edges in the test's own loop in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from edge_double import Edge, MakeEdge, ScriptedOrigin

from edge.settings import EdgeSettings
from edge.worker import Orders, Worker


@pytest.fixture
async def origin(tmp_path: Path) -> AsyncIterator[ScriptedOrigin]:
    origin = ScriptedOrigin(tmp_path / "origin.sock")
    await origin.start()
    yield origin
    await origin.stop()


@pytest.fixture
async def make_edge(origin: ScriptedOrigin) -> AsyncIterator[MakeEdge]:
    made: list[tuple[Edge, asyncio.Task[None]]] = []

    async def make(*, upstream: tuple[str, ...] | None = None, **values: object) -> Edge:
        settings = EdgeSettings.model_validate(
            {"host": "127.0.0.1", "port": 0, "tls_port": 0, "drain_s": 0.2, **values}
        )
        worker = Worker(Orders(settings, upstream or (origin.url,), 0, 0, "", "00" * 16))
        task = asyncio.create_task(worker.run())
        ready = asyncio.create_task(worker.ready.wait())
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        assert ready.done(), task.exception()
        edge = Edge(worker)
        made.append((edge, task))
        return edge

    yield make
    for edge, task in made:
        for viewer in edge.viewers:
            await viewer.close()
        edge.worker.stop()
        await task


@pytest.fixture
async def edge(make_edge: MakeEdge) -> Edge:
    return await make_edge()
