"""The pool of edge workers on this machine: starts them on one port, replaces the dead, speaks for all of them.

| worker is   | because                                  | then                                    |
|-------------|------------------------------------------|-----------------------------------------|
| starting    | the pool starts, or another died         | `ready` on its stdout makes it serving  |
| serving     | it said so                               | its end makes it dead                   |
| dead        | crash, kill, or no `ready` in time       | another starts at once, later each time it dies young |
| stopping    | `stop`, or `reload` has a successor ready | SIGTERM drains it; SIGKILL after the drain's time |

A worker that dies is replaced by one that waits: a spare process that has imported everything and wants only its
orders. `reload` takes no spare, as it is there for new code.

Each worker has a listening socket of its own on the shared port, which the pool holds: what waits there to be
accepted while a worker dies or is replaced waits for the next one, instead of being reset with the old.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import structlog

from edge import metrics, tls
from edge.revocation import Revocations
from edge.settings import EdgeSettings
from edge.spare import Spare
from edge.worker import BACKLOG, Orders, bind

log = structlog.get_logger(__name__)

READY_S = 20.0
"""Time for a worker to import, bind and say so, on a busy machine."""
YOUNG_S = 5.0
"""A worker that dies sooner than this after its start makes the next one wait."""
PAUSES_S = (0.0, 0.5, 1.0, 2.0, 5.0)
ASK_S = 2.0
"""Time for a worker to answer on its private socket."""
LINE_BYTES = 64 * 2**20
"""Longest answer of a worker: hashes of all its viewers."""


class EdgePool:
    """See the module. `upstream`: `unix:PATH`, or URLs (`http://host:port`, `https://host`), tried in order."""

    def __init__(self, settings: EdgeSettings, upstream: str | Iterable[str], *, folder: Path | None = None) -> None:
        """`folder`: where a folder for private sockets is made; by default that of temporary files."""
        self.settings = settings
        self._upstream = (upstream,) if isinstance(upstream, str) else tuple(upstream)
        self._count = settings.workers or os.cpu_count() or 1
        self._parent = folder
        self._folder: Path | None = None
        self._held: list[socket.socket] = []
        self._held_tls: list[socket.socket] = []
        self._leaving: set[asyncio.subprocess.Process] = set()
        """Replaced by `reload`, and not ended yet."""
        self._reloading = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self.spare = Spare(self._spawn)
        self._controls: dict[int, Path] = {}
        self._ready = [asyncio.Event() for _ in range(self._count)]
        self._viewer_key = secrets.token_hex(16)
        self._stopping = False
        self.revoked = Revocations()
        self.restarts = 0
        self.port = 0
        """The port that viewers use; known after `start`."""
        self.tls_port = 0
        """The HTTPS port; 0 without a certificate."""

    @property
    def ready(self) -> bool:
        """Whether at least one worker serves."""
        return any(event.is_set() for event in self._ready)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that run."""
        return [process.pid for process in self._processes.values() if process.returncode is None]

    async def start(self) -> None:
        """Start all workers; returns when each serves. Raises OSError where the port is taken, `TlsUnusable`, or
        RuntimeError."""
        # Two edges of one user could share a port unnoticed; so try it once without SO_REUSEPORT.
        settings = self.settings
        if settings.certificate is not None:
            await asyncio.to_thread(tls.check, settings)
        self._held = _hold(settings.host, settings.port, self._count)
        self.port = self._held[0].getsockname()[1]
        if settings.certificate is not None:
            try:
                self._held_tls = _hold(settings.host, settings.tls_port, self._count)
            except OSError as error:
                await self.stop()
                raise tls.TlsUnusable(
                    f"Port {settings.tls_port} for HTTPS cannot be used ({error.strerror}): stop what listens there, "
                    "or set edge.tls_port to another. Ports below 1024 want CAP_NET_BIND_SERVICE."
                ) from error
            self.tls_port = self._held_tls[0].getsockname()[1]
        self._folder = Path(tempfile.mkdtemp(prefix="headrace-edge-", dir=self._parent))
        self._tasks = [asyncio.create_task(self._keep(index)) for index in range(self._count)]
        everyone = asyncio.gather(*(event.wait() for event in self._ready))
        try:
            async with asyncio.timeout(READY_S + 5):
                first: set[asyncio.Future[Any]] = {everyone, *self._tasks}
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            pass
        if not everyone.done():
            everyone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await everyone
            await self.stop()
            raise RuntimeError("the edge's workers did not start; their messages are on stderr")
        log.info("edge_serving", port=self.port, workers=self._count)

    async def stop(self) -> None:
        """Drain and end all workers; nothing is left behind. Idempotent."""
        self._stopping = True
        await self.spare.drop()
        for sock in (*self._held, *self._held_tls):
            sock.close()
        self._held, self._held_tls = [], []
        for process in (*self._processes.values(), *self._leaving):
            if process.returncode is None:
                process.terminate()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=self.settings.drain_s + 5)
            for process in (*self._processes.values(), *self._leaving):
                if process.returncode is None:
                    process.kill()
            for task in late:
                task.cancel()
            results = await asyncio.gather(*self._tasks, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    log.error("edge_keeper_failed", exc_info=result)
            self._tasks = []
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
            self._folder = None

    async def reload(self) -> None:
        """Replace all workers, one after another, without dropping a request: for new code, or a fresh heap.

        Raises RuntimeError where a successor does not start; its predecessor then goes on.
        """
        async with self._reloading:
            await self.spare.drop()
            try:
                for index in range(self._count):
                    if self._stopping:
                        return
                    await self._replace(index)
            finally:
                self._warm()

    async def _replace(self, index: int) -> None:
        old, keeper, control = self._processes[index], self._tasks[index], self._controls.get(index)
        if old.returncode is not None:
            keeper.cancel()  # it is about to start another in the place of the dead: we are
            await asyncio.gather(keeper, return_exceptions=True)
        self._ready[index] = ready = asyncio.Event()
        self._tasks[index] = successor = asyncio.create_task(self._keep(index))
        said = asyncio.create_task(ready.wait())
        await asyncio.wait({said, successor}, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        said.cancel()
        if not ready.is_set():
            self._tasks[index] = keeper
            successor.cancel()
            await asyncio.gather(successor, return_exceptions=True)
            if keeper.done():
                self._tasks[index] = asyncio.create_task(self._keep(index))  # the old one has died
            elif old.returncode is None:
                self._processes[index] = old
                if control is not None:
                    self._controls[index] = control
                    ready.set()
            raise RuntimeError("a new edge worker did not start; its message is on stderr")
        self._leaving.add(old)
        try:
            if old.returncode is None:
                old.terminate()
            _, late = await asyncio.wait({keeper}, timeout=self.settings.drain_s + 5)
            if late and old.returncode is None:
                old.kill()
            if not keeper.cancelled():
                await keeper
        finally:
            self._leaving.discard(old)

    async def metrics(self) -> bytes:
        """Prometheus text of all workers together."""
        answers = await self._ask_all({"do": "metrics"})
        extra = {"workers": len(answers), "restarts": self.restarts}
        return metrics.render((metrics.Snapshot(**answer) for answer in answers), extra)

    async def viewers(self) -> dict[str, int]:
        """Distinct viewers by playback id, as of now."""
        merged: dict[str, set[int]] = {}
        for answer in await self._ask_all({"do": "metrics"}):
            for stream, hashes in answer["viewers"].items():
                merged.setdefault(stream, set()).update(hashes)
        return {stream: len(hashes) for stream, hashes in merged.items()}

    async def watching(self) -> dict[str, Counter[str]]:
        """Viewers by playback id and rendition, as of now; roughly (`edge.viewers`)."""
        merged: dict[str, Counter[str]] = {}
        for answer in await self._ask_all({"do": "watching"}):
            for stream, counts in answer.items():
                merged.setdefault(stream, Counter()).update(counts)
        return merged

    async def purge(self, prefix: str) -> int:
        """Forget every object whose path starts with `prefix`, in all workers; how many there were."""
        return sum(int(answer["purged"]) for answer in await self._ask_all({"do": "purge", "prefix": prefix}))

    async def purge_stream(self, mark: str) -> int:
        """Forget the streams whose playback id has this fingerprint (`edge.revocation`); how many objects."""
        return sum(int(answer["purged"]) for answer in await self._ask_all({"do": "purge", "mark": mark}))

    async def revoke(self, revoked: Revocations) -> None:
        """From here on this list of tokens is void, in all workers and in those that come."""
        self.revoked = revoked
        await self._ask_all({"do": "revoke", "list": revoked.to_json()})

    async def _keep(self, index: int) -> None:
        """Keep one worker running."""
        loop = asyncio.get_running_loop()
        young = 0
        while not self._stopping:
            began = loop.time()
            await self._live(index)
            if self._tasks[index] is not asyncio.current_task():
                return  # replaced by `reload`
            self._ready[index].clear()
            if self._stopping:
                return
            self.restarts += 1
            young = young + 1 if loop.time() - began < YOUNG_S else 0
            pause = PAUSES_S[min(young, len(PAUSES_S) - 1)]
            log.warning("edge_worker_died", worker=index, again_in_s=pause)
            await asyncio.sleep(pause)

    def _warm(self) -> None:
        """Have a spare, where one is wanted."""
        if self.settings.warm_spare and not self._stopping:
            self.spare.warm()

    async def _spawn(self) -> asyncio.subprocess.Process:
        fds = [sock.fileno() for sock in (*self._held, *self._held_tls)]
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=fds,  # of all workers: a spare does not know yet in whose place it will be
            start_new_session=True,  # Ctrl-C goes to the whole group: workers are drained by us, after the origin's end
        )

    async def _live(self, index: int) -> None:
        """One worker's life, from its start to its end."""
        assert self._folder is not None
        control = self._folder / f"{index}-{secrets.token_hex(4)}.sock"
        fd = self._held[index].fileno()
        tls_fd = self._held_tls[index].fileno() if self._held_tls else -1
        orders = Orders(
            *(self.settings, self._upstream, self.port, self.tls_port, str(control), self._viewer_key, fd, tls_fd),
            close=tuple(sock.fileno() for sock in (*self._held, *self._held_tls) if sock.fileno() not in (fd, tls_fd)),
            revoked=self.revoked,
        )
        process = await self.spare.take() or await self._spawn()
        self._processes[index] = process
        assert process.stdin is not None
        assert process.stdout is not None
        if self._stopping:
            process.terminate()
        try:
            with contextlib.suppress(ConnectionError):
                process.stdin.write(orders.to_json().encode() + b"\n")
                await process.stdin.drain()
            try:
                async with asyncio.timeout(READY_S):
                    line = await process.stdout.readline()
                    if b'"warm"' in line:
                        line = await process.stdout.readline()
            except TimeoutError:
                line = b""
            if b'"ready"' in line:
                self._controls[index] = control
                self._ready[index].set()
                if all(event.is_set() for event in self._ready) and not self._reloading.locked():
                    self._warm()  # only now: what serves comes first
                if orders.revoked is not self.revoked:
                    await self._ask(control, {"do": "revoke", "list": self.revoked.to_json()})
                await process.stdout.read()
            elif process.returncode is None:
                process.kill()
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            process.stdin.close()
            if self._controls.get(index) == control:
                del self._controls[index]
            with contextlib.suppress(OSError):
                control.unlink()

    async def _ask_all(self, order: dict[str, Any]) -> list[dict[str, Any]]:
        answers = await asyncio.gather(*(self._ask(path, order) for path in list(self._controls.values())))
        return [answer for answer in answers if answer is not None]

    async def _ask(self, path: Path, order: dict[str, Any]) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(ASK_S):
                reader, writer = await asyncio.open_unix_connection(str(path), limit=LINE_BYTES)
                try:
                    writer.write(json.dumps(order).encode() + b"\n")
                    answer: dict[str, Any] = json.loads(await reader.readline())
                    return answer
                finally:
                    writer.close()
        except (OSError, ValueError, TimeoutError) as error:
            log.warning("edge_worker_silent", error=type(error).__name__)
            return None


def _hold(host: str, port: int, count: int) -> list[socket.socket]:
    """Listening sockets on one port that was free. Raises OSError."""
    if port:
        bind(host, port, reuse=False).close()
    held = [bind(host, port)]
    held += [bind(host, held[0].getsockname()[1]) for _ in range(count - 1)]
    for sock in held:
        sock.listen(BACKLOG)
    return held
