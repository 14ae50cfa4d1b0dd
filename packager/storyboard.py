"""The storyboard of a stream: one picture to a segment, for the preview over a player's seek bar. Pure.

The transcode worker makes a JPEG about every two seconds; the first that comes after a segment has started stands for
it. Tiles are whole pictures (1x1), so that nothing has to be decoded here. Bounded by number: of a long window only
every n-th segment has one; and by bytes in memory, unless they are on disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from packager.hls.text import instant
from packager.model import Segment

MAX_TILES = 720
"""With a window of six hours: one every half minute."""
MAX_BYTES = 8 * 1024 * 1024
"""In memory, for one stream; the oldest go first."""


@dataclass(frozen=True, slots=True)
class Tile:
    """The picture of one segment."""

    msn: int
    width: int
    height: int
    data: bytes
    """Empty where it is on disk."""


class Storyboard:
    """`every`: segments from one tile to the next."""

    def __init__(self, window_segments: int) -> None:
        self.cover(window_segments)
        self.tiles: deque[Tile] = deque()
        self.gone: list[int] = []
        """Tiles that were dropped; for whoever has them on disk to take."""
        self._bytes = 0

    def cover(self, window_segments: int) -> None:
        """From now on of a window as long as this."""
        self.every = -(-window_segments // MAX_TILES)

    def add(self, msn: int, jpeg: bytes) -> Tile | None:
        """The picture of segment `msn`; None where it needs none, or where this is no JPEG."""
        size = jpeg_size(jpeg)
        if size is None or (self.tiles and msn < self.tiles[-1].msn + self.every):
            return None
        tile = Tile(msn, *size, jpeg)
        self.tiles.append(tile)
        self._bytes += len(jpeg)
        while len(self.tiles) > MAX_TILES + 1 or self._bytes > MAX_BYTES:
            self._drop()
        return tile

    def stored(self, msn: int) -> None:
        """It is on disk; its bytes go."""
        for place, tile in enumerate(self.tiles):
            if tile.msn == msn:
                self._bytes -= len(tile.data)
                self.tiles[place] = replace(tile, data=b"")

    def trim(self, first_msn: int) -> None:
        """Forget the tiles of segments before `first_msn`."""
        while self.tiles and self.tiles[0].msn < first_msn:
            self._drop()

    def _drop(self) -> None:
        old = self.tiles.popleft()
        self._bytes -= len(old.data)
        self.gone = [*self.gone[-MAX_TILES:], old.msn]

    def find(self, msn: int) -> Tile | None:
        """The tile of that segment, or the one before it that stands for it; None while there can be a better one."""
        if not self.tiles or msn > self.tiles[-1].msn:
            return None
        return next((tile for tile in reversed(self.tiles) if tile.msn <= msn), None)


def render(tiles: Sequence[Tile], segments: Sequence[Segment], epoch: str, start_us: int, *, ended: bool) -> bytes:
    """WebVTT: each cue a picture (media fragment `xywh`), from its segment's start to the next one's.

    Zero is the wall clock in the NOTE, which is also where the MPD's time begins; of a recording, its first segment.
    """
    places = {segment.msn: segment for segment in segments}
    shown = [tile for tile in tiles if tile.msn in places]
    if not shown:
        return b"WEBVTT\n"
    ends = [places[tile.msn] for tile in shown[1:]]
    starts: dict[int, float] = {}
    passed = 0.0
    for segment in segments:
        starts[segment.msn] = passed if ended else (segment.wall_us - start_us) / 1e6
        passed += segment.duration / segment.timescale
    last = segments[-1]
    end = starts[last.msn] + last.duration / last.timescale
    zero = segments[0].wall_us if ended else start_us
    lines = ["WEBVTT", "", f"NOTE zero is {instant(zero)}", ""]
    for tile, until in zip(shown, [*(starts[s.msn] for s in ends), end], strict=True):
        lines.append(f"{_time(starts[tile.msn])} --> {_time(max(until, starts[tile.msn] + 0.001))}")
        lines += [f"{tile_name(epoch, tile.msn)}#xywh=0,0,{tile.width},{tile.height}", ""]
    return "\n".join(lines).encode()


def tile_name(epoch: str, msn: int | str) -> str:
    """File name of a tile, beside the multivariant playlist."""
    return f"tile-{epoch}-{msn}.jpg"


def _time(seconds: float) -> str:
    millis = max(0, round(seconds * 1000))
    return f"{millis // 3_600_000:02}:{millis // 60_000 % 60:02}:{millis // 1000 % 60:02}.{millis % 1000:03}"


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height as the frame header says (ISO/IEC 10918-1 B.2.2); None where there is none."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 <= len(data) and data[at] == 0xFF:
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= kind <= 0xC2:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 2 + length
    return None
