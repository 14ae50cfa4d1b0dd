"""The running server: every part made, joined, watched, and taken down again in order.

Start   database -> transcoder pool -> origin -> edge -> API -> listeners, so that a publisher never finds half a server
Stop    listeners -> publishers are told -> last segments -> API -> edge -> origin -> pool -> database
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import structlog

from control.api import make_app
from control.banner import facts, show
from control.broadcasts import Broadcasts
from control.certificates import Certificates
from control.database import DataFolderUnusable, make_folder
from control.demo import URL_VARIABLE
from control.gate import Gate
from control.http import HttpServer, PortTaken, listen_tcp, listen_unix
from control.ladders import server_ladder, unknown_ladders
from control.planning import Planning
from control.port_holder import holder
from control.probing import summary
from control.run_file import alone, announced, api_address
from control.runtime_folder import runtime_folder
from control.secret_files import read_secret, worker_token
from control.services import Services, open_services
from control.settings import Settings
from control.status import Status
from control.viewer_news import Board
from edge.supervisor import EdgePool
from ingest.rtmp.server import RtmpServer
from ingest.srt.library import SrtUnavailable
from ingest.srt.server import SrtServer
from ingest.whip.endpoint import WhipEndpoint
from media.errors import HeadraceError, Refused
from packager.archive import Archive, load
from packager.origin import Origin
from transcode.device import cpus
from transcode.hardware import Hardware, probe
from transcode.pool import Pool
from transcode.remote import Guests
from transcode.stills import Stills

log = structlog.get_logger(__name__)

TICK_S = 1.0
COUNT_S = 5.0
"""Between two counts of who watches what."""
KEEP_ENDED_S = 120.0
"""How long an ended broadcast stays watchable from memory."""
DRAIN_S = 8.0
"""How long last segments may take at the end. Publishers have `limits.drain_s` before it."""
DEMO_STREAM = "demo"
GREET_WAIT_S = 4.0
"""How long the start-up lines wait for the hardware to be tried; the server works meanwhile."""


class Node:
    """One server process. `run` is its whole life."""

    def __init__(self, settings: Settings, data: Path, services: Services, sockets: Path) -> None:
        """`sockets`: a short path to an empty folder of our own."""
        self._settings = settings
        self._data = data
        self._services = services
        self._sockets = sockets
        self._stopping = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._background: set[asyncio.Task[None]] = set()
        self.guests: Guests | None = None
        if settings.workers.enabled:
            self.guests = self._make_door(settings)
        self.pool = Pool(settings.transcode, self.guests)
        self.stills = Stills(settings.transcode)
        self.planning = Planning(settings.transcode, guests=self._has_guests)
        self.broadcasts = Broadcasts(
            self.pool, settings.packager, self._spawn, keep_ended_s=KEEP_ENDED_S, limits=settings.limits,
            planning=self.planning, stills=self.stills,
        )  # fmt: skip
        self.gate = Gate(services.keys, self.broadcasts, settings.limits, self.planning.planner)
        self.origin = Origin(self.broadcasts)
        self.edge: EdgePool | None = None
        self.viewer_news = Board(data)
        self.whip = WhipEndpoint(settings.whip, self.gate, settings.limits)
        self.srt: SrtServer | None = None
        self.listeners: list[RtmpServer] = []
        self.notes: list[str] = []
        """What a person at the terminal should know: parts that are missing, and why."""
        self._listening = False
        self._probed = asyncio.Event()
        self._certificates: Certificates | None = None

    def _has_guests(self) -> bool:
        return self.guests is not None and self.guests.present > 0

    def _make_door(self, settings: Settings) -> Guests:
        """For workers of other machines."""
        certificates = Certificates(settings, self._data)
        token = read_secret(settings.workers.token_file) or worker_token(self._data)
        return Guests(settings.workers, settings.transcode, token=token, tls=certificates.context)

    def parts(self) -> dict[str, bool]:
        """Each part that should run, and whether it does."""
        found = {"origin": True, "listeners": self._listening and not self.gate.draining}
        if self.edge is not None:
            found["edge"] = self.edge.ready
        return found

    async def _greet(self, demo: bool) -> None:
        """Tell the person at the terminal where everything is, once it is known what the hardware can do."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GREET_WAIT_S):
                await self._probed.wait()
        show(
            facts(
                self._settings, self._data, streams=len(self._services.streams.list()),
                certificates=self._certificates, hardware=summary(self.planning.hardware) or "still being tried",
                demo=DEMO_STREAM if demo else "", notes=self.notes,
            )
        )  # fmt: skip

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._group is not None
        task = self._group.create_task(_contained(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def stop(self) -> None:
        """Begin to go down."""
        self._stopping.set()

    def reload_edge(self) -> None:
        """Begin to replace the edge's workers, without dropping a request."""
        if self.edge is not None and self._group is not None:
            self._spawn(self.edge.reload())

    async def run(self, demo: bool) -> None:
        """Start, serve until `stop`, and take everything down. Raises `HeadraceError` where a part cannot start."""
        async with asyncio.TaskGroup() as group, contextlib.AsyncExitStack() as stack:
            self._group = group
            stack.callback(self._cancel_background)
            await self._start(stack)
            if demo:
                await self._start_demo(stack)
            self._listening = True
            await self._greet(demo)
            await self._stopping.wait()
            log.info("draining", publishers=len(self.broadcasts.on_air()))

    def _cancel_background(self) -> None:
        for task in self._background:
            task.cancel()

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        """Each part in order; the stack takes them down in the opposite one."""
        settings = self._settings
        self._spawn(self._services.run())
        stack.callback(self._services.directory.on_change(self.gate.on_change))
        await self._open_archive(stack)
        if self.guests is not None:
            await self.guests.start()
            stack.push_async_callback(self.guests.stop)
        await self.pool.start()
        stack.push_async_callback(self.pool.stop)
        stack.push_async_callback(self.stills.stop)
        socket_path = self._sockets / "origin.sock"
        sockets = []
        if settings.origin.enabled:  # first, because it is what may fail
            sockets.append(listen_tcp(settings.origin.host, settings.origin.port, "origin"))
        sockets.append(listen_unix(socket_path))
        await self._serve(stack, HttpServer(self.viewer_news.in_front_of(self.origin), sockets))
        stack.callback(self.origin.close)  # before uvicorn stops: blocked requests are answered, not cut
        if settings.edge.enabled:
            self.edge = EdgePool(settings.edge, f"unix:{socket_path}", folder=self._sockets)
            try:
                await self.edge.start()
            except OSError as error:
                raise PortTaken(
                    f"Port {settings.edge.port} on {settings.edge.host or 'every address'} cannot be used "
                    f"({error.strerror}): stop what listens there, or set edge.port to another."
                ) from error
            except RuntimeError as error:
                raise HeadraceError(f"The edge cannot start: {error}.", slug="edge_failed") from error
            stack.push_async_callback(self.edge.stop)
        self._spawn(self.viewer_news.run(self.edge))
        if settings.api.enabled:
            if settings.whip.enabled:
                await self.whip.start()
            app = make_app(self._services, settings, Status(self), self.whip if settings.whip.enabled else None)
            sock = listen_tcp(settings.api.host, settings.api.port, "api")
            port = sock.getsockname()[1]
            await self._serve(stack, HttpServer(app, [sock]))
            stack.enter_context(announced(self._data, api_address(settings.api.host, port)))
        stack.push_async_callback(self._drain)
        self._spawn(self._tick())
        if self.edge is not None:
            self._spawn(self._count_viewers(self.edge))
        self._spawn(self._probe())
        await self._start_listeners()

    async def _open_archive(self, stack: contextlib.AsyncExitStack) -> None:
        """The disk of the rewind windows, and what an earlier run left there."""
        packaging = self._settings.packager
        root = packaging.dvr_folder or self._data / "dvr"
        try:
            await asyncio.to_thread(root.mkdir, parents=True, exist_ok=True)
            recorded = await asyncio.to_thread(load, root)
        except OSError as error:
            raise DataFolderUnusable(
                f"The folder {root} for recordings cannot be used ({error.strerror}): give it to this user, or set "
                "packager.dvr_folder to another."
            ) from error
        self.broadcasts.archive = archive = Archive(
            root,
            asyncio.get_running_loop().call_soon_threadsafe,
            node_bytes=packaging.dvr_node_bytes,
            stream_bytes=packaging.dvr_stream_bytes,
            min_free_bytes=packaging.dvr_min_free_bytes,
        )
        stack.push_async_callback(asyncio.to_thread, archive.close)
        self.broadcasts.recall(recorded)
        for found in recorded:  # settings may have changed meanwhile
            stream = self._services.streams.by_playback_id(found.playback_id)
            self.broadcasts.rewind(found.playback_id, stream.settings.dvr_window_s if stream is not None else 0)
        await asyncio.to_thread(archive.note_strays)

    async def _serve(self, stack: contextlib.AsyncExitStack, server: HttpServer) -> None:
        assert self._group is not None
        task = self._group.create_task(server.run())

        async def finish() -> None:
            server.stop()
            await task

        stack.push_async_callback(finish)
        await server.started()

    async def _start_listeners(self) -> None:
        settings = self._settings
        if settings.rtmp.enabled:
            self.listeners.append(RtmpServer(settings.rtmp, self.gate, limits=settings.limits))
        if settings.rtmps.enabled:
            self._certificates = certificates = Certificates(settings, self._data)
            await asyncio.to_thread(certificates.context)  # makes the authority and the certificate on the first start
            self.listeners.append(
                RtmpServer(
                    settings.rtmps, self.gate, limits=settings.limits, tls=certificates.context, protocol="rtmps"
                )
            )
        for listener in self.listeners:
            await listener.start()
        if settings.srt.enabled:
            self.srt = SrtServer(settings.srt, self.gate, settings.limits)
            try:
                await self.srt.start()
            except SrtUnavailable as error:
                self.srt = None
                self.notes.append(error.text)

    async def _drain(self) -> None:
        """Nobody new; publishers are told; workers hand over their last packets."""
        self.gate.draining = True
        await asyncio.gather(*(listener.drain() for listener in self.listeners), self.whip.drain())
        self.broadcasts.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self.broadcasts.finished()
        await asyncio.gather(*(listener.stop() for listener in self.listeners), self.whip.stop())
        if self.srt is not None:
            await self.srt.stop()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self.broadcasts.tick()
            except Exception:  # a fault of ours in one broadcast must not end the others
                log.exception("tick_failed")

    async def _count_viewers(self, edge: EdgePool) -> None:
        while True:
            await asyncio.sleep(COUNT_S)
            self.broadcasts.watched(await edge.watching())

    async def _probe(self) -> None:
        """Find out what the devices can do, then how fast the CPU is, without holding anything up."""
        settings = self._settings.transcode
        devices = Hardware(cpus())
        if settings.enabled and settings.hardware:
            devices = await probe(cpu=False)
            self.planning.found(devices)
        self._probed.set()
        if settings.enabled and settings.admission:
            self.planning.found(devices.with_cpu(await probe(devices=False, presets=settings.presets, idle=True)))

    async def _start_demo(self, stack: contextlib.AsyncExitStack) -> None:
        """A stream of its own, a fresh key, and an encoder process that publishes to our real RTMP port."""
        with contextlib.suppress(Refused):
            await self._services.streams.add(DEMO_STREAM)
        stream = self._services.streams.find(DEMO_STREAM)
        for old in self._services.keys.list(stream.id):
            if old.label == DEMO_STREAM:
                await self._services.keys.revoke(old.id)
        made = await self._services.keys.add(stream.id, label=DEMO_STREAM)
        if not self.listeners:
            raise HeadraceError("The demo needs RTMP: set rtmp.enabled to true.", slug="demo_needs_rtmp")
        port = self.listeners[0].port
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "control.demo",
            env={**os.environ, URL_VARIABLE: f"rtmp://127.0.0.1:{port}/live/{made.key}"},
            stdin=asyncio.subprocess.DEVNULL, start_new_session=True,  # Ctrl-C is ours alone: we end it in order
        )  # fmt: skip

        async def end() -> None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()

        stack.push_async_callback(end)


async def serve(settings: Settings, data: Path, *, demo: bool) -> int:
    """Run a node until SIGTERM or SIGINT. Returns the exit status."""
    status = 0
    try:
        make_folder(data)
        with alone(data), runtime_folder(data) as sockets:
            server_ladder(settings.transcode)
            async with open_services(data, database_url=settings.database.url) as services:
                for stream, why in unknown_ladders(services.streams.list(), settings.transcode):
                    log.warning("unknown_ladder", stream=stream, text=why.text)
                node = Node(settings, data, services, sockets)
                loop = asyncio.get_running_loop()
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, node.stop)
                loop.add_signal_handler(signal.SIGHUP, node.reload_edge)
                await node.run(demo)
    except* HeadraceError as errors:
        for error in _leaves(errors):
            print(f"headrace: {error}{_holders(str(error), settings)}", file=sys.stderr)
        status = 1
    return status


def _holders(text: str, settings: Settings) -> str:
    """Who has the ports whose settings `text` names, where that can be seen."""
    found = ""
    for section in ("rtmp", "rtmps", "srt", "edge", "origin", "api", "workers"):
        if re.search(rf"\b{section}\.port\b", text) and (
            who := holder(getattr(settings, section).port, udp=section == "srt")
        ):
            found += f" It is held by {who}."
    return found


async def _contained(work: Coroutine[Any, Any, None]) -> None:
    """A background task that fails is a fault of ours: it is logged, and everybody else stays on air."""
    try:
        await work
    except Exception:
        log.exception("background_task_failed")


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
