"""A plain HLS reader for tests: playlists by regular expression, segments by HTTP, timing by ffprobe."""

from __future__ import annotations

import json
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urljoin

from live_server import PATIENCE


class Reader(Protocol):
    def get(self, url: str, **headers: str) -> bytes: ...


@dataclass
class Variant:
    uri: str
    attributes: dict[str, str]


@dataclass
class Recording:
    """Consecutive segments of one rendition."""

    inits: dict[int, str] = field(default_factory=dict)
    """URL of the init segment of each segment."""
    headers: dict[str, bytes] = field(default_factory=dict)
    segments: dict[int, bytes] = field(default_factory=dict)
    discontinuities: set[int] = field(default_factory=set)
    gaps: set[int] = field(default_factory=set)
    extinf: dict[int, float] = field(default_factory=dict)
    ended: bool = False

    def files(self, stem: Path) -> list[Path]:
        """One MP4 for each run of segments with the same init segment."""
        runs: dict[str, list[int]] = {}
        for number in sorted(self.segments):
            runs.setdefault(self.inits[number], []).append(number)
        paths = []
        for i, (init, numbers) in enumerate(runs.items()):
            paths.append(stem.with_name(f"{stem.name}-{i}.mp4"))
            paths[-1].write_bytes(self.headers[init] + b"".join(self.segments[n] for n in numbers))
        return paths

    def one(self, number: int, path: Path) -> Path:
        """One segment as a file."""
        path.write_bytes(self.headers[self.inits[number]] + self.segments[number])
        return path


def attributes(line: str) -> dict[str, str]:
    return {k: v.strip('"') for k, v in re.findall(r'([A-Z0-9-]+)=("[^"]*"|[^,]*)', line.partition(":")[2])}


def variants(text: str) -> tuple[list[Variant], list[Variant]]:
    """(video variants, audio renditions) of a multivariant playlist."""
    video, audio = [], []
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if line.startswith("#EXT-X-STREAM-INF:"):
            video.append(Variant(lines[i + 1], attributes(line)))
        elif line.startswith("#EXT-X-MEDIA:") and "TYPE=AUDIO" in line and "URI=" in line:
            audio.append(Variant(attributes(line)["URI"], attributes(line)))
    return video, audio


def update(recording: Recording, reader: Reader, url: str) -> None:
    """Read the media playlist once and fetch what is new."""
    msn, init, pending_discontinuity, pending_gap, duration = 0, "", False, False, 0.0
    for line in reader.get(url).decode().splitlines():
        if line.startswith("#EXT-X-MEDIA-SEQUENCE:"):
            msn = int(line.partition(":")[2])
        elif line.startswith("#EXT-X-MAP:"):
            init = urljoin(url, attributes(line)["URI"])
        elif line == "#EXT-X-DISCONTINUITY":
            pending_discontinuity = True
        elif line == "#EXT-X-GAP":
            pending_gap = True
        elif line.startswith("#EXTINF:"):
            duration = float(line[8:].split(",")[0])
        elif line == "#EXT-X-ENDLIST":
            recording.ended = True
        elif line and not line.startswith("#"):
            if msn not in recording.segments and msn not in recording.gaps:
                recording.extinf[msn] = duration
                if pending_discontinuity:
                    recording.discontinuities.add(msn)
                if pending_gap:
                    recording.gaps.add(msn)
                else:
                    if init not in recording.headers:
                        recording.headers[init] = reader.get(init)
                    recording.inits[msn] = init
                    recording.segments[msn] = reader.get(urljoin(url, line))
            pending_discontinuity = pending_gap = False
            msn += 1


def record(reader: Reader, base: str, uris: list[str], count: int, seconds: float) -> dict[str, Recording]:
    """Follow the media playlists until each has `count` segments."""
    recordings = {uri: Recording() for uri in uris}
    end = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < end:
        for uri, recording in recordings.items():
            update(recording, reader, urljoin(base, uri))
        if all(len(r.segments) >= count for r in recordings.values()):
            return recordings
        time.sleep(0.3)
    raise AssertionError({uri: sorted(r.segments) for uri, r in recordings.items()})


@dataclass
class Frame:
    pts: float
    key: bool
    duration: float


def frames(path: Path, kind: str) -> list[Frame]:
    """Every packet of the first `v` or `a` stream as ffprobe sees it, in presentation order."""
    out = subprocess.check_output(
        ["ffprobe", "-v", "error", "-select_streams", f"{kind}:0", "-show_packets",
         "-show_entries", "packet=pts_time,flags,duration_time", "-of", "json", str(path)],
    )  # fmt: skip
    rows = json.loads(out)["packets"]
    got = [Frame(float(r["pts_time"]), "K" in r["flags"], float(r.get("duration_time", 0))) for r in rows]
    return sorted(got, key=lambda f: f.pts)


def decode_errors(path: Path) -> str:
    """What ffmpeg complains of when it decodes the file; empty when all is well."""
    done = subprocess.run(
        ["ffmpeg", "-v", "warning", "-nostdin", "-i", str(path), "-f", "null", "-"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stderr
