"""From decoded pictures to what one rung's encoder takes: size, 8-bit 4:2:0, limited range, the source's own matrix.

HDR (PQ, HLG) is brought to SDR: 8 bits cannot hold it, and browsers disagree about what they do with it.
"""

from __future__ import annotations

from fractions import Fraction

import av
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from media.clock import VIDEO_TIMESCALE
from transcode.encoder import TIME_BASE, Colour

_UNSPECIFIED = 2
_BT709 = Colour(1, 1, 1)
_BT601 = Colour(6, 6, 6)
_NAMES = {1: "bt709", 6: "smpte170m"}
_HDR_TRANSFERS = (16, 18)
"""SMPTE ST 2084 (PQ) and ARIB STD-B67 (HLG), of ISO/IEC 23091-2."""
_FFMPEG_8 = 11
"""The major version of its libavfilter."""
_ASPECT_TOLERANCE = Fraction(2, 100)
"""Rounding a rung's size to even numbers changes its aspect by less than this."""


_PRIMARIES = frozenset({1, *range(4, 13)})
_TRANSFERS = frozenset({1, *range(4, 19)})
_MATRICES = frozenset({0, 1, 4, 5, 6, 7, 9, 10})
"""What libav's scaler converts, and every encoder here takes; other code points are rare, reserved, or wrong."""


def tame(picture: VideoFrame) -> None:
    """What cannot be converted counts as not told: colours that are a little off are better than no picture. To be done
    before threads share the picture."""
    if int(picture.colorspace) not in _MATRICES:
        picture.colorspace = _UNSPECIFIED
    if int(picture.color_primaries) not in _PRIMARIES:
        picture.color_primaries = _UNSPECIFIED
    if int(picture.color_trc) not in _TRANSFERS:
        picture.color_trc = _UNSPECIFIED


def colour_of(picture: VideoFrame) -> Colour:
    """The colour to tag all rungs of this source with.

    A source that does not tell is tagged with what players assume for its size (HD is BT.709, SD is BT.601): a
    480p rung of an HD source would be shown in wrong colours otherwise.
    """
    if _to_sdr(picture):
        return _BT709
    told = Colour(int(picture.color_primaries), int(picture.color_trc), int(picture.colorspace))
    if told.matrix not in (_UNSPECIFIED, 0):
        return told
    return _BT709 if picture.height >= 720 or picture.width >= 1280 else _BT601


def _to_sdr(picture: VideoFrame) -> bool:
    """Whether the picture is HDR, and this libav can turn it into SDR (its scaler does since FFmpeg 8). An older one
    passes the values on, with the tags that say what they are."""
    return int(picture.color_trc) in _HDR_TRANSFERS and av.library_versions["libavfilter"][0] >= _FFMPEG_8


class Scaler:
    """Scales pictures of any size to `width` x `height`; where the shape of the source changed, with black bars.

    Pictures come from a decoder that hands each to several scalers, in as many threads: a filter graph takes a
    reference of its own, while PyAV's `reformat` writes colour properties to the picture that it reads.
    """

    def __init__(self, width: int, height: int, sample_aspect: Fraction, *, jpeg: bool = False) -> None:
        """`jpeg`: pictures come out as JFIF wants them, in full range and with BT.601's matrix."""
        self._width = width
        self._height = height
        self._sample_aspect = sample_aspect
        self._jpeg = jpeg
        self._key: tuple[int, int, str, Fraction, int, int, int] | None = None
        self._graph: Graph | None = None

    def __call__(self, picture: VideoFrame, sample_aspect: Fraction) -> VideoFrame:
        """A new picture with the same pts. `sample_aspect` is the picture's own. Raises `av.FFmpegError`."""
        key = (
            picture.width, picture.height, picture.format.name, sample_aspect,
            int(picture.colorspace), int(picture.color_range), int(picture.color_trc),
        )  # fmt: skip
        if self._graph is None or self._key != key:
            self._graph, self._key = self._open(picture, sample_aspect), key
        self._graph.vpush(picture)
        scaled = self._graph.vpull()
        assert isinstance(scaled, VideoFrame)
        scaled.pts, scaled.time_base = picture.pts, TIME_BASE
        return scaled

    def _inner(self, width: int, height: int, sample_aspect: Fraction) -> tuple[int, int]:
        """The size of the picture proper within ours, so that its shape stays."""
        ours = Fraction(self._width, self._height)
        aspect = Fraction(width, height) * sample_aspect / self._sample_aspect
        if abs(aspect - ours) <= ours * _ASPECT_TOLERANCE:
            return self._width, self._height
        if aspect > ours:
            return self._width, max(2, round(self._width / aspect) // 2 * 2)
        return max(2, round(self._height * aspect) // 2 * 2), self._height

    def _open(self, picture: VideoFrame, sample_aspect: Fraction) -> Graph:
        inner_width, inner_height = self._inner(picture.width, picture.height, sample_aspect)
        matrix = int(picture.colorspace)
        # The filter must know the source's matrix: told nothing, it takes its output for BT.601, and converts.
        source = (
            f"video_size={picture.width}x{picture.height}:pix_fmt={picture.format.name}:time_base=1/{VIDEO_TIMESCALE}"
            f":colorspace={matrix}:range={int(picture.color_range)}"
        )
        convert = ":out_range=pc:out_color_matrix=bt601" if self._jpeg else ":out_range=tv"
        if _to_sdr(picture):
            convert += ":out_primaries=bt709:out_transfer=bt709:intent=perceptual"
            convert += "" if self._jpeg else ":out_color_matrix=bt709"
        elif matrix == 0 and not self._jpeg:
            convert += f":out_color_matrix={_NAMES[colour_of(picture).matrix]}"
        graph = Graph()
        graph.threads = 1  # rungs run side by side already
        nodes = [
            graph.add("buffer", source),
            graph.add("scale", f"{inner_width}:{inner_height}:flags=bicubic{convert}"),
            graph.add("format", "yuvj420p" if self._jpeg else "yuv420p"),
        ]
        if (inner_width, inner_height) != (self._width, self._height):
            nodes.append(graph.add("pad", f"{self._width}:{self._height}:(ow-iw)/2:(oh-ih)/2"))
        nodes.append(graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        return graph


class Deinterlacer:
    """Turns interlaced pictures into whole ones at the same rate; progressive ones go through untouched.

    Holds one picture back while the source is interlaced: bwdif looks at the fields after it.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._shape: tuple[int, int, str] | None = None

    def feed(self, picture: VideoFrame) -> list[VideoFrame]:
        """Pictures that are ready, in order, with pts in 90 kHz."""
        shape = (picture.width, picture.height, picture.format.name)
        if self._graph is None and not picture.interlaced_frame:
            return [picture]
        ready: list[VideoFrame] = []
        if self._graph is not None and shape != self._shape:
            ready += self.flush()
        if self._graph is None:
            self._graph, self._shape = self._open(*shape), shape
        self._graph.vpush(picture)
        return ready + self._pull()

    def flush(self) -> list[VideoFrame]:
        """What is held back; the next picture starts anew."""
        if self._graph is None:
            return []
        self._graph.vpush(None)
        ready = self._pull()
        self._graph = None
        return ready

    def _pull(self) -> list[VideoFrame]:
        assert self._graph is not None
        ready: list[VideoFrame] = []
        while True:
            try:
                picture = self._graph.vpull()
            except (BlockingIOError, av.EOFError):
                return ready
            assert isinstance(picture, VideoFrame)
            if picture.pts is not None and picture.time_base is not None:
                ticks = picture.pts * picture.time_base / TIME_BASE  # bwdif halves the time base
                picture.pts, picture.time_base = round(ticks), TIME_BASE
            ready.append(picture)

    @staticmethod
    def _open(width: int, height: int, pixels: str) -> Graph:
        graph = Graph()
        graph.threads = 1
        graph.link_nodes(
            graph.add_buffer(
                width=width, height=height, format=VideoFormat(pixels, width, height), time_base=TIME_BASE
            ),
            graph.add("bwdif", "mode=send_frame:deint=interlaced"),
            graph.add("buffersink"),
        ).configure()
        return graph
