"""Segments on disk, for rewinding and replay: immutable files and a small index, written by one thread of its own.

    ROOT/PLAYBACK/stream.json               what it takes to go on after a restart
    ROOT/PLAYBACK/RENDITION/init-E-N.mp4
    ROOT/PLAYBACK/RENDITION/seg-E-MSN.m4s
    ROOT/PLAYBACK/RENDITION/index-B.jsonl   a line for each segment of block B, 1024 numbers

The event loop only puts work into a bounded queue. When the queue is full, the disk is, or a write fails, the segment
stays in memory alone, is counted and told once (`failing`), and live goes on.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from packager.model import Boundary, Segment, segment_name

log = structlog.get_logger(__name__)

QUEUED = 512
"""Jobs that wait for the disk: a minute or more of every rendition of a few streams."""
CALM = 20
"""Segments in a row that must be written before the alarm ends: on a full disk small ones still fit now and then."""
BLOCK = 1024
"""Segments to an index file; a whole file goes when its last segment has gone."""

Call = Callable[..., object]


@dataclass(slots=True)
class _Job:
    """One piece of work for the writer thread."""

    work: Callable[[], None]
    done: Callable[[bool], object] | None = None
    saves: bool = False
    """Whether its success shows that the disk works."""


class Archive:
    """All streams' folders on this node, and the thread that writes them. `soon` is the loop's call_soon_threadsafe."""

    def __init__(self, root: Path, soon: Call, *, node_bytes: int, stream_bytes: int, min_free_bytes: int) -> None:
        self.root = root
        self.stream_bytes = stream_bytes
        self.node_bytes = node_bytes
        self.failing = False
        """Whether the last write failed: the alarm."""
        self.failures = 0
        self.dropped_jobs = 0
        self.reels: dict[str, Reel] = {}
        self.strays: dict[str, int] = {}
        """Folders that are no stream's, as those that cannot be read, and their bytes: the first to go."""
        self._calm = 0
        self._min_free = min_free_bytes
        self._soon = soon
        self._jobs: queue.Queue[_Job | None] = queue.Queue(QUEUED)
        self._thread = threading.Thread(target=self._run, name="dvr", daemon=True)
        self._thread.start()

    @property
    def size_bytes(self) -> int:
        return sum(reel.size_bytes for reel in self.reels.values()) + sum(self.strays.values())

    def note_strays(self) -> None:
        """Look for what is on disk and belongs to none of `reels`. Blocks; at a start, when those are known."""
        folders = [path for path in self.root.iterdir() if path.name not in self.reels and _is_recording(path)]
        self.strays = {folder.name: _size_bytes(folder) for folder in folders}

    def drop_stray(self, name: str = "") -> bool:
        """Remove one of `strays`, the largest without a name; False where there is none."""
        name = name or max(self.strays, key=lambda stray: self.strays[stray], default="")
        if self.strays.pop(name, None) is None:
            return False
        log.warning("dvr_stray_removed", playback_id=name)
        return self.put(lambda: shutil.rmtree(self.root / name, ignore_errors=True))

    def close(self) -> None:
        """Write what is queued and stop. Blocks; call it off the loop."""
        self._jobs.put(None)
        self._thread.join(20)

    def put(
        self, work: Callable[[], None], done: Callable[[bool], object] | None = None, *, saves: bool = False
    ) -> bool:
        """Have the thread do `work`; `done(ok)` is called on the loop. False if the queue is full."""
        try:
            self._jobs.put_nowait(_Job(work, done, saves))
        except queue.Full:
            self.dropped_jobs += 1
            return False
        return True

    def write(self, path: Path, pieces: Sequence[bytes]) -> None:
        """In the thread: a whole file or none. Raises `OSError`."""
        if shutil.disk_usage(self.root).free < self._min_free + sum(map(len, pieces)):
            raise OSError("the disk is nearly full")
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".part")
        try:
            with fresh.open("wb") as out:
                out.writelines(pieces)
            fresh.replace(path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job.work()
                good, why = True, ""
            except OSError as error:
                good, why = False, str(error)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody needs the answer
                self._soon(self._done, job, good, why)

    def _done(self, job: _Job, good: bool, why: str) -> None:
        if not good:
            self.failures += 1
            self._calm = 0
            self.drop_stray()
            if not self.failing:
                log.error("dvr_write_failed", reason=why, hint="rewinding is limited to memory until the disk works")
            self.failing = True
        elif self.failing and job.saves:
            self._calm += 1
            if self._calm >= CALM:
                log.warning("dvr_writes_again")
                self.failing = False
        if job.done is not None:
            job.done(good)


@dataclass(slots=True)
class Restored:
    """What was on disk of one stream."""

    playback_id: str
    meta: dict[str, Any]
    segments: dict[str, list[Segment]] = field(default_factory=dict)
    """By rendition, without inits; oldest first, without holes in their numbers."""
    init_names: dict[str, list[str]] = field(default_factory=dict)
    """For each segment the name of its init."""
    inits: dict[str, dict[str, bytes]] = field(default_factory=dict)


class Reel:
    """One stream's folder."""

    def __init__(self, archive: Archive, playback_id: str, epoch: str) -> None:
        self.archive = archive
        self.size_bytes = 0
        self.unsaved = 0
        """Segments that are not on disk, because a write failed or too many waited."""
        self._folder = archive.root / playback_id
        self._epoch = epoch
        self._fresh = True
        """Nothing that is in the folder is ours."""
        self._inits: set[tuple[str, str]] = set()
        archive.reels[playback_id] = self

    def adopt(self, epoch: str) -> None:
        """Go on under the names of an earlier run. Its storyboard is not continued."""
        self._epoch = epoch
        self._fresh = False
        self.archive.put(lambda: shutil.rmtree(self._folder / "tiles", ignore_errors=True))

    def describe(self, meta: dict[str, Any]) -> None:
        """Keep what a restart needs."""
        if self._fresh:
            self._fresh = False
            self.archive.strays.pop(self._folder.name, None)
            self.archive.put(self._clear)
        body = json.dumps(meta).encode()
        self.archive.put(lambda: self.archive.write(self._folder / "stream.json", [body]))

    def _clear(self) -> None:
        """Remove a recording that could not be read: nobody else would, and its index would hide ours."""
        if _is_recording(self._folder):
            shutil.rmtree(self._folder, ignore_errors=True)

    def save(self, name: str, segment: Segment, done: Callable[[bool], object]) -> None:
        """Write a complete segment; `done(ok)` follows on the loop, at once where there is no room in the queue."""
        folder = self._folder / name
        pieces = [part.data for part in segment.parts if part.data]
        init = segment.init
        fresh = init if init is not None and (name, init.name) not in self._inits else None
        b = segment.boundary
        row = [b.msn, b.pts, b.wall_us, int(b.discontinuity), b.discontinuities, init.name if init else "",
               segment.timescale, segment.start, segment.duration, int(segment.gap), segment.size_bytes,
               segment.lead_bytes]  # fmt: skip
        line = "\n" + json.dumps(row, separators=(",", ":"))  # behind one that a full disk cut off, it stands alone

        def work() -> None:
            if fresh is not None:
                self.archive.write(folder / fresh.name, [fresh.data])
            if pieces:
                self.archive.write(folder / segment_name(self._epoch, b.msn), pieces)
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f"index-{b.msn // BLOCK}.jsonl").open("a") as out:
                out.write(line)

        def told(good: bool) -> None:
            if good:
                self.size_bytes += segment.size_bytes
                if fresh is not None:
                    self._inits.add((name, fresh.name))
            self.unsaved += not good
            done(good)

        if not self.archive.put(work, told, saves=True):
            told(False)

    def drop(self, name: str, segment: Segment) -> None:
        """Remove a segment's file, and its index block with the block's last segment."""
        self.size_bytes -= segment.size_bytes
        folder, msn = self._folder / name, segment.msn

        def work() -> None:
            (folder / segment_name(self._epoch, msn)).unlink(missing_ok=True)
            if msn % BLOCK == BLOCK - 1:
                (folder / f"index-{msn // BLOCK}.jsonl").unlink(missing_ok=True)

        self.archive.put(work)

    def keep_tile(self, name: str, data: bytes, done: Callable[[bool], object]) -> None:
        """Write a picture of the storyboard; `done(ok)` follows on the loop."""
        if not self.archive.put(lambda: self.archive.write(self._folder / "tiles" / name, [data]), done):
            done(False)

    def drop_tile(self, name: str) -> None:
        """Remove one."""
        self.archive.put(lambda: (self._folder / "tiles" / name).unlink(missing_ok=True))

    def tile(self, name: str) -> Path:
        """Where a picture of the storyboard is."""
        return self._folder / "tiles" / name

    def path(self, name: str, msn: int) -> Path:
        """Where a segment's bytes are."""
        return self._folder / name / segment_name(self._epoch, msn)

    def remove(self, playback_id: str) -> None:
        """Forget the stream altogether."""
        self.archive.reels.pop(playback_id, None)
        self.size_bytes = 0
        self.archive.put(lambda: shutil.rmtree(self._folder, ignore_errors=True))


def _is_recording(folder: Path) -> bool:
    """Whether the folder is one of ours: somebody may have named one for us that holds other things, too."""
    return (folder / "stream.json").is_file() or any(folder.glob("*/index-*.jsonl"))


def _size_bytes(folder: Path) -> int:
    found = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            found += path.lstat().st_size if path.is_file() else 0
    return found


def load(root: Path) -> list[Restored]:
    """Everything that is on disk. Blocks. What cannot be read is left out, and told."""
    found = []
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        try:
            found.append(_load_stream(folder))
        except (OSError, ValueError, LookupError, TypeError) as error:
            log.warning("dvr_unreadable", playback_id=folder.name, reason=str(error)[:200])
    return [restored for restored in found if any(restored.segments.values())]


def _load_stream(folder: Path) -> Restored:
    meta = json.loads((folder / "stream.json").read_text())
    restored = Restored(folder.name, meta)
    for place in sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "tiles"):
        rows: dict[int, list[Any]] = {}
        for index in place.glob("index-*.jsonl"):
            for line in index.read_text().splitlines():
                with contextlib.suppress(ValueError):  # the last line of a crash
                    row = json.loads(line)
                    rows[row[0]] = row
        inits = {path.name: path.read_bytes() for path in place.glob("init-*.mp4")}
        run: list[list[Any]] = []
        for msn in sorted(rows, reverse=True):
            row = rows[msn]
            there = row[9] or ((place / segment_name(meta["epoch"], msn)).exists() and row[5] in inits)
            if not there or (run and run[-1][0] != msn + 1):
                break
            run.append(row)
        run.reverse()
        restored.segments[place.name] = [_segment(row) for row in run]
        restored.init_names[place.name] = [row[5] for row in run]
        restored.inits[place.name] = inits
    return restored


def _segment(row: list[Any]) -> Segment:
    boundary = Boundary(row[0], row[1], row[2], bool(row[3]), row[4])
    gap = bool(row[9])
    return Segment(boundary, None, row[6], row[7], row[8], (), True, gap, row[10], not gap, row[11])
