"""`headrace edge`: an edge on its own, in front of an origin on another machine, with metrics on a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

import structlog

from control.http import HttpServer, listen_tcp
from control.viewer_news import Follower
from edge.settings import EdgeSettings
from edge.supervisor import EdgePool
from media.errors import HeadraceError

log = structlog.get_logger(__name__)


async def serve_edge(
    settings: EdgeSettings, origin: str, metrics_port: int | None, *, metrics_host: str = "127.0.0.1"
) -> int:
    """Run edge workers until SIGTERM or SIGINT; the exit status. `origin` is one URL, or several between commas."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    origins = [url.strip().rstrip("/") for url in origin.split(",")]
    pool = EdgePool(settings, origins)
    try:
        await pool.start()
    except (OSError, RuntimeError) as error:
        raise HeadraceError(f"The edge cannot start on port {settings.port}: {error}.", slug="edge_failed") from error
    try:
        async with _metrics(pool, metrics_host, metrics_port):
            print(f"Headrace edge: http://{settings.host}:{pool.port}, origin {origin}", flush=True)
            await _live(pool, origins, stop)
        log.info("draining")
    finally:
        await pool.stop()
    return 0


async def _live(pool: EdgePool, origins: list[str], stop: asyncio.Event) -> None:
    """Follow the origin's news, and replace the workers at SIGHUP, until `stop`."""
    reload = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload.set)

    async def replace() -> None:
        while True:
            await reload.wait()
            reload.clear()
            try:
                await pool.reload()
            except RuntimeError as error:
                log.error("edge_not_replaced", error=str(error))

    async with asyncio.TaskGroup() as group:
        tasks = group.create_task(Follower(pool, origins).run()), group.create_task(replace())
        await stop.wait()
        for task in tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def _metrics(pool: EdgePool, host: str, port: int | None) -> AsyncIterator[None]:
    if port is None:
        yield
        return
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse

    app = FastAPI(openapi_url=None)

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(await pool.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    server = HttpServer(app, [listen_tcp(host, port, "--metrics-port")])
    async with asyncio.TaskGroup() as group:
        group.create_task(server.run())
        await server.started()
        try:
            yield
        finally:
            server.stop()
