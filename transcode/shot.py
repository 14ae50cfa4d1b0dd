"""One decoded picture on its way to the rungs: as it came, and at their sizes, each scaled from the next larger one.

Scaling 1080p to 720p, 480p and 360p one from the other costs a third less than each from the source, and rungs of
several codecs share their sizes. A rung asks for its own size in its own thread; whoever first needs what that is
scaled from makes it, once for each picture.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

import av
from av.video.frame import VideoFrame

from transcode.encoder import Colour
from transcode.plan import VideoEncode
from transcode.scale import Scaler


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """A decoded picture. `picture` is shared between threads: it is only read."""

    picture: VideoFrame
    pts: int
    duration: int
    idr: bool
    sample_aspect: Fraction
    colour: Colour
    anew: bool = False
    """Whether it is the first behind a discontinuity: the time before it belongs to no picture."""
    scaled: dict[Size, VideoFrame] = field(default_factory=dict)
    """What has been made of it, by whom: it lives as long as a rung still waits to take this picture."""


class Size:
    """Pictures at the size of one rung, which alone may write to what they carry beside their pixels."""

    def __init__(self, spec: VideoEncode) -> None:
        self.spec = spec
        self.above: Size | None = None
        """From what it is scaled; None: from the source."""
        self._lock = threading.Lock()
        self._scaler = self._new()

    def of(self, shot: Shot) -> VideoFrame:
        """`shot` at this size. A size like the one above shares its pixels. Raises `av.FFmpegError`."""
        with self._lock:
            made = shot.scaled.get(self)
            if made is None:
                above = self.above
                try:
                    if above is None:
                        made = self._scaler(shot.picture, shot.sample_aspect)
                    else:
                        made = self._scaler(above.of(shot), above.spec.sample_aspect)
                except av.FFmpegError:
                    self._scaler = self._new()
                    raise
                shot.scaled[self] = made
            return made

    def _new(self) -> Scaler:
        return Scaler(self.spec.width, self.spec.height, self.spec.sample_aspect)


def stack(sizes: Iterable[Size]) -> None:
    """Put each size below the smallest of those that are as large and show all of its pictures."""
    stacked: list[Size] = []
    for size in sorted(sizes, key=lambda size: (-size.spec.width * size.spec.height, size.spec.divide)):
        size.above = next((above for above in reversed(stacked) if _holds(above.spec, size.spec)), None)
        stacked.append(size)


def _holds(above: VideoEncode, below: VideoEncode) -> bool:
    return above.width >= below.width and above.height >= below.height and below.divide % above.divide == 0
