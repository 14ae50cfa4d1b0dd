"""Pictures of streams of which nothing is decoded: one process for all of them, given one keyframe at a time.

| the process is | because | leaves by |
|---|---|---|
| not there | nobody needs it | a keyframe is offered |
| started | somebody does; after a loss with a pause that doubles | it has loaded |
| at work | one keyframe is with it, and no other | answer; death; `PICTURE_S`: it is killed |
| idle | nothing waits | a keyframe; nobody needed it for `IDLE_S`: it is ended |

A stream at whose keyframe it died or hung is left out for a while, longer each time: the others are not to suffer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from media.packet import Packet
from transcode import messages as m
from transcode.process import Process, WorkerError
from transcode.settings import TranscodeSettings

log = structlog.get_logger(__name__)

PICTURE_S = 10.0
"""For one picture. A keyframe of 4K takes a tenth of a second; but this process is the last to get a busy CPU."""
IDLE_S = 30.0
"""The longest distance of keyframes that is passed through is far less."""
OUT_S, MAX_OUT_S = 60.0, 3600.0
"""How long a stream that ended the process is left out: at first, and what doubling it ends at."""
RETRY_S, MAX_RETRY_S = 1.0, 60.0
"""Pause before the process is started again: at first, and what doubling it ends at."""
MAX_BYTES = 64 * 1024 * 1024
"""Keyframes that wait, of all streams together: some hundred large ones."""
MEMORY_BYTES = 512 * 1024 * 1024
"""Of the process: one picture of 8K and its decoder fit."""
NICE = 10
"""Behind the workers (`TranscodeSettings.nice`): a picture may come late, a rung may not."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    key: str
    packet: Packet
    answer: Callable[[bytes], None]


@dataclass(slots=True)
class Counts:
    """Since the server started."""

    made: int = 0
    failed: int = 0
    """Keyframes without a picture in them, or at which the process died or hung."""
    left_out: int = 0
    """Keyframes for which there was no time, or no room, or whose stream is left out."""
    restarts: int = 0


class Stills:
    """One per node, on the core's event loop. Of each stream the newest keyframe waits; they take turns."""

    def __init__(
        self,
        settings: TranscodeSettings,
        *,
        picture_s: float = PICTURE_S,
        idle_s: float = IDLE_S,
        out_s: float = OUT_S,
        retry_s: float = RETRY_S,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.counts = Counts()
        self._on = settings.thumbnails
        self._height = settings.thumbnail_height
        self._process_settings = settings.model_copy(
            update={"memory_bytes": min(settings.memory_bytes, MEMORY_BYTES), "nice": min(19, settings.nice + NICE)}
        )
        self._picture_s = picture_s
        self._idle_s = idle_s
        self._out_s = out_s
        self._retry_s = retry_s
        self._max_bytes = max_bytes
        self._waiting: dict[str, _Wanted] = {}
        """In the order of their turns: who is offered again keeps its place."""
        self._bytes = 0
        self._current: _Wanted | None = None
        self._out: dict[str, tuple[float, float]] = {}
        """By stream: (loop time up to which it is left out, for how long the next time)."""
        self._process: Process | None = None
        self._starting: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._pause_s = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int:
        """Process id; 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    @property
    def waiting(self) -> tuple[int, int]:
        """(keyframes, their bytes)."""
        return len(self._waiting), self._bytes

    def offer(self, key: str, packet: Packet, answer: Callable[[bytes], None]) -> None:
        """A keyframe of the stream `key`, whose JPEG goes to `answer`, on this loop, or never. Does not wait."""
        if not self._on:
            return
        now = asyncio.get_running_loop().time()
        before = self._waiting.get(key)
        size = self._bytes + len(packet.data) - (len(before.packet.data) if before is not None else 0)
        if now < self._out.get(key, (0.0, 0.0))[0] or size > self._max_bytes:
            self.counts.left_out += 1
            return
        if before is not None:
            self.counts.left_out += 1
        self._waiting[key] = _Wanted(key, packet, answer)
        self._bytes = size
        self._rest()
        self._next()

    def forget(self, key: str) -> None:
        """The stream is over, or needs no pictures: none will come. That it was left out is remembered."""
        wanted = self._waiting.pop(key, None)
        if wanted is not None:
            self._bytes -= len(wanted.packet.data)
        if self._current is not None and self._current.key == key:
            self._current = replace(self._current, answer=lambda jpeg: None)

    async def stop(self) -> None:
        """End the process; nothing is made any more."""
        self._on = False
        self._waiting.clear()
        self._bytes = 0
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        self._end()
        await asyncio.gather(*self._ending)

    # -- turns ------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        if self._current is not None or not self._waiting:
            return
        if self._process is None:
            if self._starting is None:
                self._starting = asyncio.get_running_loop().create_task(self._start(), name="stills")
            return
        key = next(iter(self._waiting))
        wanted = self._current = self._waiting.pop(key)
        self._bytes -= len(wanted.packet.data)
        self._deadline = asyncio.get_running_loop().call_later(self._picture_s, self._hangs)
        self._process.send(m.Still(wanted.packet.track, wanted.packet.pts, self._height), wanted.packet.data)

    def _on_message(self, message: m.Message, payload: bytes) -> None:
        current = self._done()
        if current is None:
            log.error("still_unexpected", kind=type(message).__name__)
        elif isinstance(message, m.Picture):
            self.counts.made += 1
            self._pause_s = 0.0
            self._out.pop(current.key, None)
            current.answer(payload)
        elif isinstance(message, m.Notice):
            self.counts.failed += 1
            log.debug("still_failed", stream=current.key, text=message.text)
        self._next()

    def _done(self) -> _Wanted | None:
        """The keyframe at work is not so any more."""
        current, self._current = self._current, None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        return current

    # -- the process ------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        await asyncio.sleep(self._pause_s)
        if not self._waiting:  # who needed it is gone
            self._starting = None
            return
        try:
            process = await Process.start(self._process_settings, "stills")
        except WorkerError as error:
            log.error("stills_not_started", error=error.text)
            self._starting = None  # the next keyframe tries again
            self._pause()
            return
        self._starting = None
        self._process = process
        process.on_message = self._on_message
        process.on_exit = self._on_exit
        log.info("stills_started", pid=process.pid)
        if process.exited:
            self._on_exit(process.exit_reason)
            return
        self._rest()
        self._next()

    def _pause(self) -> None:
        self._pause_s = min(max(self._retry_s, 2 * self._pause_s), MAX_RETRY_S)

    def _hangs(self) -> None:
        if self._process is not None:
            self._process.kill_soon(f"no picture within {self._picture_s:.0f} s")

    def _on_exit(self, reason: str) -> None:
        process, self._process = self._process, None
        current = self._done()
        self.counts.restarts += 1
        self._pause()
        stream = current.key if current is not None else ""
        log.warning("stills_lost", reason=reason, stream=stream, worker_log=process.log if process else "")
        if current is not None:
            self.counts.failed += 1
            self._leave_out(current.key)
        self._next()

    def _leave_out(self, key: str) -> None:
        now = asyncio.get_running_loop().time()
        self._out = {k: out for k, out in self._out.items() if now < out[0] + MAX_OUT_S}
        out_s = self._out.get(key, (0.0, self._out_s))[1]
        self._out[key] = (now + out_s, min(2 * out_s, MAX_OUT_S))
        self.forget(key)

    def _rest(self) -> None:
        """The process ends `idle_s` from now, unless it is needed again."""
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(self._idle_s, self._end_idle)

    def _end_idle(self) -> None:
        if self._current is not None or self._waiting:
            self._rest()
        else:
            self._end()

    def _end(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        self._done()
        process, self._process = self._process, None
        if process is None:
            return
        process.on_message = lambda message, payload: None
        process.on_exit = lambda reason: None
        task = asyncio.get_running_loop().create_task(process.kill("not needed"), name="stills-end")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
